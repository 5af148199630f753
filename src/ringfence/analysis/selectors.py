"""Label selectors as values: they select, they compare, and they print as people know them.

Rules of the API (`LabelSelector`): an empty selector selects everything, `NotIn` and `DoesNotExist` select what
lacks the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ringfence.analysis.netpol import Malformed

_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")

NAME_LABEL = "kubernetes.io/metadata.name"
"""The label that the API server gives every namespace."""


class Need(NamedTuple):
    """One entry of matchExpressions."""

    key: str
    operator: str
    values: tuple[str, ...]

    def canonical(self) -> str:
        """Text that is equal for equal meanings: `In` with one value is equality."""
        listed = ",".join(sorted(set(self.values)))
        if self.operator == "In" and len(set(self.values)) == 1:
            return f"{self.key}={listed}"
        return f"{self.key} {self.operator} {listed}"

    def __str__(self) -> str:
        return f"{{Key:{self.key},Operator:{self.operator},Values:[{' '.join(self.values)}],}}"


HOLDS: dict[str, Callable[[Need, Mapping[str, str]], bool]] = {
    "In": lambda need, labels: labels.get(need.key) in need.values,
    "NotIn": lambda need, labels: labels.get(need.key) not in need.values,
    "Exists": lambda need, labels: need.key in labels,
    "DoesNotExist": lambda need, labels: need.key not in labels,
}


class Selector(NamedTuple):
    """matchLabels and matchExpressions, in the order they were written."""

    labels: tuple[tuple[str, str], ...] = ()
    needs: tuple[Need, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return not self.labels and not self.needs

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a set of labels is selected."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            HOLDS[need.operator](need, labels) for need in self.needs
        )

    def canonical(self) -> tuple[str, ...]:
        """Equal for selectors of equal requirements, however written."""
        return tuple(sorted({*(f"{k}={v}" for k, v in self.labels), *(n.canonical() for n in self.needs)}))

    def keys(self) -> frozenset[str]:
        """Labels it asks about."""
        return frozenset([*(key for key, _ in self.labels), *(need.key for need in self.needs)])

    def __str__(self) -> str:
        parts = [f"{key}={value}" for key, value in sorted(self.labels)]
        return ",".join([*parts, *sorted(map(str, self.needs))])


EVERYTHING = Selector()


def named(namespace: str) -> Selector:
    """Selects the namespace of one name."""
    return Selector(((NAME_LABEL, namespace),))


def selector(body: object, where: str) -> Selector:
    """A selector from its document; null is an empty one. Raises `Malformed` with the field."""
    if body is None:
        return EVERYTHING
    if not isinstance(body, Mapping):
        raise Malformed(f"{where}: not a label selector")
    labels, needs = body.get("matchLabels") or {}, body.get("matchExpressions") or ()
    if not isinstance(labels, Mapping) or not _listed(needs):
        raise Malformed(f"{where}: matchLabels is a mapping and matchExpressions a list")
    _known(body, ("matchLabels", "matchExpressions"), where)
    equal = tuple(_equal(key, value, f"{where}.matchLabels") for key, value in labels.items())
    return Selector(equal, tuple(_need(n, f"{where}.matchExpressions[{i}]") for i, n in enumerate(needs)))


def _known(body: Mapping[Any, Any], fields: Sequence[str], where: str) -> None:
    """A selector with a field nobody knows would select more than its author meant."""
    for key in body:
        if key not in fields:
            raise Malformed(f"{where}.{key}: unknown field, a selector has {' and '.join(fields)}")


def _listed(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _equal(key: object, value: object, where: str) -> tuple[str, str]:
    return _key(key, where), _value("" if value is None else value, f"{where}.{key}")


def _need(part: object, where: str) -> Need:
    if not isinstance(part, Mapping):
        raise Malformed(f"{where}: not a requirement with key, operator and values")
    operator, values = part.get("operator"), part.get("values") or ()
    if operator not in HOLDS:
        raise Malformed(f"{where}.operator: {operator!r} is none of {', '.join(HOLDS)}")
    if not _listed(values):
        raise Malformed(f"{where}.values: not a list")
    if operator in ("In", "NotIn") and not values:
        raise Malformed(f"{where}.values: {operator} needs some")
    if operator in ("Exists", "DoesNotExist") and values:
        raise Malformed(f"{where}.values: {operator} takes none")
    return Need(
        _key(part.get("key"), f"{where}.key"), operator, tuple(_value(v, f"{where}.values") for v in values)
    )


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise Malformed(f"{where}: {key!r} is no label key")
    prefix, _, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (("/" in key) and not _PREFIX.fullmatch(prefix)):
        raise Malformed(f"{where}: key: Invalid value: {key!r} is no label key")
    return key


def _value(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{where}: {value!r} is not text, put it in quotes")
    if value and not _NAME.fullmatch(value):
        raise Malformed(f"{where}: Invalid value: {value!r} is no label value")
    return value
