"""One cluster's facts: histories of its objects, claims on its addresses, and the columns made of them.

Goal: what is answered depends on the set of facts, never on the order they came in, and a change costs what it
touches. Trade-off: Python values per object and per change (thousands a second), columns per look-up (millions).
Look-ups see a base index and a small overlay of the addresses touched since the base was built; the base is
built again when the overlay has grown to an eighth of it.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.claims import FOREVER, Claim, Packed, claims, holders, packed_or_none
from ringfence.inventory.history import Span, Statement, spans, value_at
from ringfence.inventory.index import ABSENT, NOBODY, Index, Ranges, build, lookup
from ringfence.inventory.ranges import KnownRange, Own
from ringfence.inventory.versions import Versions, endpoint_of, node_endpoint
from ringfence.model.objects import Node, Object, Pod

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]

OVERLAY = 4096
"""Addresses the overlay may hold whatever the size of the base."""

MIRROR = "kubernetes.io/config.hash"
"""A static pod's annotation with the UID its kubelet runs it under; the API's mirror has another UID."""


class Cluster:
    """The facts of one cluster. Not for several threads at once."""

    def __init__(self, name: str, versions: Versions) -> None:
        self.name = name
        self._versions = versions
        self._statements: dict[str, set[Statement]] = defaultdict(set)
        self._history: dict[str, tuple[Span, ...]] = {}
        self._claims: dict[str, list[Claim]] = {}
        self._rivals: dict[Packed, dict[str, list[Claim]]] = defaultdict(dict)
        self._reports: dict[str, list[tuple[int, int, frozenset[Packed]]]] = {}
        self._nodes: dict[str, set[str]] = defaultdict(set)
        self._borrowers: dict[str, set[str]] = defaultdict(set)
        self._alias: dict[str, str] = {}
        self._dirty_sources: set[str] = set()
        self._touched: set[tuple[str, str]] = set()
        self._dirty: set[Packed] = set()
        self._overlaid: dict[Packed, list[tuple[int, int]]] = {}
        self._timelines: dict[str, tuple[list[int], list[int]]] = {}
        self._own = Own()
        self._told: tuple[str, ...] = ()
        self._seen = False
        self._base: Index = build({})
        self._overlay: Index = build({})

    def state(self, kind: str, uid: str, statement: Statement) -> None:
        """Add one statement about one object."""
        source = f"{kind}/{uid}"
        known = self._statements[source]
        if statement not in known:
            known.add(statement)
            self._dirty_sources.add(source)
            self._touched.add((kind, uid))
            # From the statement, not from the history: a value that was never seen to last is in none.
            if statement.value is not None:
                self._own.see(statement.value)

    def glimpse(self, statements: Iterable[Statement]) -> None:
        """Take from statements what they show of the cluster's ranges, and nothing else."""
        for said in statements:
            self._seen = True
            if said.value is not None:
                self._own.see(said.value)

    def take_touched(self) -> set[tuple[str, str]]:
        """(kind, UID) of every object that something new was stated of since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def statements(self) -> Iterator[tuple[str, str, Collection[Statement]]]:
        """(kind, UID, everything said of it) of every object."""
        for source, said in self._statements.items():
            kind, _, uid = source.partition("/")
            yield kind, uid, said

    def reports(self) -> Iterator[tuple[str, int, int, frozenset[Packed]]]:
        """(node, first, last, addresses): from `first` to `last` its agent told of exactly these addresses."""
        for node, runs in self._reports.items():
            for first, last, held in runs:
                yield node, first, last, held

    def told_ranges(self) -> tuple[str, ...]:
        """Ranges that `tell_ranges` was given."""
        return self._told

    def known_ranges(self) -> tuple[KnownRange, ...]:
        """The cluster's own ranges, each with how it is known."""
        return self._own.known()

    def closest_range(self, address: Packed) -> tuple[int, bool]:
        """(prefix in mapped form of the own range that holds the address most closely, whether it is a guess)."""
        return self._own.closest(address)

    def report(self, node: str, addresses: Iterable[str], at: int) -> None:
        """An agent's word that at `at` its node had exactly these local addresses."""
        self.report_packed(node, frozenset(p for p in map(packed_or_none, addresses) if p is not None), at)

    def report_packed(self, node: str, held: frozenset[Packed], at: int) -> None:
        """As `report`, with addresses in halves."""
        runs = self._reports.setdefault(node, [])
        position = bisect_right(runs, at, key=lambda run: run[0]) - 1
        if position >= 0 and runs[position][2] == held:
            first, last, _ = runs[position]
            runs[position] = (first, max(last, at), held)
            return
        insort(runs, (at, at, held), key=lambda run: run[0])
        self._dirty_sources.add(f"Agent/{node}")

    def tell_ranges(self, cidrs: Iterable[str]) -> None:
        """Ranges of this cluster that its objects do not show."""
        told = tuple(cidrs)
        self._told += told
        self._own.tell(told)

    def history(self, source: str, known: int | None = None) -> tuple[Span, ...]:
        """What one object (`Kind/uid`) was when, by everything learnt, or by what was learnt until `known`."""
        if known is not None:
            return spans(said for said in self._statements.get(source, ()) if said.known <= known)
        self.settle()
        return self._history.get(source, ())

    def histories(self, kind: str) -> dict[str, tuple[Span, ...]]:
        """Every object of a kind over all time, by source."""
        self.settle()
        return {name: told for name, told in self._history.items() if name.startswith(f"{kind}/")}

    def current(self, kind: str, uid: str) -> Object | None:
        """What an object is after everything that was said of it; None when it is gone or unknown."""
        history = self.history(f"{kind}/{uid}")
        return history[-1].value if history else None

    def segments(self, address: Packed) -> list[tuple[int, int]]:
        """(start, version) of one address over all time."""
        self.settle()
        return self._segments(address)

    def objects(self, at: int, kind: str | None = None, known: int | None = None) -> Iterator[Object]:
        """Every object there was at `at`, of one kind or of all, as it was known at `known` (all that is, by default)."""
        self.settle()
        for source in list(self._history):
            if kind is None or source.startswith(f"{kind}/"):
                value = value_at(self.history(source, known), at)
                if value is not None:
                    yield value

    def ever(self, kind: str, since: int, until: int) -> Iterator[Span]:
        """Every value every object of a kind had at some time in [since, until]."""
        self.settle()
        for source, history in self._history.items():
            if not source.startswith(f"{kind}/"):
                continue
            for position, span in enumerate(history):
                following = history[position + 1].start if position + 1 < len(history) else FOREVER
                if span.value is not None and span.start <= until and following > since:
                    yield span

    def ranges(self) -> Ranges:
        """The cluster's own address ranges, from everything ever known of it."""
        self.settle()
        return self._own.ranges()

    def knows_anything(self) -> bool:
        """Whether any fact of this cluster is known; without one nothing can be called external."""
        return bool(self._statements or self._reports or self._seen or self._own.ranges().first)

    def local_addresses(self, at: int) -> dict[str, frozenset[Packed]]:
        """Every local address of every node at `at`, as its agent or the API told."""
        held: dict[str, frozenset[Packed]] = {}
        for value in self.objects(at, "Node"):
            packed = (packed_or_none(text) for text in getattr(value, "addresses", ()))
            held[value.name] = frozenset(p for p in packed if p is not None)
        for node, runs in self._reports.items():
            position = max(bisect_right(runs, at, key=lambda run: run[0]) - 1, 0)
            held[node] = held.get(node, frozenset()) | runs[position][2]
        return held

    def resolve(self, hi: U64, lo: U64, at: I64) -> I32:
        """The version of each address at each time; NOBODY or ABSENT where none is known to have held it."""
        self.settle()
        answer = lookup(self._overlay, hi, lo, at)
        rest = answer == ABSENT
        answer[rest] = lookup(self._base, hi[rest], lo[rest], at[rest])
        return answer

    def of_uid(self, uid: str, at: I64) -> I32:
        """The version of the pod with this UID at each time; its nearest one outside its known life."""
        self.settle()
        source = f"Pod/{uid}"
        starts, numbers = self._timeline(source if source in self._history else self._alias.get(uid, source))
        if not starts:
            return np.full(len(at), NOBODY, np.int32)
        position = np.searchsorted(np.array(starts, np.int64), at, side="right") - 1
        return np.array(numbers, np.int32)[np.maximum(position, 0)]

    def settle(self) -> None:
        """Bring histories, claims and the overlay up to date with what was stated."""
        if self._dirty_sources:
            # Nodes first: the names of agents' and host-network pods' addresses are borrowed from them.
            for source in sorted(self._dirty_sources, key=lambda name: (not name.startswith("Node/"), name)):
                self._reclaim(source)
            self._dirty_sources.clear()
        if self._dirty:
            self._index()

    def _reclaim(self, source: str) -> None:
        """Histories and claims of one source, again."""
        self._timelines.pop(source, None)
        if source.startswith("Agent/"):
            made = self._agent_claims(source)
        else:
            self._history[source] = history = spans(self._statements[source])
            made = claims(source, history)
            self._remember(source, history)
        for claim in self._claims.get(source, ()):
            self._rivals[claim.address].pop(source, None)
            self._dirty.add(claim.address)
        for claim in made:
            self._rivals[claim.address].setdefault(source, []).append(claim)
            self._dirty.add(claim.address)
        self._claims[source] = made

    def _remember(self, source: str, history: tuple[Span, ...]) -> None:
        """What other facts need of this one: static pods' other UID, who is named by which node."""
        for span in history:
            match span.value:
                case Pod(annotations=annotations, uid=uid) if annotations:
                    twin = dict(annotations).get(MIRROR)
                    if twin and twin != uid:
                        self._alias[twin] = source
                case Node(name=name):
                    self._nodes[name].add(source)
                    for borrower in self._borrowers[name]:
                        self._timelines.pop(borrower, None)
                        self._dirty.update(claim.address for claim in self._claims.get(borrower, ()))
                case _:
                    pass
        host = _host_of(history)
        if host:
            self._borrowers[host].add(source)

    def _agent_claims(self, source: str) -> list[Claim]:
        """Claims of a node's local addresses; before the first report they are possible, not certain."""
        node = source.removeprefix("Agent/")
        self._borrowers[node].add(source)
        runs = self._reports[node]
        made: list[Claim] = []
        since: dict[Packed, tuple[int, int]] = {}
        for number, (first, _, held) in enumerate(runs):
            ended = [address for address in since if address not in held]
            made += [Claim(address, source, *since.pop(address), first) for address in ended]
            for address in sorted(held - since.keys()):
                since[address] = (0 if number == 0 else first, first)
        return made + [Claim(address, source, *times, FOREVER) for address, times in since.items()]

    def _timeline(self, source: str) -> tuple[list[int], list[int]]:
        """(starts, versions) of a source; gaps are not in it."""
        cached = self._timelines.get(source)
        if cached is None:
            cached = self._timelines[source] = self._make_timeline(source)
        return cached

    def _make_timeline(self, source: str) -> tuple[list[int], list[int]]:
        if source.startswith("Agent/"):
            return self._node_timeline(source.removeprefix("Agent/"))
        history = self._history.get(source, ())
        host = _host_of(history)
        return self._node_timeline(host) if host else self._numbered(history)

    def _node_timeline(self, node: str) -> tuple[list[int], list[int]]:
        """What a node was when, over every Node object that ever had its name."""
        spans_of_it = [span for source in sorted(self._nodes.get(node, ())) for span in self._history[source]]
        starts, numbers = self._numbered(sorted(spans_of_it, key=lambda span: span.start))
        if not starts:
            return [0], [self._versions.number(node_endpoint(self.name, node))]
        return starts, numbers

    def _numbered(self, history: Iterable[Span]) -> tuple[list[int], list[int]]:
        pairs = [(span.start, span.value) for span in history if span.value is not None]
        number = self._versions.number
        return [start for start, _ in pairs], [number(endpoint_of(self.name, value)) for _, value in pairs]

    def _index(self) -> None:
        """The overlay again, and now and then the base."""
        self._overlaid.update((address, self._segments(address)) for address in self._dirty)
        self._dirty.clear()
        if len(self._overlaid) > max(OVERLAY, len(self._rivals) // 8):
            fresh = self._overlaid
            self._base = build({a: fresh[a] if a in fresh else self._segments(a) for a in self._rivals})
            self._overlaid = {}
        self._overlay = build(self._overlaid)

    def _segments(self, address: Packed) -> list[tuple[int, int]]:
        """(start, version) of one address: its holders, each cut where what it was changed."""
        rivals = [claim for made in self._rivals.get(address, {}).values() for claim in made]
        held = holders(rivals)
        segments: list[tuple[int, int]] = []
        for position, (start, source) in enumerate(held):
            until = held[position + 1].start if position + 1 < len(held) else FOREVER
            segments += _cut(start, until, self._timeline(source) if source else ([], []))
        return segments or [(0, NOBODY)]


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
