"""Map entries of `bpf/tap.bpf.c` become `columns.TAP_COUNT`: CPUs added up, clocks turned into UTC."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.layout import CLASS_INGRESS, CLASS_SHIFT, ZERO_WINDOW_SHIFT
from ringfence.flows.keys import tuple_hash
from ringfence.model.addresses import MAPPED
from ringfence.model.columns import TAP_COUNT, TUPLE, Kind, Table

_TUPLE = np.dtype(TUPLE)
_NEVER = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ZERO_WINDOWS = np.uint64(ZERO_WINDOW_SHIFT)
_PACKETS = np.uint64((1 << ZERO_WINDOW_SHIFT) - 1)


def tap_counts(keys: Table, values: NDArray[Any], utc_offset: int) -> Table:
    """One row per key. `values` is (keys, CPUs) of `layout.COUNT`; `utc_offset` is UTC minus monotonic, ns."""
    counts = np.zeros(len(keys), TAP_COUNT)
    _fill_keys(counts, keys)
    _fill_values(counts, values, utc_offset)
    return counts


def _fill_keys(counts: Table, keys: Table) -> None:
    counts["tap"] = (keys["tap"] >> CLASS_SHIFT) - 1
    counts["ingress"] = keys["tap"] & CLASS_INGRESS
    counts["protocol"] = keys["protocol"]
    counts["src_port"], counts["dst_port"] = keys["sport"], keys["dport"]
    if keys["src"].ndim == 1:
        counts["src_lo"] = keys["src"].astype(np.uint64) | np.uint64(MAPPED)
        counts["dst_lo"] = keys["dst"].astype(np.uint64) | np.uint64(MAPPED)
        return
    counts["src_hi"], counts["src_lo"] = keys["src"][:, 0], keys["src"][:, 1]
    counts["dst_hi"], counts["dst_lo"] = keys["dst"][:, 0], keys["dst"][:, 1]
    if keys.dtype.names and "kind" in keys.dtype.names:
        counts["kind"], counts["zone"] = keys["kind"], keys["vni"]
        counts["inner"] = _inner_hash(keys)


def _inner_hash(keys: Table) -> NDArray[np.uint64]:
    """`tuple_hash` of the packet inside; 0 where none could be read (its source is then the null address)."""
    inner = np.zeros(len(keys), _TUPLE)
    for side, end in (("consumer", "src"), ("provider", "dst")):
        inner[side + "_hi"] = keys["inner_" + end][:, 0]
        inner[side + "_lo"] = keys["inner_" + end][:, 1]
        inner[side + "_port"] = keys["inner_sport" if end == "src" else "inner_dport"]
    inner["protocol"] = keys["inner_protocol"]
    unread = (keys["kind"] == Kind.PLAIN) | ~keys["inner_dst"].any(axis=1)
    return np.where(unread, np.uint64(0), tuple_hash(inner))


def _fill_values(counts: Table, values: NDArray[Any], utc_offset: int) -> None:
    counts["packets"] = (values["packets"] & _PACKETS).sum(axis=1)
    counts["zero_windows"] = (values["packets"] >> _ZERO_WINDOWS).sum(axis=1)
    counts["octets"] = values["octets"].sum(axis=1)
    counts["flags"] = np.bitwise_or.reduce(values["flags"], axis=1)
    began = values["first"]
    first = np.where(began == 0, _NEVER, began).min(axis=1)
    last = (began + (values["last"].astype(np.uint64) << np.uint64(10))).max(axis=1)
    counts["first"] = first.astype(np.int64) + utc_offset
    counts["last"] = last.astype(np.int64) + utc_offset
