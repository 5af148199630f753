"""Kubernetes objects become `model.objects` values. Pure: bytes or dicts in, values and problems out.

Comes in: JSON or plain dicts. Goes out: items. Which fields are read is in `shapes`; a field of the wrong type is
left out and named (`salvage`). Refuses to know: connections, files, what was told before.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.kube.decode.kinds import CONTROLLERS, KINDS, Item, Kind, item_of
from ringfence.kube.decode.parts import LONGEST_ANNOTATION, UNBORN, Owner
from ringfence.kube.decode.pods import TERMINATED
from ringfence.kube.decode.salvage import shape
from ringfence.model.problems import Problem

__all__ = [
    "CONTROLLERS",
    "KINDS",
    "LONGEST_ANNOTATION",
    "TERMINATED",
    "UNBORN",
    "Item",
    "Kind",
    "Owner",
    "decode",
]


def decode(
    source: bytes | msgspec.Raw | dict[str, Any], kind: str, where: str
) -> tuple[Item | None, tuple[Problem, ...]]:
    """One object of `kind` (a key of KINDS). None when it has no name; the problems say what was left out.

    `where` begins each problem's place, e.g. a file and document number.
    """
    place = f"{where}: {kind}" if where else kind
    shaped = shape(source, KINDS[kind].shape, place)
    item, problems = item_of(shaped.value, kind, place) if shaped.value is not None else (None, ())
    return item, shaped.problems + (problems if item is not None or not shaped.problems else ())
