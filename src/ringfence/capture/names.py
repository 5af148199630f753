"""DNS messages and ClientHellos of the tap program's ring (`bpf/names.h`) become the columns of `flows.heard.Heard`.

Goals: a few microseconds where nothing was said, bounded memory whatever strangers answer, and no silent loss: what the
ring had no room for is counted in the kernel (`counters.NAMES_LOST`), what finds no room here is counted here. Which taps
tell is a map in the kernel, so that switching off costs the packets nothing.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ringfence.capture import bpf
from ringfence.capture.counters import Counters
from ringfence.capture.decode.heard import Limits, Listener, Segment
from ringfence.capture.layout import CLASS_SHIFT, MESSAGE
from ringfence.capture.ringbuf import RingBuffer
from ringfence.flows.heard import Heard
from ringfence.model.addresses import pack
from ringfence.model.batches import Loss, TapInfo

if TYPE_CHECKING:
    from ringfence.capture.decode.ear import Ear

LISTEN_POD, LISTEN_NODE = 1, 2
"""Where pods' questions come in, and where the node's own leave (bpf/names.h)."""
MOST_AT_ONCE = 8_192
"""Messages taken in one call: more than the default ring holds, and never without end."""
LIMITS = Limits(rows=60_000, terms=10_000, octets=2 << 20)
"""Kept in one window: 12 MB at most, whoever answers."""
CROWDED = "names-crowded"
"""Name of the loss of messages that found no room in a window's memory."""
ON = (
    "names are heard of DNS on port 53 and of TLS ClientHellos, as far as they are in the clear: not of DNS over TLS,"
    " HTTPS or QUIC"
)
IN_RING = "of a ClientHello in several packets the AF_PACKET ring hears the first"
OFF = "names are not heard: switched off"

_PLACES = struct.Struct(">4Q2H")
"""Who says it to whom, in network order, behind the time."""
_REST = struct.Struct("=HBxII")
_TAP, _ADDRESS = np.dtype("<u4"), np.dtype("V16")


class Hearing:
    """The ring's reader and the switch of each tap. Not for several threads."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = self._on = wanted
        self._listener = Listener(LIMITS)
        self._ring: RingBuffer | None = None
        self._map = self._ours = -1
        self._told: dict[int, int] = {}
        self._known: set[bytes] = set()
        self._taps: Sequence[TapInfo] = ()
        self._ear: Ear | None = None
        self._lock: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def start_ring(self, lock: contextlib.AbstractContextManager[object]) -> tuple[Ear | None, list[str]]:
        """Hear frames of an AF_PACKET ring instead, by the ear returned (None when switched off), which another thread
        uses under `lock`; and notes."""
        if not self._wanted:
            return None, [OFF]
        # Imported here: it brings the decoders of packet files, which no other path needs in memory.
        from ringfence.capture.decode.ear import Ear

        self._ear, self._lock = Ear(self._listener), lock
        return self._ear, [ON, IN_RING]

    def start(self, counters: Counters) -> list[str]:
        """Take over the ring and what it holds. Returns notes: what is heard, or why nothing is."""
        self._map, self._ours = counters.fd("listening"), counters.fd("ours")
        # What an earlier life wrote.
        self._told, self._known = _switched_on(self._map), _addresses(self._ours)
        if not self._wanted:
            return [OFF]
        try:
            self._ring = RingBuffer(counters.fd("heard"), MOST_AT_ONCE)
        except OSError as error:
            self._on = False
            return [f"names are not heard: the ring cannot be read ({error.strerror})"]
        return [ON]

    def listen(self, taps: Sequence[TapInfo], addresses: Sequence[str]) -> None:
        """Let these taps tell (index = tap id), and no others; `addresses` are the node's own."""
        if self._ear is not None:
            self._ear.ours = frozenset(pack(address) for address in addresses)
        if self._map < 0:
            self._tell(taps)
            return
        here = {_packed(address) for address in addresses}
        for address in here - self._known:
            bpf.update(self._ours, address, bytes(4))
        for address in self._known - here:
            bpf.delete(self._ours, address)
        self._known = here
        self._tell(taps)

    def _tell(self, taps: Sequence[TapInfo]) -> None:
        self._taps = taps
        if self._ear is not None:
            self._ear.on = self._on
            self._ear.pods = frozenset(tap for tap, info in enumerate(taps) if info.at == "pod")
        if self._map < 0:
            return
        wanted = {tap: what for tap, info in enumerate(taps) if (what := _what(info))} if self._on else {}
        for tap in self._told.keys() | wanted.keys():
            if self._told.get(tap, 0) != wanted.get(tap, 0):
                bpf.update(self._map, struct.pack("=I", tap), struct.pack("=I", wanted.get(tap, 0)))
        self._told = wanted

    def switch(self, on: bool) -> None:
        """Listen from now on, or no more; what was told until now is heard."""
        self._on = on and (self._ring is not None or self._ear is not None)
        self._tell(self._taps)

    def collect(self) -> None:
        """Read what the taps told; call several times a second, the ring is small."""
        if self._ring is None:
            return
        for segment in segments(self._ring.take()):
            self._listener.hear(segment)

    def take(self, utc_offset: int) -> tuple[Heard, tuple[Loss, ...]]:
        """Everything told since the last call, dated by UTC minus CLOCK_MONOTONIC; and what found no room."""
        self.collect()
        with self._lock:
            heard, crowded = self._listener.take(), self._listener.crowded
            self._listener.crowded = 0
        for table in (heard.messages, heard.answers, heard.hellos):
            table["time"] += utc_offset
        return heard, (Loss(CROWDED, events=crowded),) if crowded else ()

    def stop(self) -> None:
        """Give the ring back. Taps that stay go on telling, for an heir."""
        if self._ring is not None:
            self._ring.close()
        self._ring, self._map, self._ours = None, -1, -1


def segments(records: Sequence[bytes]) -> Iterator[Segment]:
    """What records of the ring say; times are CLOCK_MONOTONIC. One whose payload the kernel could not read is left out."""
    for record in records:
        if len(record) <= MESSAGE.itemsize:
            continue
        src_hi, src_lo, dst_hi, dst_lo, sport, dport = _PLACES.unpack_from(record, 8)
        tap, protocol, length, sequence = _REST.unpack_from(record, 8 + _PLACES.size)
        if length:
            yield Segment(
                int.from_bytes(record[:8], "little"),
                (src_hi, src_lo),
                (dst_hi, dst_lo),
                sport,
                dport,
                protocol,
                (tap >> CLASS_SHIFT) - 1,
                sequence,
                record[MESSAGE.itemsize : MESSAGE.itemsize + length],
            )


def _what(tap: TapInfo) -> int:
    """What a tap tells of."""
    if not tap.interface:
        return 0
    # The node itself asks through a pod's tap what that pod, its resolver, answers.
    return LISTEN_POD | LISTEN_NODE if tap.at == "pod" else LISTEN_NODE


def _packed(address: str) -> bytes:
    """16 octets, IPv4 mapped."""
    hi, lo = pack(address)
    return hi.to_bytes(8) + lo.to_bytes(8)


def _addresses(fd: int) -> set[bytes]:
    return {key.tobytes() for keys, _ in bpf.batches(fd, _ADDRESS, _TAP, 1) for key in keys}


def _switched_on(fd: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for keys, values in bpf.batches(fd, _TAP, _TAP, 1):
        places = np.flatnonzero(values[:, 0])
        found |= dict(zip(keys[places].tolist(), values[places, 0].tolist(), strict=True))
    return found
