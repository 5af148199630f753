"""`ringfence scope`: the tree of scopes, drafted, reviewed and committed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, Conflict, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="Scopes: the tree of groups that policy and rights hang on.",
    epilog="Example: `ringfence scope init --per-namespace`, then `ringfence scope commit`",
)

NameArgument = Annotated[str, typer.Argument(help="Name of the scope.", show_default=False)]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
DraftOption = Annotated[bool, typer.Option("--draft", help="The draft in place of the committed tree.")]
VersionOption = Annotated[int | None, typer.Option(help="A committed version [default: the last].", min=0)]
RevisionOption = Annotated[
    int | None, typer.Option(help="Only if the draft is at this revision, as `review` shows it.", min=0)
]
NoteOption = Annotated[str, typer.Option(help="What to say of it in the list of versions.")]


@app.command("init")
def init(
    per_namespace: Annotated[
        bool, typer.Option("--per-namespace", help="A root and one scope a namespace.")
    ] = False,
    single: Annotated[bool, typer.Option("--single", help="One scope for everything.")] = False,
    file: Annotated[str | None, typer.Option(help="A tree in YAML, as `export` writes it; or -.")] = None,
    cluster: Annotated[list[str] | None, typer.Option(help="Only this cluster; may be repeated.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Drop the draft there is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Commit at once.")] = False,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Draft a whole tree, and show what committing it would change. Nothing is committed without --yes.

    With several clusters each has a scope between the root and its namespaces. Namespaces that begin with `kube-`
    share one scope, `system`. Exits 1 when the draft cannot be committed.

    Example: `ringfence scope init --per-namespace --yes`
    """
    body = {"design": _design(per_namespace, single, file), "clusters": cluster or [], "replace": replace}
    client = Client(server, token)
    client.post("/v1/scopes/init", body | ({"scopes": _scopes(file)} if file else {}))
    _review_then(client, yes, "", None, output)


@app.command("tree")
def tree(
    draft: DraftOption = False,
    version: VersionOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the tree: how many endpoints each scope holds now, and for how many it is the one that decides.

    Exits 1 when endpoints stand in two unordered siblings: they came after the commit and nobody decides for them.

    Example: `ringfence scope tree`
    """
    from ringfence.cli.scope_show import show_tree

    answer = _tree(Client(server, token), draft, version)
    if not show_tree(answer, output):
        raise typer.Exit(1)


@app.command("show")
def show(
    name: NameArgument,
    limit: Annotated[int, typer.Option(help="Most members to show.", min=1, max=100_000)] = 1000,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List whom a scope of the committed tree holds now.

    Example: `ringfence scope show shop -o jsonl`
    """
    from ringfence.cli.members import show_members

    answer = Client(server, token).get("/v1/scopes/members", {"name": name, "limit": limit})
    show_members(answer, output)


@app.command("path")
def path(
    name: Annotated[
        str, typer.Argument(help="An endpoint: NAME, NAMESPACE/NAME or a UID.", show_default=False)
    ],
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show which scopes decide for an endpoint, from the root down.

    Exits 1 where no scope holds it, or where two unordered ones do.

    Example: `ringfence scope path shop/web-1`
    """
    from ringfence.cli.scope_show import show_paths

    rows = Client(server, token).get("/v1/scopes/path", {"name": name})["endpoints"]
    if not show_paths(rows, output):
        raise typer.Exit(1)


@app.command("edit")
def edit(
    name: NameArgument,
    filter: Annotated[str | None, typer.Option(help="CEL, or a Kubernetes label selector.")] = None,
    parent: Annotated[
        str | None, typer.Option(help="The scope above [default: as it is, or the root].")
    ] = None,
    order: Annotated[
        int | None, typer.Option(help="Rank among its siblings: the least decides for shared endpoints.")
    ] = None,
    no_order: Annotated[bool, typer.Option("--no-order", help="Take its order away.")] = False,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    revision: RevisionOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Add a scope to the draft, or change what is given of one, and show what committing would change.

    Begins a draft from the committed tree where there is none. Exits 1 when the draft cannot be committed.

    Example: `ringfence scope edit shop --filter 'namespace in ["shop", "shop-db"]'`
    """
    given = {"filter": filter, "parent": parent, "order": order, "description": description}
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    client = Client(server, token)
    body |= {"order": None} if no_order else {}
    client.put("/v1/scopes/draft", {"name": name, "revision": revision, **body})
    _review_then(client, False, "", None, output)


@app.command("delete")
def delete(
    name: NameArgument,
    revision: RevisionOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Take a scope out of the draft, and show what committing would change. One with scopes below it stays.

    Example: `ringfence scope delete shop`
    """
    client = Client(server, token)
    client.delete("/v1/scopes/draft", {"name": name, "revision": revision})
    _review_then(client, False, "", None, output)


@app.command("review")
def review(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """Show what committing the draft would change: who joins and who leaves each scope, by name.

    Exits 1 when endpoints would stand in two unordered siblings; they are named.

    Example: `ringfence scope review -o json`
    """
    _review_then(Client(server, token), False, "", None, output)


@app.command("commit")
def commit(
    note: NoteOption = "",
    revision: RevisionOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what changes, then make the draft the next version. What was shown is what is committed.

    Exits 1 when endpoints would stand in two unordered siblings, or when somebody else was faster.

    Example: `ringfence scope commit --note 'shop got its database'`
    """
    _review_then(Client(server, token), True, note, revision, output)


@app.command("discard")
def discard(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """Drop the draft.

    Example: `ringfence scope discard`
    """
    answer = Client(server, token).post("/v1/scopes/discard", {})
    if output is Output.table:
        print("the draft is dropped" if answer["discarded"] else "there was no draft")
    else:
        emit(answer, output)


@app.command("versions")
def versions(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """List committed versions, newest first.

    Example: `ringfence scope versions`
    """
    rows = Client(server, token).get("/v1/scopes/versions")["versions"]
    if output is not Output.table:
        emit(rows, output)
        return
    fields = ("version", "at", "by", "scopes", "note")
    emit_table(
        None, ("VERSION", "AT", "BY", "SCOPES", "NOTE"), [[row[name] for name in fields] for row in rows]
    )


@app.command("export")
def export(
    draft: DraftOption = False,
    version: VersionOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.yaml,
) -> None:
    """Write the tree as a file that `check` and `init --file` read.

    Example: `ringfence scope export > scopes.yaml`
    """
    from ringfence.cli.scope_show import exported, show_tree

    answer = _tree(Client(server, token), draft, version)
    if output is Output.table:
        show_tree(answer, output)
    else:
        document = exported(answer)
        emit(document["scopes"] if output is Output.jsonl else document, output)


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(help="A tree in YAML, or -.", show_default=False)],
    manifests: Annotated[
        str, typer.Option("--manifests", "-f", help="Folder, file, or - with manifests.", show_default=False)
    ],
    output: OutputOption = Output.table,
) -> None:
    """Offline: ask a tree of scopes over manifests. Workloads without pods count as one pod each.

    Exits 1 when endpoints stand in two unordered siblings.

    Example: `ringfence scope check scopes.yaml --manifests k8s/`
    """
    from ringfence.cli.population import populate, read
    from ringfence.cli.scope_show import offline, show_tree
    from ringfence.cli.scope_text import tree_of

    scopes = tree_of(file)
    objects, problems = read(manifests)
    good = show_tree(offline(scopes, populate, objects), output)
    if problems:
        from ringfence.cli.inventory_rows import finish

        finish(problems)
    if not good:
        raise typer.Exit(1)


def _tree(client: Client, draft: bool, version: int | None) -> dict[str, Any]:
    if draft and version is not None:
        raise Problem("a draft and a version", "--draft and --version", "give one of them")
    answer: dict[str, Any] = client.get("/v1/scopes/draft" if draft else "/v1/scopes", {"version": version})
    return answer


def _design(per_namespace: bool, single: bool, file: str | None) -> str:
    chosen = [
        name
        for name, given in (("per-namespace", per_namespace), ("single", single), ("given", file))
        if given
    ]
    if len(chosen) != 1:
        raise Problem("no one design", "scope init", "give one of --per-namespace, --single and --file")
    return chosen[0]


def _scopes(file: str) -> list[dict[str, Any]]:
    import msgspec

    from ringfence.cli.scope_text import tree_of

    scopes: list[dict[str, Any]] = msgspec.to_builtins(tree_of(file).scopes)
    return scopes


def _review_then(client: Client, go_on: bool, note: str, revision: int | None, output: Output) -> None:
    """Show the review; then commit what was shown, where that is wanted and can be. Exits 1 where it cannot."""
    from ringfence.cli.scope_show import show_committed, show_review

    review = client.get("/v1/scopes/review")
    good = not review["conflicts"]
    if not (go_on and good):
        show_review(review, output)
    if not good:
        raise typer.Exit(1)
    if not go_on:
        return
    body = {"revision": review["revision"] if revision is None else revision, "note": note}
    try:
        answer = client.post("/v1/scopes/commit", body)
    except Conflict as conflict:
        import sys

        print(f"error: {conflict}", file=sys.stderr)
        raise typer.Exit(1) from None
    show_committed(review, answer, output)
