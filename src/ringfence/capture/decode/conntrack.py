"""Conntrack's netlink messages become TRANSLATION rows and directions, a whole batch at a time.

Attributes are walked for all messages at once: one NumPy step per attribute position, none per message.
Numbers are those of linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.model.addresses import MAPPED
from ringfence.model.columns import TRANSLATION, TUPLE, Link, Table
from ringfence.model.protocols import ICMP, ICMPV6, TCP

CT_NEW = 1 << 8
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW: an event, or one entry of a dump."""
_BODY = 20
"""struct nlmsghdr and struct nfgenmsg come before the attributes."""
_ORIG, _REPLY, _PROTOINFO, _ZONE = 1, 2, 4, 18
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_NUMBER, _SOURCE, _DESTINATION = 1, 2, 3
_ICMP_TYPE, _ICMP_CODE, _ICMPV6_TYPE, _ICMPV6_CODE = 5, 6, 8, 9
_PROTOINFO_TCP, _TCP_STATE, _SYN_SENT = 1, 1, 1

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
HINT = np.dtype(TUPLE)


class Spans(NamedTuple):
    """Where one attribute's value is in each message: start and end octet, both 0 where it is absent."""

    start: I64
    end: I64


def pad(data: bytes) -> bytes:
    """A datagram padded to 4 octets, so that joined datagrams stay aligned."""
    return data + bytes(-len(data) % 4)


class Decoded(NamedTuple):
    """What messages said: TRANSLATION rows, hints (TUPLE), and how many could not be read."""

    rows: Table
    hints: Table
    unread: int


def split(data: bytes) -> tuple[Spans, int]:
    """The conntrack messages in joined datagrams, attributes only; and how many were cut short, and so left out."""
    starts, ends, at, size, cut = [], [], 0, len(data), 0
    unpack = struct.Struct("=IH").unpack_from
    while at + 16 <= size:
        length, kind = unpack(data, at)
        if length < 16:
            break
        if kind == CT_NEW and length >= _BODY and at + length <= size:
            starts.append(at + _BODY)
            ends.append(at + length)
        elif kind == CT_NEW:
            cut += 1
        at += (length + 3) & ~3
    # A length that cannot be hides whatever came behind it.
    cut += at < size
    return Spans(np.array(starts, np.int64), np.array(ends, np.int64)), cut


def walk(words: U32, within: Spans, wanted: tuple[int, ...]) -> dict[int, Spans]:
    """The value of each wanted attribute of each message, one level deep."""
    found = {kind: Spans(np.zeros_like(within.start), np.zeros_like(within.start)) for kind in wanted}
    at = within.start.copy()
    alive = (at > 0) & (at + 4 <= within.end)
    while alive.any():
        header = words[np.where(alive, at >> 2, 0)]
        length = (header & 0xFFFF).astype(np.int64)
        kind = header >> 16 & 0x3FFF
        alive &= (length >= 4) & (at + length <= within.end)
        for number, spans in found.items():
            hit = alive & (kind == number)
            spans.start[hit] = at[hit] + 4
            spans.end[hit] = at[hit] + length[hit]
        at += (length + 3) & ~3
        alive &= at + 4 <= within.end
    return found


def decode(data: bytes, seen: int, dumped: bool) -> tuple[Table, Table]:
    """`read` without the count."""
    return read(data, seen, dumped)[:2]


def read(data: bytes, seen: int, dumped: bool) -> Decoded:
    """What joined datagrams say that were received at `seen` (UTC ns).

    Only entries that translate give a row. Hints are tuples (TUPLE columns) oriented as conntrack's original
    direction: of events only, and for TCP only of entries that began with a SYN, since an entry picked up in
    mid-life is learnt reversed. A translated entry gives two hints, before and after translation.
    """
    within, cut = split(data)
    words = np.frombuffer(data[: len(data) & ~3], "<u4")
    top = walk(words, within, (_ORIG, _REPLY, _PROTOINFO, _ZONE))
    original, zone = _tuples(words, top[_ORIG])
    reply, _ = _tuples(words, top[_REPLY])
    zone |= _u16(words, top[_ZONE])
    known = (top[_ORIG].start > 0) & (top[_REPLY].start > 0)
    from_start = _began(words, top[_PROTOINFO], original["protocol"]) & (not dumped)
    after = _reversed(reply, original)
    dnat, snat = _differs(original, after, "provider"), _differs(original, after, "consumer")
    translates = known & (dnat | snat)
    rows = _translations(original, after, translates, seen)
    rows["zone"], rows["dnat"], rows["snat"] = zone[translates], dnat[translates], snat[translates]
    rows["dumped"] = ~from_start[translates]
    hints = np.concatenate([original[known & from_start], after[translates & from_start]])
    return Decoded(rows, hints, cut + int((~known).sum()))


def _tuples(words: U32, spans: Spans) -> tuple[Table, NDArray[np.uint32]]:
    """The tuple and its zone in a CTA_TUPLE_*, as it stands: consumer is the source."""
    parts = walk(words, spans, (_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE))
    table = np.zeros(len(spans.start), HINT)
    ip = walk(words, parts[_TUPLE_IP], (_V4_SRC, _V4_DST, _V6_SRC, _V6_DST))
    for side, v4, v6 in (("consumer", _V4_SRC, _V6_SRC), ("provider", _V4_DST, _V6_DST)):
        hi, lo = _address(words, ip[v4], ip[v6])
        table[side + "_hi"], table[side + "_lo"] = hi, lo
    wanted = (_NUMBER, _SOURCE, _DESTINATION, _ICMP_TYPE, _ICMP_CODE, _ICMPV6_TYPE, _ICMPV6_CODE)
    proto = walk(words, parts[_TUPLE_PROTO], wanted)
    number = _u8(words, proto[_NUMBER])
    table["protocol"] = number
    table["consumer_port"] = _u16(words, proto[_SOURCE])
    kind = _u8(words, proto[_ICMP_TYPE]) | _u8(words, proto[_ICMPV6_TYPE])
    code = _u8(words, proto[_ICMP_CODE]) | _u8(words, proto[_ICMPV6_CODE])
    icmp = (number == ICMP) | (number == ICMPV6)
    table["provider_port"] = np.where(icmp, kind << 8 | code, _u16(words, proto[_DESTINATION]))
    return table, _u16(words, parts[_TUPLE_ZONE])


def _address(words: U32, v4: Spans, v6: Spans) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    is_v6 = (v6.start > 0) & (v6.end - v6.start >= 16)
    at = np.where(is_v6, v6.start >> 2, 0)

    def half(first: int) -> NDArray[np.uint64]:
        # A message cut at the buffer's end never has a span, so `at + 3` stays inside for those that do.
        top = words[np.minimum(at + first, len(words) - 1)].byteswap().astype(np.uint64)
        low = words[np.minimum(at + first + 1, len(words) - 1)].byteswap().astype(np.uint64)
        joined: NDArray[np.uint64] = top << np.uint64(32) | low
        return joined

    if not len(words):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    mapped = _u32(words, v4).astype(np.uint64) | np.uint64(MAPPED)
    hi = np.where(is_v6, half(0), np.uint64(0))
    return hi, np.where(is_v6, half(2), np.where(v4.start > 0, mapped, np.uint64(0)))


def _began(words: U32, protoinfo: Spans, protocol: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the first packet conntrack saw opened the conversation, as far as the protocol tells."""
    tcp = walk(words, protoinfo, (_PROTOINFO_TCP,))[_PROTOINFO_TCP]
    state = _u8(words, walk(words, tcp, (_TCP_STATE,))[_TCP_STATE])
    began: NDArray[np.bool_] = (protocol != TCP) | (state == _SYN_SENT)
    return began


def _reversed(reply: Table, original: Table) -> Table:
    """The tuple after translation, oriented as the original: what replies come from is who was reached."""
    after = np.zeros(len(reply), HINT)
    after["protocol"] = original["protocol"]
    icmp = (original["protocol"] == ICMP) | (original["protocol"] == ICMPV6)
    for mine, theirs in (("consumer", "provider"), ("provider", "consumer")):
        for part in ("_hi", "_lo"):
            after[mine + part] = reply[theirs + part]
        # ICMP has no ports to turn round: the asker's type stays.
        after[mine + "_port"] = np.where(icmp, original[mine + "_port"], reply[theirs + "_port"])
    return after


def _differs(before: Table, after: Table, side: str) -> NDArray[np.bool_]:
    parts = [before[side + part] != after[side + part] for part in ("_hi", "_lo", "_port")]
    either: NDArray[np.bool_] = np.logical_or.reduce(parts)
    return either


def _translations(before: Table, after: Table, chosen: NDArray[np.bool_], seen: int) -> Table:
    rows = np.zeros(int(chosen.sum()), TRANSLATION)
    rows["seen"], rows["link"] = seen, Link.CONNTRACK
    rows["protocol"] = before["protocol"][chosen]
    for name, _ in TUPLE[:-1]:
        rows["pre_" + name] = before[name][chosen]
        rows["post_" + name] = after[name][chosen]
    return rows


def _u32(words: U32, spans: Spans) -> U32:
    """Each value as a 32-bit number in network order; 0 where it is absent."""
    if not len(words):
        return np.zeros(len(spans.start), np.uint32)
    value = words[np.minimum(spans.start >> 2, len(words) - 1)].byteswap()
    return np.where((spans.start > 0) & (spans.end - spans.start >= 4), value, np.uint32(0))


def _u16(words: U32, spans: Spans) -> U32:
    return _short(words, spans, 2)


def _u8(words: U32, spans: Spans) -> U32:
    return _short(words, spans, 1)


def _short(words: U32, spans: Spans, size: int) -> U32:
    if not len(words):
        return np.zeros(len(spans.start), np.uint32)
    value = words[np.minimum(spans.start >> 2, len(words) - 1)].byteswap() >> np.uint32(32 - 8 * size)
    return np.where((spans.start > 0) & (spans.end - spans.start >= size), value, np.uint32(0))
