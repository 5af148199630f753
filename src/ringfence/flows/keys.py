"""Names for tuples: canonical order and a 64-bit hash, the same on every node and in every file."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ringfence.model.protocols import ICMP, ICMPV6

U64 = NDArray[np.uint64]


class Columns(Protocol):
    """Columns by name: a structured array, or each in one piece."""

    def __getitem__(self, name: str, /) -> NDArray[Any]: ...


_C1 = np.uint64(0xFF51AFD7ED558CCD)
_C2 = np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_33 = np.uint64(33)


def mix(value: U64) -> U64:
    """MurmurHash3's 64-bit finaliser: every input bit reaches every output bit."""
    value = value ^ (value >> _33)
    value = value * _C1
    value = value ^ (value >> _33)
    value = value * _C2
    return value ^ (value >> _33)


def hash_words(*words: U64) -> U64:
    """One 64-bit hash of several columns, order-sensitive. `bpf/` does not compute it; only Python does."""
    with np.errstate(over="ignore"):
        state = np.full(words[0].shape, _GOLDEN, np.uint64)
        for word in words:
            state = mix(state ^ word.astype(np.uint64, copy=False)) + _GOLDEN
        return state


def is_reversed(table: Columns, prefix: str = "") -> NDArray[np.bool_]:
    """Rows whose consumer sorts after their provider by (address, port): canonical order swaps these."""
    c_hi, p_hi = table[prefix + "consumer_hi"], table[prefix + "provider_hi"]
    c_lo, p_lo = table[prefix + "consumer_lo"], table[prefix + "provider_lo"]
    c_port, p_port = table[prefix + "consumer_port"], table[prefix + "provider_port"]
    same_hi, same_lo = c_hi == p_hi, c_lo == p_lo
    after: NDArray[np.bool_] = (c_hi > p_hi) | (same_hi & ((c_lo > p_lo) | (same_lo & (c_port > p_port))))
    return after


def tuple_hash(table: Columns, prefix: str = "") -> U64:
    """A direction-independent hash of each row's 5-tuple.

    `prefix` is `pre_` or `post_` for TRANSLATION tables; `protocol` is never prefixed. ICMP rows hash by
    addresses alone, since each side's type differs (echo request and reply are one conversation). Where
    one port is 0 the other belongs to no end (a tunnel's, both ways; its sender's port is entropy).
    """
    swap = is_reversed(table, prefix)

    def pick(name: str) -> tuple[U64, U64]:
        consumer, provider = table[f"{prefix}consumer_{name}"], table[f"{prefix}provider_{name}"]
        return np.where(swap, provider, consumer), np.where(swap, consumer, provider)

    return ordered_hash((*pick("hi"), *pick("lo"), *pick("port")), table["protocol"])


def ordered_hash(ends: tuple[U64, ...], protocols: NDArray[np.uint8]) -> U64:
    """`tuple_hash` of ends in canonical order: (low hi, high hi, low lo, high lo, low port, high port)."""
    a_hi, b_hi, a_lo, b_lo, a_port, b_port = (column.astype(np.uint64, copy=False) for column in ends)
    protocol = protocols.astype(np.uint64)
    ports = (a_port << np.uint64(16)) | b_port
    ports = np.where(a_port == 0, b_port, np.where(b_port == 0, a_port, ports))
    ports = np.where((protocol == ICMP) | (protocol == ICMPV6), np.uint64(0), ports)
    return hash_words(a_hi, a_lo, b_hi, b_lo, (ports << np.uint64(8)) | protocol)


def ports_are_nobodys(table: Columns) -> NDArray[np.bool_]:
    """Rows whose ports stay where they are when the ends change places: ICMP types, and tunnels whose sender's
    port is entropy and was folded to 0 (RFC 7348 section 5, RFC 8926 section 3.3)."""
    one_port = (table["consumer_port"] == 0) != (table["provider_port"] == 0)
    icmp = (table["protocol"] == ICMP) | (table["protocol"] == ICMPV6)
    return np.asarray(one_port | icmp, np.bool_)


def has_one_holder(hi: U64, lo: U64) -> NDArray[np.bool_]:
    """Addresses that one host at a time holds: not unspecified, loopback, link-local, multicast or broadcast, which
    mean another host on every link (RFC 6890, RFC 4291)."""
    v4 = (hi == 0) & (lo >> np.uint64(32) == 0xFFFF)
    octets = lo >> np.uint64(16) & np.uint64(0xFFFF)
    first = octets >> np.uint64(8)
    of_link4 = (first == 0) | (first == 127) | (octets == 0xA9FE) | (first >= 224)
    of_link6 = (hi == 0) | (hi >> np.uint64(56) == 0xFF) | (hi >> np.uint64(54) == 0x3FA)
    return np.asarray(np.where(v4, ~of_link4, ~of_link6), np.bool_)


def flow_id(
    cluster_hash: np.uint64, zone: U64, tuples: U64, inner: U64, first_window: NDArray[np.int64]
) -> U64:
    """The id of each conversation: (cluster, zone/VNI, canonical tuple, first window), direction-free.

    `inner` sets apart the conversations that share one tunnel; it is 0 outside tunnels.
    """
    cluster = np.full(tuples.shape, cluster_hash, np.uint64)
    return hash_words(cluster, zone.astype(np.uint64), tuples, inner, first_window.astype(np.uint64))


@lru_cache(maxsize=1 << 17)
def text_hash(text: str) -> np.uint64:
    """A stable 64-bit hash of a name, e.g. a cluster's (FNV-1a)."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return np.uint64(value)
