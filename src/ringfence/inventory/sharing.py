"""Equal parts of objects kept once: thousands of pods of one template share labels, ports, probes and images.

Goal: memory. A pod costs what is its own (name, UID, addresses), not what its template says again. What is kept is
never given back: it is bounded by the number of different templates and names, not of pods.
"""

from __future__ import annotations

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


class Shared:
    """The parts seen so far."""

    def __init__(self) -> None:
        self._seen: dict[Any, Any] = {}

    def whole(self, value: Object | None) -> Object | None:
        """`value` with its common parts replaced by equal ones that are kept already.

        Frozen values are set by force here: only while nobody else can have seen them, right after decoding.
        """
        if isinstance(value, Pod):
            self._parts(value, OF_PODS)
        elif isinstance(value, Workload):
            self._parts(value, OF_WORKLOADS)
        return value

    def _parts(self, value: Object, names: tuple[str, ...]) -> None:
        keep = self._seen.setdefault
        for name in names:
            part = getattr(value, name)
            if part:
                same = keep(part, part)
                if same is not part:
                    force_setattr(value, name, same)
