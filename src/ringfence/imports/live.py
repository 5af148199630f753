"""Datagrams as exporters send them, told apart by how they begin, into flows by windows of time. No I/O: whoever calls receives."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ringfence.imports import ipfix, sflow
from ringfence.imports.pair import flows
from ringfence.imports.read import EVENTS, Reading
from ringfence.imports.records import Broken, Record, Tally

MOST = 100_000
"""Records that are kept before a window ends early: what bounds memory."""


class Live:
    """What came since the last window, and what exporters said of themselves before."""

    def __init__(self) -> None:
        self.session = ipfix.Session()
        self.sampled: list[Record] = []
        self.tally = Tally()
        self.datagrams = 0

    def take(self, datagram: bytes, exporter: str) -> bool:
        """Read one datagram of `exporter` (its address); whether there is room for more. What is broken is counted."""
        self.datagrams += 1
        try:
            if datagram[:4] == b"\0\0\0\5":
                sflow.datagram(datagram, 0, self.sampled, self.tally)
            else:
                ipfix.message(datagram, 0, exporter, self.session, self.tally)
        except (Broken, struct.error) as error:
            self.tally.lines += 1
            self.tally.refuse(self.datagrams, f"{error}, from {exporter}")
        return len(self.session.found) + len(self.sampled) < MOST

    def window(self) -> Iterator[Reading]:
        """The flows of what came since the last window, which is forgotten here."""
        sampled, self.sampled = self.sampled, []
        for origin, records in (("ipfix", self.session.taken()), ("sflow", sampled)):
            if records:
                yield Reading(origin, flows(records, origin, origin not in EVENTS), len(records), ())

    def close(self, name: str) -> list[str]:
        """Notes about all of it, beginning with `name`."""
        self.session.close(self.tally)
        return self.tally.notes(name)
