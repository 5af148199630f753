"""One cluster's facts: histories of its objects, claims on its addresses, and the columns made of them.

Goal: what is answered depends on the set of facts, never on the order they came in, and a change costs what it
touches. Trade-off: Python values per object and per change (thousands a second), columns per look-up (millions).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, starmap

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.claims import FOREVER, Claim, Packed, claims, holders, packed_or_none
from ringfence.inventory.history import (
    History,
    Span,
    Statement,
    addresses_of,
    continued,
    history_of,
    kept,
    same_addresses,
    spans,
    value_at,
)
from ringfence.inventory.index import NOBODY, Ranges
from ringfence.inventory.levels import Levels
from ringfence.inventory.ranges import KnownRange, Own
from ringfence.inventory.records import Record, Records
from ringfence.inventory.reports import Reports, Run
from ringfence.inventory.versions import Versions, endpoint_of, node_endpoint, same_endpoint
from ringfence.model.objects import Node, Object, Pod, Service

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]

MIRROR = "kubernetes.io/config.hash"
"""A static pod's annotation with the UID its kubelet runs it under; the API's mirror has another UID."""

AGENT = "Agent/"
"""Begins the source of claims that rest on an agent's word."""


class Cluster:
    """The facts of one cluster. Not for several threads at once."""

    def __init__(self, name: str, versions: Versions) -> None:
        self.name = name
        self.horizon = 0
        """Nothing is known any more of what was before this time (UTC ns)."""
        self._versions = versions
        self._records = Records()
        self._reports = Reports()
        self._agent_claims: dict[str, tuple[Claim, ...]] = {}
        self._rivals: dict[Packed, tuple[Claim, ...]] = {}
        self._nodes: dict[str, set[str]] = defaultdict(set)
        self._borrowers: dict[str, set[str]] = defaultdict(set)
        self._alias: dict[str, str] = {}
        self._stale: dict[str, Record] = {}
        self._stale_agents: set[str] = set()
        self._touched: set[tuple[str, str]] = set()
        self._dirty: set[Packed] = set()
        self._own = Own()
        self._told: tuple[str, ...] = ()
        self._seen = False
        self._levels = Levels()

    def state(self, kind: str, uid: str, statement: Statement) -> None:
        """Add one statement about one object."""
        record = self._records.make(kind, uid)
        if statement not in record.statements:
            before = record.statements[-1].value if record.statements else None
            record.statements += (statement,)
            self._stale[record.source] = record
            self._touched.add((kind, uid))
            # From the statement, not from the history: a value that was never seen to last is in none.
            value = statement.value
            if value is not None and not (isinstance(value, Pod) and _holds_on(before, value)):
                self._own.see(value)

    def glimpse(self, statements: Iterable[Statement]) -> None:
        """Take from statements what they show of the cluster's ranges, and nothing else."""
        for said in statements:
            self._seen = True
            if said.value is not None:
                self._own.see(said.value)

    def report(self, node: str, addresses: Iterable[str], at: int) -> None:
        """An agent's word that at `at` its node had exactly these local addresses."""
        self.report_packed(node, frozenset(p for p in map(packed_or_none, addresses) if p is not None), at)

    def report_packed(self, node: str, held: frozenset[Packed], at: int) -> None:
        """As `report`, with addresses in halves."""
        if self._reports.add(node, held, at):
            self._stale_agents.add(node)

    def tell_ranges(self, cidrs: Iterable[str]) -> None:
        """Ranges of this cluster that its objects do not show."""
        told = tuple(cidrs)
        self._told += told
        self._own.tell(told)

    def take_touched(self) -> set[tuple[str, str]]:
        """(kind, UID) of every object that something new was stated of since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def compact(self, before: int) -> int:
        """Forget what no question about a time from `before` on can see; how many statements that were.

        Ranges stay as they were shown. Questions about times before are answered with "could not tell".
        """
        dropped = 0
        for kind, uid, record in list(self._records):
            left = kept(record.statements, before)
            if len(left) < len(record.statements):
                dropped += len(record.statements) - len(left)
                record.statements = left
                record.follow(history_of(left))
                self._reclaim(record)
                if not left:
                    self._records.drop(kind, uid)
        self._stale_agents.update(self._reports.compact(before))
        self.horizon = max(self.horizon, before)
        self.settle()
        return dropped

    def statements(self) -> Iterator[tuple[str, str, tuple[Statement, ...]]]:
        """(kind, UID, everything said of it) of every object."""
        for kind, uid, record in self._records:
            yield kind, uid, record.statements

    def said(self, kind: str, uid: str) -> tuple[Statement, ...]:
        """Everything said of one object."""
        record = self._records.get(kind, uid)
        return record.statements if record is not None else ()

    def latest(self, kind: str, uid: str) -> Object | None:
        """What was said of an object last, whenever it may hold from."""
        said = self.said(kind, uid)
        return said[-1].value if said else None

    def reports(self) -> Iterator[tuple[str, Run]]:
        """Every run of equal reports of every node."""
        return iter(self._reports)

    def told_ranges(self) -> tuple[str, ...]:
        """Ranges that `tell_ranges` was given."""
        return self._told

    def ranges(self) -> Ranges:
        """The cluster's own address ranges, from everything ever known of it."""
        return self._own.ranges()

    def known_ranges(self) -> tuple[KnownRange, ...]:
        """The cluster's own ranges, each with how it is known."""
        return self._own.known()

    def closest_range(self, address: Packed) -> tuple[int, bool]:
        """(prefix in mapped form of the own range that holds the address most closely, whether it is a guess)."""
        return self._own.closest(address)

    def knows_anything(self) -> bool:
        """Whether any fact of this cluster is known; without one nothing can be called external."""
        return bool(self._records or self._reports or self._seen or self._own.ranges().first)

    def history(self, kind: str, uid: str, known: int | None = None) -> tuple[Span, ...]:
        """What one object was when, by everything learnt, or by what was learnt until `known`."""
        self.settle()
        record = self._records.get(kind, uid)
        return _history(record, known) if record else ()

    def histories(self, kind: str) -> dict[str, tuple[Span, ...]]:
        """Every object of a kind over all time, by source."""
        self.settle()
        return {record.source: record.history for record in self._records.of(kind)}

    def current(self, kind: str, uid: str) -> Object | None:
        """What an object is after everything that was said of it; None when it is gone or unknown."""
        history = self.history(kind, uid)
        return history[-1].value if history else None

    def objects(self, at: int, kind: str | None = None, known: int | None = None) -> Iterator[Object]:
        """Every object there was at `at`, of one kind or of all, as it was known at `known` (all that is, by default)."""
        self.settle()
        for record in self._records.of(kind):
            value = value_at(_history(record, known), at)
            if value is not None:
                yield value

    def ever(self, kind: str, since: int, until: int) -> Iterator[Span]:
        """Every value every object of a kind had at some time in [since, until]."""
        self.settle()
        for record in self._records.of(kind):
            history = record.history
            for position, span in enumerate(history):
                following = history[position + 1].start if position + 1 < len(history) else FOREVER
                if span.value is not None and span.start <= until and following > since:
                    yield span

    def local_addresses(self, at: int) -> dict[str, frozenset[Packed]]:
        """Every local address of every node at `at`, as its agent or the API told."""
        held: dict[str, frozenset[Packed]] = {}
        for value in self.objects(at, "Node"):
            packed = (packed_or_none(text) for text in getattr(value, "addresses", ()))
            held[value.name] = frozenset(p for p in packed if p is not None)
        for node, told in self._reports.held(at).items():
            held[node] = held.get(node, frozenset()) | told
        return held

    def segments(self, address: Packed) -> list[tuple[int, int]]:
        """(start, version) of one address over all time."""
        self.settle()
        return self._segments(address)

    def resolve(self, hi: U64, lo: U64, at: I64) -> I32:
        """The version of each address at each time; NOBODY or ABSENT where none is known to have held it."""
        self.settle()
        return self._levels.lookup(hi, lo, at)

    def of_uid(self, uid: str, at: I64) -> I32:
        """The version of the pod with this UID at each time; its nearest one outside its known life."""
        self.settle()
        known = self._records.get("Pod", uid) is not None
        starts, numbers = self._timeline(f"Pod/{uid}" if known else self._alias.get(uid, f"Pod/{uid}"))
        if not starts:
            return np.full(len(at), NOBODY, np.int32)
        position = np.searchsorted(np.array(starts, np.int64), at, side="right") - 1
        return np.array(numbers, np.int32)[np.maximum(position, 0)]

    def settle(self) -> None:
        """Bring histories, claims and look-ups up to date with what was stated."""
        if self._stale or self._stale_agents:
            stale, self._stale = self._stale, {}
            # Nodes first: the names of agents' and host-network pods' addresses are borrowed from them.
            nodes = [record for record in stale.values() if record.source.startswith("Node/")]
            for record in (*nodes, *stale.values()):
                if record.settled < len(record.statements):
                    self._settle(record)
            for node in sorted(self._stale_agents):
                self._reclaim_agent(node)
            self._stale_agents.clear()
        if self._dirty:
            dirty, self._dirty = self._dirty, set()
            self._levels.put({address: self._segments(address) for address in dirty})

    def _settle(self, record: Record) -> None:
        """Bring one object's history and claims up to date; its claims are looked at only where they may be others."""
        longer = continued(History(record.history, record.end), record.statements, record.settled)
        known = len(record.history)
        goes_on = longer.spans[:known] == record.history
        self._remember(record.source, longer.spans[known if goes_on else 0 :])
        before = record.history
        record.follow(longer)
        if not goes_on or not self._claims_as_before(record, max(len(before) - 1, 0)):
            self._reclaim(record)

    def _claims_as_before(self, record: Record, known: int) -> bool:
        """Whether spans from number `known` on leave a record's claims as they are. Then only its name may be another."""
        values = [span.value for span in record.history[known:]]
        if not values or isinstance(values[0], Node):
            return False
        if not record.claims and not any(map(addresses_of, values)):
            return True
        if not all(starmap(_holds_on, pairwise(values))):
            return False
        if not all(starmap(same_endpoint, pairwise(values))):
            self._dirty.update(claim.address for claim in record.claims)
        return bool(record.claims)

    def _reclaim(self, record: Record) -> None:
        """Claims of one object, again."""
        made = tuple(claims(record.source, record.history))
        self._contest(record.source, record.claims, made)
        record.claims = made

    def _reclaim_agent(self, node: str) -> None:
        self._borrowers[node].add(AGENT + node)
        made = tuple(self._reports.claims(node))
        self._contest(AGENT + node, self._agent_claims.get(node, ()), made)
        self._agent_claims[node] = made

    def _contest(self, source: str, before: tuple[Claim, ...], after: tuple[Claim, ...]) -> None:
        """Replace a source's claims on every address it ever claimed."""
        addresses = {claim.address for claim in before}
        for address in addresses:
            left = tuple(claim for claim in self._rivals.get(address, ()) if claim.source != source)
            if left:
                self._rivals[address] = left
            else:
                self._rivals.pop(address, None)
        for claim in after:
            self._rivals[claim.address] = (*self._rivals.get(claim.address, ()), claim)
            addresses.add(claim.address)
        self._dirty |= addresses

    def _remember(self, source: str, fresh: Sequence[Span]) -> None:
        """What other facts need of an object's new spans: static pods' other UID, who is named by which node."""
        for span in fresh:
            match span.value:
                case Pod(annotations=annotations, uid=uid) if annotations:
                    twin = next((value for key, value in annotations if key == MIRROR), None)
                    if twin and twin != uid:
                        self._alias[twin] = source
                case Node(name=name):
                    self._nodes[name].add(source)
                    for borrower in self._borrowers[name]:
                        self._dirty.update(claim.address for claim in self._claims_of(borrower))
                case _:
                    pass
        host = _host_of(fresh)
        if host:
            self._borrowers[host].add(source)

    def _claims_of(self, source: str) -> tuple[Claim, ...]:
        if source.startswith(AGENT):
            return self._agent_claims.get(source.removeprefix(AGENT), ())
        record = self._records.by_source(source)
        return record.claims if record else ()

    def _timeline(self, source: str) -> tuple[list[int], list[int]]:
        """(starts, versions) of a source; gaps are not in it."""
        if source.startswith(AGENT):
            return self._node_timeline(source.removeprefix(AGENT))
        record = self._records.by_source(source)
        history = record.history if record else ()
        host = _host_of(history)
        return self._node_timeline(host) if host else self._numbered(history)

    def _node_timeline(self, node: str) -> tuple[list[int], list[int]]:
        """What a node was when, over every Node object that ever had its name."""
        found = [self._records.by_source(source) for source in sorted(self._nodes.get(node, ()))]
        told = [span for record in found if record for span in record.history]
        starts, numbers = self._numbered(sorted(told, key=lambda span: span.start))
        if not starts:
            return [0], [self._versions.number(node_endpoint(self.name, node))]
        return starts, numbers

    def _numbered(self, history: Iterable[Span]) -> tuple[list[int], list[int]]:
        starts: list[int] = []
        numbers: list[int] = []
        before: Object | None = None
        for span in history:
            value = span.value
            if value is not None and (before is None or not same_endpoint(before, value)):
                starts.append(span.start)
                numbers.append(self._versions.number(endpoint_of(self.name, value)))
                before = value
        return starts, numbers

    def _segments(self, address: Packed) -> list[tuple[int, int]]:
        """(start, version) of one address: its holders, each cut where what it was changed."""
        held = holders(self._rivals.get(address, ()))
        segments: list[tuple[int, int]] = []
        for position, (start, source) in enumerate(held):
            until = held[position + 1].start if position + 1 < len(held) else FOREVER
            segments += _cut(start, until, self._timeline(source) if source else ([], []))
        return _thinned(segments) or [(0, NOBODY)]


def _holds_on(before: Object | None, after: Object | None) -> bool:
    """Whether who had `before` and now has `after` claims the same addresses, in the same manner."""
    if before is None or after is None or not same_addresses(before, after):
        return False
    if isinstance(before, Pod) and isinstance(after, Pod):
        return before.host_network == after.host_network
    return not isinstance(after, Service) or before == after


def _history(record: Record, known: int | None) -> tuple[Span, ...]:
    if known is None:
        return record.history
    return spans(said for said in record.statements if said.known <= known)


def _thinned(segments: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without those that say what the one before says: a pod's readiness, say, is no part of its endpoint."""
    return [
        row for position, row in enumerate(segments) if not position or row[1] != segments[position - 1][1]
    ]


def _cut(start: int, until: int, timeline: tuple[Sequence[int], Sequence[int]]) -> list[tuple[int, int]]:
    """The part of a timeline within [start, until); before its first entry the first one holds."""
    starts, numbers = timeline
    if not starts:
        return [(start, NOBODY)]
    first = max(bisect_right(starts, start) - 1, 0)
    cut = [(start, numbers[first])]
    for position in range(first + 1, len(starts)):
        if starts[position] >= until:
            break
        if starts[position] > start:
            cut.append((starts[position], numbers[position]))
    return cut


def _host_of(history: Sequence[Span]) -> str | None:
    """The node whose network a host-network pod shares; None for every other object."""
    for span in reversed(history):
        if isinstance(span.value, Pod) and span.value.host_network and span.value.node:
            return span.value.node
    return None
