"""DNS messages and ClientHellos, one by one, become the columns of `flows.heard.Heard`.

Unlike packets these are few, and each is text: they are read one at a time, and what was read before is remembered,
since the same names are asked for over and over.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ringfence.capture.decode import dns, tls
from ringfence.flows.heard import ANSWER, HELLO, MESSAGE, Heard
from ringfence.model.addresses import MAPPED
from ringfence.model.batches import TlsInfo
from ringfence.model.protocols import TCP, UDP

PORT = 53
MOST_STREAMS = 256
"""Beginnings of TCP streams kept that are not whole yet; of more the oldest goes."""
LONGEST = 16_384
"""Octets kept of one: a hello or answer that is longer is taken as far as it goes."""
REMEMBERED = 512
"""Messages whose meaning is remembered: at most 256 records each, so that strangers' answers fill 16 MB at most."""
_MESSAGE = struct.Struct("<q4Q2HBIHBHI")
_ANSWER = struct.Struct("<q2QI2QIII")
_HELLO = struct.Struct("<q4Q2HBI")

Half = tuple[int, int]
Way = tuple[Half, int, Half, int, int]
"""One direction of a TCP connection at one tap."""


class Limits(NamedTuple):
    """What is kept between two calls of `take`; what comes beyond is counted. Whoever answers DNS writes it, so on a
    node it must be bounded."""

    rows: int = 1 << 62
    """Of each table."""
    terms: int = 50_000
    """Names, and hellos, told apart."""
    octets: int = 1 << 62
    """Of their texts."""


class Segment(NamedTuple):
    """The payload of one packet as it was sent, or its first octets."""

    time: int
    """UTC nanoseconds."""
    src: Half
    dst: Half
    sport: int
    dport: int
    protocol: int
    tap: int
    sequence: int
    """TCP's number of the first octet."""
    payload: bytes


class Waiting(NamedTuple):
    """The beginning of something that is not whole, and the sequence number of what comes next."""

    following: int
    data: bytes


class Lesson(NamedTuple):
    """What a DNS message says: addresses by `(hi, lo, TTL, name)`."""

    number: int
    response: bool
    rcode: int
    question: str
    addresses: tuple[tuple[int, int, int, str], ...]


class Listener:
    """Takes segments, gives columns. Not pure in the strict sense: it holds the beginnings of streams."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self._limits = limits
        self._streams: dict[Way, Waiting] = {}
        self._clear()
        self.unreadable = 0
        """Segments that were to be read and could not be."""
        self.crowded = 0
        """Messages and hellos that found no room."""

    def hear(self, segment: Segment) -> None:
        """One payload of UDP or TCP."""
        if segment.protocol == UDP:
            self._dns(segment, segment.payload)
        elif PORT in (segment.sport, segment.dport):
            self._stream(segment)
        elif segment.protocol == TCP:
            self._hello(segment)

    def take(self) -> Heard:
        """Everything heard since the last call."""
        heard = Heard(
            np.frombuffer(self._messages, MESSAGE),
            np.frombuffer(self._answers, ANSWER),
            np.frombuffer(self._hellos, HELLO),
            tuple(self._names),
            tuple(self._tls),
        )
        self._clear()
        return heard

    def _clear(self) -> None:
        # Rows as they lie in their tables: a tuple of each would take ten times the memory until the next `take`.
        self._messages, self._answers, self._hellos = bytearray(), bytearray(), bytearray()
        self._names: dict[str, int] = {}
        self._tls: dict[TlsInfo, int] = {}
        self._octets = 0

    def _room(self, rows: bytearray, size: int, terms: int) -> bool:
        """Whether one row more and so many terms find room; counted if not."""
        limits = self._limits
        fits = len(rows) // size < limits.rows and terms < limits.terms and self._octets < limits.octets
        self.crowded += not fits
        return fits

    def _dns(self, segment: Segment, payload: bytes) -> None:
        lesson = _lesson(payload[2:])
        if lesson is None or len(payload) < 2:
            self.unreadable += 1
            return
        if not lesson.question:  # a notice, an update: nobody asks for a name
            return
        number = payload[0] << 8 | payload[1]
        asker, port, server, at = segment.src, segment.sport, segment.dst, segment.dport
        if lesson.response:
            asker, port, server, at = server, at, asker, port
        if at != PORT:
            self.unreadable += 1
            return
        answers = len(self._answers) // _ANSWER.size + len(lesson.addresses)
        if answers > self._limits.rows:
            self.crowded += 1
            return
        if not self._room(self._messages, _MESSAGE.size, len(self._names) + len(lesson.addresses)):
            return
        place = len(self._messages) // _MESSAGE.size
        name = self._name(lesson.question)
        ends = (*asker, *server, port, at, segment.protocol)
        self._messages += _MESSAGE.pack(
            segment.time, *ends, segment.tap, number, lesson.response, lesson.rcode, name
        )
        for hi, lo, ttl, learnt in lesson.addresses:
            row = (segment.time, *asker, segment.tap, hi, lo, ttl, self._name(learnt), place)
            self._answers += _ANSWER.pack(*row)

    def _name(self, name: str) -> int:
        if name not in self._names:
            self._octets += len(name)
        return self._names.setdefault(name, len(self._names))

    def _stream(self, segment: Segment) -> None:
        """DNS over TCP (RFC 1035 section 4.2.2): what is whole is read, the rest waits for the next segment."""
        begun = self._begun(segment)
        if begun is None:
            return
        messages, rest = dns.framed(begun + segment.payload)
        for message in messages:
            self._dns(segment, message)
        if rest:
            self._wait(segment, rest)

    def _hello(self, segment: Segment) -> None:
        """A hello, or what follows one that was not whole."""
        begun = self._begun(segment)
        if begun is None:
            return
        data = begun + segment.payload
        try:
            info, whole = tls.decode(data)
        except tls.Unreadable:
            return
        if not self._room(self._hellos, _HELLO.size, len(self._tls)):
            return
        if not whole:
            self._wait(segment, data)
        ends = (*segment.src, *segment.dst, segment.sport, segment.dport, segment.protocol)
        if info not in self._tls:
            self._octets += len(info.server_name or "") + sum(map(len, info.alpn))
        self._hellos += _HELLO.pack(segment.time, *ends, self._tls.setdefault(info, len(self._tls)))

    def waits_for(self, segment: Segment) -> bool:
        """Whether what this direction says next is wanted too."""
        return _way(segment) in self._streams

    def _begun(self, segment: Segment) -> bytes | None:
        """What this segment goes on with, empty for nothing; None when it says again what is known."""
        waiting = self._streams.get(_way(segment))
        if waiting is None:
            return b""
        ahead = (segment.sequence - waiting.following) & 0xFFFF_FFFF
        if ahead >= 1 << 31:
            return None
        del self._streams[_way(segment)]
        return b"" if ahead else waiting.data

    def _wait(self, segment: Segment, data: bytes) -> None:
        if len(data) > LONGEST:
            return
        if len(self._streams) >= MOST_STREAMS:
            self._streams.pop(next(iter(self._streams)))
        following = segment.sequence + len(segment.payload) & 0xFFFF_FFFF
        self._streams[_way(segment)] = Waiting(following, data)


def _way(segment: Segment) -> Way:
    return segment.src, segment.sport, segment.dst, segment.dport, segment.tap


@lru_cache(maxsize=REMEMBERED)
def _lesson(body: bytes) -> Lesson | None:
    """What a message says, by its octets behind the id: the same question and answer differ in nothing else."""
    try:
        message = dns.decode(b"\0\0" + body)
    except dns.Unreadable:
        return None
    question = "" if message.operation else message.question.lower()
    addresses = _addresses(message, question) if message.response and message.rcode == dns.NOERROR else ()
    return Lesson(message.number, message.response, message.rcode, question, addresses)


def _addresses(message: dns.Message, question: str) -> tuple[tuple[int, int, int, str], ...]:
    """Addresses answered, by the name that was asked for, however many aliases lie between.

    An answer to SRV names hosts; their addresses come beside it and are learnt by those hosts' names.
    """
    shortest = min((record.ttl for record in message.answers if record.kind == dns.CNAME), default=1 << 31)
    found = [
        (*_halves(record.value), min(record.ttl, shortest), question)
        for record in message.answers
        if isinstance(record.value, bytes)
    ]
    hosts = {
        record.value.lower()
        for record in message.answers
        if record.kind == dns.SRV and isinstance(record.value, str)
    }
    found += [
        (*_halves(record.value), record.ttl, record.name.lower())
        for record in message.additional
        if isinstance(record.value, bytes) and record.name.lower() in hosts
    ]
    return tuple(found)


def _halves(address: bytes) -> Half:
    if len(address) == 4:
        return 0, MAPPED | int.from_bytes(address)
    return int.from_bytes(address[:8]), int.from_bytes(address[8:])
