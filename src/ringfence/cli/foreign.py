"""Flows of other tools' files as the contract's values: the other half of `flows read`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from ringfence.flows.categories import categories
from ringfence.flows.link import Legs, link
from ringfence.flows.present import Facts, present
from ringfence.imports.read import Reading
from ringfence.model.columns import TRANSLATION, structured
from ringfence.model.endpoints import Endpoint
from ringfence.model.flows import Flow


def shown(
    reading: Reading, chosen: Sequence[int], named: tuple[list[Endpoint], list[Endpoint]], probe: Any
) -> Iterator[Flow]:
    """The chosen rows' flows, in that order. `named` is what an inventory says of both ends of each row; what the
    tool itself said comes first, since it was there at the time."""
    imported = reading.imported
    told = imported.consumers, imported.providers
    ends = [[_better(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(told, named, strict=True)]
    known: dict[Endpoint, int] = {}
    versions = [
        np.array([known.setdefault(end, len(known)) for end in side], np.int32).reshape(-1) for side in ends
    ]
    flows, legs = link(imported.flows, structured(TRANSLATION, 0))
    kinds = categories(flows, legs, versions[0], versions[1], list(known), probe)
    rows = np.array(chosen, np.int64)
    values = present(
        flows[rows],
        Legs._make(column[rows] for column in legs),
        [ends[0][row] for row in chosen],
        [ends[1][row] for row in chosen],
        [kinds[row] for row in chosen],
        [()] * len(chosen),
        [Facts(provider_names=imported.names[row]) for row in chosen],
    )
    for row, flow in zip(chosen, values, strict=True):
        yield _untold(flow, reading, row)


def _better(told: Endpoint | None, named: Endpoint) -> Endpoint:
    return named if told is None or (told.kind == "unresolved" and named.kind != "unresolved") else told


def _untold(flow: Flow, reading: Reading, row: int) -> Flow:
    """What nobody told becomes null, and where the flow comes from is said."""
    imported = reading.imported
    change: dict[str, Any] = {
        name: None for name, mask in imported.untold.items() if mask[row] and not name.endswith("_port")
    }
    # What a sample or a log of single events does not show may still have been there.
    counted = not imported.untold["provider_packets"][row] and imported.flows["sample"][row] <= 1
    if flow.drop_reason in ("unanswered", "refused") and not counted:
        change["drop_reason"] = None
    for side, end in (("consumer", flow.consumer), ("provider", flow.provider)):
        port = None if imported.untold[f"{side}_port"][row] else end.port
        ip = None if imported.nowhere[side][row] else end.ip
        if (port, ip) != (end.port, end.ip):
            change[side] = msgspec.structs.replace(end, port=port, ip=ip)
            change["community_id"] = None
    if imported.flows["first"][row] < 0:
        change |= {"start": None, "end": None, "duration_us": None}
    return msgspec.structs.replace(
        flow, origin=reading.origin, connections=int(imported.connections[row]), **change
    )
