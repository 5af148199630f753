"""The only list of what a search may ask of a flow: name, type, meaning, and where it stands in the settled tables.

The checker, the SQL, the reference page (docs/reference/search.md), hints, facets and exports are made from it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ringfence.inventory.filters.check import Words
from ringfence.inventory.filters.fields import BOOL, INT, MAP, STRING, STRINGS, Type
from ringfence.inventory.filters.functions import CHECKS, FUNCTIONS, REFUSED, Function
from ringfence.model.columns import (
    DIRECTION_NAMES,
    DROP_NAMES,
    KIND_NAMES,
    LEG_NAMES,
    LINK_NAMES,
    UNKNOWN_U4,
    Drop,
    Kind,
)
from ringfence.model.protocols import ICMP, ICMPV6, PORTS, PROTOCOL_NAMES, TCP
from ringfence.store.schema import UNTOLD
from ringfence.store.search.moments import length, moment

TIME = Type("timestamp")
LENGTH = Type("duration")

Code = Callable[[str], int | str | None]
"""What a text is in the column itself; None where the column never stands for it."""


class Field(NamedTuple):
    """One fact of a flow.

    `raw` is SQL over the columns of `flows` (or, of an end, of `endpoints`, each after `{e}`); `present` says in SQL
    where the fact is there, empty for everywhere; `shown` makes the value that people see of `raw`, empty where it is
    the same; `code` turns a literal into a value of `raw`, of SQL type `coded`. `sums`: read off all minutes of a flow
    together; the others have a value in each minute.
    """

    name: str
    type: Type
    meaning: str
    raw: str
    present: str = ""
    shown: str = ""
    sums: bool = False
    code: Code | None = None
    coded: str = ""


class End(NamedTuple):
    """One end of a flow, or of its connection: `version` is the column that says what it was."""

    name: str
    version: str
    meaning: str


ENDS = (
    End("consumer", "consumer_version", "the side that opened the conversation"),
    End("provider", "provider_version", "the side that was listening"),
    End("opened_by", "opened_by", "who opened the connection, before any translation of its address"),
    End("served_by", "served_by", "who served the connection, after every translation"),
)


def _of_end(name: str, meaning: str) -> Field:
    column = "{e}" + name
    return Field(name, STRING, meaning, column, f"{column} != ''")


MEMBERS = (
    _of_end("kind", "`pod`, `service`, `node`, `external` or `unresolved`"),
    _of_end("cluster", "name of its cluster"),
    _of_end("namespace", "its namespace"),
    _of_end("name", "its name"),
    _of_end("workload", "root owner as `Kind/name`, e.g. `Deployment/web`"),
    _of_end("node", "node of a pod; a node's own name"),
    _of_end("service", "`namespace/name` of a service, or of the one a node was asked for"),
    _of_end("uid", "UID of its object"),
    Field("labels", MAP, "its labels; empty where it has none", "{e}labels"),
)
"""What an end is as of its time: columns of `endpoints`."""


def _address(text: str) -> str | None:
    """The IPv6 value of an address as answers write it; other writings of it are other texts."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if str(found) != text or (found.version == 6 and found.ipv4_mapped is not None):
        return None
    return f"::ffff:{found}" if found.version == 4 else str(found)


def _identifier(text: str) -> int | None:
    return int(text, 16) if re.fullmatch("[0-9a-f]{16}", text) else None


def _named(names: Sequence[str | None]) -> Code:
    places = {name: place for place, name in enumerate(names) if name}
    return places.get


def _protocol(text: str) -> int | None:
    known = {name: number for number, name in PROTOCOL_NAMES.items()}
    if re.fullmatch("0|[1-9][0-9]{0,2}", text) and int(text) < 256 and int(text) not in PROTOCOL_NAMES:
        return int(text)
    return known.get(text)


def _words_of(numbers: Sequence[int], names: Sequence[str], otherwise: str) -> str:
    """SQL that turns small numbers into their names, all of them ours."""
    texts = ", ".join(f"'{name}'" for name in names)
    return f"transform({{raw}}, [{', '.join(map(str, numbers))}], [{texts}], {otherwise})"


def _choice(name: str, column: str, names: Sequence[str], meaning: str, present: str = "") -> Field:
    shown = _words_of(range(len(names)), names, "''")
    return Field(name, STRING, meaning, column, present, shown, code=_named(names), coded="UInt8")


def _ip(name: str, column: str, meaning: str) -> Field:
    shown = "replaceRegexpOne(toString({raw}), '^::ffff:([0-9.]+)$', '\\\\1')"
    return Field(name, STRING, meaning, column, "", shown, code=_address, coded="IPv6")


_HAS_PORTS = f"protocol IN ({', '.join(map(str, sorted(PORTS)))})"


def _told(*columns: str) -> str:
    """SQL that is true where an import left none of these out."""
    return f"bitAnd(untold, {sum(1 << UNTOLD.index(column) for column in columns)}) = 0"


def _port(name: str, column: str, meaning: str) -> Field:
    there = f"{_HAS_PORTS} AND (kind = {int(Kind.PLAIN)} OR {column} != 0)"
    return Field(
        name, INT, meaning, column, f"({there}{' AND ' + _told(column) if column in UNTOLD else ''})"
    )


def _id(name: str, meaning: str) -> Field:
    shown = "leftPad(lower(hex({raw})), 16, '0')"
    return Field(name, STRING, meaning, name, "", shown, code=_identifier, coded="UInt64")


def _json(name: str, column: str, kind: Type, meaning: str) -> Field:
    sql = "Int64" if kind == INT else "String"
    raw = f"JSONExtract({column}, '{name.rpartition('.')[2]}', 'Nullable({sql})')"
    return Field(name, kind, meaning, raw, f"isNotNull({raw})")


def _text(name: str, meaning: str) -> Field:
    return Field(name, STRING, meaning, name, f"{name} != ''")


def _count(name: str, raw: str, meaning: str) -> Field:
    told = _told(*(column for column in UNTOLD[:4] if column in raw))
    return Field(name, INT, meaning, raw, f"(unseen = 0 AND {told})", sums=True)


def _measured(name: str, meaning: str) -> Field:
    return Field(name, INT, meaning, name, f"(unseen = 0 AND {name} != {UNKNOWN_U4})", sums=True)


def _flags(side: str) -> Field:
    names = "['SYN', 'ACK', 'PSH', 'RST', 'FIN', 'URG', 'ECE', 'CWR']"
    bits = "[1, 4, 3, 2, 0, 5, 6, 7]"
    shown = f"arrayStringConcat(arrayFilter((n, b) -> bitTest({{raw}}, b), {names}, {bits}), ' ')"
    present = f"(unseen = 0 AND protocol = {TCP} AND {_told(f'{side}_flags')})"
    meaning = f"TCP flags the {side} sent, e.g. `SYN ACK FIN`"
    return Field(f"{side}_flags", STRING, meaning, f"{side}_flags", present, shown, sums=True)


def _process(whose: str, end: str) -> tuple[Field, ...]:
    parts = (
        ("name", STRING, "its name"),
        ("exe", STRING, "path of its program"),
        ("pid", INT, "its number on the node"),
        ("container", STRING, "id of its container"),
        ("parent", STRING, "name of the process that started it"),
        ("parent_pid", INT, "number of that process"),
    )
    return tuple(
        _json(f"{whose}.{part}", whose, kind, f"process at {end}: {text}") for part, kind, text in parts
    )


_OCTETS, _PACKETS = "(consumer_octets + provider_octets)", "(consumer_packets + provider_packets)"
_FACTS = (
    _ip("consumer.ip", "consumer_ip", "address of the consumer"),
    _port("consumer.port", "consumer_port", "port of the consumer; absent where the protocol has none"),
    _ip("provider.ip", "provider_ip", "address of the provider"),
    _port("provider.port", "provider_port", "port of the provider; absent where the protocol has none"),
    _port("served_by.port", "served_port", "port of who served the connection, after every translation"),
    _port("port", "provider_port", "short for `provider.port`"),
    Field(
        "protocol",
        STRING,
        "`TCP`, `UDP`, `ICMP`, ...; a number where it has no name here",
        "protocol",
        "",
        _words_of(list(PROTOCOL_NAMES), list(PROTOCOL_NAMES.values()), "toString({raw})"),
        code=_protocol,
        coded="UInt8",
    ),
    _id("flow_id", "the flow's id, 16 hexadecimal digits"),
    _id("connection_id", "id of its connection"),
    _choice("leg", "leg", LEG_NAMES, "its part of the connection: " + ", ".join(f"`{n}`" for n in LEG_NAMES)),
    Field("snat", BOOL, "whether the consumer's address is a translated one", "snat"),
    _choice("link", "link", LINK_NAMES, "how it is tied to its connection"),
    _choice("direction", "direction", DIRECTION_NAMES, "how the consumer is known"),
    _text("category", "category of its connection, e.g. `pod-to-pod-via-service`"),
    _text("placement", "`same-node` or `other-node`"),
    _text("service", "`namespace/name` of the service its connection asked for"),
    _text("cluster", "cluster of the agent that saw it"),
    _text("node", "node whose sighting counts"),
    _text("origin", "the import it came by, e.g. `zeek`; absent of our own agents' flows"),
    Field(
        "names",
        STRINGS,
        "DNS names of the provider as the consumer had learnt them",
        "splitByWhitespace(names)",
    ),
    *_process("process", "the consumer's end"),
    *_process("provider_process", "the provider's end"),
    _json("tls.server_name", "tls", STRING, "server name asked for in the clear at the start of TLS"),
    _choice("tunnel", "kind", KIND_NAMES, "kind of tunnel it is", f"kind != {int(Kind.PLAIN)}"),
    Field(
        "vni",
        INT,
        "VNI of a VXLAN or Geneve tunnel",
        "zone",
        f"kind IN ({int(Kind.VXLAN)}, {int(Kind.GENEVE)})",
    ),
    Field(
        "icmp",
        STRING,
        "`type/code` of the asker's ICMP message",
        "concat(toString(intDiv(provider_port, 256)), '/', toString(provider_port % 256))",
        f"(protocol IN ({ICMP}, {ICMPV6}) AND kind = {int(Kind.PLAIN)})",
    ),
)
_SUMS = (
    _count("octets", _OCTETS, "IP-layer octets of both sides together"),
    _count("packets", _PACKETS, "packets of both sides together"),
    _count("consumer_octets", "consumer_octets", "IP-layer octets from the consumer"),
    _count("consumer_packets", "consumer_packets", "packets from the consumer"),
    _count("provider_octets", "provider_octets", "IP-layer octets from the provider"),
    _count("provider_packets", "provider_packets", "packets from the provider"),
    _flags("consumer"),
    _flags("provider"),
    Field("start", TIME, "first packet within the asked time", "first", sums=True),
    Field("end", TIME, "last packet within the asked time", "last", sums=True),
    Field("duration", LENGTH, "from `start` to `end`", "(last - first)", sums=True),
    _measured("rtt_us", "handshake round trip in microseconds; the shortest of its minutes"),
    _measured("srtt_us", "smoothed round trip in microseconds; the shortest of its minutes"),
    _measured("retransmits", "packets sent again"),
    _measured("zero_windows", "segments that offered no room"),
    Field(
        "drop_reason",
        STRING,
        "why packets were dropped: " + ", ".join(f"`{name}`" for name in DROP_NAMES[1:]),
        "drop",
        f"(unseen = 0 AND drop != {int(Drop.NONE)})",
        _words_of(range(len(DROP_NAMES)), DROP_NAMES, "''"),
        sums=True,
        code=_named((None, *DROP_NAMES[1:])),
        coded="UInt8",
    ),
    Field(
        "permitted",
        BOOL,
        "false where a policy of ours dropped packets of it, true where none did and the provider answered; "
        "absent where nobody answered and no policy said so",
        f"(drop != {int(Drop.POLICY)})",
        f"(unseen = 0 AND (drop = {int(Drop.POLICY)} OR provider_packets != 0))",
        sums=True,
    ),
    Field("counts", BOOL, "false of a leg that is known from a translation alone", "(unseen = 0)", sums=True),
    Field("sample", INT, "one packet in so many was counted", "sample", "sample > 1", sums=True),
)

FIELDS: tuple[Field, ...] = (*_FACTS, *_SUMS)
"""What is read off columns of `flows`."""
BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
OF_END: dict[str, Field] = {field.name: field for field in MEMBERS}
END_OF: dict[str, End] = {end.name: end for end in ENDS}

SHOWN_BY: dict[str, str] = {"process": "process", "provider_process": "provider_process", "tls": "tls"}
"""Objects that may be absent as a whole, and the column that is empty then."""


def field_of(path: str) -> tuple[End | None, Field] | None:
    """A field by its name with dots, and the end whose member it is; None for no field."""
    if path in BY_NAME:
        return None, BY_NAME[path]
    end, _, member = path.partition(".")
    if end in END_OF and member in OF_END:
        return END_OF[end], OF_END[member]
    return None


def named_fields() -> dict[str, Field]:
    """Every field by its full name, in the order of the reference page."""
    found = {f"{end.name}.{field.name}": field for end in ENDS for field in MEMBERS}
    ends = {name: field for name, field in BY_NAME.items() if name.partition(".")[0] in END_OF}
    return {**ends, **found, **BY_NAME}


def _objects() -> dict[str, Type]:
    """The types of names without dots."""
    members: dict[str, dict[str, Type]] = {end.name: {} for end in ENDS}
    plain: dict[str, Type] = {}
    for name, field in named_fields().items():
        whole, dot, part = name.partition(".")
        if dot:
            members.setdefault(whole, {})[part] = field.type
        else:
            plain[name] = field.type
    kinds = dict.fromkeys(END_OF, "end") | {
        "tls": "tls",
        "process": "process",
        "provider_process": "process",
    }
    return {name: Type(kinds[name], members=tuple(found.items())) for name, found in members.items()} | plain


TIMES = (
    Function("timestamp", False, (STRING,), TIME, moment, 0, literal=True),
    Function("duration", False, (STRING,), LENGTH, length, 0, literal=True),
)
WORDS = Words(
    _objects(),
    (*FUNCTIONS, *TIMES),
    {**CHECKS, "timestamp": moment, "duration": length},
    {name: why for name, why in REFUSED.items() if name not in ("timestamp", "duration")}
    | {"now": ("a search cannot ask the clock", "give since and until beside it")},
    (INT, STRING, TIME, LENGTH),
    ("bool", "int", "string", "ip", "cidr", "timestamp", "duration"),
    "docs/reference/search.md",
)
"""What the checker of filters is given for searches."""
