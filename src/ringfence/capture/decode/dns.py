"""DNS messages, as far as their octets go: who was asked about, and which addresses were answered.

RFC 1035 (format, TCP framing in 4.2.2), RFC 2782 (SRV), RFC 3596 (AAAA), RFC 6891 (the upper bits of the result in
the OPT record). A message that a capture cut short still gives the records before the cut; one whose header or first
question is missing or wrong raises `Unreadable`, and nothing else is ever raised.

Bounded work: a compression pointer must point to an earlier octet than the name it continues (RFC 1035 section 4.1.4
says "prior occurrence"), a name is 255 octets at most (section 2.3.4), and records stop at MOST.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

A, CNAME, AAAA, SRV, OPT = 1, 5, 28, 33, 41
NOERROR, NXDOMAIN = 0, 3
MOST = 256
"""Records of one message that are read: a datagram of 4,096 octets holds about so many addresses."""
_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")
_ESCAPED = {octet: f"\\{octet:03d}" for octet in range(256) if not 0x21 <= octet <= 0x7E}
_ESCAPED |= {ord(letter): "\\" + letter for letter in ".\\"}
_PLAIN = [_ESCAPED.get(octet, chr(octet)) for octet in range(256)]
"""Each octet of a label in text form (RFC 1035 section 5.1), spaces and whatever is not ASCII as `\\DDD`."""


class Unreadable(Exception):
    """These octets are no DNS message, or end before its question does."""


class Record(NamedTuple):
    """One answer. `value` is an address packed (4 or 16 octets) for A and AAAA, else the name it points to."""

    name: str
    kind: int
    ttl: int
    """Seconds."""
    value: bytes | str


class Message(NamedTuple):
    """One message. Names have no dot at the end; the root is `.`."""

    number: int
    """The id that ties an answer to its question."""
    response: bool
    operation: int
    """0 is a standard query."""
    truncated: bool
    """The sender left something out (TC)."""
    rcode: int
    """Twelve bits where an OPT record carries the upper eight."""
    question: str
    kind: int
    """Type asked for; 0 with an empty `question` when there was none."""
    answers: tuple[Record, ...]
    """A, AAAA, CNAME and SRV of the answer section."""
    additional: tuple[Record, ...]
    """The same of the additional section."""
    cut: bool
    """The octets ended before the message did: some records were not read."""


def decode(data: bytes) -> Message:
    """One message without framing. Raises Unreadable."""
    if len(data) < _HEADER.size:
        raise Unreadable("shorter than a header")
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & 0x40:
        raise Unreadable("the reserved bit is set")
    question, kind, at = _questions(data, questions)
    reading = _Reading(data, at)
    found = reading.section(answers)
    reading.section(authorities)
    more = reading.section(additional)
    return Message(
        number=number,
        response=bool(flags & 0x8000),
        operation=flags >> 11 & 15,
        truncated=bool(flags & 0x0200),
        rcode=flags & 15 | reading.extended << 4,
        question=question,
        kind=kind,
        answers=found,
        additional=more,
        cut=reading.cut,
    )


def framed(data: bytes) -> tuple[list[bytes], bytes]:
    """The messages of a TCP stream's octets, and what is left: the start of one that is not whole yet."""
    messages, at = [], 0
    while at + 2 <= len(data):
        length = data[at] << 8 | data[at + 1]
        if at + 2 + length > len(data):
            break
        messages.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return messages, data[at:]


def _questions(data: bytes, count: int) -> tuple[str, int, int]:
    """`(name, type, octet behind the section)`; of several questions, which no server answers, the first counts."""
    at, first = _HEADER.size, ("", 0)
    for index in range(min(count, MOST)):
        try:
            name, at = _name(data, at)
        except IndexError:
            raise Unreadable("ends within its question") from None
        if at + 4 > len(data):
            raise Unreadable("ends within its question")
        if index == 0:
            first = name, data[at] << 8 | data[at + 1]
        at += 4
    return *first, at


class _Reading:
    """Walks over sections; remembers where it is, whether the octets ended early, and the upper bits of the result."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at, self._left = data, at, MOST
        self.cut, self.extended = False, 0

    def section(self, count: int) -> tuple[Record, ...]:
        """The records of interest among the next `count`."""
        found: list[Record] = []
        for _ in range(count):
            if self.cut or not self._left:
                self.cut = True
                break
            self._left -= 1
            try:
                found += self._record()
            except (IndexError, struct.error, Unreadable):
                self.cut = True
        return tuple(found)

    def _record(self) -> tuple[Record, ...]:
        data = self._data
        name, at = _name(data, self._at)
        kind, _, ttl, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise IndexError
        self._at = at + length
        if kind == OPT:
            self.extended = ttl >> 24
        # A TTL with its first bit set is 0 (RFC 2181 section 8).
        value = self._value(kind, at, length)
        return (Record(name, kind, ttl if ttl < 1 << 31 else 0, value),) if value else ()

    def _value(self, kind: int, at: int, length: int) -> bytes | str | None:
        if (kind, length) in ((A, 4), (AAAA, 16)):
            return self._data[at : at + length]
        if kind == CNAME:
            return _name(self._data, at)[0]
        if kind == SRV and length > 6:
            return _name(self._data, at + 6)[0]
        return None


def _name(data: bytes, at: int) -> tuple[str, int]:
    """`(name, octet behind it)`. Raises IndexError where the octets end, Unreadable for what no name may hold."""
    labels: list[str] = []
    behind, start, size = 0, at, 0
    while length := data[at]:
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            if target >= start:
                raise Unreadable("a name that points forward or to itself")
            behind = behind or at + 2
            at = start = target
            continue
        if length > 63:
            raise Unreadable("a label of an unknown kind")
        size += length + 1
        if size > 254:
            raise Unreadable("a name of more than 255 octets")
        label = data[at + 1 : at + 1 + length]
        if len(label) < length:
            raise IndexError
        labels.append("".join([_PLAIN[octet] for octet in label]))
        at += 1 + length
    return ".".join(labels) or ".", behind or at + 1
