"""NetFlow version 5 and 9 (RFC 3954) and IPFIX (RFC 7011), as datagrams one after the other (RFC 5655 for IPFIX).

Templates count from where they were sent on, for their observation domain, as in the transport. A record is one way of
a conversation, or both (RFC 5103). What a template has beside the fields known here is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

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


Templates = dict[tuple[int, int, int], list[Field] | None]
"""By (version, domain, number); None for templates of options, whose records are no flows."""


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records of all messages. Raises Problem when the file does not begin with one."""
    body = b"".join(lines)
    known: Templates = {}
    found: list[Record] = []
    datagrams(body, "NetFlow or IPFIX", name, tally, lambda at: _message(body, at, known, found, tally))
    return found


def _message(body: bytes, at: int, known: Templates, found: list[Record], tally: Tally) -> int:
    """Read the message at `at`; where the next one begins. Raises Broken."""
    (version,) = struct.unpack_from(">H", body, at)
    if version == 5:
        return _five(body, at, found, tally)
    if version == 9:
        return _nine(body, at, known, found, tally)
    if version == 10:
        return _ten(body, at, known, found, tally)
    raise Broken(f"version {version} where 5, 9 or 10 should be")


def _five(body: bytes, at: int, found: list[Record], tally: Tally) -> int:
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
                reporter=f"engine {engine}",
                sample=sample,
            )
        )
    return at


def _nine(body: bytes, at: int, known: Templates, found: list[Record], tally: Tally) -> int:
    """Its length is not told: it ends where no set begins (sets have the numbers 0, 1 and 256 and up)."""
    _, _, up, seconds, _, domain = _V9_HEADER.unpack_from(body, at)
    started = seconds * SECOND - up * MILLI
    at += _V9_HEADER.size
    while at + 4 <= len(body):
        number, size = struct.unpack_from(">HH", body, at)
        if 2 <= number <= 255:
            break
        _set(_cut(body, at, size, len(body)), number, (9, domain), started, known, found, tally)
        at += size
    return at


def _ten(body: bytes, at: int, known: Templates, found: list[Record], tally: Tally) -> int:
    _, length, _, _, domain = _IPFIX_HEADER.unpack_from(body, at)
    end: int = at + length
    if length < _IPFIX_HEADER.size or end > len(body):
        raise Broken(f"a message of {length} octets, of which {len(body) - at} are there")
    at += _IPFIX_HEADER.size
    while at + 4 <= end:
        number, size = struct.unpack_from(">HH", body, at)
        _set(_cut(body, at, size, end), number, (10, domain), UNKNOWN, known, found, tally)
        at += size
    return end


def _cut(body: bytes, at: int, size: int, end: int) -> bytes:
    if size < 4 or at + size > end:
        raise Broken(f"a set of {size} octets, of which {end - at} are there")
    return body[at + 4 : at + size]


def _set(
    content: bytes,
    number: int,
    domain: tuple[int, int],
    started: int,
    known: Templates,
    found: list[Record],
    tally: Tally,
) -> None:
    if number in (0, 2):
        known.update(_templates(content, domain))
    elif number in (1, 3):
        known.update(_options(content, domain))
    elif number >= 256:
        key = (*domain, number)
        if key not in known:
            tally.lines += 1
            tally.passed["sets whose template was not sent before them"] += 1
        elif (template := known[key]) is not None:
            for values in _rows(content, template):
                tally.lines += 1
                record = _record(values, started, domain[1])
                if record is None:
                    tally.passed["records without addresses or protocol"] += 1
                else:
                    found.append(record)


def _templates(content: bytes, domain: tuple[int, int]) -> Iterator[tuple[tuple[int, int, int], list[Field]]]:
    at = 0
    while at + 4 <= len(content):
        number, count = struct.unpack_from(">HH", content, at)
        at += 4
        if number < 256:
            return  # padding
        template = []
        for _ in range(count):
            element, size = struct.unpack_from(">HH", content, at)
            at += 4
            enterprise = 0
            if domain[0] == 10 and element & 0x8000:
                (enterprise,) = struct.unpack_from(">I", content, at)
                at += 4
            template.append((element & 0x7FFF if domain[0] == 10 else element, size, enterprise))
        yield (*domain, number), template


def _options(content: bytes, domain: tuple[int, int]) -> Iterator[tuple[tuple[int, int, int], None]]:
    """Numbers of templates of options: records of theirs are about the exporter, and are passed over."""
    at = 0
    while at + 6 <= len(content):
        number, first, second = struct.unpack_from(">HHH", content, at)
        if number < 256:
            return
        at += 6
        if domain[0] == 9:
            at += first + second
        else:
            for _ in range(first):
                (element,) = struct.unpack_from(">H", content, at)
                at += 8 if element & 0x8000 else 4
        yield (*domain, number), None


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


def _record(values: Values, started: int, domain: int) -> Record | None:
    """One record; None where it has no addresses or no protocol."""
    source, destination, kind = _address(values, 8, 27), _address(values, 12, 28), _number(values, 4)
    if source is None or destination is None or kind == UNKNOWN:
        return None
    ports = _number(values, 7), _number(values, 11)
    if kind in (ICMP, ICMPV6):
        message = _message_type(values, ports[1])
        ports = (0, message) if message != UNKNOWN else (UNKNOWN, UNKNOWN)
    sample = _sampling(values)
    back = {name: _first(values, elements, REVERSE) for name, elements in _COUNTERS.items()}
    ahead = {name: _first(values, elements) for name, elements in _COUNTERS.items()}
    both = any(value != UNKNOWN for value in back.values())
    first, last = _times(values, started)
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
        reporter=f"{domain} {_number(values, 61)}",
        role=Role.TRANSIT,
        sample=sample,
    )


_COUNTERS = {"packets": (2, 86), "octets": (1, 85), "flags": (6,)}
"""packetDeltaCount and packetTotalCount, octetDeltaCount and octetTotalCount, tcpControlBits."""


def _number(values: Values, element: int, enterprise: int = 0) -> int:
    content = values.get((enterprise, element))
    return UNKNOWN if not content or len(content) > 8 else min(int.from_bytes(content, "big"), (1 << 62) - 1)


def _first(values: Values, elements: tuple[int, ...], enterprise: int = 0) -> int:
    return next((n for each in elements if (n := _number(values, each, enterprise)) != UNKNOWN), UNKNOWN)


def _sampling(values: Values) -> int:
    """One packet in so many: samplingInterval, or so many in a row and so many left out (RFC 5477)."""
    taken, left = _number(values, 305), _number(values, 306)
    if taken > 0 and left > 0:
        return max((taken + left) // taken, 1)
    return max(_number(values, 34), 1)


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


def _times(values: Values, started: int) -> tuple[int, int]:
    """First and last packet, UTC ns; UNKNOWN without a field that tells. `started`: when the exporter did, UNKNOWN or UTC ns."""
    for first, last, unit in _UNITS:
        if (0, first) in values:
            times = _number(values, first) * unit, _number(values, last) * unit
            return _ordered(*times)
    for first, last in ((156, 157), (154, 155)):
        if (0, first) in values:
            return _ordered(_ntp(values[0, first]), _ntp(values.get((0, last), b"")))
    started = _number(values, 160) * MILLI if (0, 160) in values else started
    if (0, 22) in values and started != UNKNOWN:
        return _ordered(started + _number(values, 22) * MILLI, started + _number(values, 21) * MILLI)
    return UNKNOWN, UNKNOWN


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
