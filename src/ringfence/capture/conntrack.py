"""Listens to conntrack in one namespace: events as they come, a dump at start, after an overrun, each minute.

Events are what orders things in time; dumps are what makes it right again after something was missed. Both
go through `decode.conntrack` as whole batches.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from pathlib import Path

import numpy as np

from ringfence.capture.decode.conntrack import HINT, pad, read
from ringfence.capture.netlink import (
    NETLINK_NETFILTER,
    NLM_DUMP,
    NLM_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Netlink,
)
from ringfence.model.batches import Loss
from ringfence.model.columns import TRANSLATION, Table

DUMP_EVERY = 60.0
"""Seconds between dumps: entries older than the listener never give an event."""
RECEIVE_BUFFER = 32 << 20
"""Octets the kernel may hold for us: some 30,000 events between two reads."""
_GROUP_NEW = 1
_CT_GET = 1 << 8 | 1
_EVENTS = Path("/proc/sys/net/netfilter/nf_conntrack_events")


class Conntrack:
    """Two sockets of one namespace. Made inside that namespace; used from anywhere."""

    def __init__(self) -> None:
        self.notes = _preconditions()
        self._events = Netlink(NETLINK_NETFILTER, buffer=RECEIVE_BUFFER)
        self._dumps = Netlink(NETLINK_NETFILTER, buffer=RECEIVE_BUFFER)
        self._next_dump = 0.0
        self._waiting: list[tuple[int, bytes, bool]] = []
        self._overruns = self._undumped = 0

    def start(self) -> None:
        """Subscribe to events. The first dump comes with the first `collect`."""
        # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP: this loads the kernel's module where it is not there yet.
        self._events.socket.setsockopt(270, 1, _GROUP_NEW)

    def collect(self) -> None:
        """Take what is waiting out of the kernel's buffer. Cheap; call each second, however seldom `read` is."""
        parts: list[bytes] = []
        receive = self._events.socket.recv
        while True:
            try:
                parts.append(receive(16384, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overruns += 1
                self._undumped += 1
        if parts:
            now = time.clock_gettime_ns(time.CLOCK_REALTIME)
            self._waiting.append((now, b"".join(map(pad, parts)), False))
        # Here and not in `read`, whose windows may be long: the store looks for what is alive in the last minutes.
        if self._undumped or time.monotonic() >= self._next_dump:
            self._undumped, self._next_dump = 0, time.monotonic() + DUMP_EVERY
            dump = self._dump()
            self._waiting.append((time.clock_gettime_ns(time.CLOCK_REALTIME), dump, True))

    def read(self) -> tuple[Table, Table, tuple[Loss, ...]]:
        """`(TRANSLATION, hints, losses)` since the last call."""
        self.collect()
        waiting, self._waiting = self._waiting, []
        overruns, self._overruns = self._overruns, 0
        decoded = [read(data, seen, dumped) for seen, data, dumped in waiting]
        rows = np.concatenate([np.zeros(0, TRANSLATION), *(each.rows for each in decoded)])
        hints = np.concatenate([np.zeros(0, HINT), *(each.hints for each in decoded)])
        missed = (("conntrack-overrun", overruns), ("conntrack-unreadable", sum(d.unread for d in decoded)))
        return rows, hints, tuple(Loss(stage, events=events) for stage, events in missed if events)

    def close(self) -> None:
        """Close both sockets."""
        self._events.close()
        self._dumps.close()

    def _dump(self) -> bytes:
        body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        header = struct.pack("=IHHII", 16 + len(body), _CT_GET, NLM_REQUEST | NLM_DUMP, 1, 0)
        self._dumps.socket.send(header + body)
        parts: list[bytes] = []
        while True:
            part = self._dumps.socket.recv(1 << 18)
            if _last_type(part) in (NLMSG_DONE, NLMSG_ERROR):
                parts.append(part)
                return b"".join(map(pad, parts))
            parts.append(part)


def _last_type(data: bytes) -> int:
    """The type of the last message in a datagram: a dump's end may share a datagram with entries."""
    at, kind = 0, 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            break
        at += (length + 3) & ~3
    return int(kind)


def _preconditions() -> list[str]:
    try:
        enabled = _EVENTS.read_text().strip() != "0"
    except OSError:
        return ["conntrack is not there: translated conversations are linked by inference only"]
    if enabled:
        return []
    return [
        "conntrack events are off: links of translated conversations come late (sysctl nf_conntrack_events=1)"
    ]
