"""Socket tables of a namespace, as NETLINK_SOCK_DIAG tells them, become columns; and who accepted which connection.

A connection that began before the agent shows neither SYN nor conntrack's NEW. But its accepting end has the port of
a socket that listens in the same namespace, and that is evidence of who opened it. The other way round proves
nothing: a socket without a listener may have been accepted by one that was closed since (FTP data, one-shot servers).
Layouts: linux/inet_diag.h (struct inet_diag_req_v2, struct inet_diag_msg), sock_diag(7).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ringfence.model.columns import TUPLE, Table
from ringfence.model.protocols import TCP

SOCK_DIAG_BY_FAMILY = 20
AF_INET, AF_INET6 = 2, 10
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 1, 4, 5, 8, 9, 10, 11
"""States of TCP sockets (net/tcp_states.h) that are asked for: those of connections, and listeners."""
ASKED = sum(1 << s for s in (ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING))
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
        ("state", "u1"),
        ("only", "u1"),  # 0: both families, 4 or 6: this one alone (listeners without an address)
        ("uid", "<u4"),
        ("inode", "<u4"),
    ]
)
"""One TCP socket. Addresses are `model.addresses` halves; a listener's remote end is zero."""

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
_V4 = np.uint64(0xFFFF << 32)


def request(family: int) -> bytes:
    """The body of a dump request for the TCP sockets of one family."""
    return struct.pack("=BBBxI48x", family, TCP, 0, ASKED)


def sockets(data: bytes) -> Table:
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
    rows["local_port"], rows["remote_port"] = found["sport"], found["dport"]
    for field in ("state", "uid", "inode"):
        rows[field] = found[field]
    rows["only"][v4] = 4
    for row in np.flatnonzero(~v4 & (rows["state"] == LISTEN)).tolist():
        begin = int(starts[row])
        if _v6_only(data[begin + _MESSAGE.itemsize : begin + int(found["length"][row])]):
            rows["only"][row] = 6
    return rows


def accepted(table: Table) -> Table:
    """Connections of one namespace (ACCEPTED) whose local port a socket of it listens on: the other end opened them."""
    listening = table[table["state"] == LISTEN]
    others = table[table["state"] != LISTEN]
    ours = _is_listened(others, listening)
    rows = np.zeros(int(ours.sum()), ACCEPTED)
    for side, end in (("provider", "local"), ("consumer", "remote")):
        for part in ("hi", "lo", "port"):
            rows[f"{side}_{part}"] = others[f"{end}_{part}"][ours]
    rows["protocol"] = TCP
    return rows


def _is_listened(sockets_: Table, listening: Table) -> NDArray[np.bool_]:
    """Which sockets have the local port of a listener that takes their address."""
    found = np.zeros(len(sockets_), np.bool_)
    v4 = (sockets_["local_hi"] == 0) & (sockets_["local_lo"] >> np.uint64(32) == 0xFFFF)
    for each in listening:
        same = sockets_["local_port"] == each["local_port"]
        hi, lo = each["local_hi"], each["local_lo"]
        if hi == 0 and lo in (0, int(_V4)):
            same &= True if each["only"] == 0 else v4 == (each["only"] == 4)
        else:
            same &= (sockets_["local_hi"] == hi) & (sockets_["local_lo"] == lo)
        found |= same
    return found


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


def _v6_only(attributes: bytes) -> bool:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if length < 4:
            break
        if kind == V6_ONLY and length >= 5 and at + 5 <= len(attributes):
            return attributes[at + 4] != 0
        at += (length + 3) & ~3
    return False
