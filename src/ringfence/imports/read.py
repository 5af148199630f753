"""Whose flows a stream holds, and what becomes of them. Whoever calls has opened and unpacked it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from ringfence.imports import calico, hubble, ipfix, netobserv, own, sflow, vpc, zeek, zeek_columns
from ringfence.imports.pair import Imported, flows, together
from ringfence.imports.records import Record, Tally
from ringfence.model.flows import Flow
from ringfence.model.problems import Problem

Reader = Callable[[Iterable[bytes], str, Tally], list[Record]]
READERS: dict[str, Reader] = {
    "zeek": zeek.read,
    "hubble": hubble.read,
    "calico": calico.read,
    "netobserv": netobserv.read,
    "vpc": vpc.read,
    "ipfix": ipfix.read,
    "sflow": sflow.read,
}
EVENTS = ("hubble", "sflow")
"""Formats whose records tell of single packets, not of a time."""
OWN = "ringfence"
"""The format of flows that Ringfence printed."""


class Reading(NamedTuple):
    """What a file held."""

    origin: str
    imported: Imported
    lines: int
    notes: tuple[str, ...]


def read_import(lines: Iterable[bytes], name: str, origin: str) -> Reading:
    """Flows of a file of the format `origin`; `name` is what errors call it. Raises Problem when it is none."""
    tally = Tally()
    fix = f"give a file of {origin}, or say what it is with --format"
    if origin == "zeek":
        rows = zeek_columns.read(lines, name, tally)
        _need_some(bool(len(rows)), tally, name, fix)
        imported = together(rows, [None], None, origin)
    else:
        records = READERS[origin](lines, name, tally)
        _need_some(bool(records), tally, name, fix)
        imported = flows(records, origin, decided=origin not in EVENTS)
    return Reading(origin, imported, tally.lines, tuple(tally.notes(name)))


def read_own(lines: Iterable[bytes], name: str) -> tuple[list[Flow], int, tuple[str, ...]]:
    """Flows that Ringfence printed, how many lines there were, and notes. Raises Problem when there are none."""
    tally = Tally()
    found = own.read(lines, name, tally)
    fix = "give what `ringfence flows ... -o json` or `-o jsonl` printed"
    _need_some(bool(found), tally, name, fix)
    return found, tally.lines, tuple(tally.notes(name))


def _need_some(some: bool, tally: Tally, name: str, fix: str) -> None:
    if not some and tally.broken:
        raise Problem("no line of it can be used", f"{name}: {tally.shown[0]}", fix)


def guess(head: bytes) -> str | None:
    """The format of a file by its beginning, unpacked; None for what is none of them (a capture, most likely)."""
    if head[:2] in (b"\0\5", b"\0\x09", b"\0\x0a"):
        return "ipfix"
    if head[:8] in (b"\0\0\0\5\0\0\0\1", b"\0\0\0\5\0\0\0\2"):
        return "sflow"
    text = head.lstrip()
    if text.startswith((b"#separator", b"### BTest", b"#fields", b"#set_separator", b"#path")):
        return "zeek"
    if text.startswith((b"{", b"[")):
        return _of_json(text)
    line = text.split(b"\n", 1)[0]
    if b"id.orig_h" in line.split():
        return "zeek"
    if vpc.begins(line):
        return "vpc"
    at = line.find(b"{")
    return _of_json(text[at:]) if 0 < at < _FRONT else None


_FRONT = 300
"""Octets that a forwarder's time and tag take at most."""


_SIGNS = {
    OWN: (b'"flow_id"',),
    "zeek": (b'"id.orig_h"',),
    "calico": (b'"source_name_aggr"', b'"dest_name_aggr"', b'"dest_name"', b'"dest_type"', b'"destName"'),
    "hubble": (b'"flow":', b'"verdict"', b'"lost_events"', b'"node_status"', b'"agent_event"'),
    "vpc": (
        b'"flowTuples"',
        b'"flowRecords"',
        b'"src_ip"',
        b'"dest_ip"',
        b'"logEvents"',
        b'"@message"',
        b'"events"',
    ),
    "netobserv": (b"SrcAddr", b"TimeFlowStartMs", b"resultType"),
}


def _of_json(text: bytes) -> str | None:
    """By names that no other format has, in its first line, or in its beginning where that is no whole value."""
    line = text.split(b"\n", 1)[0]
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        line = text
    line = line.replace(b'\\"', b'"')  # an object inside a text of a container's log
    return next((name for name, signs in _SIGNS.items() if any(sign in line for sign in signs)), None)
