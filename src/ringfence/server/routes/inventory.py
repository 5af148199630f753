"""The inventory in time: what there was, who had which address, and how the connectors follow their clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from ringfence.flows.present import rfc3339
from ringfence.inventory.claims import FOREVER
from ringfence.inventory.filters import Key, parse_any
from ringfence.inventory.grouped import BY, group
from ringfence.inventory.history import Span
from ringfence.inventory.inventory import EVERYWHERE
from ringfence.inventory.learnt import learnt
from ringfence.inventory.previews import unjudged
from ringfence.inventory.questions import Holding
from ringfence.model.objects import KINDS, NetworkPolicy, Object, Route, Workload
from ringfence.model.problems import Problem
from ringfence.server.access import at_root, somewhere
from ringfence.server.rights import READ, Rights
from ringfence.server.service import Service
from ringfence.server.sight import Eyes, View
from ringfence.server.times import SECOND

Kind = Annotated[str | None, QueryParameter(description=f"one of {', '.join(KINDS)}")]
At = Annotated[str | None, QueryParameter(description="RFC 3339 or how long ago; now by default")]
Known = Annotated[
    str | None, QueryParameter(description="as it was known then; by default everything learnt since counts")
]
Cluster = Annotated[str | None, QueryParameter(description="only this cluster")]
Namespace = Annotated[str | None, QueryParameter(description="only this namespace")]
FilterText = Annotated[str | None, QueryParameter(description="CEL or a Kubernetes label selector")]
Name = Annotated[str | None, QueryParameter(description="NAME, NAMESPACE/NAME or a UID")]
Address = Annotated[str | None, QueryParameter(description="an IPv4 or IPv6 address, in place of a name")]


Learnt = Callable[[Span], int | None]
Shown = Callable[[tuple[Span, ...]], list[bool]]


@get("/v1/inventory", opt=somewhere(READ), sync_to_thread=True)
def inventory(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    kind: Kind = None,
    at: At = None,
    known: Known = None,
    cluster: Cluster = None,
    namespace: Namespace = None,
    filter: FilterText = None,
) -> dict[str, Any]:
    """The clusters' objects as they were at a time, and as that was known at another; with a filter, the endpoints
    it holds. Lists of outside addresses belong to no cluster."""
    asked = _asked(service, rights, (at, known), cluster, filter)
    wanted = _kind(kind)
    found = [
        {"cluster": name, "kind": type(item).__name__, **_fields(item)}
        for name, item in asked.objects(wanted)
        if namespace is None or getattr(item, "namespace", None) == namespace
    ]
    learnt = rfc3339(asked.known) if asked.known else None
    return {"at": rfc3339(asked.at), "known": learnt, "endpoints": found, "errors": asked.errors}


@get("/v1/inventory/groups", opt=somewhere(READ), sync_to_thread=True)
def groups(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    by: Annotated[str, QueryParameter(description=f"one of {', '.join(BY)}")],
    at: At = None,
    known: Known = None,
    cluster: Cluster = None,
    namespace: Namespace = None,
    filter: FilterText = None,
) -> dict[str, Any]:
    """Pods by what they belong to; with a filter, only those it holds."""
    asked = _asked(service, rights, (at, known), cluster, filter)
    place = "name" if by == "namespace" else "namespace"
    # A service need not be held by the filter for its pods to be.
    every = asked._replace(only=None).objects(None)
    found = [one for one in group(every, by, asked.only) if namespace in (None, getattr(one, place))]
    return {"at": rfc3339(asked.at), "by": by, "groups": found, "errors": asked.errors}


@get("/v1/inventory/history", opt=somewhere(READ), sync_to_thread=True)
def history(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    name: Name = None,
    address: Address = None,
    kind: Kind = None,
    cluster: Cluster = None,
    since: Annotated[str | None, QueryParameter(description="from when; 24h ago by default")] = None,
    until: At = None,
    known: Known = None,
) -> dict[str, Any]:
    """What an object was from when to when, or who held an address."""
    if (name is None) == (address is None):
        raise Problem("name one thing", "name, address", "give either a name or an address")
    begin, end = service.span(since or "24h", until)
    upto = service.moment(known, "known") if known else None
    clusters = service.clusters(cluster, service.sight.view(rights))
    eyes = service.sight.eyes(rights)

    def told_by(one: str, noun: str, uid: str) -> Learnt:
        said = service.book.said(one, noun, uid)
        return lambda span: learnt(said, span, upto)

    def shown(one: str) -> Shown:
        return lambda told: service.sight.shown(rights, one, [span.value for span in told])

    if address is not None:
        return {
            "address": address,
            "holders": [
                {
                    "cluster": one,
                    "from": rfc3339(held.start),
                    "until": rfc3339(held.until),
                    **_fields(held.endpoint),
                }
                for one in clusters
                for held in _seen(service.book.holders(one, address, begin, end, upto), eyes)
            ],
        }
    everywhere = clusters if cluster is not None else (EVERYWHERE, *clusters)
    found = [
        {
            "cluster": one,
            "kind": noun,
            "uid": uid,
            "spans": _spans(told, begin, end, told_by(one, noun, uid), shown(one)),
        }
        for one in everywhere
        for noun, uid, told in service.book.histories(one, _kind(kind), name or "", upto)
    ]
    return {"name": name, "objects": [each for each in found if each["spans"]]}


@get("/v1/inventory/ranges", opt=at_root(READ), sync_to_thread=True)
def ranges(service: NamedDependency[Service], cluster: Cluster = None) -> dict[str, Any]:
    """The clusters' own address ranges and what shows each: nodes' pod CIDRs, or a guess around pods and services."""
    return {
        "ranges": [
            {"cluster": name, **each._asdict()}
            for name in service.clusters(cluster)
            for each in service.book.ranges(name)
        ]
    }


@get("/v1/connectors", opt=at_root(READ), sync_to_thread=True)
def connectors(service: NamedDependency[Service]) -> dict[str, Any]:
    """The last word of every cluster's connector, and when it was heard."""
    now = service.moment("now", "now")
    reports = sorted(service.connectors().items())
    return {
        "connectors": [
            {**report, "seen": rfc3339(seen), "silent": (now - seen) // SECOND}
            for _, (seen, report) in reports
        ]
    }


class Asked(NamedTuple):
    """What a question about the inventory names: times in UTC ns, clusters, and the endpoints a filter holds."""

    service: Service
    at: int
    known: int | None
    clusters: tuple[str, ...]
    only: frozenset[Key] | None
    errors: int = 0
    """Endpoints for which the filter is an error though their kind has the fields it reads."""

    view: View | None = None
    """What who asks may see; None is everything."""

    live: bool = False
    """Whether it is asked as of now: then what a filter holds is looked up, and the rest not looked at."""

    def objects(self, kind: str | None) -> Iterator[tuple[str, Object]]:
        """(cluster, object) of a kind, or of all; those of a filter where there is one."""
        for name, item in self._every(kind):
            if self.view is None or self.view.shows(name, item):
                yield name, item

    def _every(self, kind: str | None) -> Iterator[tuple[str, Object]]:
        if self.live and self.only is not None:
            keys = sorted(key for key in self.only if key[0] in self.clusters and kind in (None, key[1]))
            yield from self.service.book.currents(keys)
            return
        for name in self.clusters:
            for item in self.service.book.objects(name, self.at, kind, self.known):
                if self.only is None or (name, type(item).__name__, item.uid) in self.only:
                    yield name, item


def _asked(
    service: Service,
    rights: Rights,
    times: tuple[str | None, str | None],
    cluster: str | None,
    filter: str | None,
) -> Asked:
    at, known = times
    moment = service.moment(at or "now", "at")
    learnt = service.moment(known, "known") if known else None
    view = service.sight.view(rights, READ, moment if at else None, learnt)
    if cluster is None:
        clusters = (EVERYWHERE, *service.clusters(None, view))
    else:
        clusters = service.clusters(cluster, view)
    if filter is None:
        return Asked(service, moment, learnt, clusters, None, 0, view)
    read = parse_any(filter)
    with service.catalog.population(moment if at else None, learnt) as population:
        selection = population.select(read)
        only = frozenset(selection.keys())
        failed = [population.name(row) for row in unjudged(read, population, selection).tolist()]
    errors = sum(view is None or key in view.keys for key in failed)
    return Asked(service, moment, learnt, clusters, only, errors, view, at is None and known is None)


def _kind(kind: str | None) -> str | None:
    if kind is not None and kind not in KINDS:
        raise Problem(f"unknown kind `{kind[:40]}`", "kind", f"use one of {', '.join(KINDS)}")
    return kind


def _fields(value: Any) -> dict[str, Any]:
    """A value as JSON. `kind` is the noun's; what an object is in Kubernetes' own words stands beside it."""
    fields = msgspec.structs.asdict(value)
    if isinstance(value, Workload):
        fields["owner"] = fields.pop("kind")
    elif isinstance(value, NetworkPolicy | Route):
        fields["resource"] = fields.pop("kind")
    return fields


def _seen(held: tuple[Holding, ...], eyes: Eyes) -> list[Holding]:
    """The holders of an address that somebody sees."""
    if eyes is None or not held:
        return list(held)
    return [
        one for one, seen in zip(held, eyes([one.endpoint for one in held]).tolist(), strict=True) if seen
    ]


def _spans(told: tuple[Span, ...], begin: int, end: int, known: Learnt, shown: Shown) -> list[dict[str, Any]]:
    """The spans that touch [begin, end), each with when it became known and the names of the fields that changed.

    Those that are not shown are left out; that an object was gone is shown behind one that is.
    """
    rows: list[dict[str, Any]] = []
    seen = shown(told) if told else []
    for position, span in enumerate(told):
        if not (seen[position] or (span.value is None and position and seen[position - 1])):
            continue
        until = told[position + 1].start if position + 1 < len(told) else FOREVER
        if span.start < end and until > begin:
            before = told[position - 1].value if position and seen[position - 1] else None
            rows.append(
                {
                    "from": rfc3339(span.start),
                    "until": None if until == FOREVER else rfc3339(until),
                    "known": None if (when := known(span)) is None else rfc3339(when),
                    "value": None if span.value is None else _fields(span.value),
                    "changed": _changed(before, span.value),
                }
            )
    return rows


def _changed(before: Any, after: Any) -> list[str]:
    if before is None or after is None:
        return []
    return [name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)]
