"""Kubernetes YAML from a folder or file, as plain documents; a broken one is named by file and number."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ringfence.model.problems import Problem

Document = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Pod")
MOST_REPLICAS = 50
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,200}[a-z0-9])?")
RUN = (*WORKLOADS, "Namespace", "Service", "NetworkPolicy", "CronJob")
"""Kinds the lab makes something of; the others are left out in silence, as they need no network."""


def read(path: Path) -> list[Document]:
    """Every document the lab runs, in the order of file names. Lists are taken apart.

    Of several documents for one object the last counts, as when they are applied one after another.
    """
    if not path.exists():
        raise Problem("no such manifests", str(path), "name a folder or file of Kubernetes YAML")
    files = (
        sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
        if path.is_dir()
        else [path]
    )
    last = {_identity(document): document for file in files for document in _documents(file)}
    found = list(last.values())
    if not any(document["kind"] in WORKLOADS for document in found):
        raise Problem(
            "nothing to run", str(path), f"put at least one {', '.join(WORKLOADS[:-1])} or Pod there"
        )
    return found


def _identity(document: Document) -> tuple[str, str, str]:
    meta = document["metadata"]
    return document["kind"], meta.get("namespace") or "default", meta["name"]


def _documents(file: Path) -> Iterator[Document]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem("cannot read manifest", str(file), str(error)) from None
    number = 0
    try:
        # Not the C loader: its composer overflows the stack on hostile nesting, this one raises.
        for number, document in enumerate(yaml.load_all(text, yaml.SafeLoader), 1):
            yield from _take(document, f"{file} document {number}")
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not YAML"
        raise Problem(
            "broken manifest", f"{file} document {number + 1}{line}", f"fix the YAML: {reason}"
        ) from None


def _take(document: Any, where: str) -> Iterator[Document]:
    if document is None:
        return
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise Problem("not a Kubernetes object", where, "give it apiVersion, kind and metadata")
    if document["kind"].endswith("List"):
        for number, item in enumerate(document.get("items") or (), 1):
            yield from _take(item, f"{where} item {number}")
    elif document["kind"] in RUN:
        check(document, where)
        yield document


def check(document: Document, where: str) -> None:
    """Refuse what would break later and further from its cause: names become files, ports become rules."""
    kind, meta = document["kind"], document.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        raise Problem(f"{kind} without a name", where, "give it metadata.name")
    where = f"{where} ({kind} {meta['name']})"
    for name in (meta["name"], meta.get("namespace") or "default"):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Problem("bad name", where, "use lower-case letters, digits, '-' and '.'")
    spec = document.get("spec")
    if kind == "Namespace":
        return
    if not isinstance(spec, dict):
        raise Problem(f"{kind} without a spec", where, "give it a spec")
    if kind == "Service":
        _check_service(spec, where)
    elif kind in WORKLOADS:
        _check_workload(kind, spec, where)


def _check_service(spec: Document, where: str) -> None:
    for port in _dicts(spec.get("ports"), "port", where):
        for field in ("port", "nodePort"):
            if field in port or field == "port":
                _check_port(port.get(field), where)
        if not isinstance(port.get("targetPort"), str) and "targetPort" in port:
            _check_port(port["targetPort"], where)
        _check_protocol(port, where)
        if not isinstance(port.get("name", ""), str) or not NAME.fullmatch(port.get("name") or "x"):
            raise Problem("bad port name", where, "use lower-case letters, digits and '-'")
    for address in (spec.get("clusterIP"), *(spec.get("clusterIPs") or ())):
        if address not in (None, "", "None") and not _is_address(address):
            raise Problem("bad clusterIP", where, "give an IP address, None, or nothing")


def _check_workload(kind: str, spec: Document, where: str) -> None:
    replicas = spec.get("replicas", spec.get("parallelism", 1))
    if not isinstance(replicas, int) or not 0 <= replicas <= MOST_REPLICAS:
        raise Problem("bad replicas", where, f"use 0 to {MOST_REPLICAS}")
    if kind != "Pod":
        template = spec.get("template")
        spec = template.get("spec") if isinstance(template, dict) else None  # type: ignore[assignment]
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list):
        raise Problem(f"{kind} without containers", where, "give it a pod template")
    for container in _dicts(spec["containers"], "container", where):
        if not isinstance(container.get("name"), str):
            raise Problem("bad container", where, "give it a name")
        for port in _dicts(container.get("ports"), "port", where):
            _check_port(port.get("containerPort"), where)
            _check_protocol(port, where)


def _dicts(value: Any, what: str, where: str) -> list[Document]:
    if not isinstance(value or [], list) or not all(isinstance(item, dict) for item in value or []):
        raise Problem(f"bad {what}s", where, f"give a list of {what} objects")
    return value or []


def _check_port(port: Any, where: str) -> None:
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise Problem(f"bad port {port!r}", where, "use 1 to 65535")


def _check_protocol(port: Document, where: str) -> None:
    if port.get("protocol", "TCP") not in ("TCP", "UDP", "SCTP"):
        raise Problem(f"bad protocol {port['protocol']!r}", where, "use TCP, UDP or SCTP")


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
