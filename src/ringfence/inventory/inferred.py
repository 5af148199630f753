"""Which of several services a datagram reached its pod by, where its socket asked for several (`flows.asked`).

The socket says what was asked, the taps whom the datagram reached; services say who could have become whom. A link is
inferred only where exactly one of the services that were asked leads to that pod and port at that time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.inventory import Inventory
from ringfence.inventory.services import backends
from ringfence.model.addresses import unpack
from ringfence.model.columns import Link, Table
from ringfence.model.objects import Service
from ringfence.model.protocols import PROTOCOL_NUMBERS

Tuple = tuple[int, ...]
AFTER = [f"post_{side}_{part}" for side in ("consumer", "provider") for part in ("hi", "lo", "port")]
ASKED = ["pre_provider_hi", "pre_provider_lo", "pre_provider_port"]


def believable(inventory: Inventory, cluster: str, translations: Table) -> NDArray[np.bool_]:
    """Which TRANSLATION rows to believe: all but those that only might be (Link.INFERRED) and are not, or not alone."""
    good = np.asarray(translations["link"] != Link.INFERRED, np.bool_)
    rows = np.flatnonzero(~good)
    if not len(rows):
        return good
    told = set(_tuples(translations[good], AFTER))
    pairs = list(zip(_tuples(translations[rows], AFTER), _tuples(translations[rows], ASKED), strict=True))
    leads: dict[Tuple, bool] = {}
    possible: dict[Tuple, set[Tuple]] = {}
    times = zip(translations["protocol"][rows].tolist(), translations["seen"][rows].tolist(), strict=True)
    for (after, asked), (protocol, seen) in zip(pairs, times, strict=True):
        key = (*asked, *after[3:], protocol)
        if key not in leads:
            leads[key] = _leads(inventory, cluster, key, seen)
        if leads[key]:
            possible.setdefault(after, set()).add(asked)
    good[rows] = [after not in told and possible.get(after) == {asked} for after, asked in pairs]
    return good


def _tuples(rows: Table, names: list[str]) -> Iterator[Tuple]:
    return zip(*(rows[name].tolist() for name in names), strict=True)


def _leads(inventory: Inventory, cluster: str, key: Tuple, at: int) -> bool:
    """Whether a service had the asked address and port at `at`, and led to the pod and port that were reached."""
    hi, lo, port, to_hi, to_lo, to_port, protocol = key
    asked, reached = unpack(hi, lo), unpack(to_hi, to_lo)
    for service in inventory.objects(cluster, at, "Service"):
        if isinstance(service, Service) and asked in _addresses(service):
            led = backends(inventory, cluster, f"{service.namespace}/{service.name}", at)
            for each, places in led.items():
                wanted = each.port == port and PROTOCOL_NUMBERS.get(each.protocol) == protocol
                if wanted and any((place.address, place.port) == (reached, to_port) for place in places):
                    return True
    return False


def _addresses(service: Service) -> tuple[str, ...]:
    return service.cluster_ips + service.external_ips + service.load_balancer_ips
