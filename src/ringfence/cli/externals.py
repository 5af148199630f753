"""`ringfence inventory externals`: what people call addresses outside the clusters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.inventory_rows import finish
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="Names and labels for outside addresses, from lists in CSV or YAML.",
    epilog="Example: `ringfence inventory externals apply sites.csv --catalog sites`",
)

LARGEST = 64 << 20
"""Octets of a list."""

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
CatalogOption = Annotated[str, typer.Option(help="Name of the list.", show_default=False)]
FromOption = Annotated[
    str, typer.Option("--from", help="From when it holds: RFC 3339, or how long ago (15m, 2h, 1d).")
]


@app.command("list")
def list_(
    catalog: Annotated[str | None, typer.Option(help="The entries of this list.")] = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the lists there are, or the entries of one.

    Example: `ringfence inventory externals list --catalog sites`
    """
    answer = Client(server, token).get("/v1/externals", {"catalog": catalog})
    rows = answer["catalogs"] if catalog is None else [_plain(each) for each in answer["entries"]]
    if output is not Output.table:
        emit(rows, output)
    elif catalog is None:
        emit_table(None, ("CATALOG", "ENTRIES"), [(row["catalog"], row["entries"]) for row in rows])
    else:
        emit_table(None, ("NETWORK", "NAME", "LABELS"), map(_cells, rows))


@app.command("apply")
def apply(
    file: Annotated[str, typer.Argument(help="CSV or YAML file, or -.", show_default=False)],
    catalog: CatalogOption,
    since: FromOption = "now",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Replace a list by a file's entries, all of them or none. With --from, earlier flows get these names too.

    CSV begins with a line `network,name`; further columns are labels. YAML is a list of network, name, labels.

    Example: `ringfence inventory externals apply sites.csv --catalog sites --from 7d --dry-run`
    """
    entries = [
        {"network": each.network, "name": each.name, "labels": dict(each.labels)} for each in _read(file)
    ]
    body = {"catalog": catalog, "entries": entries, "from": since, "dry_run": dry_run}
    _show(Client(server, token).put("/v1/externals", body), "would be" if dry_run else "is", output)


@app.command("delete")
def delete(
    catalog: CatalogOption,
    since: FromOption = "now",
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """End a list: from then on its addresses have no name of it. What they were called before stays.

    Example: `ringfence inventory externals delete --catalog sites`
    """
    answer = Client(server, token).delete("/v1/externals", {"catalog": catalog, "from": since})
    _show(answer, "is", output)


def _read(file: str) -> tuple[Any, ...]:
    """The entries of a file. Every problem is printed; then nothing is sent and the exit code is 2."""
    from ringfence.inventory.externals_file import read_externals

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise Problem(f"cannot read ({error.strerror})", file, "name a CSV or YAML file") from None
    except UnicodeDecodeError:
        raise Problem("not text in UTF-8", file, "save it as UTF-8") from None
    if len(data) > LARGEST:
        raise Problem("too large a list", file, f"keep to {LARGEST >> 20} MiB")
    entries, problems = read_externals(text, "standard input" if file == "-" else file)
    finish(problems)
    return entries


def _show(answer: dict[str, Any], verb: str, output: Output) -> None:
    if output is not Output.table:
        emit(answer, output)
        return
    counts = ", ".join(f"{len(answer[name])} {name}" for name in ("added", "changed", "removed"))
    print(f"{answer['catalog']} {verb} replaced: {counts}, {answer['same']} as before")
    for sign, name in (("+", "added"), ("~", "changed"), ("-", "removed")):
        for network in answer[name][:20]:
            print(f"  {sign} {network}")
        if len(answer[name]) > 20:
            print(f"  {sign} and {len(answer[name]) - 20} more")


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {"network": entry["network"], "name": entry["name"], "labels": dict(entry["labels"])}


def _cells(entry: dict[str, Any]) -> tuple[object, ...]:
    labels = ",".join(f"{key}={value}" for key, value in entry["labels"].items())
    return entry["network"], entry["name"], labels
