"""What each process of the lab is told to do, from its pod, the table of calls and the manifests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ringfence.lab import extras
from ringfence.lab.records import PodRecord
from ringfence.lab.store import Object, key_of


def command_name(pod: PodRecord) -> str:
    """The name its process shows: that of its workload."""
    return pod.workload.partition("/")[2]


def spec(pod: PodRecord, calls: Sequence[extras.Call], rate: float, names: str) -> dict[str, Any]:
    """A pod's process: listen on every declared port, make `calls`; the resolver also reads `names`."""
    listen = sorted({(protocol, number) for _, number, protocol in pod.ports})
    found: dict[str, Any] = {
        "listen": [{"protocol": protocol, "port": number} for protocol, number in listen],
        "calls": paced(calls, rate, pod.addresses),
    }
    if pod.namespace == "kube-system" and command_name(pod) == "coredns":
        found["table"] = names
    return found


def paced(calls: Sequence[extras.Call], rate: float, own: Sequence[str]) -> list[extras.Call]:
    """Calls at this lab's rate, none of them to the caller's own addresses."""
    return [{**call, "every": call["every"] / rate, "own": list(own)} for call in calls]


def probes(pod: PodRecord, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """A pod's network probes as calls from its node; the lab does not wait for initialDelaySeconds."""
    found = []
    for container in spec["containers"]:
        for kind in ("readinessProbe", "livenessProbe"):
            probe = container.get(kind) or {}
            way = probe.get("httpGet") or probe.get("tcpSocket")
            if not way:
                continue
            port = way["port"]
            if isinstance(port, str):
                port = next((number for name, number, _ in pod.ports if name == port), None)
            entry = {"to": pod.addresses[0], "port": port, "every": float(probe.get("periodSeconds", 10))}
            how = "get" if "httpGet" in probe else "knock"
            found.append({**entry, "how": how, "path": way.get("path", "/")})
    return [entry for entry in found if entry["port"]]


def calls_in_environment(documents: Sequence[Object]) -> dict[str, list[extras.Call]]:
    """Calls that manifests declare: an environment value `name:port`, where `name` is a service of theirs."""
    services = {
        key_of(d)[1]: d["metadata"].get("namespace", "default") for d in documents if d["kind"] == "Service"
    }
    found: dict[str, list[extras.Call]] = {}
    for document in documents:
        template = document.get("spec", {}).get("template") or {}
        for container in (template.get("spec") or {}).get("containers") or ():
            for entry in container.get("env") or ():
                host, _, port = str(entry.get("value") or "").rpartition(":")
                host = host.rpartition("/")[2].partition(".")[0]
                if host in services and port.isdigit():
                    call = {
                        "to": extras.name_of(host, services[host]),
                        "port": int(port),
                        "how": "tcp",
                        "every": 2.0,
                    }
                    meta = document["metadata"]
                    found.setdefault(f"{meta.get('namespace', 'default')}/{meta['name']}", []).append(call)
    return found
