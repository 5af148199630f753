"""NetFlow version 5 and 9 (RFC 3954) and IPFIX (RFC 7011), as datagrams one after the other (RFC 5655 for IPFIX).

Templates count from where they were sent on, for their exporter and observation domain, until they are changed or
withdrawn; data before its template waits for it, as far as there is room. Options tell how an exporter samples. A record
is one way of a conversation, or both (RFC 5103). What a template has beside the fields known here is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ringfence.imports.records import MILLI, SECOND, UNKNOWN, Broken, End, Record, Tally, datagrams
from ringfence.model.columns import FLAG_SYN_ONLY, Direction, Drop, Role
from ringfence.model.protocols import ICMP, ICMPV6, TCP

_MAPPED = 0xFFFF_0000_0000
_V5_HEADER, _V5_RECORD = struct.Struct(">HHIIIIBBH"), struct.Struct(">IIIHHIIIIHHBBBBHHBBH")
_V9_HEADER, _IPFIX_HEADER = struct.Struct(">HHIIII"), struct.Struct(">HHIII")
_VARIABLE = 0xFFFF
REVERSE = 29305
"""The enterprise number of fields about the other way (RFC 5103 section 6.1)."""
_NTP = 2_208_988_800
"""Seconds from 1900 to 1970: dateTimeMicroseconds and dateTimeNanoseconds count from then (RFC 7011 section 6.1.9)."""

Field = tuple[int, int, int]
"""(information element, octets, enterprise number)."""
Values = dict[tuple[int, int], bytes]
"""By (enterprise number, information element)."""


Stream = tuple[str, int, int]
"""(exporter, version, observation domain or source id): what templates and options are valid for."""
HELD, KNOWN = 1 << 20, 1 << 14
"""Octets of sets that wait for their template, and templates, that are kept at most."""


class Template(NamedTuple):
    """What records of a set hold. Those of options are about the exporter, not flows."""

    fields: list[Field]
    options: bool = False


class Session:
    """What exporters said of themselves so far, and what waits for them to say more."""

    def __init__(self) -> None:
        self.templates: dict[tuple[Stream, int], Template] = {}
        self.rates: dict[Stream, dict[object, int]] = {}
        self.begun: dict[Stream, int] = {}
        self.unscaled: dict[tuple[Stream, object], list[int]] = {}
        """Places of records whose rate was not told yet."""
        self.held: dict[tuple[Stream, int], list[tuple[bytes, _Clock]]] = {}
        self.waiting = 0
        self.found: list[Record] = []

    def taken(self) -> list[Record]:
        """The records since the last time, which are forgotten here."""
        found, self.found = self.found, []
        self.unscaled.clear()
        return found

    def close(self, tally: Tally) -> None:
        """Count what still waits for its template."""
        for held in self.held.values():
            _pass(tally, len(held))
        self.held.clear()
        self.waiting = 0


def _pass(tally: Tally, sets: int) -> None:
    tally.lines += sets
    tally.passed["sets whose template was not sent"] += sets


class _Clock(NamedTuple):
    """UTC ns: when the exporter started (UNKNOWN: it did not say), and when it sent this."""

    started: int
    sent: int


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records of all messages. Raises Problem when the file does not begin with one."""
    body = b"".join(lines)
    session = Session()
    datagrams(body, "NetFlow or IPFIX", name, tally, lambda at: message(body, at, "", session, tally))
    session.close(tally)
    return session.found


def message(body: bytes, at: int, exporter: str, session: Session, tally: Tally) -> int:
    """Read the message at `at` into the session; where the next one begins. Raises Broken, struct.error."""
    (version,) = struct.unpack_from(">H", body, at)
    if version == 5:
        return _five(body, at, exporter, session.found, tally)
    if version == 9:
        return _nine(body, at, exporter, session, tally)
    if version == 10:
        return _ten(body, at, exporter, session, tally)
    raise Broken(f"version {version} where 5, 9 or 10 should be")


def _five(body: bytes, at: int, exporter: str, found: list[Record], tally: Tally) -> int:
    _, count, up, seconds, nanos, _, _, engine, sampling = _V5_HEADER.unpack_from(body, at)
    if not 1 <= count <= 30:
        raise Broken(f"a message of version 5 with {count} records")
    started = seconds * SECOND + nanos - up * MILLI
    sample = max(sampling & 0x3FFF, 1)
    at += _V5_HEADER.size
    for _ in range(count):
        told = _V5_RECORD.unpack_from(body, at)
        source, destination, _, _, _, packets, octets, first, last, sport, dport, _, flags, kind = told[:14]
        at += _V5_RECORD.size
        tally.lines += 1
        ports = (0, dport) if kind == ICMP else (sport, dport)
        found.append(
            Record(
                End((0, _MAPPED | source), ports[0]),
                End((0, _MAPPED | destination), ports[1]),
                protocol=kind,
                first=started + first * MILLI,
                last=started + max(last, first) * MILLI,
                packets=packets * sample,
                octets=octets * sample,
                flags=_flags(flags) if kind == TCP else UNKNOWN,
                reporter=f"{exporter} engine {engine}",
                sample=sample,
            )
        )
    return at


def _nine(body: bytes, at: int, exporter: str, session: Session, tally: Tally) -> int:
    """Its length is not told: it ends where no set begins (sets have the numbers 0, 1 and 256 and up)."""
    _, _, up, seconds, _, domain = _V9_HEADER.unpack_from(body, at)
    clock = _Clock(seconds * SECOND - up * MILLI, seconds * SECOND)
    at += _V9_HEADER.size
    while at + 4 <= len(body):
        number, size = struct.unpack_from(">HH", body, at)
        if 2 <= number <= 255:
            break
        _set(_cut(body, at, size, len(body)), number, (exporter, 9, domain), clock, session, tally)
        at += size
    return at


def _ten(body: bytes, at: int, exporter: str, session: Session, tally: Tally) -> int:
    """A broken set costs the rest of its message, whose length is told."""
    _, length, seconds, _, domain = _IPFIX_HEADER.unpack_from(body, at)
    end: int = at + length
    if length < _IPFIX_HEADER.size or end > len(body):
        raise Broken(f"a message of {length} octets, of which {len(body) - at} are there")
    at += _IPFIX_HEADER.size
    clock = _Clock(UNKNOWN, seconds * SECOND)
    try:
        while at + 4 <= end:
            number, size = struct.unpack_from(">HH", body, at)
            _set(_cut(body, at, size, end), number, (exporter, 10, domain), clock, session, tally)
            at += size
    except (Broken, struct.error) as error:
        tally.lines += 1
        tally.refuse(tally.lines, f"{error}, at octet {at}; the rest of its message was not read")
    return end


def _cut(body: bytes, at: int, size: int, end: int) -> bytes:
    if size < 4 or at + size > end:
        raise Broken(f"a set of {size} octets, of which {end - at} are there")
    return body[at + 4 : at + size]


def _set(content: bytes, number: int, stream: Stream, clock: _Clock, session: Session, tally: Tally) -> None:
    if number < 256:
        if number in (0, 1, 2, 3):
            for key, template in (_options if number in (1, 3) else _templates)(content, stream[1]):
                _learn((stream, key), template, number, session, tally)
        return
    known = session.templates.get((stream, number))
    if known is None:
        _hold(content, (stream, number), clock, session, tally)
    else:
        _data(content, known, stream, clock, session, tally)


def _learn(key: tuple[Stream, int], template: Template, number: int, session: Session, tally: Tally) -> None:
    """Keep, change or withdraw a template (RFC 7011 section 8.1), and read what waited for it."""
    if not template.fields:
        for known in [*session.templates]:
            # The set's own number withdraws all of its kind.
            kind = session.templates[known].options == (number == 3)
            if known == key or (key[1] == number and known[0] == key[0] and kind):
                del session.templates[known]
        return
    if len(session.templates) >= KNOWN and key not in session.templates:
        raise Broken(f"more than {KNOWN} templates")
    session.templates[key] = template
    for content, clock in session.held.pop(key, ()):
        session.waiting -= len(content)
        _data(content, template, key[0], clock, session, tally)


def _hold(content: bytes, key: tuple[Stream, int], clock: _Clock, session: Session, tally: Tally) -> None:
    """Wait for the template (RFC 7011 section 9), as far as there is room."""
    if session.waiting + len(content) > HELD:
        _pass(tally, 1)
        return
    session.waiting += len(content)
    session.held.setdefault(key, []).append((content, clock))


def _data(
    content: bytes, template: Template, stream: Stream, clock: _Clock, session: Session, tally: Tally
) -> None:
    for values in _rows(content, template.fields):
        if template.options:
            _told_of_itself(values, stream, session)
            continue
        tally.lines += 1
        record = _record(values, clock._replace(started=session.begun.get(stream, clock.started)), stream)
        if record is None:
            tally.passed["records without addresses or protocol"] += 1
            continue
        if record.sample == 1 and not _own_rate(values):
            record = _by_table(record, values, stream, session)
        session.found.append(record)


def _told_of_itself(values: Values, stream: Stream, session: Session) -> None:
    """A record of options: when the exporter started, and how it samples (RFC 3954 section 8, RFC 5477)."""
    if (0, 160) in values:
        session.begun[stream] = _number(values, 160) * MILLI
    rate = _own_rate(values)
    if not rate:
        return
    sampler = _sampler(values)
    known = session.rates.setdefault(stream, {})
    if len(known) >= KNOWN:
        return
    known[sampler] = rate
    for place in session.unscaled.pop((stream, sampler), ()):
        session.found[place] = _sampled(session.found[place], rate)


def _sampler(values: Values) -> object:
    """Which records a rate is of: a sampler's (`samplerId`, `selectorId`), an interface's, or all of the domain's."""
    for element in (48, 302):
        if (found := _number(values, element)) != UNKNOWN:
            return element, found
    interface = values.get((SCOPE, 2))
    if interface is not None:
        return "interface", int.from_bytes(interface, "big")
    scoped = _number(values, 10)
    return ("interface", scoped) if scoped != UNKNOWN else None


def _by_table(record: Record, values: Values, stream: Stream, session: Session) -> Record:
    """Scaled by what the exporter told of its samplers; remembered where it has not told yet."""
    rates = session.rates.get(stream, {})
    sampler = _sampler(values)
    named = isinstance(sampler, tuple) and sampler[0] != "interface"
    rate = rates.get(sampler) or (0 if named else rates.get(None, 0))
    if not rate and sampler is None and len(rates) == 1:
        rate = next(iter(rates.values()))
    if not rate:
        for key in {sampler, sampler if named else None}:
            session.unscaled.setdefault((stream, key), []).append(len(session.found))
    return _sampled(record, rate or 1)


def _sampled(record: Record, rate: int) -> Record:
    """Scaled once: a record that was scaled stays as it is."""
    if rate <= 1 or record.sample > 1:
        return record
    return record._replace(
        packets=_scaled(record.packets, rate),
        octets=_scaled(record.octets, rate),
        back_packets=_scaled(record.back_packets, rate),
        back_octets=_scaled(record.back_octets, rate),
        sample=rate,
    )


def _templates(content: bytes, version: int) -> Iterator[tuple[int, Template]]:
    at = 0
    while at + 4 <= len(content):
        number, count = struct.unpack_from(">HH", content, at)
        if number < 256 and not (version == 10 and number == 2 and not count):
            return  # padding
        told, at = _fields(content, at + 4, count, version)
        yield number, Template(told)


def _fields(content: bytes, at: int, count: int, version: int, scope: int = 0) -> tuple[list[Field], int]:
    """`count` fields from `at` on, of which NetFlow 9 numbers `scope` by kinds of their own; where they end."""
    told: list[Field] = []
    for place in range(count):
        element, size = struct.unpack_from(">HH", content, at)
        at += 4
        enterprise = SCOPE if place < scope else 0
        if version == 10 and element & 0x8000:
            (enterprise,) = struct.unpack_from(">I", content, at)
            at += 4
        told.append((element & 0x7FFF if version == 10 else element, size, enterprise))
    return told, at


SCOPE = -1
"""In the place of an enterprise's number: a kind of scope of NetFlow 9 (RFC 3954 section 6.1; 2 is an interface)."""


def _options(content: bytes, version: int) -> Iterator[tuple[int, Template]]:
    at = 0
    while at + 4 <= len(content):
        number, first = struct.unpack_from(">HH", content, at)
        if version == 10 and not first and (number == 3 or number >= 256):
            yield number, Template([], True)
            at += 4
            continue
        if number < 256:
            return
        (second,) = struct.unpack_from(">H", content, at + 4)
        scope, count = (first // 4, (first + second) // 4) if version == 9 else (0, first)
        told, at = _fields(content, at + 6, count, version, scope)
        yield number, Template(told, True)


def _rows(content: bytes, template: list[Field]) -> Iterator[Values]:
    least = sum(1 if size == _VARIABLE else size for _, size, _ in template)
    at = 0
    while least and at + least <= len(content):
        values: Values = {}
        for element, size, enterprise in template:
            if size == _VARIABLE:
                size, at = _length(content, at)
            values[enterprise, element] = content[at : at + size]
            at += size
        if at > len(content):
            raise Broken("a record that goes on beyond its set")
        yield values


def _length(content: bytes, at: int) -> tuple[int, int]:
    """(octets, where they begin) of a field of variable length (RFC 7011 section 7)."""
    if at >= len(content):
        raise Broken("a record that goes on beyond its set")
    if content[at] < 255:
        return content[at], at + 1
    return int.from_bytes(content[at + 1 : at + 3], "big"), at + 3


def _record(values: Values, clock: _Clock, stream: Stream) -> Record | None:
    """One record; None where it has no addresses or no protocol."""
    source, destination, kind = _address(values, 8, 27), _address(values, 12, 28), _number(values, 4)
    if source is None or destination is None or kind == UNKNOWN:
        return None
    ports = _number(values, 7), _number(values, 11)
    if kind in (ICMP, ICMPV6):
        message = _message_type(values, ports[1])
        ports = (0, message) if message != UNKNOWN else (UNKNOWN, UNKNOWN)
    sample = max(_own_rate(values), 1)
    back = {
        name: _first(values, elements, REVERSE)
        if (told := _first(values, _RESPONDER.get(name, ()))) == UNKNOWN
        else told
        for name, elements in _COUNTERS.items()
    }
    ahead = {name: _first(values, elements) for name, elements in _COUNTERS.items()}
    both = any(value != UNKNOWN for value in back.values())
    first, last = _times(values, clock)
    return Record(
        End(source, ports[0]),
        End(destination, ports[1]),
        kind,
        first,
        last,
        both=both,
        opened=both and _number(values, 239) in (UNKNOWN, 1),
        answered=both and _number(values, 239) == 2,
        direction=Direction.GUESSED,
        packets=_scaled(ahead["packets"], sample),
        octets=_scaled(ahead["octets"], sample),
        flags=_flags(ahead["flags"]) if kind == TCP else UNKNOWN,
        back_packets=_scaled(back["packets"], sample),
        back_octets=_scaled(back["octets"], sample),
        back_flags=_flags(back["flags"]) if kind == TCP else UNKNOWN,
        drop=_drop(values),
        reporter=f"{stream[0]} {stream[2]} {_number(values, 61)}",
        role=Role.TRANSIT,
        sample=sample,
    )


_COUNTERS = {"packets": (2, 86, 298, 24), "octets": (1, 85, 231, 23, 352), "flags": (6,)}
"""packetDeltaCount, packetTotalCount, initiatorPackets, postPacketDeltaCount; the same of octets, and of layer 2; tcpControlBits."""
_RESPONDER = {"packets": (299,), "octets": (232,)}
"""The other way as Cisco's firewalls tell it."""


def _number(values: Values, element: int, enterprise: int = 0) -> int:
    content = values.get((enterprise, element))
    return UNKNOWN if not content or len(content) > 8 else min(int.from_bytes(content, "big"), (1 << 62) - 1)


def _first(values: Values, elements: tuple[int, ...], enterprise: int = 0) -> int:
    return next((n for each in elements if (n := _number(values, each, enterprise)) != UNKNOWN), UNKNOWN)


def _own_rate(values: Values) -> int:
    """One packet in so many, as the record itself tells; 0 when it does not: so many in a row and so many left out, so many
    of so many, a probability (RFC 5477), samplingInterval or samplerRandomInterval."""
    taken, left = _number(values, 305), _number(values, 306)
    if taken > 0 and left >= 0:
        return max((taken + left) // taken, 1)
    size, population = _number(values, 309), _number(values, 310)
    if size > 0 and population > 0:
        return max(population // size, 1)
    if len(chance := values.get((0, 311), b"")) == 8:
        part = struct.unpack(">d", chance)[0]
        return min(max(round(1 / part), 1), 1 << 31) if 1e-9 < part <= 1 else 0
    told = max(_number(values, 34), _number(values, 50))
    return max(told, 1) if told != UNKNOWN else 0


def _scaled(count: int, sample: int) -> int:
    return count if count == UNKNOWN else min(count * sample, (1 << 62) - 1)


def _address(values: Values, four: int, six: int) -> tuple[int, int] | None:
    if len(content := values.get((0, four), b"")) == 4:
        return 0, _MAPPED | int.from_bytes(content, "big")
    if len(content := values.get((0, six), b"")) == 16:
        return int.from_bytes(content[:8], "big"), int.from_bytes(content[8:], "big")
    return None


def _message_type(values: Values, port: int) -> int:
    """ICMP's type and code: icmpTypeCode, or both apart, or, as in version 5, the port."""
    whole = max(_number(values, 32), _number(values, 139))
    parts = [max(_number(values, a), _number(values, b)) for a, b in ((176, 178), (177, 179))]
    if whole != UNKNOWN:
        return whole & 0xFFFF
    return parts[0] << 8 & 0xFF00 | max(parts[1], 0) & 0xFF if parts[0] != UNKNOWN else port


_UNITS = ((152, 153, MILLI), (150, 151, SECOND))


def _times(values: Values, clock: _Clock) -> tuple[int, int]:
    """First and last packet, UTC ns; UNKNOWN without a field that tells."""
    for first, last, unit in _UNITS:
        if (0, first) in values:
            times = _number(values, first) * unit, _number(values, last) * unit
            return _ordered(*times)
    for first, last in ((156, 157), (154, 155)):
        if (0, first) in values:
            return _ordered(_ntp(values[0, first]), _ntp(values.get((0, last), b"")))
    if (0, 158) in values:  # microseconds before the message was sent
        return _ordered(clock.sent - _number(values, 158) * 1000, clock.sent - _number(values, 159) * 1000)
    started = _number(values, 160) * MILLI if (0, 160) in values else clock.started
    if (0, 22) in values and started != UNKNOWN:
        return _ordered(started + _number(values, 22) * MILLI, started + _number(values, 21) * MILLI)
    seen = _number(values, 323)
    return _ordered(seen * MILLI, seen * MILLI) if seen != UNKNOWN else (UNKNOWN, UNKNOWN)


def _ntp(content: bytes) -> int:
    value = int.from_bytes(content[:8], "big")
    return ((value >> 32) - _NTP) * SECOND + ((value & 0xFFFF_FFFF) * SECOND >> 32)


def _ordered(first: int, last: int) -> tuple[int, int]:
    if not 0 <= first < 1 << 62:
        return UNKNOWN, UNKNOWN
    return first, max(first, min(last, 1 << 62))


def _flags(bits: int) -> int:
    """A SYN alone is an opener's. In a union with ACK it may be a SYN and an ACK, or a SYN-ACK: it tells nothing."""
    if bits == UNKNOWN:
        return UNKNOWN
    bits &= 0xFF
    return bits | FLAG_SYN_ONLY if bits & 0x12 == 0x02 else bits


def _drop(values: Values) -> Drop:
    """firewallEvent 3 is "flow denied"; forwardingStatus 128 to 191 is "dropped", 129 and 130 by an ACL (RFC 7270)."""
    status = _number(values, 89)
    if _number(values, 233) == 3 or status in (129, 130):
        return Drop.POLICY
    return Drop.KERNEL if 128 <= status <= 191 else Drop.NONE
