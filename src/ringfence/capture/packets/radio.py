"""Wireless frames: the headers that capture drivers put before IEEE 802.11, and 802.11 itself."""

from __future__ import annotations

import numpy as np

from ringfence.capture.packets.frames import I64
from ringfence.capture.packets.work import At, Bytes, Step, Work, read

U1, U2, U4 = "u1", ">u2", ">u4"

TIME, FLAGS, MORE = 1, 2, 1 << 31
"""Bits of radiotap's "present" words: a time of eight octets, the flags, another such word."""
PADDED = 0x20
"""Radiotap flag: the 802.11 header is padded to four octets."""
PADDED_HEADER, SWAPPED = 1, 2
"""What `value` may say of an 802.11 frame: its header is padded; its first two octets may be swapped."""
AVS_MAGIC = 0x80211000
PRISM_MESSAGES = (0x41, 0x44, 0x41000000, 0x44000000)
"""Message codes of wlan-ng's Prism header, in either byte order."""


def radiotap(buffer: Bytes, work: Work) -> Step:
    """radiotap.org: a header that states its length; one flag in it moves what stands behind 802.11's header."""
    header = np.dtype([("version", U1), ("pad", U1), ("length", "<u2"), ("present", "<u4")])
    work, head = read(buffer, work, header)
    valid = (head["version"] == 0) & (head["length"] >= 8)
    work, head = work.take(valid), head[valid]
    flags = _flags(buffer, work.at, head["present"].astype(np.int64))
    padded = (flags & PADDED) != 0
    yield At.WIFI, work.past(head["length"].astype(np.int64))._replace(value=padded * PADDED_HEADER)


def _flags(buffer: Bytes, start: I64, present: I64) -> I64:
    """Radiotap's flags, 0 where it has none. They stand first, or behind the time, which is aligned to eight."""
    words, more = start + 4, present & MORE
    for _ in range(3):
        words = np.where(more != 0, words + 4, words)
        octets = (buffer[words + octet].astype(np.int64) << 8 * octet for octet in range(4))
        more = np.where(more != 0, sum(octets) & MORE, 0)
    field = words + 4 - start
    field = np.where(present & TIME, (field + 7 & ~7) + 8, field)
    return np.where(present & FLAGS, buffer[start + field].astype(np.int64), 0)


def avs(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_IEEE802_11_AVS: a magic with the version, then the header's length; some drivers leave it out."""
    work, head = read(buffer, work, np.dtype([("version", U4), ("length", U4)]))
    there = (head["version"] & 0xFFFFF000) == AVS_MAGIC
    length = np.where(there, np.minimum(head["length"].astype(np.int64), 4096), 0)
    yield At.WIFI, work.past(length)._replace(value=np.zeros(len(length), np.int64))


def prism(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_IEEE802_11_PRISM: 144 octets, or an AVS header, or nothing, by what stands first."""
    work, head = read(buffer, work, np.dtype([("message", U4)]))
    known = np.isin(head["message"], PRISM_MESSAGES)
    yield At.WIFI, work.past(144).take(known)._replace(value=np.zeros(int(known.sum()), np.int64))
    yield At.AVS, work.take(~known)


def wifi(buffer: Bytes, work: Work) -> Step:
    """IEEE 802.11: unprotected data frames lead to LLC; addresses, QoS and HT control vary the length.

    Cisco's and Aruba's access points swap the frame control when they tunnel a frame.
    """
    work, head = read(buffer, work, np.dtype([("control", "<u2"), ("rest", "V22")]))
    control = head["control"].astype(np.int64)
    swapped = (work.value == SWAPPED) & ((control & 0xF) != 8) & ((control & 0xF00) == 0x800)
    control = np.where(swapped, control >> 8 | (control & 0xFF) << 8, control)
    # Version 0, data, not empty, not protected.
    good = (control & 0x404F) == 0x0008
    work, control = work.take(good), control[good]
    quality = (control & 0x80) != 0
    addresses = 24 + 6 * ((control & 0x300) == 0x300)
    length = addresses + quality * (2 + 4 * ((control & 0x8000) != 0))
    length = np.where(work.value == PADDED_HEADER, length + 3 & ~3, length)
    whole = work.at + length <= work.limit
    work, length, quality, addresses = work.take(whole), length[whole], quality[whole], addresses[whole]
    several = quality & ((buffer[work.at + addresses] & 0x80) != 0)
    inside = work.past(length)
    yield At.LLC, inside.take(~several)
    yield At.AMSDU, inside.take(several)


def amsdu(buffer: Bytes, work: Work) -> Step:
    """IEEE 802.11 section 9.3.2.2: frames in one, each with addresses and a length, padded to four octets."""
    work, head = read(buffer, work, np.dtype([("addresses", "V12"), ("length", U2)]))
    length = head["length"].astype(np.int64)
    end = work.at + 14 + length
    bounded = work._replace(limit=np.minimum(work.limit, end), wire=np.minimum(work.wire, end))
    yield At.LLC, bounded.past(14)
    yield At.AMSDU, work.past(14 + length + 3 & ~3)
