"""Zeek's conn.log, TSV or JSON (https://docs.zeek.org/en/master/scripts/base/protocols/conn/main.zeek.html)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from ringfence.flows.packets import QUESTION_OF
from ringfence.imports.records import (
    UNKNOWN,
    Broken,
    End,
    Passed,
    Record,
    Tally,
    address,
    fields,
    moment,
    number,
    objects,
    port,
    protocol,
    taken,
    unknown,
)
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Direction
from ringfence.model.problems import Problem
from ringfence.model.protocols import ICMP, ICMPV6, TCP

FIELDS = fields(
    "_path _write_ts ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes"
    " conn_state local_orig local_resp missed_bytes history orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes"
    " tunnel_parents ip_proto orig_l2_addr resp_l2_addr vlan inner_vlan community_id failed_service"
    " speculative_service pppoe_session_id"
)
_HISTORY = {"S": 0x02 | FLAG_SYN_ONLY, "H": 0x12 | FLAG_SYN_ACK, "A": 0x10, "F": 0x01, "R": 0x04}
"""TCP flags by letter of `history`; capitals are the originator's."""
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
WHOLE = "id.orig_h", "id.resp_h", "proto"


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records of a conn.log. Raises Problem when it is another log, or has no line that names its fields."""
    numbered = enumerate(lines, 1)
    first = next((line for _, line in numbered if line.strip() and not line.startswith(b"###")), b"")
    if first.lstrip().startswith(b"{"):
        return taken(objects(chain((first,), (line for _, line in numbered)), tally), _json, tally)
    return taken(rows(chain(((1, first),), numbered), name), decode, tally)


def _json(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
    path = str(item.get("_path") or _path(item))
    if not path.startswith("conn"):
        raise Passed(f"they are of {path}.log, not of conn.log, so no flows")
    return decode(item, tally)


_OWN = fields(
    "conn_state duration history orig_pkts resp_pkts orig_bytes resp_bytes orig_ip_bytes missed_bytes"
)
"""Fields that conn.log alone has."""
_OTHERS = {
    "dns": fields("query trans_id rcode_name qtype_name"),
    "ssl": fields("cipher server_name established next_protocol"),
    "http": fields("method uri status_code user_agent"),
    "files": fields("fuid mime_type md5"),
    "weird": fields("notice peer"),
}


def _path(item: dict[str, Any]) -> str:
    """Whose log a line is of that does not say so: by fields that other logs have and conn.log has not."""
    if _OWN & item.keys() or not set(item) - FIELDS:
        return "conn"
    named = (name for name, signs in _OTHERS.items() if signs & item.keys())
    return next(named, "conn" if set(WHOLE) <= set(item) else "another")


def rows(lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Each line by the names of `#fields`. Unset fields are left out."""
    separator, unset = "\t", "-"
    names: list[str] = []
    for number_, line in lines:
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.startswith("#separator"):
            separator = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), text.partition(" ")[2]) or "\t"
        elif text.startswith("#"):
            key, _, value = text.partition(separator)
            unset = value if key == "#unset_field" else unset
            names = value.split(separator) if key == "#fields" else names
            if key == "#path" and not value.startswith("conn"):
                raise Problem("holds no flows", f"{name}: a {value}.log", "give Zeek's conn.log")
        elif text and not names and set(WHOLE) <= set(text.split(separator)):
            names = text.split(separator)  # without `#fields`, as `zeek-cut -m` prints them
        elif text:
            if not set(WHOLE) <= set(names):
                fix = "give a conn.log as Zeek wrote it, with its #fields line"
                raise Problem(
                    "no line names the fields id.orig_h, id.resp_h and proto", f"{name}: line {number_}", fix
                )
            values = text.split(separator)
            if len(values) != len(names):
                yield number_, f"{len(values)} fields, where #fields names {len(names)}"
                continue
            yield (
                number_,
                {key: value for key, value in zip(names, values, strict=True) if value != unset},
            )


def decode(item: dict[str, Any] | str, tally: Tally) -> Iterable[Record]:
    """One connection. Raises Broken."""
    if isinstance(item, str):
        raise Broken(item)
    unknown(item, FIELDS, tally)
    for field in WHOLE:
        if field not in item:
            raise Broken(f"{field} is not told")
    source, destination = address(item["id.orig_h"], "id.orig_h"), address(item["id.resp_h"], "id.resp_h")
    kind = _protocol(item, is_v6=destination[0] != 0)
    ports = port(item.get("id.orig_p"), "id.orig_p"), port(item.get("id.resp_p"), "id.resp_p")
    if kind in (ICMP, ICMPV6):
        # Zeek keeps the message's type and code in the places of ports.
        ports = 0, max(ports[0], 0) << 8 & 0xFF00 | _code(kind, *ports)
    first = moment(item.get("ts"), "ts")
    took = moment(item["duration"], "duration") if "duration" in item else 0
    record = Record(
        source=End(source, ports[0]),
        destination=End(destination, ports[1]),
        protocol=kind,
        first=first,
        last=first if UNKNOWN in (first, took) else first + took,
        both=True,
        packets=number(item.get("orig_pkts"), "orig_pkts"),
        octets=number(item.get("orig_ip_bytes"), "orig_ip_bytes"),
        back_packets=number(item.get("resp_pkts"), "resp_pkts"),
        back_octets=number(item.get("resp_ip_bytes"), "resp_ip_bytes"),
    )
    return [judged(record, item)]


def judged(record: Record, item: dict[str, Any]) -> Record:
    """With flags and who opened it, by `history`, or where none was kept by `conn_state`."""
    history = str(item.get("history", ""))
    if not history:
        return _by_state(record, str(item.get("conn_state", "")))
    flags, back = (_flags(history, record.protocol, upper) for upper in (True, False))
    return _opened(record._replace(flags=flags, back_flags=back), history)


_SHOOK = ("S0", "S1", "S2", "S3", "SF", "REJ", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR")
_WHOLLY = {"S0": (0x02 | FLAG_SYN_ONLY, 0), "REJ": (0x02 | FLAG_SYN_ONLY, 0x04)}
"""The flags of both ends in states that leave no others."""


def _by_state(record: Record, state: str) -> Record:
    """Who opened it by `conn_state`, where no `history` was kept: all states but OTH and - are of a handshake that Zeek saw
    a part of."""
    if record.protocol != TCP or state not in _SHOOK:
        return record if record.protocol in (ICMP, ICMPV6) else record._replace(opened=True)
    flags, back = _WHOLLY.get(state, (record.flags, record.back_flags))
    return record._replace(opened=True, direction=Direction.SYN, flags=flags, back_flags=back)


def _code(kind: int, message: int, told: int) -> int:
    """ICMP's code. Of a question or an answer Zeek tells the type of its counterpart in that place; their code is 0."""
    known = {(kind, message)} & {
        *QUESTION_OF,
        *((protocol, ask) for (protocol, _), ask in QUESTION_OF.items()),
    }
    return 0 if known else max(told, 0) & 0xFF


def _protocol(item: dict[str, Any], is_v6: bool) -> int:
    if str(item.get("proto")) == "unknown_transport":
        return protocol(item.get("ip_proto"), "ip_proto")
    kind = protocol(item.get("proto"), "proto")
    return ICMPV6 if kind == ICMP and is_v6 else kind


def _flags(history: str, kind: int, upper: bool) -> int:
    if kind != TCP or not history:
        return UNKNOWN
    letters = {letter.upper() for letter in history if letter.isupper() == upper}
    return sum(bits for letter, bits in _HISTORY.items() if letter in letters)


def _opened(record: Record, history: str) -> Record:
    """Who opened it, by the handshake in `history`. `^` (Zeek turned it round by a guess) leaves it a guess."""
    if record.protocol in (ICMP, ICMPV6):
        return record  # the message's type tells
    if record.protocol == TCP and set(history) & set("Sh"):
        return record._replace(opened=True, direction=Direction.SYN)
    if record.protocol == TCP and set(history) & set("sH"):
        return turned(record)._replace(opened=True, direction=Direction.SYN)
    return record._replace(opened=True)


def turned(record: Record) -> Record:
    """The same, told from the other end."""
    return record._replace(
        source=record.destination,
        destination=record.source,
        packets=record.back_packets,
        octets=record.back_octets,
        flags=record.back_flags,
        back_packets=record.packets,
        back_octets=record.octets,
        back_flags=record.flags,
    )
