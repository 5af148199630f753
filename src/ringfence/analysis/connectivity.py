"""The list of who may open what to whom, and to whom else each workload is exposed.

The meaning of every line is that of netpol-analyzer's `list` (np-guard), so that answers compare line by line:
workloads, ranges of outside addresses (cut per direction where policies cut them), `{ingress-controller}`, and
stand-ins for pods that a selector names but no manifest holds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ringfence.analysis import conns as c
from ringfence.analysis.conns import Conns
from ringfence.analysis.intervals import Span, partition
from ringfence.analysis.paper import Paper, Service, Workload
from ringfence.analysis.policies import Peer, Policy
from ringfence.analysis.reach import CONTROLLER, RANGE, STANDIN, End, Engine, end_of
from ringfence.analysis.selectors import NAME_LABEL, Selector, named
from ringfence.model.policies import EGRESS, INGRESS

WHOLE = {4: (0, 2**32 - 1), 6: (0, 2**128 - 1)}
INGRESS_CONTROLLER = "{ingress-controller}"
ENTIRE_CLUSTER = "entire-cluster"


class Node(NamedTuple):
    """One end of a line. `title` is what people read; `span` is (IP version, first, last) of a range."""

    title: str
    namespace: str = ""
    name: str = ""
    kind: str = ""
    span: tuple[int, int, int] | None = None

    @property
    def inside(self) -> bool:
        """Whether it is a workload of the manifests."""
        return bool(self.kind)


class Line(NamedTuple):
    """`consumer` may open `conns` to `provider`."""

    consumer: Node
    provider: Node
    conns: Conns


class Exposure(NamedTuple):
    """One workload in one direction: whether any policy selects it, and lines towards the unknown."""

    workload: Node
    direction: str
    protected: bool
    towards: tuple[tuple[str, Conns], ...]


class Connectivity(NamedTuple):
    """The answer: lines sorted by consumer and provider, exposures where asked for, and what was passed over."""

    lines: tuple[Line, ...]
    nodes: tuple[Node, ...]
    exposures: tuple[Exposure, ...] = ()
    notes: tuple[str, ...] = ()


class Focus(NamedTuple):
    """What to show. Empty tuples and None do not restrict. Names are `name` or `namespace/name`."""

    workloads: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    direction: str | None = None

    def wants(self, consumer: Node, provider: Node) -> bool:
        """Whether a line is asked for."""
        if not self.workloads:
            return True
        sides = ((consumer, provider, EGRESS), (provider, consumer, INGRESS))
        return any(
            self.direction in (None, way) and _is(own, self.workloads) and self._peer(other)
            for own, other, way in sides
        )

    def _peer(self, node: Node) -> bool:
        return not self.peers or _is(node, self.peers)

    def shows(self, node: Node) -> bool:
        """Whether a workload is one of those in focus."""
        return not self.workloads or _is(node, self.workloads)


def _is(node: Node, names: Sequence[str]) -> bool:
    return node.name != "" and (node.name in names or f"{node.namespace}/{node.name}" in names)


def node_of(workload: Workload) -> Node:
    """A workload as an end of lines."""
    return Node(workload.title, workload.namespace, workload.name, workload.kind)


CONTROLLER_NODE = Node(INGRESS_CONTROLLER, "ingress-controller-ns", "ingress-controller")


def range_node(version: int, span: Span) -> Node:
    """A range of outside addresses as an end of lines."""
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return Node(f"{make(span[0])}-{make(span[1])}[External]", span=(version, *span))


def connectivity(
    paper: Paper, *, focus: Focus | None = None, exposure: bool = False, ipv6: bool = False
) -> Connectivity:
    """Every line of a cluster on paper. Pure; raises nothing, refusals are in `paper.problems`."""
    return _Listing(paper, focus or Focus(), exposure, ipv6).answer()


class _Listing:
    """One answer in the making: columns, engine, lines."""

    def __init__(self, paper: Paper, focus: Focus, exposure: bool, ipv6: bool) -> None:
        self.paper, self.focus, self.exposure = paper, focus, exposure
        versions = (4, 6) if ipv6 and _speaks_six(paper.policies) else (4,)
        sources = list(ranges(paper.policies, INGRESS, versions))
        targets = list(ranges(paper.policies, EGRESS, versions))
        self.columns: dict[End, int] = {}
        self.workloads = [(node_of(w), self._column(end_of(w, paper))) for w in paper.workloads]
        self.sources = [(node, self._column(end)) for node, end in sources]
        self.targets = [(node, self._column(end)) for node, end in targets]
        self.standins = stand_ins(paper) if exposure else []
        self.promised = [(title, self._column(end)) for title, end in self.standins]
        self.entire = self._column(End(STANDIN))
        self.controller = self._column(CONTROLLER)
        self.engine = Engine(paper.policies, list(self.columns))
        self._met: dict[tuple[int, int], Conns] = {}

    def _column(self, end: End) -> int:
        return self.columns.setdefault(end, len(self.columns))

    def answer(self) -> Connectivity:
        if not self.workloads:
            return Connectivity((), (), (), ("no workloads in these manifests",))
        entering, notes = self._entering()
        lines = sorted(
            [*self._lines(), *entering], key=lambda line: (line.consumer.title, line.provider.title)
        )
        nodes = tuple(node for node, _ in self.workloads if self.focus.shows(node))
        exposures = tuple(self._exposures()) if self.exposure else ()
        return Connectivity(tuple(lines), nodes, exposures, tuple(notes))

    def _lines(self) -> Iterator[Line]:
        for consumer, i in [*self.sources, *self.workloads]:
            providers = self.workloads if consumer.span else [*self.targets, *self.workloads]
            for provider, j in providers:
                if consumer.title != provider.title and self.focus.wants(consumer, provider):
                    allowed = self._allowed(i, j)
                    if allowed:
                        yield Line(consumer, provider, allowed)

    def _allowed(self, consumer: int, provider: int) -> Conns:
        key = (consumer, provider)
        if key not in self._met:
            self._met[key] = self.engine.allowed(consumer, provider)
        return self._met[key]

    def _entering(self) -> tuple[list[Line], list[str]]:
        lines: list[Line] = []
        notes: list[str] = []
        columns = dict(self.workloads)
        for node, (wanted, by) in entering(self.paper, notes).items():
            if not self.focus.wants(CONTROLLER_NODE, node):
                continue
            allowed = wanted.meet(self._allowed(self.controller, columns[node]))
            if allowed:
                lines.append(Line(CONTROLLER_NODE, node, allowed))
            else:
                notes.append(
                    f"{by} leads to {node.title}, which policies close to an unknown pod of the cluster"
                )
        return lines, notes

    def _exposures(self) -> Iterator[Exposure]:
        for node, column in self.workloads:
            if not self.focus.shows(node):
                continue
            for direction in (EGRESS, INGRESS):
                if self.focus.direction in (None, direction):
                    yield self._exposed(node, self.engine.ends[column], direction)

    def _exposed(self, node: Node, end: End, direction: str) -> Exposure:
        if not self.engine.selecting(end, direction):
            return Exposure(node, direction, False, ((ENTIRE_CLUSTER, c.EVERYTHING),))
        table = self.engine.table(end, direction)
        general = table.towards(self.entire)
        towards = [(ENTIRE_CLUSTER, general)] if general else []
        for title, column in self.promised:
            special = table.towards(column)
            if special != general:
                towards.append((title, special))
        return Exposure(node, direction, True, tuple(towards))


def _speaks_six(policies: Iterable[Policy]) -> bool:
    return any(peer.version == 6 for policy in policies for peer in _peers(policy))


def _peers(policy: Policy, direction: str | None = None) -> Iterator[Peer]:
    for way in (INGRESS, EGRESS):
        if direction in (None, way):
            for rule in policy.rules(way) or ():
                yield from rule.peers or ()


def ranges(policies: Sequence[Policy], direction: str, versions: Sequence[int]) -> Iterator[tuple[Node, End]]:
    """Outside addresses, cut wherever a policy of that direction cuts them."""
    for version in versions:
        sets = [p.addresses for policy in policies for p in _peers(policy, direction) if p.version == version]
        for first, last in partition(WHOLE[version], sets):
            end = End(RANGE, version=version, first=first, last=last)
            yield range_node(version, (first, last)), end


def stand_ins(paper: Paper) -> list[tuple[str, End]]:
    """Pods that rules promise: one for each pair of selectors, unless a real pod answers to plain labels."""
    found: dict[tuple[object, object], tuple[str, End]] = {}
    for policy in paper.policies:
        for peer in _peers(policy):
            if peer.version or peer.other or peer.same is not None:
                continue
            spaces = named(policy.namespace) if peer.spaces is None else peer.spaces
            if spaces.empty and peer.pods.empty:
                continue
            key = (spaces.canonical(), peer.pods.canonical())
            if key not in found and not _answered(paper, spaces, peer.pods):
                found[key] = (promise(spaces, peer.pods), End(STANDIN, spaces=spaces, pods=peer.pods))
    return list(found.values())


def _answered(paper: Paper, spaces: Selector, pods: Selector) -> bool:
    if spaces.needs or pods.needs or spaces.empty or pods.empty:
        return False
    return any(
        pods.selects(dict(w.labels)) and spaces.selects(paper.namespaces[w.namespace])
        for w in paper.workloads
    )


def promise(spaces: Selector, pods: Selector) -> str:
    """How a stand-in is written: `shop/[pod with {app=x}]`, `[namespace with {env=dev}]/[all pods]`."""
    if len(spaces.labels) == 1 and not spaces.needs and spaces.labels[0][0] == NAME_LABEL:
        where = spaces.labels[0][1]
    else:
        where = "[all namespaces]" if spaces.empty else f"[namespace with {{{spaces}}}]"
    return f"{where}/{'[all pods]' if pods.empty else f'[pod with {{{pods}}}]'}"


def entering(paper: Paper, notes: list[str]) -> dict[Node, tuple[Conns, str]]:
    """Workloads that an Ingress or a Route leads to, with the ports it opens and what led there."""
    services = {(s.namespace, s.name): s for s in paper.services}
    found: dict[Node, tuple[Conns, str]] = {}
    for entrance in paper.entrances:
        by = f"{entrance.kind} {entrance.namespace}/{entrance.name}"
        for name, port in entrance.backends:
            service = services.get((entrance.namespace, name))
            if service is None:
                notes.append(f"{by} names service {name}, which is not in these manifests")
                continue
            for workload in _behind(paper, service):
                node = node_of(workload)
                known = found.get(node, (c.NOTHING, by))
                found[node] = (known[0].union(_opened(service, port, workload)), known[1])
    return found


def _behind(paper: Paper, service: Service) -> Iterator[Workload]:
    for workload in paper.workloads:
        if workload.namespace == service.namespace and service.selects:
            labels = dict(workload.labels)
            if all(labels.get(key) == value for key, value in service.selects):
                yield workload


def _opened(service: Service, wanted: int | str | None, workload: Workload) -> Conns:
    """Declared TCP ports of a pod that the asked port of the service leads to; without one, all of its ports."""
    total = c.NOTHING
    for name, port, target in service.ports:
        if wanted is not None and wanted not in (name or None, port, target):
            continue
        aim = port if target is None else target
        for held in workload.ports:
            if held.protocol == "TCP" and aim in (held.port, held.name or None):
                total = total.union(c.ports("TCP", held.port, held.port))
        if wanted is not None:
            break
    return total
