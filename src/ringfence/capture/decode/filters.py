"""Classic BPF (linux/filter.h) for the AF_PACKET ring: which interfaces' frames to keep, and how many octets of each.

Headers are enough to count; DNS messages and ClientHellos are kept longer, where names are to be heard. A load beyond
the packet's end would drop it, so every load stands behind a comparison of lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

LONG = 2304
"""Octets kept of a frame that says names: 2,048 of payload behind any headers."""
MOST_TESTED = 800
"""Interfaces that can be told apart in 4096 instructions; with more, all are kept and told apart by their reader."""

_INTERFACE, _PROTOCOL, _NETWORK = 0xFFFFF008, 0xFFFFF000, 0xFFF00000
"""SKF_AD_OFF + SKF_AD_IFINDEX, SKF_AD_OFF + SKF_AD_PROTOCOL, SKF_NET_OFF."""
_LD_W, _LD_LEN, _LDH, _LDB, _LDH_X, _LDB_X, _LD_M, _ST_M = 0x20, 0x80, 0x28, 0x30, 0x48, 0x50, 0x60, 0x02
_LDX, _TAX, _ADD_X, _SUB_X, _AND, _LSH, _RSH = 0x01, 0x07, 0x0C, 0x1C, 0x54, 0x64, 0x74
_JA, _JEQ, _JGE, _JSET, _RET = 0x05, 0x15, 0x35, 0x45, 0x06
_ETHERNET = 14
_TAIL = 0xFFFF_FFFF
"""In a jump: to the instructions behind the search."""
_Code = tuple[str, int, int, str, str]
"""Label of the instruction, its code, its number, and labels to jump to; an empty one is the next instruction."""


def interface_filter(numbers: Sequence[int], snap: int, names: bool = False) -> bytes:
    """A program that keeps `snap` octets of frames of these interfaces (sorted), LONG of those that say names."""
    keep = _one(_JA, _TAIL) if names else _one(_RET, snap)
    search = keep
    if len(numbers) <= MOST_TESTED:
        search = _one(_LD_W, _INTERFACE) + _search(list(numbers), keep)
    total = len(search) // 8
    parts = [search[at : at + 8] for at in range(0, len(search), 8)]
    tail = _one(_JA, _TAIL)
    found = [_one(_JA, total - place - 1) if part == tail else part for place, part in enumerate(parts)]
    return b"".join(found) + (_assembled(_how_long(snap)) if names else b"")


def _one(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _search(numbers: list[int], keep: bytes) -> bytes:
    """Binary search: `A` in `numbers`."""
    drop = _one(_RET, 0)
    if len(numbers) <= 1:
        return b"".join(_one(_JEQ, number, 0, 1) + keep for number in numbers) + drop
    middle = len(numbers) // 2
    low, high = _search(numbers[:middle], keep), _search(numbers[middle:], keep)
    # A far jump is needed where the low half is long: conditional ones reach 255 instructions.
    return _one(_JGE, numbers[middle], 0, 1) + _one(_JA, len(low) // 8) + low + high


def _how_long(snap: int) -> list[_Code]:
    """LONG for port 53 of UDP and TCP and for what begins a ClientHello, `snap` for all else; X is where headers end."""
    return [
        ("", _LD_LEN, 0, "", ""),
        ("", _JGE, _ETHERNET + 28, "", "short"),
        ("", _LD_W, _PROTOCOL, "", ""),
        ("", _JEQ, 0x0800, "v4", ""),
        ("", _JEQ, 0x86DD, "v6", "short"),
        ("v4", _LDH, _NETWORK + 6, "", ""),
        ("", _JSET, 0x1FFF, "short", ""),  # a later fragment has no ports
        ("", _LDB, _NETWORK, "", ""),
        ("", _AND, 15, "", ""),
        ("", _LSH, 2, "", ""),
        ("", _TAX, 0, "", ""),
        ("", _LDB, _NETWORK + 9, "", ""),
        ("", _JEQ, 17, "ports", ""),
        ("", _JEQ, 6, "ports", "short"),
        ("v6", _LDX, 40, "", ""),
        ("", _LDB, _NETWORK + 6, "", ""),
        ("", _JEQ, 17, "ports", ""),
        ("", _JEQ, 6, "ports", "short"),
        ("ports", _ST_M, 0, "", ""),
        *_left(_ETHERNET + 8),
        ("", _LDH_X, _NETWORK, "", ""),
        ("", _JEQ, 53, "long", ""),
        ("", _LDH_X, _NETWORK + 2, "", ""),
        ("", _JEQ, 53, "long", ""),
        ("", _LD_M, 0, "", ""),
        ("", _JEQ, 6, "", "short"),
        *_left(_ETHERNET + 20),
        ("", _LDB_X, _NETWORK + 12, "", ""),
        ("", _AND, 0xF0, "", ""),
        ("", _RSH, 2, "", ""),
        ("", _ADD_X, 0, "", ""),
        ("", _TAX, 0, "", ""),
        *_left(_ETHERNET + 6),
        ("", _LDH_X, _NETWORK, "", ""),
        ("", _JEQ, 0x1603, "", "short"),  # a handshake record (RFC 8446 section 5.1)
        ("", _LDB_X, _NETWORK + 5, "", ""),
        ("", _JEQ, 1, "long", "short"),  # ClientHello
        ("long", _RET, LONG, "", ""),
        ("short", _RET, snap, "", ""),
    ]


def _left(octets: int) -> list[_Code]:
    """Whether the frame has so many octets, counted from X octets on. One without an Ethernet header has more."""
    return [
        ("", _LD_LEN, 0, "", ""),
        ("", _SUB_X, 0, "", ""),
        ("", _JSET, 0x8000_0000, "short", ""),
        ("", _JGE, octets, "", "short"),
    ]


def _assembled(codes: list[_Code]) -> bytes:
    places = {label: place for place, (label, *_) in enumerate(codes) if label}
    found = []
    for place, (_, code, k, yes, no) in enumerate(codes):
        jumps = [places[label] - place - 1 if label else 0 for label in (yes, no)]
        found.append(_one(code, k, *jumps))
    return b"".join(found)
