"""The kernel's structs as NumPy dtypes: the Python copy of `bpf/tap.h`. Pure tables.

`LAYOUT_TABLE` is what the object's own `layout` must say; the loader compares them and refuses a mismatch.
Fields the kernel keeps in network order are big-endian here.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

CLASS_INGRESS = 1
CLASS_BARE = 2
CLASS_SHIFT = 2
MAX_TAP_ID = (1 << 16 - CLASS_SHIFT) - 2
"""The kernel keeps 16 bits of a filter's classid (`qdisc_skb_cb.tc_classid`)."""

ZERO_WINDOW_SHIFT = 48
"""`count.packets` holds packets below this bit, and from it on the TCP segments that offered no room."""

SIDES = ("even", "odd")
FAMILIES = ("v4", "v6", "tunnel")


class Stage(IntEnum):
    """Places in the `losses` map, per side."""

    MAP_FULL = 0
    FRAGMENT = 1
    UNREADABLE = 2


STAGE_NAMES = ("kernel-map-full", "fragment-without-first", "unreadable-header")
"""Names in `Loss.stage`. Packets of the second are counted too, with port 0; the others are not in any flow."""

_TAIL = [("sport", ">u2"), ("dport", ">u2"), ("tap", "<u2"), ("protocol", "u1")]

KEY_V4 = np.dtype([("src", ">u4"), ("dst", ">u4"), *_TAIL, ("pad", "u1")])
KEY_V6 = np.dtype([("src", ">u8", 2), ("dst", ">u8", 2), *_TAIL, ("pad", "u1")])
KEY_TUNNEL = np.dtype(
    [
        ("src", ">u8", 2),
        ("dst", ">u8", 2),
        *_TAIL,
        ("kind", "u1"),
        ("vni", ">u4"),
        ("inner_src", ">u8", 2),
        ("inner_dst", ">u8", 2),
        ("inner_sport", ">u2"),
        ("inner_dport", ">u2"),
        ("inner_protocol", "u1"),
        ("pad", "u1", 3),
    ]
)
KEYS = {"v4": KEY_V4, "v6": KEY_V6, "tunnel": KEY_TUNNEL}

COUNT = np.dtype(
    [
        ("packets", "<u8"),
        ("octets", "<u8"),
        ("first", "<u8"),
        ("last", "<u4"),
        ("flags", "<u4"),
    ]
)
"""One CPU's share of one tuple. `first` is CLOCK_MONOTONIC nanoseconds, 0 where this CPU saw nothing;
`last` counts from there in units of 1024 ns."""

LOSS = np.dtype([("packets", "<u8"), ("octets", "<u8")])
STATE = np.dtype(
    [
        ("generation", "<u8"),
        ("tick", "<u8"),
        ("epoch", "<u8"),
        ("committed", "<u8"),
        ("build", "<u8"),
        ("dirty", "<u4", 6),
    ]
)

MESSAGE = np.dtype(
    [
        ("time", "<u8"),  # CLOCK_MONOTONIC, ns
        ("key", KEY_V6),
        ("length", "<u4"),  # of the payload, however much of it follows
        ("sequence", "<u4"),
    ]
)
"""What stands before the octets of each payload that `bpf/names.h` tells."""

TAP_RECORD = np.dtype(
    [
        ("ifindex", "<u4"),
        ("made_qdisc", "u1"),
        ("at", "S7"),
        ("interface", "S16"),
        ("pod", "S64"),
        ("netns", "<u8"),  # inode of the pod's namespace it is in, 0 for the node's
        ("path", "S8"),
        ("pad", "V20"),
    ]
)
"""What the `taps` map holds for each tap id: enough for an heir to name counts of an interface that went."""


def _offset(dtype: np.dtype[np.void], field: str) -> int:
    fields = dtype.fields
    assert fields is not None
    return int(fields[field][1])


LAYOUT_TABLE: tuple[int, ...] = (
    KEY_V4.itemsize,
    _offset(KEY_V4, "sport"),
    _offset(KEY_V4, "tap"),
    KEY_V6.itemsize,
    _offset(KEY_V6, "sport"),
    _offset(KEY_V6, "tap"),
    KEY_TUNNEL.itemsize,
    _offset(KEY_TUNNEL, "vni"),
    _offset(KEY_TUNNEL, "inner_sport"),
    COUNT.itemsize,
    _offset(COUNT, "last"),
    _offset(COUNT, "flags"),
    STATE.itemsize,
    _offset(STATE, "dirty"),
    LOSS.itemsize,
    len(Stage),
    MESSAGE.itemsize,
    _offset(MESSAGE, "key"),
    _offset(MESSAGE, "length"),
)
