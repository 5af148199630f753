"""Rows of settled flows become the contract's flows. Only for answers: a bounded number of rows."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ringfence.flows.link import Legs
from ringfence.flows.present import Facts, present
from ringfence.model.columns import FLOW, Leg, Table, structured
from ringfence.model.endpoints import Endpoint
from ringfence.model.flows import Flow, FlowEnd, Process, Tls
from ringfence.store.schema import UNTOLD

UNKNOWN = Endpoint("unresolved")
_NAMES = ("cluster", "namespace", "name", "workload", "node", "service", "uid")


def named(endpoints: pa.Table) -> dict[int, Endpoint]:
    """Rows of `endpoints` by version."""
    found = {}
    for row in endpoints.to_pylist():
        facts = {name: row[name] or None for name in _NAMES}
        found[row["version"]] = Endpoint(row["kind"], labels=tuple(sorted(row["labels"])), **facts)
    return found


def flows_of(rows: pa.Table, endpoints: dict[int, Endpoint]) -> list[Flow]:
    """Flows as values, in the order of `rows` (columns of `flows`). Where they were seen is not told: taps are empty."""
    count = rows.num_rows
    values = rows.to_pylist()
    legs = Legs(
        _column(rows, "connection_id"), _column(rows, "leg"), _column(rows, "snat") == 1, _column(rows, "link"),
        np.arange(count), np.arange(count), np.ones(count, np.bool_), np.ones(count, np.bool_),
    )  # fmt: skip
    consumers = [endpoints.get(row["consumer_version"], UNKNOWN) for row in values]
    providers = [_provider(endpoints.get(row["provider_version"], UNKNOWN), row["service"]) for row in values]
    categories = [row["category"] for row in values]
    made = present(
        _table(rows), legs, consumers, providers, categories, [()] * count, list(map(_facts, values))
    )
    return [_finished(flow, row, endpoints) for flow, row in zip(made, values, strict=True)]


def _provider(endpoint: Endpoint, service: str) -> Endpoint:
    """A provider behind a service says which."""
    return (
        msgspec.structs.replace(endpoint, service=service) if service and not endpoint.service else endpoint
    )


def _table(rows: pa.Table) -> Table:
    table = structured(FLOW, rows.num_rows)
    own = {"process", "provider_process", "names", "tls", "node"}
    for name in set(FLOW.names or ()) & set(rows.column_names) - own:
        table[name] = _column(rows, name)
    for side in ("consumer", "provider"):
        packed = b"".join(rows[f"{side}_ip"].to_pylist())
        words = np.frombuffer(packed, ">u8").reshape(-1, 2)
        table[f"{side}_hi"], table[f"{side}_lo"] = words[:, 0], words[:, 1]
    return table


def _column(rows: pa.Table, name: str) -> Any:
    return rows[name].combine_chunks().to_numpy(zero_copy_only=False)


def _facts(row: dict[str, Any]) -> Facts:
    return Facts(
        msgspec.json.decode(row["process"], type=Process) if row["process"] else None,
        msgspec.json.decode(row["provider_process"], type=Process) if row["provider_process"] else None,
        tuple(row["names"].split()),
        msgspec.json.decode(row["tls"], type=Tls) if row["tls"] else None,
    )


def _finished(flow: Flow, row: dict[str, Any], endpoints: dict[int, Endpoint]) -> Flow:
    """What a settled row tells beyond what was counted: whose word it is, what it left out, who is hidden."""
    change: dict[str, Any] = {"connections": row["connections"], "origin": row["origin"] or None}
    hidden = row["opened_by"] != row["consumer_version"] and row["leg"] != Leg.OUTER
    if hidden and row["opened_by"] in endpoints:
        change["opened_by"] = _end(endpoints[row["opened_by"]])
    untold = {name for bit, name in enumerate(UNTOLD) if row["untold"] >> bit & 1}
    change |= {name: None for name in untold if not name.endswith("_port")}
    if "provider_packets" in untold and flow.drop_reason in ("unanswered", "refused"):
        change["drop_reason"] = None
    for side, end in (("consumer", flow.consumer), ("provider", flow.provider)):
        if f"{side}_port" in untold:
            change |= {side: msgspec.structs.replace(end, port=None), "community_id": None}
    return msgspec.structs.replace(flow, **change)


def _end(endpoint: Endpoint) -> FlowEnd:
    """An end by its name: its address is on another leg."""
    facts = {name: getattr(endpoint, name) for name in _NAMES if name != "uid"}
    return FlowEnd(None, None, endpoint.kind, labels=dict(endpoint.labels) or None, **facts)
