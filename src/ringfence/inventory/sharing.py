"""Equal parts of objects kept once: thousands of pods of one template share labels, ports, probes and images.

Goal: memory. A pod costs what is its own (name, UID, addresses), not what its template says again. What is kept is
never given back: it is bounded by the number of different templates and names, not of pods.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

from msgspec.structs import force_setattr

from ringfence.model.objects import Object, Pod, Workload

T = TypeVar("T")

OF_PODS = (
    "namespace",
    "node",
    "labels",
    "annotations",
    "workload",
    "ports",
    "probes",
    "phase",
    "service_account",
    "images",
)
OF_WORKLOADS = ("namespace", "labels", "annotations", "ports", "probes", "service_account", "images")

_of_pod, _of_workload = attrgetter(*OF_PODS), attrgetter(*OF_WORKLOADS)


class Shared:
    """The parts seen so far."""

    def __init__(self) -> None:
        self._seen: dict[Any, Any] = {}

    def whole(self, value: Object | None, before: Object | None = None) -> Object | None:
        """`value` with its common parts replaced by equal ones that are kept already, first those of `before`.

        `before` is what the object was until now, whole itself: most of it stays. Frozen values are set by force
        here: only while nobody else can have seen them, right after decoding.
        """
        if isinstance(value, Pod):
            self._parts(value, OF_PODS, _of_pod, before if isinstance(before, Pod) else None)
        elif isinstance(value, Workload):
            self._parts(value, OF_WORKLOADS, _of_workload, before if isinstance(before, Workload) else None)
        return value

    def _parts(
        self,
        value: Object,
        names: tuple[str, ...],
        read: Callable[[Any], tuple[Any, ...]],
        before: Object | None,
    ) -> None:
        parts = read(value)
        known = parts if before is None else read(before)
        for name, part, same in zip(names, parts, known, strict=True):
            if part:
                if part is same or part != same:
                    same = self._seen.setdefault(part, part)
                if same is not part:
                    force_setattr(value, name, same)
