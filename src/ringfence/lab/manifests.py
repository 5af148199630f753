"""Kubernetes YAML from a folder or file, as plain documents; a broken one is named by file and number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ringfence.model.problems import Problem

Document = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Pod")
RUN = (*WORKLOADS, "Namespace", "Service", "NetworkPolicy", "CronJob")
"""Kinds the lab makes something of; the others are left out in silence, as they need no network."""


def read(path: Path) -> list[Document]:
    """Every document the lab runs, in the order of file names. Lists are taken apart."""
    if not path.exists():
        raise Problem("no such manifests", str(path), "name a folder or file of Kubernetes YAML")
    files = (
        sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
        if path.is_dir()
        else [path]
    )
    found = [document for file in files for document in _documents(file)]
    if not any(document["kind"] in WORKLOADS for document in found):
        raise Problem(
            "nothing to run", str(path), f"put at least one {', '.join(WORKLOADS[:-1])} or Pod there"
        )
    return found


def _documents(file: Path) -> Iterator[Document]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem("cannot read manifest", str(file), str(error)) from None
    number = 0
    loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
    try:
        for number, document in enumerate(yaml.load_all(text, loader), 1):
            yield from _take(document, f"{file} document {number}")
    except yaml.YAMLError as error:
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
        _check(document, where)
        yield document


def _check(document: Document, where: str) -> None:
    """Refuse what would break later, further from its cause."""
    kind, meta = document["kind"], document.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        raise Problem(f"{kind} without a name", where, "give it metadata.name")
    spec = document.get("spec")
    if kind == "Namespace":
        return
    if not isinstance(spec, dict):
        raise Problem(f"{kind} without a spec", f"{where} ({meta['name']})", "give it a spec")
    if kind in WORKLOADS and kind != "Pod":
        spec = (spec.get("template") or {}).get("spec") if isinstance(spec.get("template"), dict) else None
    if kind in WORKLOADS and not (isinstance(spec, dict) and isinstance(spec.get("containers"), list)):
        raise Problem(f"{kind} without containers", f"{where} ({meta['name']})", "give it a pod template")
