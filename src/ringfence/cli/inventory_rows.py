"""Objects of the inventory as rows: read from manifests or a server, chosen, and printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import typer

from ringfence.cli.output import Output, emit, emit_table

Row = dict[str, Any]

MAPPINGS = ("labels", "annotations", "selector")
"""Fields that are pairs inside and mappings for people."""

ORDER = (
    *(
        "Namespace",
        "Node",
        "External",
        "Service",
        "EndpointSlice",
        "Workload",
        "Pod",
        "NetworkPolicy",
        "Route",
    ),
)
"""Kinds as a person reads a cluster, from the widest to the narrowest."""

OWN_KIND = {"Workload": "owner", "NetworkPolicy": "resource", "Route": "resource"}
"""Nouns with a kind of their own (Deployment, Ingress, ...), and where that stands in a row."""


class Asked(NamedTuple):
    """What a verb was asked, offline (`manifests`) or of a server."""

    manifests: str | None = None
    kind: str | None = None
    namespace: str | None = None
    filter: str | None = None
    cluster: str | None = None
    at: str | None = None
    known: str | None = None
    server: str | None = None
    token: str | None = None

    def parameters(self) -> dict[str, str | None]:
        """What a server is asked."""
        names = ("kind", "namespace", "filter", "cluster", "at", "known")
        return {name: getattr(self, name) for name in names}


class Found(NamedTuple):
    """Rows, what could not be read of files, and how many endpoints the filter could not judge."""

    rows: list[Row]
    problems: Iterable[object] = ()
    errors: int = 0


def find(asked: Asked) -> Found:
    """The rows of a question. Raises Problem."""
    asked = asked._replace(kind=noun_of(asked.kind))
    if asked.manifests is not None:
        return _offline(asked, asked.manifests)
    from ringfence.cli.client import Client

    answer = Client(asked.server, asked.token).get("/v1/inventory", asked.parameters())
    return Found([plain(row) for row in answer["endpoints"]], (), answer["errors"])


def _offline(asked: Asked, path: str) -> Found:
    import msgspec

    from ringfence.cli.population import offline

    given = offline(asked, path)
    rows = []
    for value in given.chosen():
        noun = type(value).__name__
        fields = msgspec.to_builtins(value)
        if noun in OWN_KIND:
            fields[OWN_KIND[noun]] = fields.pop("kind")
        if asked.kind in (None, noun) and asked.namespace in (None, fields.get("namespace")):
            rows.append(plain({"kind": noun, **fields}))
    return Found(rows, given.problems, given.errors)


def plain(row: Row) -> Row:
    """The row as people expect it: pairs as mappings, no made-up UID."""
    from ringfence.inventory.versions import UNBORN

    found = dict(row)
    for name in MAPPINGS:
        if isinstance(found.get(name), list | tuple):
            found[name] = dict(found[name])
    if str(found.get("uid") or UNBORN).startswith(UNBORN):
        found["uid"] = None
    return found


def noun_of(text: str | None) -> str | None:
    """A kind as people write it. Raises Problem for an unknown one."""
    from ringfence.model.objects import KINDS
    from ringfence.model.problems import Problem

    if text is None:
        return None
    for name in KINDS:
        plural = name[:-1] + "ies" if name.endswith("y") else f"{name}s"
        if text.lower() in (name.lower(), plural.lower()):
            return name
    raise Problem(f"unknown kind `{text}`", "--kind", f"use one of {', '.join(KINDS).lower()}")


def names(row: Row) -> set[str]:
    """Everything a row may be called by."""
    name, namespace = str(row.get("name")), row.get("namespace")
    spelled = {name, f"{row['kind']}/{name}", f"{row['kind'].lower()}/{name}", str(row.get("uid"))}
    spelled |= {f"{namespace}/{name}"} if namespace else set()
    own = row.get("owner") or row.get("resource")
    spelled |= {f"{own}/{name}"} if own else set()
    return spelled | set(addresses(row)) | ({str(row["workload"])} if row.get("workload") else set())


def addresses(row: Row) -> list[str]:
    """Every address of a row, or its network."""
    fields = ("addresses", "cluster_ips", "external_ips", "load_balancer_ips")
    found = [address for field in fields for address in row.get(field) or ()]
    return found or ([row["network"]] if row.get("network") else [])


def show_rows(rows: list[Row], output: Output) -> None:
    """Print rows; a column for the cluster where there are several."""
    rows = sorted(rows, key=_order)
    if output is not Output.table:
        emit(rows, output)
        return
    several = len({row["cluster"] for row in rows if row.get("cluster")}) > 1
    columns = ["CLUSTER"] * several + ["KIND", "NAMESPACE", "NAME", "WORKLOAD", "NODE", "ADDRESSES", "LABELS"]
    emit_table(None, columns, [([row.get("cluster")] * several) + _cells(row) for row in rows])


def _order(row: Row) -> tuple[Any, ...]:
    return ORDER.index(row["kind"]), *(str(row.get(f) or "") for f in ("cluster", "namespace", "name"))


def _cells(row: Row) -> list[object]:
    labels = ",".join(f"{key}={value}" for key, value in (row.get("labels") or {}).items())
    own = row.get("owner") or row.get("resource")
    workload = row.get("workload") or (f"{own}/{row['name']}" if own else None)
    held = ",".join(addresses(row))
    return [row["kind"], row.get("namespace"), row["name"], workload, row.get("node"), held, labels]


def finish(problems: Iterable[object], errors: int = 0) -> None:
    """What could not be read or judged is said after everything that could; unread input is exit code 2."""
    if errors:
        print(
            f"note: the filter is an error for {errors} more, which it does not hold; "
            "`ringfence inventory filters preview` says why",
            file=sys.stderr,
        )
    lines = [f"error: {problem}" for problem in problems]
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        raise typer.Exit(2)
