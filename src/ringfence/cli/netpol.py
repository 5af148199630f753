"""`ringfence netpol`: Kubernetes NetworkPolicy on paper, from files or from a server's evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence.cli import netpol_paper
from ringfence.cli.client import ServerOption, TokenOption
from ringfence.cli.output import Output
from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringfence.model.policies import Discovery

app = typer.Typer(
    no_args_is_help=True,
    help="Kubernetes NetworkPolicy: propose it from flows, and judge it on paper.",
    epilog="Example: `ringfence netpol generate --flows capture.pcap --manifests ./deploy --out policies`",
)

DIALECTS = ("k8s",)
"""What can be written now; the contract's others are refused by name."""


@app.callback()
def group() -> None:
    """Kubernetes NetworkPolicy: propose it from flows, and judge it on paper."""


netpol_paper.register(app)


@app.command()
def generate(
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More captures or files of flows.")
    ] = None,
    flows: Annotated[
        list[Path] | None,
        typer.Option(
            help="Captures, or flows in JSON or JSON lines as `flows read` and `flows list` print them; or -."
        ),
    ] = None,
    manifests: Annotated[
        str | None, typer.Option(help="Folder or file of manifests, or a `kubectl get -o json` dump.")
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "-n", "--namespace", "--scope", help="Only policies of this namespace; may be repeated."
        ),
    ] = None,
    dialect: Annotated[str, typer.Option(help="What to write: k8s (networking.k8s.io/v1).")] = "k8s",
    outside: Annotated[
        bool, typer.Option("--outside/--no-outside", help="Admit outside addresses until somebody decides.")
    ] = True,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", help="Propose from what can be read of manifests and captures; still exits 2."
        ),
    ] = False,
    server: ServerOption = None,
    token: TokenOption = None,
    since: Annotated[str, typer.Option(help="With --server: from when, e.g. 15m or 2h ago.")] = "15m",
    out: Annotated[Path | None, typer.Option(help="Folder to write one YAML file a policy to.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.table,
) -> None:
    """Propose one NetworkPolicy for each workload, from observed flows. Nothing is applied.

    Example: `ringfence netpol generate --flows flows.jsonl --manifests ./deploy --out policies`

    Example: `ringfence netpol generate --flows capture.pcap --manifests ./deploy -o yaml`
    """
    from ringfence.cli.proposals import show

    files, namespaces = [*(flows or []), *(more or [])], namespace or []
    _check(files, dialect, server, namespaces)
    if files:
        answer, whole = _offline(files, manifests, namespaces, outside, keep_going)
    else:
        answer, whole = _online(server, token, since, namespaces), True
    show(answer, out, output)
    if not whole:
        raise typer.Exit(2)


def _online(server: str | None, token: str | None, since: str, namespaces: list[str]) -> dict[str, Any]:
    from ringfence.cli.client import Client
    from ringfence.cli.policy import ask

    wanted = namespaces[0] if namespaces else None
    return ask(Client(server, token), {"since": since, "namespace": wanted})


def _check(files: list[Path], dialect: str, server: str | None, namespaces: list[str]) -> None:
    if dialect not in DIALECTS:
        raise Problem("unknown dialect", f"--dialect {dialect}", f"this version writes {', '.join(DIALECTS)}")
    if files and server is not None:
        raise Problem("two kinds of evidence", "--flows and --server", "give one of them")
    if not files and server is None:
        raise Problem("no evidence", "netpol generate", "give --flows FILE or --server URL")
    if server is not None and len(namespaces) > 1:
        raise Problem("several namespaces", "--namespace with --server", "ask for one at a time, or for all")


def _offline(
    files: list[Path], manifests: str | None, namespaces: list[str], outside: bool, keep_going: bool
) -> tuple[dict[str, Any], bool]:
    """The answer from files, and whether all of them could be read to their end."""
    import msgspec

    from ringfence.cli.evidence import read_evidence
    from ringfence.compiler.answer import answer
    from ringfence.discovery.facts import facts_of
    from ringfence.discovery.propose import discover
    from ringfence.discovery.recorded import Names, edges_of, node_addresses
    from ringfence.kube.manifests import Manifests, load

    given = load(manifests) if manifests is not None else Manifests()
    _report(given.problems, keep_going)
    evidence = read_evidence(files, manifests)
    for note in evidence.notes:
        print(f"note: {note}", file=sys.stderr)
    _report(_others(evidence.problems, given.problems), keep_going)
    recorded = evidence.flows
    facts = facts_of(given.objects, node_addresses(recorded))
    edges = edges_of(recorded, Names(given.objects, facts))
    told = ", ".join(map(str, files))
    if not edges:
        raise Problem("no conversations", told, "capture longer, or name files that hold flows")
    discovery = discover(edges, facts, namespaces=namespaces or None, outside=outside)
    _some(discovery, told, namespaces)
    plain = msgspec.to_builtins(answer(discovery))
    return plain, not given.problems and not evidence.problems


def _others(problems: Sequence[Problem], told: Sequence[Problem]) -> list[Problem]:
    """Naming captures reads the manifests again and finds their problems again."""
    known = {str(problem) for problem in told}
    return [problem for problem in problems if str(problem) not in known]


def _report(problems: Sequence[Problem], keep_going: bool) -> None:
    """A manifest that cannot be read may hide a workload, and a selector would then match too much; a capture that
    cannot be read may hide a call, and a policy would then cut it."""
    if not problems:
        return
    if not keep_going:
        for problem in problems[1:]:
            print(f"error: {problem}", file=sys.stderr)
        raise problems[0]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)


def _some(discovery: Discovery, told: str, namespaces: list[str]) -> None:
    if discovery.proposals:
        return
    if namespaces:
        fix = "name a namespace that the flows or the manifests hold"
        raise Problem("no workload", f"namespace {', '.join(namespaces)} in {told}", fix)
    fix = "give --manifests, so that addresses become workloads"
    raise Problem("no workload in these conversations", told, fix)
