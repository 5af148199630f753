"""What may be opened from one end to another: sets of (protocol, port), and port names nobody could resolve.

NetworkPolicy and the admin policies speak of TCP, UDP and SCTP; a rule without ports allows every port of all
three. A set of all of them is "all connections".
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.analysis.intervals import Intervals, of

PROTOCOLS = ("TCP", "UDP", "SCTP")
LOWEST, HIGHEST = 1, 65535
EVERY_PORT = Intervals(((LOWEST, HIGHEST),))
ALL, NONE = "All Connections", "No Connections"


class Conns(NamedTuple):
    """A set of connections by protocol. `names` holds (protocol, name) of ports named for pods nobody knows yet."""

    tcp: Intervals = Intervals()
    udp: Intervals = Intervals()
    sctp: Intervals = Intervals()
    names: frozenset[tuple[str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.tcp or self.udp or self.sctp or self.names)

    @property
    def ports(self) -> tuple[Intervals, ...]:
        """The ports of each of `PROTOCOLS`, in its order."""
        return self.tcp, self.udp, self.sctp

    def union(self, other: Conns) -> Conns:
        """What is in either."""
        parts = (a.union(b) for a, b in zip(self.ports, other.ports, strict=True))
        return _of(tuple(parts), self.names | other.names)

    def meet(self, other: Conns) -> Conns:
        """What is in both; a name is in every set that holds all ports of its protocol."""
        parts = (a.meet(b) for a, b in zip(self.ports, other.ports, strict=True))
        names = [name for name in self.names if name in other.names or other.whole(name[0])]
        names += [name for name in other.names if self.whole(name[0])]
        return _of(tuple(parts), frozenset(names))

    def minus(self, other: Conns) -> Conns:
        """What is here and not in `other`."""
        parts = (a.minus(b) for a, b in zip(self.ports, other.ports, strict=True))
        names = [name for name in self.names if name not in other.names and not other.whole(name[0])]
        return _of(tuple(parts), frozenset(names))

    def whole(self, protocol: str) -> bool:
        """Whether all ports of a protocol are in; without a protocol, of all three."""
        if not protocol:
            return self.is_all
        return self.ports[PROTOCOLS.index(protocol)] == EVERY_PORT

    @property
    def is_all(self) -> bool:
        """Whether everything is in."""
        return all(ports == EVERY_PORT for ports in self.ports)

    def holds(self, protocol: str, port: int) -> bool:
        """Whether one port of one protocol is in."""
        return protocol in PROTOCOLS and self.ports[PROTOCOLS.index(protocol)].has(port)

    def __str__(self) -> str:
        if self.is_all:
            return ALL
        texts = sorted(filter(None, (_text(self, protocol) for protocol in ("", *PROTOCOLS))))
        return ",".join(texts) or NONE


def _of(parts: tuple[Intervals, ...], names: frozenset[tuple[str, str]]) -> Conns:
    tcp, udp, sctp = parts
    return Conns(tcp, udp, sctp, names)


def _text(conns: Conns, protocol: str) -> str:
    ports = conns.ports[PROTOCOLS.index(protocol)] if protocol else Intervals()
    numbers = [str(first) if first == last else f"{first}-{last}" for first, last in ports.spans]
    names = sorted(name for said, name in conns.names if said == protocol)
    return " ".join(filter(None, (protocol, ",".join([*numbers, *names])))) if numbers or names else ""


EVERYTHING = Conns(EVERY_PORT, EVERY_PORT, EVERY_PORT)
NOTHING = Conns()


def ports(protocol: str, first: int, last: int) -> Conns:
    """One range of ports of one protocol."""
    span = of([(first, last)])
    return _of(tuple(span if one == protocol else Intervals() for one in PROTOCOLS), frozenset())


def named(protocol: str, name: str) -> Conns:
    """A port known by name only; without a protocol, whatever the pod says."""
    return Conns(names=frozenset([(protocol, name)]))
