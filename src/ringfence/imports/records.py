"""What somebody else's tool says of one conversation, or of one way of it, before both ways are brought together.

Unknown is not zero: counters, flags and times that a format does not tell are `UNKNOWN` here and null in answers.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from ringfence.model.addresses import pack
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Direction, Drop
from ringfence.model.endpoints import Endpoint
from ringfence.model.problems import Problem
from ringfence.model.protocols import FLAG_NAMES, ICMPV6, PROTOCOL_NUMBERS

UNKNOWN = -1
NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
"""Upper half of an address that was not told (ffff::/16 is no address); the lower half keeps such ends apart."""
SECOND, MILLI = 1_000_000_000, 1_000_000
SHOWN = 3
"""So many broken lines are shown, the others counted."""
LATEST = 1 << 62
"""Times from here on (2116) are no times."""


class End(NamedTuple):
    """One end as the tool names it: address halves (NOWHERE when not told), port (UNKNOWN), and what it says of it."""

    address: tuple[int, int]
    port: int
    endpoint: Endpoint | None = None


class Record(NamedTuple):
    """One line's conversation, in the line's orientation. Times in UTC ns, octets as the tool counts them (IP layer).

    `both`: the line tells of both ways; else of `source`'s packets alone. `opened`: the line says that `source`
    opened it, `answered`: that `destination` did; `direction` tells how surely. `reporter` names who counted, `role` where that is
    (`model.columns.Role`, as if `source` were the consumer): one of several reporters is counted. `connections` began
    in the line's time, and `live` were there at once.
    """

    source: End
    destination: End
    protocol: int
    first: int
    last: int
    both: bool = False
    opened: bool = False
    answered: bool = False
    direction: Direction = Direction.GUESSED
    packets: int = UNKNOWN
    octets: int = UNKNOWN
    flags: int = UNKNOWN
    back_packets: int = UNKNOWN
    back_octets: int = UNKNOWN
    back_flags: int = UNKNOWN
    rtt_us: int = UNKNOWN
    drop: Drop = Drop.NONE
    reporter: str = ""
    role: int = 0
    connections: int = 0
    live: int = 1
    sample: int = 1
    names: tuple[str, ...] = ()


class Broken(Exception):
    """A line that cannot be used: what is wrong with it, in words."""


class Passed(Exception):
    """A line that is fine and tells of no conversation: why, in words, as it is counted."""


def fields(text: str) -> frozenset[str]:
    """Names of fields, written with spaces between."""
    return frozenset(text.split())


class Tally:
    """What became of the lines: records, broken lines with the first few shown, and fields nobody here knows."""

    def __init__(self) -> None:
        self.lines = 0
        self.broken = 0
        self.shown: list[str] = []
        self.passed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def refuse(self, number: int, why: str) -> None:
        """Count a broken line."""
        self.broken += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"line {number} is broken: {why}"[:300])

    def notes(self, name: str) -> list[str]:
        """In words, each beginning with the file's name."""
        said = [f"{name}: {count} lines passed over: {why}" for why, count in sorted(self.passed.items())]
        said += [f"{name}: {text}" for text in self.shown]
        if self.broken > len(self.shown):
            said.append(f"{name}: {self.broken - len(self.shown)} more broken lines")
        if self.unknown:
            fields = ", ".join(f"{field} ({count})" for field, count in sorted(self.unknown.items()))
            said.append(f"{name}: unknown fields, with how many lines have them: {fields}")
        return said


def taken(
    items: Iterable[tuple[int, Any]], decode: Callable[[Any, Tally], Iterable[Record]], tally: Tally
) -> list[Record]:
    """The records of `(line number, item)`; what cannot be used is counted, never fatal."""
    found: list[Record] = []
    for number, item in items:
        tally.lines += 1
        try:
            found += decode(item, tally)
        except Passed as why:
            tally.passed[str(why)] += 1
        except Broken as error:
            tally.refuse(number, str(error))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            tally.refuse(number, f"a field of another type than the format's ({error})")
    return found


def objects(lines: Iterable[bytes], tally: Tally) -> Iterable[tuple[int, dict[str, Any]]]:
    """JSON objects: one a line, or all of one document. Empty lines are nothing; others that are no objects are broken.

    A line may have the time, tag or stream of whoever forwarded it in front (fluentd, container runtimes).
    """
    rest: Iterator[tuple[int, bytes]] = enumerate(lines, 1)
    start = next(((number, line) for number, line in rest if line.strip()), (1, b""))
    if start[1].lstrip()[:1] == b"[" or start[1].strip() == b"{":
        kept = [start, *rest]
        whole = decoded(b"".join(line for _, line in kept))
        if isinstance(whole, list | dict):
            yield from _listed(whole, tally)
            return
        rest = iter(kept)
    else:
        rest = chain((start,), rest)
    for number, line in rest:
        if not (text := line.strip()):
            continue
        value = decoded(text if text[:1] == b"{" else _FORWARDED.sub(b"{", text, count=1))
        if isinstance(value, dict):
            yield from ((number, each) for each in _inside(value))
        else:
            tally.lines += 1
            tally.refuse(number, f"not a JSON object ({value})")


_FORWARDED = re.compile(rb"^[^{}\"\[\]]{1,300}\{")


def decoded(text: bytes | str) -> Any:
    """What JSON says, or in words why it says nothing."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error)


def _listed(whole: Any, tally: Tally) -> Iterable[tuple[int, dict[str, Any]]]:
    """The objects of one document, by their places."""
    for number, value in enumerate(whole if isinstance(whole, list) else (whole,), 1):
        if isinstance(value, dict):
            yield from ((number, each) for each in _inside(value))
        else:
            tally.lines += 1
            tally.refuse(number, f"not a JSON object ({str(value)[:60]})")


def _inside(value: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """What a document of Elasticsearch or of a container's log holds; else the object itself."""
    hits = value.get("hits")
    if isinstance(hits, dict) and isinstance(hits.get("hits"), list):
        return [each for hit in hits["hits"] if isinstance(hit, dict) for each in _inside(hit)]
    if isinstance(value.get("_source"), dict):
        return [value["_source"]]
    if isinstance(value.get("log"), str) and "stream" in value:
        held = decoded(value["log"])
        return [held] if isinstance(held, dict) else [value]
    return [value]


def address(text: Any, field: str) -> tuple[int, int]:
    """Halves of an IP address. Raises Broken."""
    try:
        return pack(str(text))
    except ValueError:
        raise Broken(f"{field} is no address: {str(text)[:60]!r}") from None


def number(value: Any, field: str, most: int = (1 << 62) - 1) -> int:
    """A count; null, `-` and the empty text are UNKNOWN. Raises Broken."""
    if value is None or value in ("-", ""):
        return UNKNOWN
    try:
        count = int(value) if not isinstance(value, bool) else -1
    except (TypeError, ValueError, OverflowError):
        count = -1
    if not 0 <= count <= most:
        raise Broken(f"{field} is no number of 0 to {most}: {str(value)[:60]!r}")
    return count


def port(value: Any, field: str) -> int:
    """A port, UNKNOWN when not told. Raises Broken."""
    return number(value, field, 65_535)


def moment(value: Any, field: str, unit: int = SECOND) -> int:
    """A time in UTC ns: a number of `unit`s since 1970, or RFC 3339. UNKNOWN when it cannot be read as either."""
    if isinstance(value, str) and "T" in value:
        return _rfc3339(value)
    try:
        text = str(value)
        if "e" in text.lower():
            text = format(Decimal(text).quantize(Decimal("1e-9")), "f")
        whole, _, part = text.partition(".")
        found = int(whole) * unit + (int(part[:9].ljust(9, "0")) * unit // SECOND if part else 0)
    except (ValueError, InvalidOperation):
        return UNKNOWN
    return found if 0 <= found < LATEST else UNKNOWN


def _rfc3339(text: str) -> int:
    """With nanoseconds, which datetime does not keep."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return UNKNOWN
    utc = parsed.replace(tzinfo=parsed.tzinfo or UTC).astimezone(UTC)
    part = text.partition(".")[2]
    digits = part[: next((i for i, letter in enumerate(part) if not letter.isdigit()), len(part))]
    found = int(utc.replace(microsecond=0).timestamp()) * SECOND + int(digits[:9].ljust(9, "0") or 0)
    return found if 0 <= found < LATEST else UNKNOWN


_NUMBERS = PROTOCOL_NUMBERS | {"ICMP6": ICMPV6, "IPV6-ICMP": ICMPV6}


def protocol(value: Any, field: str) -> int:
    """An IP protocol by number or name. Raises Broken."""
    known = _NUMBERS.get(str(value).upper())
    found = known if known is not None else number(value, field, 255)
    if found == UNKNOWN:
        raise Broken(f"{field} is not told")
    return found


def unknown(item: Iterable[str], known: frozenset[str], tally: Tally) -> None:
    """Count the fields of an item that nobody here knows."""
    tally.unknown.update(field for field in item if field not in known)


FLAG_BITS = {name: 1 << bit for bit, name in enumerate(FLAG_NAMES)}
"""TCP flags by name."""


def packet_flags(bits: int) -> int:
    """Flags of one packet, or of a union that keeps a SYN-ACK apart from a SYN: marked with what they tell of who opened."""
    marks = {0x02: FLAG_SYN_ONLY, 0x12: FLAG_SYN_ACK}
    return bits if bits == UNKNOWN else bits & 0xFF | marks.get(bits & 0x12, 0)


def datagrams(body: bytes, what: str, name: str, tally: Tally, read: Callable[[int], int]) -> None:
    """Read datagrams that stand one after the other. `read` takes the one at an offset and tells where the next one begins.

    Raises Problem when the first is none; at a later one that is broken the reading ends, and it is counted.
    """
    at = 0
    while at < len(body):
        try:
            at = read(at)
        except (Broken, struct.error) as error:
            if not at:
                fix = f"give datagrams of {what}, one after the other, without anything between"
                raise Problem(f"is no {what} ({error})", name, fix) from None
            tally.lines += 1
            tally.refuse(tally.lines, f"{error}, at octet {at}; the rest was not read")
            return


def word(value: Any) -> str | None:
    """A name; None when it is not told, or is none."""
    return value if isinstance(value, str) and value not in ("", "-") else None


def labels(value: Any) -> tuple[tuple[str, str], ...]:
    """Labels told as a list of `key=value`, as one text of them (`a=b | c=d`), or by key."""
    if isinstance(value, dict):
        return tuple(sorted((str(key), str(text)) for key, text in value.items()))
    told = re.split(r"\s*[|,]\s*", value) if isinstance(value, str) else value or ()
    pairs = (str(each).strip().partition("=") for each in told)
    return tuple(sorted({key: text for key, equals, text in pairs if key and equals}.items()))
