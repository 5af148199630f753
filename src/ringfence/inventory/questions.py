"""Questions that are asked one at a time: who held an address from when to when, and what was known when.

Two times: *valid* time is when something was so in the cluster, *known* time is when Ringfence learnt it. A question
`known` at K is answered from the statements learnt by then alone, so that it says again what it said then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ringfence.inventory.claims import Packed, packed_or_none
from ringfence.inventory.history import Span, Statement, addresses_of
from ringfence.inventory.inventory import EVERYWHERE, Inventory
from ringfence.model.addresses import pack
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Object
from ringfence.model.problems import Problem


class Holding(NamedTuple):
    """From `start` to `until` (UTC ns) the address was `endpoint`; its kind says when nobody is known to have had it."""

    start: int
    until: int
    endpoint: Endpoint


def holders(
    inventory: Inventory, cluster: str, address: str, since: int, until: int, known: int | None = None
) -> tuple[Holding, ...]:
    """Who held `address` in [since, until), in time order and without gaps. Raises Problem for no address."""
    try:
        hi, lo = pack(address)
    except ValueError:
        raise Problem("not an address", address, "write an IPv4 or IPv6 address") from None
    asked = inventory if known is None else as_known(inventory, cluster, known, (hi, lo))
    turns = {*_turns(asked, cluster, (hi, lo)), inventory.horizon(cluster)}
    times = sorted({since, *(time for time in turns if since < time < until)})
    n = len(times)
    versions = asked.resolve(
        cluster, np.full(n, hi, np.uint64), np.full(n, lo, np.uint64), np.array(times, np.int64)
    )
    found: list[Holding] = []
    for time, version in zip(times, versions.tolist(), strict=True):
        endpoint = asked.endpoints[version]
        if found and found[-1].endpoint == endpoint:
            continue
        if found:
            found[-1] = found[-1]._replace(until=time)
        found.append(Holding(time, until, endpoint))
    return tuple(found)


def called(
    inventory: Inventory, cluster: str, kind: str | None, name: str, known: int | None = None
) -> list[tuple[str, str, tuple[Span, ...]]]:
    """(kind, UID, history) of every object that at some time was called `name`: NAME, NAMESPACE/NAME or its UID."""
    found = []
    for one, uid, _ in list(inventory.cluster(cluster).statements()):
        if kind in (None, one):
            history = inventory.history(cluster, one, uid, known)
            if any(name in _calls(span.value, uid) for span in history):
                found.append((one, uid, history))
    return sorted(found, key=lambda each: (each[2][0].start, each[0], each[1]))


def _calls(value: Object | None, uid: str) -> tuple[str, ...]:
    if value is None:
        return ()
    namespace = getattr(value, "namespace", None)
    return (uid, value.name, f"{namespace}/{value.name}") if namespace else (uid, value.name)


def as_known(inventory: Inventory, cluster: str, known: int, address: Packed | None = None) -> Inventory:
    """The inventory of one cluster as it was known at `known`; with `address`, only what bears on that address."""
    past = Inventory()
    for name in (EVERYWHERE, cluster):
        facts, copy = inventory.cluster(name), past.cluster(name)
        copy.tell_ranges(facts.told_ranges())
        for kind, uid, statements in facts.statements():
            earlier = [said for said in statements if said.known <= known]
            if address is None or _bears(kind, earlier, address):
                for said in earlier:
                    copy.state(kind, uid, said)
            elif earlier:
                copy.glimpse(earlier)
        for node, run in facts.reports():
            if run.first <= known:
                copy.report_packed(node, run.held, run.first)
                copy.report_packed(node, run.held, min(run.last, known))
    return past


def _bears(kind: str, statements: Iterable[Statement], address: Packed) -> bool:
    """Whether an object may name the address: nodes always, for whoever borrows their name."""
    if kind in ("Node", "External"):
        return True
    return any(address in _packed(said.value) for said in statements)


def _packed(value: Object | None) -> set[Packed]:
    packed = (packed_or_none(text) for text in addresses_of(value))
    return {each for each in packed if each is not None}


def _turns(inventory: Inventory, cluster: str, address: Packed) -> set[int]:
    """Times at which the address may have changed hands or names."""
    turns = {start for start, _ in inventory.cluster(cluster).segments(address)}
    for history in inventory.cluster(EVERYWHERE).histories("External").values():
        turns |= {span.start for span in history}
    return turns
