"""`ringfence inventory`: what the cluster holds, from manifests on disk or from a server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from ringfence.cli.client import ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table

app = typer.Typer(
    no_args_is_help=True,
    help="Pods, services, nodes and workloads, at any time.",
    epilog="Example: `ringfence inventory list --manifests k8s/ --kind workload`",
)

Row = dict[str, Any]

MAPPINGS = ("labels", "annotations", "selector")
"""Fields that are pairs inside and mappings for people."""

ManifestsOption = Annotated[
    str | None,
    typer.Option(
        "--manifests", "-f", help="Folder, file, or - : manifests, or a `kubectl get -o json` dump."
    ),
]
KindOption = Annotated[
    str | None, typer.Option(help="pod, service, endpointslice, node, namespace or workload [default: all].")
]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Only this namespace.")]
AtOption = Annotated[
    str | None, typer.Option(help="Online: as it was then, RFC 3339 or how long ago, e.g. 15m.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(
    manifests: ManifestsOption = None,
    kind: KindOption = None,
    namespace: NamespaceOption = None,
    at: AtOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List objects: of manifests on disk, or of the clusters a server knows.

    Example: `ringfence inventory list --manifests k8s/ --kind workload -o json`

    Example: `kubectl get pods,svc,nodes -A -o json | ringfence inventory list --manifests -`
    """
    rows, problems = _rows(manifests, kind, at, server, token)
    _print([row for row in rows if namespace in (None, row.get("namespace"))], output)
    _finish(problems)


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="NAME, NAMESPACE/NAME, KIND/NAME, a UID, or an address.", show_default=False)
    ],
    manifests: ManifestsOption = None,
    kind: KindOption = None,
    at: AtOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.yaml,
) -> None:
    """Show everything known of what has a name, or holds an address.

    Example: `ringfence inventory show sock-shop/carts --manifests k8s/`

    Example: `ringfence inventory show 10.244.1.5 --server http://127.0.0.1:8443 --at 15m`
    """
    from ringfence.model.problems import Problem

    rows, problems = _rows(manifests, kind, at, server, token)
    found = [row for row in rows if name in _names(row)]
    if not found:
        place = manifests or "the server"
        raise Problem("no such object", f"{name} in {place}", "see `ringfence inventory list`")
    _print(found, output)
    _finish(problems)


def _rows(
    manifests: str | None, kind: str | None, at: str | None, server: str | None, token: str | None
) -> tuple[list[Row], Iterable[object]]:
    """Rows, and what could not be read."""
    from ringfence.model.problems import Problem

    wanted = _kind(kind)
    if manifests is not None:
        if at is not None:
            raise Problem("no history in manifests", "--at", "ask a server for the past")
        return _offline(manifests, wanted)
    from ringfence.cli.client import Client

    answer = Client(server, token).get("/v1/inventory", {"kind": wanted, "at": at})
    return [_plain(row) for row in answer["endpoints"]], ()


def _offline(path: str, kind: str | None) -> tuple[list[Row], Iterable[object]]:
    import msgspec

    from ringfence.kube.manifests import load

    read = load(path)
    for note in read.notes:
        print(f"note: {note}", file=sys.stderr)
    rows = []
    for value in read.objects:
        noun = type(value).__name__
        if kind in (None, noun):
            fields = msgspec.to_builtins(value)
            owner = fields.pop("kind", None)
            rows.append(_plain({"kind": noun, **({"owner": owner} if owner else {}), **fields}))
    return rows, read.problems


def _plain(row: Row) -> Row:
    """The row as people expect it: pairs as mappings, no made-up UID."""
    from ringfence.kube.decode import UNBORN
    from ringfence.model.objects import KINDS

    plain = dict(row)
    if plain["kind"] not in KINDS:
        # A workload's own kind (Deployment, ...) has the field's name too.
        plain = {**plain, "kind": "Workload", "owner": plain["kind"]}
    for name in MAPPINGS:
        if isinstance(plain.get(name), list | tuple):
            plain[name] = dict(plain[name])
    if str(plain.get("uid") or UNBORN).startswith(UNBORN):
        plain["uid"] = None
    return plain


def _kind(text: str | None) -> str | None:
    from ringfence.model.objects import KINDS
    from ringfence.model.problems import Problem

    if text is None:
        return None
    for name in KINDS:
        if text.lower() in (name.lower(), f"{name.lower()}s"):
            return name
    raise Problem(f"unknown kind `{text}`", "--kind", f"use one of {', '.join(KINDS).lower()}")


def _names(row: Row) -> set[str]:
    """Everything a row may be called by."""
    name, namespace = str(row.get("name")), row.get("namespace")
    spelled = {name, f"{row['kind']}/{name}", f"{row['kind'].lower()}/{name}", str(row.get("uid"))}
    spelled |= {f"{namespace}/{name}"} if namespace else set()
    spelled |= {f"{row['owner']}/{name}"} if row.get("owner") else set()
    return spelled | set(_addresses(row)) | ({str(row["workload"])} if row.get("workload") else set())


def _addresses(row: Row) -> list[str]:
    fields = ("addresses", "cluster_ips", "external_ips", "load_balancer_ips")
    return [address for field in fields for address in row.get(field) or ()]


def _print(rows: list[Row], output: Output) -> None:
    rows = sorted(rows, key=_order)
    if output is not Output.table:
        emit(rows, output)
        return
    columns = ("KIND", "NAMESPACE", "NAME", "WORKLOAD", "NODE", "ADDRESSES", "LABELS")
    emit_table(None, columns, [_cells(row) for row in rows])


def _order(row: Row) -> tuple[str, ...]:
    """By kind as a person reads a cluster, from the widest to the narrowest, then by name."""
    kinds = ("Namespace", "Node", "Service", "EndpointSlice", "Workload", "Pod")
    return str(kinds.index(row["kind"])), *(str(row.get(f) or "") for f in ("cluster", "namespace", "name"))


def _cells(row: Row) -> tuple[object, ...]:
    labels = ",".join(f"{key}={value}" for key, value in (row.get("labels") or {}).items())
    workload = row.get("workload") or (f"{row['owner']}/{row['name']}" if row.get("owner") else None)
    addresses = ",".join(_addresses(row))
    return row["kind"], row.get("namespace"), row["name"], workload, row.get("node"), addresses, labels


def _finish(problems: Iterable[object]) -> None:
    """What could not be read is said after everything that could; then the exit code is 2."""
    lines = [f"error: {problem}" for problem in problems]
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        raise typer.Exit(2)
