"""Which addresses belong to a cluster even when nobody is known to have them.

An address inside is `unresolved` when its holder is not known, never `external`: so ranges are rather too wide
than too narrow.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ringfence.inventory.claims import Packed
from ringfence.inventory.index import Ranges, merged
from ringfence.model.addresses import MAPPED, pack
from ringfence.model.objects import Node, Object, Pod, Service

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

POD_BLOCK = {4: 24, 6: 64}
"""Prefix assumed around a pod's address where its node names no pod CIDR: the usual size of a node's block."""

SERVICE_WIDEST = {4: 12, 6: 108}
SERVICE_NARROWEST = {4: 16, 6: 112}
"""Bounds of the service range guessed around the known ClusterIPs (the API server refuses wider than these)."""


class KnownRange(NamedTuple):
    """One own range and what shows it: `told` or `node` (its pod CIDR), `pods` or `services` (guessed around them)."""

    network: str
    shown_by: str


TOLD, NODE, PODS, SERVICES = "told", "node", "pods", "services"

GUESSED = frozenset({PODS, SERVICES})


class Own:
    """What shows a cluster's own addresses, gathered object by object. It only ever grows."""

    def __init__(self) -> None:
        self._told: set[Network] = set()
        self._cidrs: set[Network] = set()
        self._pods: set[tuple[int, int]] = set()
        self._virtual: set[str] = set()
        self._ranges: Ranges | None = None

    def tell(self, cidrs: Iterable[str]) -> None:
        """Ranges that objects do not show."""
        self._grow(self._told, _cidrs(cidrs))

    def see(self, value: Object) -> None:
        """Gather from one object: nodes' pod CIDRs, blocks around pods, ClusterIPs."""
        match value:
            case Node():
                self._grow(self._cidrs, _cidrs(value.pod_cidrs))
            case Pod() if not value.host_network:
                self._grow(self._pods, _blocks(value.addresses))
            case Service():
                self._grow(self._virtual, value.cluster_ips)
            case _:
                pass

    def ranges(self) -> Ranges:
        """The cluster's own ranges so far."""
        if self._ranges is None:
            self._ranges = merged(_block(network) for network, _ in self._networks())
        return self._ranges

    def known(self) -> tuple[KnownRange, ...]:
        """Every own range with what shows it; one that is told is not guessed besides."""
        found: dict[Network, str] = {}
        for network, shown_by in self._networks():
            found.setdefault(network, shown_by)
        ordered = sorted(found, key=lambda one: (one.version, one))
        return tuple(KnownRange(str(network), found[network]) for network in ordered)

    def closest(self, address: Packed) -> tuple[int, bool]:
        """(prefix of the smallest own range around the address, in 128 bits, and whether it is a guess)."""
        best, guessed = -1, True
        for network, shown_by in self._networks():
            first, last = _block(network)
            if first <= address <= last:
                prefix = network.prefixlen + (96 if network.version == 4 else 0)
                if (prefix, shown_by not in GUESSED) > (best, not guessed):
                    best, guessed = prefix, shown_by in GUESSED
        return best, guessed

    def _networks(self) -> Iterator[tuple[Network, str]]:
        yield from ((network, TOLD) for network in self._told)
        yield from ((network, NODE) for network in self._cidrs)
        yield from ((network, PODS) for network in _around(self._pods))
        yield from ((network, SERVICES) for network in _service_ranges(self._virtual))

    def _grow(self, into: set[Any], more: Iterable[Any]) -> None:
        before = len(into)
        into.update(more)
        if len(into) > before:
            self._ranges = None


def _cidrs(texts: Iterable[str]) -> list[Network]:
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue  # `kube` reports what is wrong with an object; a range that is none widens nothing.
    return found


def _blocks(addresses: Iterable[str]) -> Iterable[tuple[int, int]]:
    """(family, block number) around each address."""
    for text in addresses:
        try:
            hi, lo = pack(text)
        except ValueError:
            continue
        is_v4 = hi == 0 and lo >> 32 == MAPPED >> 32
        yield (4, (lo & 0xFFFF_FFFF) >> 8) if is_v4 else (6, hi)


def _around(blocks: Iterable[tuple[int, int]]) -> list[Network]:
    return [
        ipaddress.IPv4Network((block << 8, POD_BLOCK[4]))
        if version == 4
        else ipaddress.IPv6Network((block << 64, POD_BLOCK[6]))
        for version, block in sorted(blocks)
    ]


def _service_ranges(texts: Iterable[str]) -> list[Network]:
    """One range per family: the smallest that holds every ClusterIP, within the usual bounds."""
    guessed: list[Network] = []
    addresses = [network[0] for network in _cidrs(texts)]
    for version in (4, 6):
        values = [int(a) for a in addresses if a.version == version]
        if not values:
            continue
        bits = 32 if version == 4 else 128
        common = bits - (min(values) ^ max(values)).bit_length()
        prefix = max(SERVICE_WIDEST[version], min(common, SERVICE_NARROWEST[version]))
        inside = (value >> (bits - prefix) << (bits - prefix) for value in set(values))
        build = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
        guessed += [build((value, prefix)) for value in sorted(set(inside))]
    return guessed


def _block(network: Network) -> tuple[Packed, Packed]:
    return pack(str(network[0])), pack(str(network[-1]))
