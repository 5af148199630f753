"""Questions about flows: stored columns, linked, named by the inventory of their time, and only then made values.

Everything stays in columns until the rows that an answer shows are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.discovery.edges import edges
from ringfence.flows.categories import categories, placements
from ringfence.flows.folded import FoldedFlows, fold_ports
from ringfence.flows.handshakes import drops
from ringfence.flows.link import Legs, link
from ringfence.flows.present import end_of, hexadecimal, present, rfc3339, without_port
from ringfence.model.columns import WAY_NAMES, Leg, Table
from ringfence.model.edges import Edge
from ringfence.model.endpoints import Endpoint
from ringfence.model.flows import Flow, FlowEnd, Tap
from ringfence.server.book import Book, Resolved
from ringfence.store.hops import COUNTERS, Hop
from ringfence.store.queries import FlowsAnswer, Queries

I64 = NDArray[np.int64]
Eyes = Callable[[Sequence[Endpoint]], NDArray[np.bool_]] | None
"""Which endpoints who asks may see (`server.sight`); None is all."""
AROUND = 180_000_000_000
"""Nanoseconds around a flow in which the other legs of its connection lie, or begin to."""


class Linked(NamedTuple):
    """The flows of one cluster over a time, linked and named; everything is aligned with `flows`."""

    cluster: str
    flows: Table
    legs: Legs
    ends: Resolved
    categories: Sequence[str]
    placements: Sequence[str | None]
    stored: FlowsAnswer
    shown: NDArray[np.bool_] | None = None
    """Flows that who asks may see; None is all of them."""


class Connection(msgspec.Struct, frozen=True):
    """One conversation end to end: who opened it, who served it after every translation, and every leg."""

    connection_id: str
    category: str
    placement: str | None
    consumer: FlowEnd
    provider: FlowEnd
    service: str | None
    protocol: str
    port: int | None
    legs: tuple[Flow, ...]


class Filter(msgspec.Struct, frozen=True):
    """Which flows or connections to show; None is any. A connection is shown whole or not at all."""

    namespace: str | None = None
    workload: str | None = None
    category: str | None = None
    connection: int | None = None
    flow: int | None = None


class Answers:
    """The verbs behind the API. `clusters` of a time are those whose agents closed windows in it."""

    def __init__(self, queries: Queries, book: Book) -> None:
        self._queries, self._book = queries, book

    def linked(self, since: int, until: int, eyes: Eyes = None) -> Iterator[Linked]:
        """Every cluster's flows of [since, until); `shown` are those of connections that `eyes` see an end of."""
        clusters = self._queries.windows(since, until)["cluster"].unique().to_pylist()
        for cluster in sorted(clusters):
            part = self._linked(cluster, since, until)
            yield part if eyes is None else part._replace(shown=seen(part, eyes))

    def flows(self, since: int, until: int, wanted: Filter, limit: int, eyes: Eyes = None) -> list[Flow]:
        """Flows of matching connections, newest first, at most `limit`."""
        found: list[Flow] = []
        for part in self.linked(since, until, eyes):
            rows = np.flatnonzero(matching(part, wanted))
            rows = rows[np.argsort(-part.flows["first"][rows], kind="stable")][:limit]
            found += show(part, rows)
        return sorted(found, key=lambda flow: flow.start or "", reverse=True)[:limit]

    def conversations(
        self, since: int, until: int, wanted: Filter, limit: int, eyes: Eyes = None
    ) -> list[Flow]:
        """Legs of matching connections with the consumers' ports folded away, newest first, at most `limit`."""
        found: list[Flow] = []
        for part in self.linked(since, until, eyes):
            rows = np.flatnonzero(matching(part, wanted))
            legs = _within(part.legs, rows, len(part.flows))
            flows = part.flows[rows]
            flows["drop"] = drops(flows)
            made = fold_ports(flows, legs, part.ends.consumer[rows], part.ends.provider[rows])
            found += _show_folded(part, made, rows, limit)
        return sorted(found, key=lambda flow: flow.start or "", reverse=True)[:limit]

    def connections(
        self, since: int, until: int, wanted: Filter, limit: int, eyes: Eyes = None
    ) -> list[Connection]:
        """Matching connections with all their legs, newest first, at most `limit`."""
        found: list[Connection] = []
        for part in self.linked(since, until, eyes):
            openers = np.flatnonzero(
                matching(part, wanted) & (part.legs.opener == np.arange(len(part.flows)))
            )
            openers = openers[np.argsort(-part.flows["first"][openers], kind="stable")][:limit]
            found += _connections(part, openers)
        return sorted(found, key=lambda each: each.legs[0].start or "", reverse=True)[:limit]

    def whole(self, since: int, until: int, flow: int, eyes: Eyes = None) -> Connection | None:
        """The connection that a flow's or its own id names, with what each tap counted of each leg.

        Only the time around it is linked, and again further while one of its legs goes on beyond. The id of a leg that
        no tap saw is in no row, so for it everything in [since, until) is linked.
        """
        known = {flow}
        while extent := self._queries.extent(since, until, sorted(known)):
            near = max(since, extent[0] - AROUND), min(until, extent[1] + AROUND)
            found = self._whole(*near, flow, eyes)
            if found is None:
                break
            legs = {int(leg.flow_id, 16) for leg in found.legs}
            if legs <= known:
                return found
            known |= legs
        return self._whole(since, until, flow, eyes)

    def _whole(self, since: int, until: int, flow: int, eyes: Eyes) -> Connection | None:
        for part in self.linked(since, until, eyes):
            rows = np.flatnonzero(matching(part, Filter(flow=flow)))
            if len(rows):
                (found,) = _connections(part, np.unique(part.legs.opener[rows])[:1])
                seen = rows[rows < len(part.stored.table)]
                hops = self._queries.hops(since, until, part.cluster, part.flows[seen], part.stored.sharing)
                return msgspec.structs.replace(found, legs=tuple(_with_hops(leg, hops) for leg in found.legs))
        return None

    def edges(
        self, since: int, until: int, wanted: Filter, cluster: str | None = None, eyes: Eyes = None
    ) -> list[Edge]:
        """Who talked to whom, on what."""
        found: list[Edge] = []
        for part in self.linked(since, until, eyes):
            if cluster in (None, part.cluster):
                rows = np.arange(len(part.flows)) if part.shown is None else np.flatnonzero(part.shown)
                made = edges(
                    part.flows[rows],
                    _within(part.legs, rows, len(part.flows)),
                    part.ends.consumer[rows],
                    part.ends.provider[rows],
                    part.ends.endpoints,
                    [part.categories[row] for row in rows.tolist()],
                )
                found += [edge for edge in made if _touches(edge, wanted)]
        return found

    def _linked(self, cluster: str, since: int, until: int) -> Linked:
        stored = self._queries.flows(since, until, cluster)
        began = np.minimum(stored.began, stored.table["first"])
        translations = self._queries.translations(since, until, cluster)
        translations = translations[self._book.believable(cluster, translations)]
        # A conversation that began before the asked time is alive from then on, for what ties it.
        table = stored.table.copy()
        table["first"] = began
        flows, legs = link(table, translations)
        flows["first"][: len(table)] = stored.table["first"]
        # A leg nobody saw is timed by the one that was.
        flows["first"][len(table) :] = flows["first"][legs.server[len(table) :]]
        flows["first"] = np.maximum(flows["first"], np.minimum(since, flows["last"]))
        ends = self._book.resolve(cluster, flows, stored.pods)
        probes = self._book.probes(cluster, flows, ends)
        ends = self._asked_by_node_port(cluster, since, until, flows, legs, ends)
        names = categories(flows, legs, ends.consumer, ends.provider, ends.endpoints, probes)
        places = placements(flows, legs, ends.consumer, ends.provider, ends.endpoints)
        return Linked(cluster, flows, legs, ends, names, places, stored)

    def _asked_by_node_port(
        self, cluster: str, since: int, until: int, flows: Table, legs: Legs, ends: Resolved
    ) -> Resolved:
        """The ends, with the service named on the nodes that were asked at one of its NodePorts."""
        is_node = np.array([endpoint.kind == "node" for endpoint in ends.endpoints], np.bool_)
        # The opener's leg names the asked node too where its own node hid the client before the asked one translated.
        asked = legs.leg == Leg.PRE_DNAT
        asked[legs.opener[asked]] = True
        rows = np.flatnonzero(asked & is_node[ends.provider])
        services = self._book.asked(cluster, since, until, flows[rows], ends.provider[rows])
        endpoints, provider = list(ends.endpoints), ends.provider.copy()
        number: dict[tuple[int, str], int] = {}
        for row, service in zip(rows.tolist(), services, strict=True):
            if service is not None:
                key = (int(provider[row]), service)
                if key not in number:
                    number[key] = len(endpoints)
                    endpoints.append(msgspec.structs.replace(endpoints[key[0]], service=service))
                provider[row] = number[key]
        return ends._replace(provider=provider, endpoints=endpoints)


def matching(part: Linked, wanted: Filter) -> NDArray[np.bool_]:
    """Rows whose connection matches, of those that are shown."""
    rows = np.ones(len(part.flows), np.bool_) if part.shown is None else part.shown.copy()
    if wanted.connection is not None:
        rows &= part.legs.connection == np.uint64(wanted.connection)
    if wanted.flow is not None:
        hit = part.flows["flow_id"] == np.uint64(wanted.flow)
        rows &= np.isin(part.legs.opener, part.legs.opener[hit]) | (
            part.legs.connection == np.uint64(wanted.flow)
        )
    if wanted.category is not None:
        rows &= np.array([name == wanted.category for name in part.categories], np.bool_)
    for field in ("namespace", "workload"):
        value = getattr(wanted, field)
        if value is not None:
            has = np.array([getattr(end, field) == value for end in part.ends.endpoints], np.bool_)
            hit = has[part.ends.consumer] | has[part.ends.provider]
            rows &= np.isin(part.legs.opener, part.legs.opener[hit])
    return rows


def seen(part: Linked, eyes: Callable[[Sequence[Endpoint]], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Rows of connections of which any end of any leg is seen: a connection is shown whole or not at all."""
    consumer, provider = part.ends.consumer, part.ends.provider
    used = np.unique(np.concatenate((consumer, provider)))
    known = np.zeros(len(part.ends.endpoints), np.bool_)
    known[used] = eyes([part.ends.endpoints[number] for number in used.tolist()])
    return np.isin(part.legs.opener, part.legs.opener[known[consumer] | known[provider]])


def show(part: Linked, rows: I64) -> list[Flow]:
    """The flows of some rows as values."""
    return _values(part, rows, part.flows[rows], Legs._make(column[rows] for column in part.legs))


def _values(part: Linked, rows: I64, flows: Table, legs: Legs) -> list[Flow]:
    """`flows` and their `legs` as values; ends, categories and taps are those of `rows` of `part`."""
    consumers, providers = _endpoints(part, rows)
    taps = [part.stored.taps(row) if row < len(part.stored.table) else () for row in rows.tolist()]
    facts = [part.stored.facts(flow) for flow in flows]
    names = [part.categories[row] for row in rows.tolist()]
    shown = list(present(flows, legs, consumers, providers, names, taps, facts))
    for place, end in _opened_by(part, rows):
        shown[place] = msgspec.structs.replace(shown[place], opened_by=end)
    return shown


def _opened_by(part: Linked, rows: I64) -> Iterator[tuple[int, FlowEnd]]:
    """(place in `rows`, real consumer) of the legs whose own consumer source translation put in its place."""
    openers = part.legs.opener[rows]
    differs = np.zeros(len(rows), np.bool_)
    for name in ("consumer_hi", "consumer_lo", "consumer_port"):
        differs |= part.flows[name][rows] != part.flows[name][openers]
    for place in np.flatnonzero(differs & (part.legs.leg[rows] != Leg.OUTER)).tolist():
        opener = int(openers[place])
        row = {name: part.flows[name][opener].item() for name in part.flows.dtype.names or ()}
        yield place, end_of(row, "consumer", part.ends.endpoints[part.ends.consumer[opener]])


def _within(legs: Legs, rows: I64, count: int) -> Legs:
    """The legs of `rows`, of whole connections, with openers and servers as indexes into them."""
    place = np.zeros(count, np.int64)
    place[rows] = np.arange(len(rows))
    part = Legs._make(column[rows] for column in legs)
    return part._replace(opener=place[part.opener], server=place[part.server])


def _show_folded(part: Linked, made: FoldedFlows, rows: I64, limit: int) -> list[Flow]:
    """The newest conversations as values; `rows` are those of `part` that were folded."""
    newest = np.argsort(-made.flows["first"], kind="stable")[:limit]
    legs = Legs._make(column[newest] for column in made.legs)
    shown = _values(part, rows[made.row[newest]], made.flows[newest], legs)
    return list(map(without_port, shown, made.connections[newest].tolist()))


def _endpoints(part: Linked, rows: I64) -> tuple[list[Endpoint], list[Endpoint]]:
    """Consumer and provider of each row; a provider behind a service says which."""
    known = part.ends.endpoints
    consumers = [known[version] for version in part.ends.consumer[rows].tolist()]
    providers = []
    for row in rows.tolist():
        provider = known[part.ends.provider[row]]
        service = service_of(part, int(part.legs.opener[row]))
        if service is not None and provider.service is None:
            provider = msgspec.structs.replace(provider, service=service)
        providers.append(provider)
    return consumers, providers


def service_of(part: Linked, opener: int) -> str | None:
    """`namespace/name` of the service that a connection asked for, by ClusterIP or NodePort."""
    asked: Endpoint = part.ends.endpoints[part.ends.provider[opener]]
    return asked.service


def _connections(part: Linked, openers: I64) -> list[Connection]:
    members: dict[int, list[int]] = {opener: [] for opener in openers.tolist()}
    for row in np.flatnonzero(np.isin(part.legs.opener, openers)).tolist():
        members[int(part.legs.opener[row])].append(row)
    found = []
    for opener, rows in members.items():
        rows.sort(key=lambda row: (row != opener, part.legs.leg[row], row))
        legs = tuple(show(part, np.array(rows)))
        server = legs[rows.index(int(part.legs.server[opener]))]
        found.append(
            Connection(
                hexadecimal(int(part.legs.connection[opener])),
                part.categories[opener],
                part.placements[opener],
                legs[0].consumer,
                server.provider,
                service_of(part, opener),
                legs[0].protocol,
                server.provider.port,
                legs,
            )
        )
    return found


def _with_hops(leg: Flow, hops: dict[int, tuple[Hop, ...]]) -> Flow:
    """The leg with its taps in their order, each with what it counted."""
    found = hops.get(int(leg.flow_id, 16))
    return leg if found is None else msgspec.structs.replace(leg, taps=tuple(map(tap_of, found)))


def tap_of(hop: Hop) -> Tap:
    """One hop as the contract has it."""
    counters = dict(zip(COUNTERS, hop.counters or (None,) * len(COUNTERS), strict=True))
    times = {"start": rfc3339(hop.first), "end": rfc3339(hop.last)}
    way = WAY_NAMES[hop.way]
    return Tap(hop.node, hop.interface, hop.at, int(hop.role), way=way, **times, **counters)  # type: ignore[arg-type]


def _touches(edge: Edge, wanted: Filter) -> bool:
    parties = (edge.consumer, edge.provider)
    return (
        (wanted.namespace is None or any(party.namespace == wanted.namespace for party in parties))
        and (wanted.workload is None or any(party.workload == wanted.workload for party in parties))
        and wanted.category in (None, edge.category)
    )
