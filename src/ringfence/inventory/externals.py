"""What people say of addresses outside every cluster: networks with a name and labels, in time.

Of several networks that hold an address at a time the most specific one speaks for it; of two lists that name the
same network, the one whose name comes last in order (a rule, so that the order of upload never matters).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.history import Span
from ringfence.inventory.index import ABSENT, NOBODY, Index, build, lookup
from ringfence.model.addresses import pack
from ringfence.model.objects import External

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

Packed = tuple[int, int]

V4_BITS = 96
"""An IPv4 prefix of n bits is one of 96 + n bits in the mapped form that all columns use (RFC 4291 2.5.5.2)."""


class Match(NamedTuple):
    """For each row: index into `values` of what was said of it, or -1; and the prefix that said it (mapped form)."""

    value: I32
    prefix: NDArray[np.int16]


class Externals:
    """Look-up columns over the histories of External objects. A value: made again when they change."""

    def __init__(self, histories: Mapping[str, tuple[Span, ...]]) -> None:
        self.values: list[External] = []
        by_prefix: dict[int, dict[Packed, dict[str, tuple[Span, ...]]]] = {}
        for source, history in sorted(histories.items()):
            for network in {span.value.network for span in history if isinstance(span.value, External)}:
                key = _block(network)
                if key is not None:
                    by_prefix.setdefault(key[0], {}).setdefault(key[1], {})[source] = history
        number: dict[External, int] = {}
        self._levels: list[tuple[int, Index]] = []
        for prefix in sorted(by_prefix, reverse=True):
            segments = {base: self._segments(said, number) for base, said in by_prefix[prefix].items()}
            self._levels.append((prefix, build(segments)))

    def __bool__(self) -> bool:
        return bool(self._levels)

    def match(self, hi: U64, lo: U64, at: I64) -> Match:
        """What was said of each address at each time, the most specific network first."""
        value = np.full(len(hi), NOBODY, np.int32)
        length = np.zeros(len(hi), np.int16)
        for prefix, index in self._levels:
            open_rows = np.flatnonzero(value == NOBODY)
            if not len(open_rows):
                break
            top, low = _masks(prefix)
            found = lookup(index, hi[open_rows] & top, lo[open_rows] & low, at[open_rows])
            hit = (found != NOBODY) & (found != ABSENT)
            value[open_rows[hit]] = found[hit]
            length[open_rows[hit]] = prefix
        return Match(value, length)

    def _segments(
        self, said: Mapping[str, tuple[Span, ...]], number: dict[External, int]
    ) -> list[tuple[int, int]]:
        """(start, index into `values`) of one network over time; of several lists the last by name counts."""
        times = sorted({span.start for history in said.values() for span in history})
        segments: list[tuple[int, int]] = []
        for time in times:
            current = [value for history in said.values() if (value := _at(history, time)) is not None]
            version = self._number(max(current, key=lambda one: one.uid), number) if current else NOBODY
            if not segments or segments[-1][1] != version:
                segments.append((time, version))
        return segments

    def _number(self, value: External, number: dict[External, int]) -> int:
        if value not in number:
            number[value] = len(self.values)
            self.values.append(value)
        return number[value]


def _at(history: Iterable[Span], time: int) -> External | None:
    held: External | None = None
    for span in history:
        if span.start > time:
            break
        held = span.value if isinstance(span.value, External) else None
    return held


def _block(network: str) -> tuple[int, Packed] | None:
    """(prefix in mapped form, first address); None for text that is no network: the reader has refused it."""
    try:
        parsed = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return None
    prefix = parsed.prefixlen + (V4_BITS if parsed.version == 4 else 0)
    return prefix, pack(str(parsed.network_address))


def _masks(prefix: int) -> tuple[np.uint64, np.uint64]:
    whole = ((1 << 128) - 1) ^ ((1 << (128 - prefix)) - 1)
    return np.uint64(whole >> 64), np.uint64(whole & 0xFFFF_FFFF_FFFF_FFFF)
