"""Addresses as two unsigned 64-bit halves, so that NumPy can sort, compare and hash both families alike.

IPv4 is held IPv4-mapped (RFC 4291 section 2.5.5.2): `hi == 0`, `lo == 0x0000ffff_aabbccdd`.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAPPED = 0xFFFF_0000_0000
"""`lo` of 0.0.0.0, IPv4-mapped."""

U64 = NDArray[np.uint64]

_SLOT_BITS = 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Multiplicative hashing: 2^64 divided by the golden ratio (Knuth, TAOCP 3, section 6.4)."""

_OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_DOTTED = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}", re.ASCII)


def pack(text: str) -> tuple[int, int]:
    """`(hi, lo)` of an address in text form. Raises ValueError for anything else."""
    # The common form at a third of the library's cost: an inventory packs every pod's address.
    if dotted := _DOTTED.fullmatch(text):
        a, b, c, d = dotted.groups()
        return 0, MAPPED | int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return 0, MAPPED | int(address)
    value = int(address)
    return value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF


@lru_cache(maxsize=65536)
def unpack(hi: int, lo: int) -> str:
    """The text form of one address: dotted for IPv4-mapped values, RFC 5952 otherwise."""
    if hi == 0 and lo >> 32 == 0xFFFF:
        return f"{lo >> 24 & 255}.{lo >> 16 & 255}.{lo >> 8 & 255}.{lo & 255}"
    return str(ipaddress.IPv6Address(hi << 64 | lo))


def texts(hi: U64, lo: U64) -> list[str]:
    """The text forms of a column; meant for answers (thousands), not for hot paths."""
    return [unpack(int(h), int(low)) for h, low in zip(hi.tolist(), lo.tolist(), strict=True)]


def among(hi: U64, lo: U64, those_hi: U64, those_lo: U64) -> NDArray[np.bool_]:
    """Which addresses of a column are among others, at a cost that hardly depends on their number.

    A node may have thousands (kube-proxy's IPVS mode binds every service's). Most addresses of flows are none of them: a
    table of their hashes' upper bits says so of nearly all, and only the rest is searched for.
    """
    found = np.zeros(len(lo), np.bool_)
    if not len(those_lo):
        return found
    taken = np.zeros(1 << _SLOT_BITS, np.bool_)
    taken[_slots(those_lo)] = True
    rows = np.flatnonzero(taken[_slots(lo)])
    found[rows] = _searched(hi[rows], lo[rows], those_hi, those_lo)
    return found


def _slots(lo: U64) -> U64:
    with np.errstate(over="ignore"):
        return lo * _GOLDEN >> np.uint64(64 - _SLOT_BITS)


def _searched(hi: U64, lo: U64, those_hi: U64, those_lo: U64) -> NDArray[np.bool_]:
    order = np.argsort(those_lo, kind="stable")
    sorted_hi, sorted_lo = those_hi[order], those_lo[order]
    at = np.searchsorted(sorted_lo, lo)
    found = np.zeros(len(lo), np.bool_)
    # Addresses of several networks may end alike: as often as the commonest ending comes, the next one is looked at.
    _, often = np.unique(sorted_lo, return_counts=True)
    for step in range(int(often.max())):
        here = np.minimum(at + step, len(order) - 1)
        found |= (sorted_lo[here] == lo) & (sorted_hi[here] == hi)
    return found
