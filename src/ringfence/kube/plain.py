"""Documents as they are, for whoever reads kinds that the inventory does not hold: body, kind, group and place.

Files, folders, dumps and streams are read by `manifests`, and refused by it in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ringfence.kube.documents import is_template, template_problem
from ringfence.kube.manifests import Reading, _group, _name, texts
from ringfence.model.problems import Problem


class Plain(NamedTuple):
    """One object: its kind, API group (None where it does not say), body, and `FILE document N line L`."""

    kind: str
    group: str | None
    body: dict[str, Any]
    place: str


class Documents(NamedTuple):
    """Every object in the order of files and documents; what could not be read; what was passed over."""

    objects: tuple[Plain, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def load_plain(path: str | Path) -> Documents:
    """Objects of a folder, a file or `-`. Raises Problem where `path` itself cannot be read."""
    return plain_of(texts(path))


def plain_of(named: Iterable[tuple[str, bytes | Problem]]) -> Documents:
    """Objects of named texts. Pure but for the iterator it is given."""
    reading = _Plainly()
    reading.all(named)
    return Documents(tuple(reading.found), tuple(reading.problems), tuple(reading.notes))


class _Plainly(Reading):
    """Keeps bodies instead of decoding them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Plain] = []

    def object(self, body: dict[str, Any], kind: str, where: str) -> None:
        name = _name(body)
        if isinstance(name, str) and is_template(name):
            self.problems.append(template_problem(where))
        else:
            self.found.append(Plain(kind, _group(body), body, where))
