"""`ringfence inventory filters`: saved filters, who they hold, and what an edit would change."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption, part
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="Saved filters: groups of endpoints that change by themselves.",
    epilog='Example: `ringfence inventory filters save web \'labels["app"] == "web"\'`',
)

NameArgument = Annotated[str, typer.Argument(help="Name of the filter.", show_default=False)]
ManifestsOption = Annotated[
    str | None, typer.Option("--manifests", "-f", help="Offline: folder, file, or - with manifests.")
]
AtOption = Annotated[str | None, typer.Option(help="As it was then, RFC 3339 or how long ago, e.g. 15m.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """List saved filters with how many endpoints each holds now, and for how many it is an error.

    Example: `ringfence inventory filters list -o json`
    """
    rows = Client(server, token).get("/v1/filters")["filters"]
    if output is not Output.table:
        emit(rows, output)
        return
    columns = ("NAME", "HOLDS", "ERRORS", "VERSION", "FILTER", "DESCRIPTION")
    emit_table(None, columns, map(_cells, rows), ("DESCRIPTION",))


@app.command("show")
def show(
    name: NameArgument,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.yaml,
) -> None:
    """Show a filter, every version it had, and for whom it is an error and why.

    Example: `ringfence inventory filters show web`
    """
    answer = Client(server, token).get(f"/v1/filters/{part(name)}")
    if output is Output.table:
        emit_table(None, ("VERSION", "AT", "BY", "FILTER"), map(_version, answer["versions"]))
    else:
        emit(answer, output)


@app.command("save")
def save(
    name: NameArgument,
    text: Annotated[str, typer.Argument(help="CEL, or a Kubernetes label selector.", show_default=False)],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    base: Annotated[
        int | None, typer.Option(help="Only if this is its last version (0: it must be new).")
    ] = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Save a filter as a new version; earlier ones stay on record. See `preview` first.

    Example: `ringfence inventory filters save web 'namespace == "shop" && labels["app"] == "web"'`
    """
    body = {"text": text, "description": description, "base": base}
    saved = Client(server, token).put(f"/v1/filters/{part(name)}", body)
    if output is Output.table:
        print(f"saved {name} version {saved['version']}: it holds {saved['count']}")
    else:
        emit(saved, output)


@app.command("delete")
def delete(
    name: NameArgument,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Delete a filter; its versions stay on record.

    Example: `ringfence inventory filters delete web`
    """
    answer = Client(server, token).delete(f"/v1/filters/{part(name)}")
    if output is Output.table:
        print(f"deleted {name}")
    else:
        emit(answer, output)


@app.command("members")
def members(
    name: NameArgument,
    addresses: Annotated[bool, typer.Option("--addresses", help="The policy object: addresses.")] = False,
    at: AtOption = None,
    limit: Annotated[int, typer.Option(help="Most members to show.", min=1, max=100_000)] = 1000,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List whom a filter holds, or the addresses it stands for, with the generation that grows with every change.

    Example: `ringfence inventory filters members web --addresses -o json`
    """
    from ringfence.cli.members import show_addresses, show_members

    asked = {"at": at, "limit": limit, "addresses": "true" if addresses else None}
    answer = Client(server, token).get(f"/v1/filters/{part(name)}/members", asked)
    (show_addresses if addresses else show_members)(answer, output)


@app.command("preview")
def preview(
    name: Annotated[str | None, typer.Argument(help="A saved filter to edit.")] = None,
    to: Annotated[str | None, typer.Option(help="The new text: CEL, or a label selector.")] = None,
    former: Annotated[
        str | None, typer.Option("--from", help="Offline: the text it would take the place of.")
    ] = None,
    manifests: ManifestsOption = None,
    at: AtOption = None,
    limit: Annotated[int, typer.Option(help="Endpoints to name of each list.", min=1, max=100_000)] = 20,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Say who would join and who would leave a filter if its text were --to, and for whom it would be an error.

    Example: `ringfence inventory filters preview web --to 'labels["app"] in ["web", "www"]'`

    Example: `ringfence inventory filters preview --manifests k8s/ --to 'tier=front' --from 'app=web'`
    """
    from ringfence.cli.preview import offline, online, show_preview

    _check(name, to, former, manifests, at)
    if manifests is not None:
        show_preview(offline(manifests, former, str(to), limit), output)
        return
    asked = {"name": name, "text": to, "at": at, "limit": limit}
    show_preview(online(asked, server, token), output)


def _check(
    name: str | None, to: str | None, former: str | None, manifests: str | None, at: str | None
) -> None:
    """Refuse questions that contradict themselves."""
    if to is None and (name is None or manifests is not None):
        raise Problem("nothing to preview", "--to", "give the new text, e.g. --to 'app=web'")
    if manifests is not None and (name is not None or at is not None):
        what = "NAME" if name is not None else "--at"
        raise Problem(
            "manifests hold no saved filters and no past", what, "give --from TEXT, or ask a server"
        )
    if manifests is None and former is not None:
        raise Problem("a text to replace", "--from", "online, give the saved filter's name")


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    if row["problem"]:
        return row["name"], "", "", row["version"], row["text"], f"error: {row['problem']}"
    return (*(row[field] for field in ("name", "count", "errors", "version", "text", "description")),)


def _version(version: dict[str, Any]) -> tuple[object, ...]:
    text = "(deleted)" if version["text"] is None else version["text"]
    return version["version"], version["at"], version["by"], text
