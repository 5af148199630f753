"""`ringfence netpol`: Kubernetes NetworkPolicy on paper, from files or from a server's evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ringfence.cli.output import Output
from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from ringfence.kube.manifests import Manifests
    from ringfence.model.policies import Discovery

app = typer.Typer(no_args_is_help=True, help="Kubernetes NetworkPolicy: propose it from flows.")

DIALECTS = ("k8s",)
"""What can be written now; the contract's others are refused by name."""


@app.callback()
def group() -> None:
    """Kubernetes NetworkPolicy: propose it from flows."""


@app.command()
def generate(
    more: list[Path] = typer.Argument(None, metavar="[FILE]...", help="More files of flows."),
    flows: list[Path] = typer.Option(
        None, "--flows", help="File of flows in JSON or JSON lines, as `flows read` and `flows list` print."
    ),
    manifests: str | None = typer.Option(
        None, "--manifests", help="Folder or file of Kubernetes manifests, or a `kubectl get -o json` dump."
    ),
    namespace: list[str] = typer.Option(
        None, "--namespace", "--scope", "-n", help="Only policies of this namespace; may be repeated."
    ),
    dialect: str = typer.Option("k8s", "--dialect", help="What to write: k8s (networking.k8s.io/v1)."),
    outside: bool = typer.Option(
        True, "--outside/--no-outside", help="Admit outside addresses until somebody decides."
    ),
    keep_going: bool = typer.Option(
        False, "--keep-going", help="Propose from what could be read of the manifests; still exits 2."
    ),
    server: str | None = typer.Option(None, "--server", help="Ask this server instead of reading files."),
    since: str = typer.Option("15m", "--since", help="With --server: how far back to look."),
    out: Path | None = typer.Option(None, "--out", help="Folder to write one YAML file a policy to."),
    output: Output = typer.Option(Output.table, "-o", "--output", help="How to print the answer."),
) -> None:
    """Propose one NetworkPolicy for each workload, from observed flows. Nothing is applied.

    Example: `ringfence netpol generate --flows flows.jsonl --manifests ./deploy --out policies`
    """
    from ringfence.cli.proposals import show

    files = [*(flows or []), *(more or [])]
    _check(files, dialect, server)
    if server is not None:
        from ringfence.cli.policy import ask

        show(ask(server, since, namespace or []), out, output)
        return
    answer, whole = _offline(files, manifests, namespace or [], outside, keep_going)
    show(answer, out, output)
    if not whole:
        raise typer.Exit(2)


def _check(files: list[Path], dialect: str, server: str | None) -> None:
    if dialect not in DIALECTS:
        raise Problem("unknown dialect", f"--dialect {dialect}", f"this version writes {', '.join(DIALECTS)}")
    if files and server is not None:
        raise Problem("two kinds of evidence", "--flows and --server", "give one of them")
    if not files and server is None:
        raise Problem("no evidence", "netpol generate", "give --flows FILE or --server URL")


def _offline(
    files: list[Path], manifests: str | None, namespaces: list[str], outside: bool, keep_going: bool
) -> tuple[dict[str, Any], bool]:
    """The answer from files, and whether every manifest could be read."""
    import msgspec

    from ringfence.cli.proposals import read_flows
    from ringfence.compiler.answer import answer
    from ringfence.discovery.facts import facts_of
    from ringfence.discovery.propose import discover
    from ringfence.discovery.recorded import Names, edges_of
    from ringfence.kube.manifests import Manifests, load

    given = load(manifests) if manifests is not None else Manifests()
    _report(given, keep_going)
    facts = facts_of(given.objects)
    edges = edges_of(read_flows(files), Names(given.objects, facts))
    told = ", ".join(map(str, files))
    if not edges:
        raise Problem("no conversations", told, "capture longer, or name files that hold flows")
    discovery = discover(edges, facts, namespaces=namespaces or None, outside=outside)
    _some(discovery, told, namespaces)
    plain = msgspec.to_builtins(answer(discovery))
    return plain, not given.problems


def _report(given: Manifests, keep_going: bool) -> None:
    """A manifest that cannot be read may hide a workload, and a selector would then match too much."""
    if not given.problems:
        return
    if not keep_going:
        for problem in given.problems[1:]:
            print(f"error: {problem}", file=sys.stderr)
        raise given.problems[0]
    for problem in given.problems:
        print(f"error: {problem}", file=sys.stderr)


def _some(discovery: Discovery, told: str, namespaces: list[str]) -> None:
    if discovery.proposals:
        return
    if namespaces:
        fix = "name a namespace that the flows or the manifests hold"
        raise Problem("no workload", f"namespace {', '.join(namespaces)} in {told}", fix)
    fix = "give --manifests, or read the capture with --inventory, so that addresses become workloads"
    raise Problem("no workload in these conversations", told, fix)
