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
