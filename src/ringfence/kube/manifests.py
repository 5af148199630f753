"""Kubernetes objects from files: a folder, a file or standard input; YAML or JSON, dumps or manifests.

What cannot be read is said and left out; everything else is read. `of_documents` is pure; `load` opens files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ringfence.kube.decode import KINDS, Item, decode
from ringfence.kube.documents import Document, documents, is_template, place, template_problem
from ringfence.kube.owners import Owners
from ringfence.model.objects import (
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Route,
    Service,
    Workload,
)
from ringfence.model.problems import Problem

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
"""Files read from a folder; a file named by itself is read whatever its name."""

MOST_NOTES = 3
"""Notes kept of one document; a list of a thousand things that are not objects needs no thousand lines."""

FORMER_GROUP = "extensions"
"""Where Deployments, Ingresses, NetworkPolicies and their like began."""


class Manifests(msgspec.Struct, frozen=True):
    """Everything read. `workloads` holds each root owner once, whether or not it has pods.

    `policies` are those that Kubernetes itself defines, cluster-wide ones too; `network_policies` are the
    NetworkPolicies among them as plain dicts; `other_policies` are documents of other policy kinds (Calico's,
    Cilium's); `others` holds every other kind, also as it was.
    `problems` is what could not be read; `notes` is what was passed over on purpose.
    """

    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    workloads: tuple[Workload, ...] = ()
    policies: tuple[NetworkPolicy, ...] = ()
    routes: tuple[Route, ...] = ()
    network_policies: tuple[dict[str, Any], ...] = ()
    other_policies: tuple[dict[str, Any], ...] = ()
    others: tuple[dict[str, Any], ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def objects(self) -> tuple[Object, ...]:
        """Every value an inventory takes."""
        return (
            *self.namespaces,
            *self.nodes,
            *self.services,
            *self.slices,
            *self.workloads,
            *self.pods,
            *self.policies,
            *self.routes,
        )


def load(path: str | Path) -> Manifests:
    """Read a folder (with its subfolders), a file, or `-` for standard input.

    Raises Problem when `path` itself cannot be read, or when a folder holds no manifest file at all.
    """
    return of_texts(texts(path))


def texts(path: str | Path) -> Iterable[tuple[str, bytes | Problem]]:
    """Every manifest text with its name, as `load` reads them. Raises as `load` does."""
    if str(path) == "-":
        return [("standard input", sys.stdin.buffer.read())]
    folder = Path(path)
    if folder.is_file():
        return _opened([folder], folder.parent)
    if not folder.is_dir():
        raise Problem(
            "no such file or folder", str(path), "name a folder of manifests, a file, or - for standard input"
        )
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise Problem("no manifests", str(path), "name a folder with .yaml, .yml or .json files")
    return _opened(files, folder)


def _opened(files: list[Path], root: Path) -> Iterator[tuple[str, bytes | Problem]]:
    for file in files:
        name = str(file.relative_to(root))
        try:
            yield name, file.read_bytes()
        except OSError as error:
            yield name, Problem(f"cannot read ({error.strerror})", str(file), "make it readable")


def of_texts(texts: Iterable[tuple[str, bytes | Problem]]) -> Manifests:
    """`Manifests` of named texts. Pure but for the iterator it is given."""
    reading = Reading()
    reading.all(texts)
    return reading.finish()


class _Named(NamedTuple):
    """What makes two documents the same object."""

    kind: str
    namespace: str
    name: str
    uid: str


class Reading:
    """One pass over many texts: collects items first, because a pod may come before its owner."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.items: dict[_Named, Item] = {}
        self.policies: dict[_Named, dict[str, Any]] = {}
        self.other_policies: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []

    def all(self, texts: Iterable[tuple[str, bytes | Problem]]) -> None:
        """Every text, in order."""
        for name, data in texts:
            if isinstance(data, Problem):
                self.problems.append(data)
            else:
                self.text(name, data)

    def text(self, name: str, data: bytes) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self.problems.append(Problem("not text in UTF-8", name, "name manifests in YAML or JSON"))
            return
        for document in documents(text, name):
            if isinstance(document, Problem):
                self.problems.append(document)
            else:
                self.document(document, name)

    def document(self, document: Document, name: str) -> None:
        where = place(name, document.number, document.line)
        body = document.body
        if isinstance(body, bytes):
            body = _plain_or_list(body)
        if body is None:
            return
        before = len(self.notes)
        for position, element in enumerate(body if isinstance(body, list) else [body]):
            self.element(element, "", f"{where} item {position + 1}" if isinstance(body, list) else where)
        if len(self.notes) > before + MOST_NOTES:
            more = len(self.notes) - before - MOST_NOTES
            self.notes[before + MOST_NOTES :] = [f"{where}: {more} more items passed over"]

    def element(self, body: Any, inherited: str, where: str) -> None:
        """One object or list of objects. `inherited` is the kind a typed list gives items that name none."""
        if body is None:
            return
        if isinstance(body, msgspec.Raw):
            body = msgspec.json.decode(body)
        body = _unwrapped(body)
        kind = body.get("kind") or inherited if isinstance(body, dict) else None
        if not isinstance(kind, str) or not kind:
            self.passed_over(body, where)
        elif kind.endswith("List") and isinstance(body.get("items", []), list | None):
            item_kind = kind.removesuffix("List")
            for position, item in enumerate(body.get("items") or ()):
                self.element(item, item_kind, f"{where} item {position + 1}")
        else:
            self.object(body, kind, where)

    def passed_over(self, body: Any, where: str) -> None:
        if isinstance(body, str) and is_template(body):
            self.problems.append(template_problem(where))
        else:
            self.notes.append(f"{where}: not a Kubernetes object, passed over")

    def object(self, body: dict[str, Any], kind: str, where: str) -> None:
        group, name = _group(body), _name(body)
        if name is None:
            self.notes.append(f"{where}: {kind} without a name, passed over")
        elif is_template(name):
            self.problems.append(template_problem(where))
        elif kind in KINDS and (group is None or group in _groups(kind)):
            item, problems = decode(body, kind, where)
            self.problems += problems
            if item is not None:
                named = _named(kind, item.value)
                self.keep(self.items, named, item, where)
                if kind == "NetworkPolicy":
                    self.policies[named] = body
        elif kind.endswith("NetworkPolicy"):
            self.other_policies.append(body)
        else:
            self.others.append(body)

    def keep(self, into: dict[_Named, Any], named: _Named, value: Any, where: str) -> None:
        """As with `kubectl apply`, the last document of one name wins."""
        if named in into and into[named] != value:
            self.notes.append(
                f"{where}: {named.kind} {named.namespace}/{named.name} again; the last one counts"
            )
        into[named] = value

    def finish(self) -> Manifests:
        owners = Owners()
        for item in self.items.values():
            if isinstance(item.value, Workload):
                owners.learn(item)
        pods = tuple(owners.with_root(i) for i in self.items.values() if isinstance(i.value, Pod))
        roots = [i.value for i in self.items.values() if owners.is_root(i) and isinstance(i.value, Workload)]
        templates = {
            (i.value.namespace, "/".join(i.owner)): i.value
            for i in self.items.values()
            if isinstance(i.value, Workload) and i.owner is not None
        }
        values = [item.value for item in self.items.values()]
        return Manifests(
            pods=pods,
            services=tuple(v for v in values if isinstance(v, Service)),
            slices=tuple(v for v in values if isinstance(v, EndpointSlice)),
            nodes=tuple(v for v in values if isinstance(v, Node)),
            namespaces=tuple(v for v in values if isinstance(v, Namespace)),
            workloads=workloads(roots, templates, pods),
            policies=tuple(v for v in values if isinstance(v, NetworkPolicy)),
            routes=tuple(v for v in values if isinstance(v, Route)),
            network_policies=tuple(self.policies.values()),
            other_policies=tuple(self.other_policies),
            others=tuple(self.others),
            problems=tuple(self.problems),
            notes=tuple(self.notes),
        )


def workloads(
    roots: Iterable[Workload], templates: dict[tuple[str, str], Workload], pods: Iterable[Pod]
) -> tuple[Workload, ...]:
    """Each root owner once: listed itself, else told by a controller it owns, else by its pods.

    `templates` holds controllers by (namespace, root of their owner). Labels told by pods are those that all
    of them share.
    """
    found = {(root.namespace, root.root): root for root in roots}
    for key, template in templates.items():
        kind, name = key[1].split("/", 1)
        found.setdefault(key, msgspec.structs.replace(template, uid="", kind=kind, name=name, replicas=None))
    for pod in pods:
        key = (pod.namespace, pod.workload or f"Pod/{pod.name}")
        known = found.get(key)
        if known is None:
            found[key] = of_pod(pod)
        elif not known.uid and known.images == () and known.labels != pod.labels:
            shared = tuple(label for label in known.labels if label in pod.labels)
            found[key] = msgspec.structs.replace(known, labels=shared)
    return tuple(found.values())


def of_pod(pod: Pod) -> Workload:
    """The workload a pod tells of when nothing else does."""
    kind, name = (pod.workload or f"Pod/{pod.name}").split("/", 1)
    return Workload(
        uid="",
        kind=kind,
        namespace=pod.namespace,
        name=name,
        labels=pod.labels,
        ports=pod.ports,
        probes=pod.probes,
        host_network=pod.host_network,
        replicas=1 if kind == "Pod" else None,
        service_account=pod.service_account,
    )


def _plain_or_list(data: bytes) -> Any:
    """A document in plain values; a list's items stay raw, so that a dump is not held twice."""
    head = msgspec.json.decode(data, type=_ListHead) if data.lstrip()[:1] == b"{" else None
    if head is not None and head.items is not None and (head.kind or "").endswith("List"):
        return {"kind": head.kind, "items": head.items}
    return msgspec.json.decode(data)


class _ListHead(msgspec.Struct):
    kind: Any = None
    items: Any = None


def _group(body: dict[str, Any]) -> str | None:
    """The API group; None when the object does not say, `` for the core group."""
    version = body.get("apiVersion")
    if not isinstance(version, str) or not version:
        return None
    return version.split("/")[0] if "/" in version else ""


def _name(body: dict[str, Any]) -> str | None:
    """The object's name; a generated one stands as its prefix. None for a patch, which has none."""
    meta = body.get("metadata")
    if not isinstance(meta, dict):
        return None
    if not meta.get("name") and isinstance(meta.get("generateName"), str):
        meta["name"] = meta["generateName"].rstrip("-")
    name = meta.get("name")
    return None if name is None or name == "" else str(name)


def _unwrapped(body: Any) -> Any:
    """The object inside a watch event, as `kubectl get --output-watch-events` prints them."""
    if isinstance(body, dict) and isinstance(body.get("object"), dict) and isinstance(body.get("type"), str):
        return body["object"]
    return body


def _groups(kind: str) -> frozenset[str]:
    """Groups that have held this kind."""
    own = KINDS[kind].group
    return frozenset({own, FORMER_GROUP}) if own in ("apps", "networking.k8s.io") else frozenset({own})


def _named(kind: str, value: Object) -> _Named:
    return _Named(kind, getattr(value, "namespace", ""), value.name, value.uid)
