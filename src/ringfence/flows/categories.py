"""The category of each flow's connection: what kind of parties talked, and by which way.

A category belongs to the whole connection, so every leg of it carries the same one. Names read
`consumer-to-provider[-via-what-was-asked-for]`; `probe` is a node's call to a port its kubelet probes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.link import Legs
from ringfence.model.columns import FLAG_ICMP_CONTROL, Leg, Table
from ringfence.model.endpoints import Endpoint
from ringfence.model.protocols import ICMPV6

I32 = NDArray[np.int32]

LINK_CONTROL = "link-control"
"""Category of ICMPv6's own housekeeping; discovery leaves it out."""
PARTY = {
    "pod": "pod",
    "node": "node",
    "external": "external",
    "service": "service",
    "unresolved": "unresolved",
}
VIA = {"service": "-via-service", "node": "-via-nodeport"}


def categories(
    flows: Table,
    legs: Legs,
    consumer_version: I32,
    provider_version: I32,
    endpoints: Sequence[Endpoint],
    probe: NDArray[np.bool_],
) -> list[str]:
    """One category per row. `probe` marks rows whose provider port is a probe its pod declares."""
    opener, asked, server = (
        consumer_version[legs.opener],
        provider_version[legs.opener],
        provider_version[legs.server],
    )
    # Anywhere on its way: a node may first hide the client (source NAT) and the next one choose the backend.
    chosen = np.zeros(len(flows), np.bool_)
    chosen[legs.opener[legs.leg == Leg.PRE_DNAT]] = True
    translated = chosen[legs.opener]
    probed = probe[legs.server] & (legs.opener == legs.server)
    keys = np.c_[opener, asked, server, translated, probed]
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    names = [
        _category(endpoints[a], endpoints[b], endpoints[c], bool(translated), bool(probed))
        for a, b, c, translated, probed in distinct.tolist()
    ]
    of_row = np.array(names, dtype=object)[inverse.ravel()]
    of_row[is_link_control(flows)] = LINK_CONTROL
    return list(of_row)


def is_link_control(flows: Table) -> NDArray[np.bool_]:
    """Rows that only keep a link going (neighbour discovery, multicast listeners): no policy speaks of them."""
    seen = flows["consumer_flags"] | flows["provider_flags"]
    return np.asarray((flows["protocol"] == ICMPV6) & (seen == FLAG_ICMP_CONTROL), np.bool_)


def _category(
    consumer: Endpoint, wanted: Endpoint, provider: Endpoint, translated: bool, probed: bool
) -> str:
    if probed and consumer.kind == "node" and provider.kind == "pod":
        return "probe"
    via = VIA.get(wanted.kind, "-via-loadbalancer") if translated else ""
    if via == "-via-service" and consumer.kind == "pod" and consumer.uid == provider.uid:
        return "pod-to-own-service"
    return f"{PARTY[consumer.kind]}-to-{PARTY[provider.kind]}{via}"


def placements(
    flows: Table, legs: Legs, consumer_version: I32, provider_version: I32, endpoints: Sequence[Endpoint]
) -> list[str | None]:
    """`same-node` or `other-node` per row, for its whole connection; None when an end has no known node."""
    nodes = [endpoint.node for endpoint in endpoints]
    pairs = zip(consumer_version[legs.opener].tolist(), provider_version[legs.server].tolist(), strict=True)
    return [_placement(nodes[a], nodes[b]) for a, b in pairs]


def _placement(consumer: str | None, provider: str | None) -> str | None:
    if consumer is None or provider is None:
        return None
    return "same-node" if consumer == provider else "other-node"
