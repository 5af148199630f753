"""The built-in shop against the real one's manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringfence.lab import extras, manifests, sockshop
from ringfence.lab.settings import LabSettings, plan_nodes

Document = dict[str, Any]


def _facts(documents: list[Document]) -> set[tuple[Any, ...]]:
    """What matters to the network: names, labels, ports, probes."""
    found: set[tuple[Any, ...]] = set()
    for d in documents:
        spec, key = d.get("spec", {}), (d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"])
        found.add(key)
        if d["kind"] == "Deployment":
            found.add((*key, "replicas", spec["replicas"]))
            labels = spec["template"]["metadata"]["labels"]
            found.add(
                (*key, "labels", *sorted(labels.items()), *sorted(spec["selector"]["matchLabels"].items()))
            )
            for c in spec["template"]["spec"]["containers"]:
                found |= {(*key, "port", p["containerPort"], p.get("name", "")) for p in c.get("ports", [])}
                for kind in ("readinessProbe", "livenessProbe"):
                    if kind in c:
                        found.add((*key, kind, *sorted(c[kind]["httpGet"].items()), c[kind]["periodSeconds"]))
        elif d["kind"] == "Service":
            found.add((*key, "selector", *sorted(spec["selector"].items())))
            found |= {
                (*key, p.get("name", ""), p["port"], p["targetPort"], p.get("nodePort"))
                for p in spec["ports"]
            }
    return found


@pytest.mark.shared
def test_the_table_is_the_real_shop(shared_data: Path) -> None:
    real = manifests.read(shared_data / "sock-shop" / "manifests")
    assert _facts(sockshop.documents()) == _facts(real)


def test_every_call_goes_to_a_service_port() -> None:
    ports = {(row.name, port) for row in sockshop.SHOP for _, port, _ in row.service}
    assert {(provider, port) for _, provider, port, _ in sockshop.CALLS} <= ports
    assert {consumer for consumer, *_ in sockshop.CALLS} <= {row.name for row in sockshop.SHOP}


def test_every_caller_of_the_lab_exists() -> None:
    settings = LabSettings(intruder=True)
    documents = sockshop.documents() + extras.documents(settings)
    there = {f"{d['metadata'].get('namespace')}/{d['metadata']['name']}" for d in documents}
    services = {
        extras.name_of(d["metadata"]["name"], d["metadata"]["namespace"])
        for d in documents
        if d["kind"] == "Service"
    }
    calls = extras.calls(settings, plan_nodes(settings))
    assert set(calls) <= there
    names = {call["to"] for found in calls.values() for call in found}
    assert {name for name in names if name.endswith(".local")} <= services
