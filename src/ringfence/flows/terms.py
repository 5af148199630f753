"""Names and TLS facts as a batch carries them: dictionaries that columns point into, and how much of them fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ringfence.model.batches import TlsInfo
from ringfence.model.columns import Table

ENTRY = 200
"""Octets that a term takes in memory beside its letters: its hash, its place, its head."""


class Dictionaries(NamedTuple):
    """What the filled columns point at, by index + 1."""

    names: tuple[str, ...]
    tls: tuple[TlsInfo, ...]


def fitted(table: Table, dictionaries: Dictionaries, terms: int, octets: int) -> tuple[Dictionaries, int]:
    """Dictionaries of at most so many terms and octets each; rows that pointed beyond point nowhere now, and how many
    those are. The texts are strangers' and a batch is bounded."""
    names, unnamed = _room(table, "names", dictionaries.names, terms, octets)
    tls, untold = _room(table, "tls", dictionaries.tls, terms, octets)
    return Dictionaries(dictionaries.names[:names], dictionaries.tls[:tls]), unnamed + untold


def _room(
    table: Table, column: str, texts: Sequence[str | TlsInfo], terms: int, octets: int
) -> tuple[int, int]:
    """How many terms find room, and how many rows pointed at others."""
    sizes = np.cumsum(np.array([size_of(term) for term in texts[:terms]], np.int64))
    fits = int(np.searchsorted(sizes, octets, "right"))
    beyond = table[column] > fits
    table[column][beyond] = 0
    return fits, int(beyond.sum())


def size_of(term: str | TlsInfo) -> int:
    """Octets of memory that a term takes, about."""
    if isinstance(term, str):
        return ENTRY + len(term)
    return ENTRY + len(term.server_name or "") + sum(len(protocol) + ENTRY // 2 for protocol in term.alpn)
