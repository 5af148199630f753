"""Addresses and networks as Kubernetes' CEL library reads them (apiserver/pkg/cel/library ip.go, cidr.go).

Neither IPv4-mapped IPv6 addresses nor zones are addresses to it; a network may have host bits set.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_BITS = {4: 32, 6: 128}


class Address(NamedTuple):
    """One address: family 4 or 6, and its number."""

    family: int
    number: int


class Network(NamedTuple):
    """One network: family, the number as written (host bits included), length of the prefix."""

    family: int
    number: int
    prefix: int


@lru_cache(maxsize=65536)
def address(text: str) -> Address | None:
    """The address a text stands for, or None."""
    try:
        if ":" not in text:
            return Address(4, int(ipaddress.IPv4Address(text)))
        six = None if "%" in text else ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return None if six is None or six.ipv4_mapped is not None else Address(6, int(six))


@lru_cache(maxsize=65536)
def network(text: str) -> Network | None:
    """The network a text such as `10.0.0.0/8` stands for, or None."""
    head, slash, tail = text.partition("/")
    base = address(head)
    if base is None or not slash or not _PREFIX.fullmatch(tail) or int(tail) > _BITS[base.family]:
        return None
    return Network(base.family, base.number, int(tail))


def holds(outer: Network, inner: Address) -> bool:
    """Whether an address lies in a network; never across families."""
    spare = _BITS[outer.family] - outer.prefix
    return outer.family == inner.family and outer.number >> spare == inner.number >> spare


def covers(outer: Network, inner: Network) -> bool:
    """Whether a network lies wholly in another."""
    return outer.prefix <= inner.prefix and holds(outer, Address(inner.family, inner.number))
