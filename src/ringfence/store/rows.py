"""Columns of `model.columns` become Arrow tables of `store.schema`, and addresses become text-free IPv6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringfence.flows.hops import named
from ringfence.flows.keys import is_reversed
from ringfence.model.batches import BatchHeader, Loss
from ringfence.model.columns import Table
from ringfence.store.schema import BATCHES, LOSSES, SIGHTINGS, TRANSLATIONS, WINDOWS, TableDef

U64 = NDArray[np.uint64]
COUNTERS = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")

_ARROW = {
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Int64": pa.int64(),
    "IPv6": pa.binary(16),
    "LowCardinality(String)": pa.dictionary(pa.int32(), pa.string()),
    "Array(UInt8)": pa.list_(pa.uint8()),
    "Array(UInt32)": pa.list_(pa.uint32()),
    "Array(Int64)": pa.list_(pa.int64()),
    "Map(String, String)": pa.map_(pa.string(), pa.string()),
    "SimpleAggregateFunction(sum, UInt64)": pa.uint64(),
    "SimpleAggregateFunction(min, Int64)": pa.int64(),
    "SimpleAggregateFunction(max, Int64)": pa.int64(),
}


def arrow_schema(table: TableDef) -> pa.Schema:
    """The Arrow schema that inserts into `table` without a conversion."""
    return pa.schema([pa.field(column.name, _ARROW[column.sql]) for column in table.columns])


def sightings_table(
    header: BatchHeader,
    rows: Table,
    segment: int,
    flow_ids: U64,
    tuples: U64,
    first_window: NDArray[np.int64],
    hops: Table,
) -> pa.Table:
    """SIGHTING rows of one batch with their HOP rows (none where they are not known), dictionaries resolved."""
    made: dict[str, Any] = {
        "flow_id": flow_ids,
        "tuple_hash": tuples,
        "first_window": first_window,
        "reversed": is_reversed(rows).astype(np.uint8),
        "consumer_pod": _terms(rows["consumer_pod"], header.pods),
        "provider_pod": _terms(rows["provider_pod"], header.pods),
        "process": _terms(rows["process"], [_text(process) for process in header.processes]),
        "provider_process": _terms(
            rows["provider_process"], [_text(process) for process in header.processes]
        ),
        "names": _terms(rows["names"], header.names),
        "tls": _terms(rows["tls"], [_text(tls) for tls in header.tls]),
        "taps": _taps(rows["taps"], [f"{tap.at}/{tap.interface}" for tap in header.taps]),
        "sample": np.full(len(rows), header.sample, np.uint32),
        **_hops(rows, hops),
    }
    return _filled(SIGHTINGS, header, rows, segment, made)


def translations_table(header: BatchHeader, rows: Table, segment: int) -> pa.Table:
    """TRANSLATION rows of one batch."""
    return _filled(TRANSLATIONS, header, rows, segment, {})


def windows_table(header: BatchHeader, windows: Sequence[int], segment: int) -> pa.Table:
    """The windows a batch closes."""
    made = {
        "window": np.array(windows, np.int64),
        "length": np.full(len(windows), header.window_length, np.int64),
        "mode": _same(header.mode, len(windows)),
    }
    return _filled(WINDOWS, header, np.zeros(len(windows), []), segment, made)


def batches_table(header: BatchHeader, rows: int, segment: int, received: int) -> pa.Table:
    """One row that says that this batch was stored."""
    made = {
        "epoch": _same(header.epoch, 1),
        "sequence": np.array([header.sequence], np.uint64),
        "sent": np.array([header.sent], np.int64),
        "received": np.array([received], np.int64),
        "windows": np.array([len(header.windows)], np.uint32),
        "rows": np.array([rows], np.uint32),
        "records": np.array([header.records], np.uint64),
        "packets": np.array([header.packets], np.uint64),
    }
    return _filled(BATCHES, header, np.zeros(1, []), segment, made)


def losses_table(header: BatchHeader, losses: Sequence[Loss], segment: int, received: int) -> pa.Table:
    """What stages before the store, and the store itself, could not keep."""
    size = len(losses)
    made = {
        "epoch": _same(header.epoch, size),
        "sequence": np.full(size, header.sequence, np.uint64),
        "at": np.full(size, received, np.int64),
        "stage": pa.array([loss.stage for loss in losses], pa.string()).dictionary_encode(),
        **{
            name: np.array([getattr(loss, name) for loss in losses], np.uint64)
            for name in ("packets", "octets", "events")
        },
    }
    return _filled(LOSSES, header, np.zeros(size, []), segment, made)


def addresses(hi: U64, lo: U64) -> pa.Array:
    """Two halves as 16 octets in network order, without a copy per row."""
    wide = np.empty((len(hi), 2), ">u8")
    wide[:, 0], wide[:, 1] = hi, lo
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(hi), [None, pa.py_buffer(wide.tobytes())])


def halves(column: pa.ChunkedArray) -> tuple[U64, U64]:
    """The inverse of `addresses`, for a column of an answer."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.binary(16))
    if not len(array):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    wide = np.frombuffer(array.buffers()[1], ">u8", 2 * len(array), array.offset * 16).reshape(-1, 2)
    return wide[:, 0].astype(np.uint64), wide[:, 1].astype(np.uint64)


def _filled(
    table: TableDef, header: BatchHeader, rows: Table, segment: int, made: dict[str, Any]
) -> pa.Table:
    """The Arrow table: what was `made`, else who sent it, else the rows' own fields."""
    size = len(rows)
    who = {
        "segment": np.full(size, segment, np.uint64),
        "cluster": _same(header.cluster, size),
        "node": _same(header.node, size),
    }
    columns = []
    for column in table.columns:
        value = made.get(column.name, who.get(column.name))
        if value is None and column.sql == "IPv6":
            value = addresses(rows[column.source[0]], rows[column.source[1]])
        elif value is None:
            value = np.ascontiguousarray(rows[column.source[0]])
        columns.append(value if isinstance(value, pa.Array) else pa.array(value, _ARROW[column.sql]))
    return pa.Table.from_arrays(columns, schema=arrow_schema(table))


def _same(text: str, size: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(size, np.int32), pa.array([text], pa.string()))


def _terms(index: NDArray[np.uint32], terms: Sequence[str]) -> pa.Array:
    """`index` (0 is none) into `terms` as a dictionary column; none is the empty text."""
    return _dictionary(index.astype(np.int32), ["", *terms])


def _dictionary(index: NDArray[np.int32], terms: Sequence[str]) -> pa.Array:
    """A dictionary column in which no term stands twice, whatever a batch says: the engine refuses those that do."""
    number = {term: position for position, term in enumerate(dict.fromkeys(terms))}
    code = np.fromiter((number[term] for term in terms), np.int32, len(terms))
    return pa.DictionaryArray.from_arrays(code[index], pa.array(list(number), pa.string()))


def _taps(index: NDArray[np.uint16], names: Sequence[str]) -> pa.Array:
    """Each distinct set of taps once, as names separated by spaces."""
    # Four indexes fit one machine word, which sorts ten times faster than a record; few rows have more taps.
    used = 4 if not index[:, 4:].any() else index.shape[1]
    packed = np.ascontiguousarray(index[:, :used])
    keys = packed.view("<u8") if used == 4 else packed.view([("", index.dtype)] * used)
    _, rows, inverse = np.unique(keys.ravel(), return_index=True, return_inverse=True)
    distinct = packed[rows]
    texts = [" ".join(names[i - 1] for i in row if i) for row in distinct.tolist()]
    return _dictionary(inverse.astype(np.int32), texts)


def _hops(rows: Table, hops: Table) -> dict[str, pa.Array]:
    """The columns `hop_…`: lists, one entry (two, four) for each tap of a row."""
    sizes = named(rows) if len(hops) else np.zeros(len(rows), np.int64)
    ways = hops["role"] | hops["way"] << 2 | hops["mixed"] << 4
    times = np.stack([hops["after"], hops["before"]], axis=1)
    less = np.stack([hops[name] for name in COUNTERS], axis=1)
    differs = np.zeros(len(rows), np.bool_)
    of_hop = np.repeat(np.arange(len(rows)), sizes)
    differs[of_hop[less.any(axis=1)]] = True
    some = less[differs[of_hop]]
    return {
        "hop_ways": _lists(ways.astype(np.uint8), sizes),
        "hop_times": _lists(times.ravel(), 2 * sizes),
        "hop_less": _lists(some.ravel(), np.where(differs, 4 * sizes, 0)),
    }


def _lists(values: NDArray[Any], sizes: NDArray[np.int64]) -> pa.Array:
    """`values` cut into lists of these lengths."""
    ends = np.cumsum(sizes, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(np.r_[np.int32(0), ends], pa.int32()), pa.array(values))


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
