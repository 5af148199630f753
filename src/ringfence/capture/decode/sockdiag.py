"""Socket tables of a namespace, as NETLINK_SOCK_DIAG tells them, become columns; and who opened which connection.

A connection that began before the agent shows neither SYN nor conntrack's NEW. But the kernel goes on counting what was
acknowledged, and a SYN counts for one octet: only of the end that opened is one octet more acknowledged than was sent
(`tcp_snd_una_update` in net/ipv4/tcp_input.c, and RFC 4898, HCThruOctetsAcked). That can be told while nothing is under
way. Else, the accepting end has the port of a socket that listens in the same namespace. That nobody listens proves
nothing: a socket may have been accepted by one that was closed since (FTP data, one-shot servers).
Of UDP, a connected socket that shares its port with one that is not was made to answer one peer.
Layouts: linux/inet_diag.h (struct inet_diag_req_v2, struct inet_diag_msg), linux/tcp.h (struct tcp_info), sock_diag(7).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.decode.conntrack import Spans, walk
from ringfence.model.columns import TUPLE, Table
from ringfence.model.protocols import TCP, UDP

SOCK_DIAG_BY_FAMILY = 20
AF_INET, AF_INET6 = 2, 10
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = (
    *(1, 2, 3, 4, 5),
    *(7, 8, 9, 10, 11),
)
"""States of sockets (net/tcp_states.h). CLOSE is also that of a UDP socket without a peer."""
ASKED = {
    TCP: sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 10, 11)),
    UDP: 1 << ESTABLISHED | 1 << CLOSE,
}
"""States that are asked for: those of conversations, and sockets that speak to anybody."""
INFO = 2
"""INET_DIAG_INFO: struct tcp_info."""
V6_ONLY = 11
"""INET_DIAG_SKV6ONLY: a listener on :: that takes IPv6 alone."""

SOCKET = np.dtype(
    [
        ("local_hi", "<u8"),
        ("local_lo", "<u8"),
        ("remote_hi", "<u8"),
        ("remote_lo", "<u8"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("protocol", "u1"),
        ("state", "u1"),
        ("only", "u1"),  # 0: both families, 4 or 6: this one alone (listeners without an address)
        ("opened", "u1"),  # what TCP's own counters say: LOCAL or REMOTE opened it, 0: nothing
        ("uid", "<u4"),
        ("inode", "<u4"),
    ]
)
"""One socket. Addresses are `model.addresses` halves; the remote end of one without a peer is zero."""
LOCAL, REMOTE = 1, 2

ACCEPTED = np.dtype(TUPLE)
"""Connections oriented as opened."""

_MESSAGE = np.dtype(
    [
        ("length", "<u4"),
        ("kind", "<u2"),
        ("flags", "<u2"),
        ("sequence", "<u4"),
        ("port", "<u4"),
        ("family", "u1"),
        ("state", "u1"),
        ("timer", "u1"),
        ("retrans", "u1"),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("src", ">u4", (4,)),
        ("dst", ">u4", (4,)),
        ("interface", "<u4"),
        ("cookie", "<u4", (2,)),
        ("expires", "<u4"),
        ("rqueue", "<u4"),
        ("wqueue", "<u4"),
        ("uid", "<u4"),
        ("inode", "<u4"),
    ]
)
_HEADER = 16
# Offsets in struct tcp_info; the last two came with 4.19.
_INFO_UNACKED, _INFO_ACKED, _INFO_SENT, _INFO_RETRANSMITTED = 24, 120, 200, 208
_V4 = np.uint64(0xFFFF << 32)


def request(family: int, protocol: int = TCP) -> bytes:
    """The body of a dump request for the sockets of one family and protocol."""
    wanted = 1 << (INFO - 1) if protocol == TCP else 0
    return struct.pack("=BBBxI48x", family, protocol, wanted, ASKED[protocol])


def sockets(data: bytes, protocol: int = TCP) -> Table:
    """SOCKET rows of the messages in `data` (as received, each datagram padded to 4 octets). What is cut is left out."""
    starts = _starts(data)
    if not len(starts):
        return np.zeros(0, SOCKET)
    flat = np.frombuffer(data, np.uint8)
    found = flat[starts[:, None] + np.arange(_MESSAGE.itemsize)].reshape(-1).view(_MESSAGE)
    known = np.isin(found["family"], (AF_INET, AF_INET6))
    starts, found = starts[known], found[known]
    rows = np.zeros(len(found), SOCKET)
    v4 = found["family"] == AF_INET
    for name, field in (("local", "src"), ("remote", "dst")):
        words = found[field].astype(np.uint64)
        rows[name + "_hi"] = np.where(v4, 0, words[:, 0] << np.uint64(32) | words[:, 1])
        rows[name + "_lo"] = np.where(v4, _V4 | words[:, 0], words[:, 2] << np.uint64(32) | words[:, 3])
    rows["local_port"], rows["remote_port"], rows["protocol"] = found["sport"], found["dport"], protocol
    for field in ("state", "uid", "inode"):
        rows[field] = found[field]
    words = np.frombuffer(data[: len(data) & ~3], "<u4")
    within = Spans(starts + _MESSAGE.itemsize, starts + found["length"].astype(np.int64))
    parts = walk(words, within, (INFO, V6_ONLY))
    only = (words[parts[V6_ONLY].start >> 2] & 0xFF != 0) & (parts[V6_ONLY].end > parts[V6_ONLY].start)
    rows["only"] = np.where(v4, 4, np.where(only, 6, 0))
    if protocol == TCP:
        rows["opened"] = _opened(words, parts[INFO], rows["state"])
    return rows


def speaks_to_anybody(table: Table) -> NDArray[np.bool_]:
    """Which sockets have no peer: listeners, and UDP sockets that are not connected."""
    anybody = np.where(table["protocol"] == TCP, table["state"] == LISTEN, table["state"] == CLOSE)
    return np.asarray(anybody, np.bool_)


def accepted(table: Table) -> Table:
    """Conversations of one namespace (ACCEPTED) of which it is known who opened them."""
    anybody = speaks_to_anybody(table)
    others = table[~anybody]
    listened = _is_listened(others, table[anybody])
    remote = (others["opened"] == REMOTE) | (listened & (others["opened"] == 0))
    found = []
    for mask, consumer, provider in (
        (remote, "remote", "local"),
        (others["opened"] == LOCAL, "local", "remote"),
    ):
        rows = np.zeros(int(mask.sum()), ACCEPTED)
        for side, end in (("provider", provider), ("consumer", consumer)):
            for part in ("hi", "lo", "port"):
                rows[f"{side}_{part}"] = others[f"{end}_{part}"][mask]
        rows["protocol"] = others["protocol"][mask]
        found.append(rows)
    return np.concatenate(found)


def _is_listened(sockets_: Table, listening: Table) -> NDArray[np.bool_]:
    """Which sockets have the local port of one without a peer that takes their address."""
    found = np.zeros(len(sockets_), np.bool_)
    v4 = (sockets_["local_hi"] == 0) & (sockets_["local_lo"] >> np.uint64(32) == 0xFFFF)
    ports = np.isin(listening["local_port"], sockets_["local_port"])
    for each in listening[ports]:
        same = (sockets_["local_port"] == each["local_port"]) & (sockets_["protocol"] == each["protocol"])
        hi, lo = each["local_hi"], each["local_lo"]
        if hi == 0 and lo in (0, int(_V4)):
            same &= True if each["only"] == 0 else v4 == (each["only"] == 4)
        else:
            same &= (sockets_["local_hi"] == hi) & (sockets_["local_lo"] == lo)
        found |= same
    return found


def _opened(words: NDArray[np.uint32], info: Spans, state: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """LOCAL or REMOTE where TCP's counters tell: a SYN of ours was acknowledged, or not; 0 elsewhere.

    A FIN counts as a SYN does, so only ends that have not closed tell.
    """
    told = (info.end - info.start >= _INFO_RETRANSMITTED + 8) & np.isin(state, (ESTABLISHED, CLOSE_WAIT))
    at = np.where(told, info.start, 0) >> 2
    last = len(words) - 2

    def wide(offset: int) -> NDArray[np.int64]:
        place = np.minimum(at + (offset >> 2), last)
        value = words[place].astype(np.uint64) | words[place + 1].astype(np.uint64) << np.uint64(32)
        signed: NDArray[np.int64] = value.astype(np.int64)
        return signed

    quiet = words[np.minimum(at + (_INFO_UNACKED >> 2), last)] == 0
    more = wide(_INFO_ACKED) - (wide(_INFO_SENT) - wide(_INFO_RETRANSMITTED))
    found = np.where(told & quiet & (more == 1), LOCAL, np.where(told & quiet & (more == 0), REMOTE, 0))
    return np.where(state == SYN_SENT, LOCAL, np.where(state == SYN_RECV, REMOTE, found)).astype(np.uint8)


def _starts(data: bytes) -> NDArray[np.int64]:
    """Where each whole socket message begins."""
    found, at = [], 0
    while at + _HEADER <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < _HEADER or at + length > len(data):
            break
        if kind == SOCK_DIAG_BY_FAMILY and length >= _MESSAGE.itemsize:
            found.append(at)
        at += (length + 3) & ~3
    return np.array(found, np.int64)
