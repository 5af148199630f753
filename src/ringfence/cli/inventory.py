"""`ringfence inventory`: what the clusters hold and held, from manifests on disk or from a server."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli.client import ServerOption, TokenOption
from ringfence.cli.externals import app as externals
from ringfence.cli.filters import app as filters
from ringfence.cli.output import Output

app = typer.Typer(
    no_args_is_help=True,
    help="Pods, services, nodes and workloads, at any time; filters over them; names for outside addresses.",
    epilog="Example: `ringfence inventory list --manifests k8s/ --filter 'app=web'`",
)
app.add_typer(filters, name="filters")
app.add_typer(externals, name="externals")

KINDS = "pod, service, endpointslice, node, namespace, workload, networkpolicy, route or external"
GROUPS = "service, workload, deployment, statefulset, daemonset, job, namespace or node"

ManifestsOption = Annotated[
    str | None,
    typer.Option(
        "--manifests", "-f", help="Folder, file, or - : manifests, or a `kubectl get -o json` dump."
    ),
]
KindOption = Annotated[str | None, typer.Option(help=f"{KINDS} [default: all].")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Only this namespace.")]
FilterOption = Annotated[
    str | None,
    typer.Option("--filter", "-l", help="Only endpoints it holds: CEL, or a label selector (app=web)."),
]
ByOption = Annotated[str | None, typer.Option(help=f"Pods by {GROUPS}.")]
ClusterOption = Annotated[str | None, typer.Option(help="Online: only this cluster.")]
AtOption = Annotated[
    str | None, typer.Option(help="Online: as it was then, RFC 3339 or how long ago, e.g. 15m.")
]
KnownOption = Annotated[
    str | None, typer.Option(help="Online: as it was known then, without what was learnt later.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(
    manifests: ManifestsOption = None,
    kind: KindOption = None,
    namespace: NamespaceOption = None,
    filter: FilterOption = None,
    by: ByOption = None,
    cluster: ClusterOption = None,
    at: AtOption = None,
    known: KnownOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List objects: of manifests on disk, or of the clusters a server knows. With --by, count pods.

    A filter holds pods, services, nodes and lists of outside addresses. Offline a workload without pods counts as
    one pod of its name.

    Example: `ringfence inventory list --filter 'namespace == "shop" && labels["app"] in ["web", "db"]' --at 1h`

    Example: `ringfence inventory list --by service -n shop`

    Example: `kubectl get pods,svc,nodes -A -o json | ringfence inventory list --manifests -`
    """
    from ringfence.cli.inventory_groups import show_groups
    from ringfence.cli.inventory_rows import Asked, find, finish, show_rows

    asked = Asked(manifests, kind, namespace, filter, cluster, at, known, server, token)
    if by is not None:
        show_groups(asked, by, output)
        return
    found = find(asked)
    show_rows(found.rows, output)
    finish(found.problems, found.errors)


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="NAME, NAMESPACE/NAME, KIND/NAME, a UID, or an address.", show_default=False)
    ],
    manifests: ManifestsOption = None,
    kind: KindOption = None,
    cluster: ClusterOption = None,
    at: AtOption = None,
    known: KnownOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.yaml,
) -> None:
    """Show everything known of what has a name, or holds an address.

    Example: `ringfence inventory show sock-shop/carts --manifests k8s/`

    Example: `ringfence inventory show 10.244.1.5 --server http://127.0.0.1:8443 --at 15m`
    """
    from ringfence.cli.inventory_rows import Asked, find, finish, names, show_rows
    from ringfence.model.problems import Problem

    found = find(Asked(manifests, kind, None, None, cluster, at, known, server, token))
    rows = [row for row in found.rows if name in names(row)]
    if not rows:
        place = manifests or "the server"
        raise Problem("no such object", f"{name} in {place}", "see `ringfence inventory list`")
    show_rows(rows, output)
    finish(found.problems)


@app.command("history")
def history(
    name: Annotated[
        str, typer.Argument(help="NAME, NAMESPACE/NAME, a UID, or an address.", show_default=False)
    ],
    since: Annotated[str, typer.Option(help="From when: RFC 3339, or how long ago (15m, 2h, 1d).")] = "24h",
    until: Annotated[str | None, typer.Option(help="Until when [default: now].")] = None,
    known: KnownOption = None,
    kind: KindOption = None,
    cluster: ClusterOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what an object was from when to when, or who held an address.

    Asked again with --known, it answers what was known at that time: what was learnt later does not count.

    Example: `ringfence inventory history 10.244.1.5 --since 1h`

    Example: `ringfence inventory history shop/web-1 --since 1h --known 30m -o json`
    """
    from ringfence.cli.inventory_history import ask, show_history
    from ringfence.cli.inventory_rows import noun_of

    asked = {"since": since, "until": until, "known": known, "kind": noun_of(kind), "cluster": cluster}
    show_history(ask(name, asked, server, token), output)


@app.command("status")
def status(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """Show how every cluster is followed: each kind's state, what cannot be read, how late news is. Bad news first.

    Exits 1 when something is not current, or when no connector has reported.

    Example: `ringfence inventory status -o json`
    """
    from ringfence.cli.inventory_status import ask, show_status

    if not show_status(ask(server, token), output):
        raise typer.Exit(1)
