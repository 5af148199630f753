"""What every kind has: names, labels, annotations, owners, moments, addresses. Pure; equal values are one object."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from ringfence.kube.decode import shapes as s
from ringfence.model.addresses import pack
from ringfence.model.endpoints import Labels

LONGEST_ANNOTATION = 4096
"""Longer annotation values are left out: they are caches of tools, not facts about a workload."""

LARGEST_ANNOTATIONS = 1 << 18
"""Octets of all annotations of an object that Kubernetes allows; a longer one is worth a word."""

UNBORN = "manifest:"
"""Begins the UID of an object that comes from a manifest and has none of its own."""

SHARED = 1 << 14
"""Values of one sort that are remembered, so that the pods of one workload share them."""


class Owner(NamedTuple):
    """The controller that made an object."""

    kind: str
    name: str


def labels_of(mapping: s.Texts | None) -> Labels:
    """Sorted pairs; a null value is an empty text."""
    return _sorted(tuple(mapping.items())) if mapping else ()


def annotations_of(mapping: s.Texts | None) -> Labels:
    """As `labels_of`, without the values that are too long. Not shared: they are mostly one pod's alone."""
    if not mapping:
        return ()
    for value in mapping.values():
        if value is None or len(value) > LONGEST_ANNOTATION:
            short = ((k, v or "") for k, v in mapping.items() if v is None or len(v) <= LONGEST_ANNOTATION)
            return tuple(sorted(short))
    return tuple(sorted(mapping.items()))  # type: ignore[arg-type]


@lru_cache(maxsize=SHARED)
def _sorted(pairs: tuple[tuple[str, str | None], ...]) -> Labels:
    return tuple(sorted((key, value or "") for key, value in pairs))


def owner_of(meta: s.MetaShape, controllers: frozenset[str]) -> Owner | None:
    """The controlling owner; an owner that is not the controller only counts when its kind makes pods."""
    references = meta.owner_references
    if not references:
        return None
    for reference in references:
        if reference and reference.controller and reference.kind and reference.name:
            return _owner(reference.kind, reference.name)
    for reference in references:
        if reference and reference.kind in controllers and reference.name:
            return _owner(reference.kind or "", reference.name)
    return None


@lru_cache(maxsize=SHARED)
def _owner(kind: str, name: str) -> Owner:
    return Owner(kind, name)


def unique(values: Iterable[str | None]) -> tuple[str, ...]:
    """Texts in order, without nulls, empties and repeats."""
    return tuple(dict.fromkeys(value for value in values if value))


def ips(entries: list[s.IpShape | None] | None) -> list[str | None]:
    """The addresses of `[{"ip": ...}]`."""
    return [entry.ip for entry in entries or () if entry]


def uid_of(meta: s.MetaShape, kind: str) -> str:
    """The object's UID; one that no cluster has seen yet is named by what makes it one object."""
    return meta.uid or f"{UNBORN}{kind}/{meta.namespace or 'default'}/{meta.name}"


def nanoseconds(moment: datetime | None) -> int | None:
    """UTC nanoseconds of a moment of Kubernetes, which tells whole seconds.

    Go's zero time and whatever else does not fit into 64 bits is no moment.
    """
    if moment is None:
        return None
    since = moment - _EPOCH
    if not -_FARTHEST < since.days < _FARTHEST:
        return None
    return (since.days * 86_400 + since.seconds) * 1_000_000_000


def deleted(meta: s.MetaShape) -> int | None:
    """When deletion was asked for: the timestamp is when the grace period ends (ObjectMeta v1 reference)."""
    end = nanoseconds(meta.deletion_timestamp)
    return None if end is None else end - (meta.deletion_grace_period_seconds or 0) * 1_000_000_000


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    if _DOTTED(text):
        return True
    try:
        pack(text)
    except ValueError:
        return False
    return True


_FARTHEST = 106_000
"""Days before and after 1970, the year 2260."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_DOTTED = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch
"""The common form of an address, looked at without taking it apart."""
