"""`netpol connectivity|diff|explain|lint`: policies judged on paper, from manifests, without a cluster."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from ringfence.analysis.connectivity import Connectivity, Focus
    from ringfence.analysis.explain import Answer
    from ringfence.analysis.lint import Finding
    from ringfence.analysis.paper import Paper
    from ringfence.cli.netpol_text import Shown


class Graph(StrEnum):
    """Formats of connectivity and its differences; txt, csv, json, md and dot are those of netpol-analyzer."""

    txt = "txt"
    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    md = "md"
    dot = "dot"
    svg = "svg"
    yaml = "yaml"


class Words(StrEnum):
    """Formats of explanations and findings."""

    txt = "txt"
    table = "table"
    json = "json"
    jsonl = "jsonl"
    yaml = "yaml"


class Direction(StrEnum):
    """Which side of the workloads in focus to show."""

    ingress = "ingress"
    egress = "egress"


Folder = Annotated[
    str,
    typer.Argument(metavar="DIR", help="Folder or file of manifests, a JSON dump, or - for standard input."),
]
GraphOption = Annotated[Graph, typer.Option("-o", "--output", help="Format.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse documents that are not Kubernetes objects, too.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (connectivity, diff, explain, lint):
        app.command()(command)


def connectivity(
    folder: Folder,
    output: GraphOption = Graph.txt,
    exposure: Annotated[
        bool, typer.Option("--exposure", help="Add whom workloads are exposed to beyond these manifests.")
    ] = False,
    focus_workload: Annotated[
        str | None,
        typer.Option(
            "--focus-workload",
            "--focusworkload",
            help="Only lines of these: NAME or NAMESPACE/NAME, by commas.",
        ),
    ] = None,
    focus_workload_peer: Annotated[
        str | None,
        typer.Option(
            "--focus-workload-peer", "--focusworkload-peer", help="... and only with these as other end."
        ),
    ] = None,
    focus_direction: Annotated[
        Direction | None, typer.Option(help="... and only what enters or leaves them.")
    ] = None,
    focus_conn: Annotated[
        str | None, typer.Option(help="Only pairs that may use this, e.g. tcp-8080 or UDP/53.")
    ] = None,
    ipv6: Annotated[
        bool, typer.Option("--ipv6", help="List ranges of IPv6 too, where policies name some.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Who may open what to whom, by the policies of these manifests. Answers as netpol-analyzer's `list`.

    Example: `ringfence netpol connectivity ./deploy --exposure`

    Example: `kustomize build . | ringfence netpol connectivity - -o csv`
    """
    from ringfence.analysis.connectivity import Focus
    from ringfence.analysis.connectivity import connectivity as judge

    paper, whole = _paper(folder, strict)
    _noted_six(paper, ipv6)
    direction = focus_direction.value if focus_direction else None
    focus = Focus(_names(focus_workload), _names(focus_workload_peer), direction)
    _check_focus(paper, focus)
    asked = _asked(focus_conn)
    both = bool(focus.workloads and focus.peers)
    answer = judge(paper, focus=focus, exposure=exposure and not both, ipv6=ipv6)
    _notes(answer.notes)
    _show(answer, asked, exposure and not both, output)
    if not whole:
        raise typer.Exit(2)


def _show(answer: Connectivity, asked: tuple[str, int] | None, exposure: bool, output: Graph) -> None:
    from ringfence.cli import netpol_text as words

    rows = words.shown(answer, asked, exposure)
    drawn: dict[Graph, Callable[[], str]] = {
        Graph.txt: lambda: words.text(rows),
        Graph.csv: lambda: words.as_csv(rows),
        Graph.json: lambda: words.as_json(words.plain(rows)),
        Graph.yaml: lambda: words.as_yaml(words.plain(rows)),
        Graph.md: lambda: words.markdown(rows),
        Graph.dot: lambda: words.dot(answer, rows),
        Graph.svg: lambda: _drawing(answer, rows),
    }
    if output in drawn:
        sys.stdout.write(drawn[output]())
    elif output is Graph.jsonl:
        _lines(row._asdict() for row in rows.rows)
    else:
        _table(rows)


def _table(rows: Shown) -> None:
    from ringfence.cli.output import emit_table

    parts = [(None, rows.rows)]
    if rows.exposed:
        parts += [("Egress exposure", rows.egress), ("Ingress exposure", rows.ingress)]  # type: ignore[list-item]
    for title, held in parts:
        emit_table(title, ("consumer", "provider", "connections"), held)


def _drawing(answer: Connectivity, rows: Shown) -> str:
    from ringfence.cli.netpol_svg import svg

    edges = list(dict.fromkeys((*rows.rows, *rows.egress, *rows.ingress)))
    return svg(edges, [node.title for node in answer.nodes])


def diff(
    before: Annotated[str, typer.Argument(metavar="DIR1", help="The manifests as they were.")],
    after: Annotated[str, typer.Argument(metavar="DIR2", help="The manifests as they would be.")],
    output: GraphOption = Graph.txt,
    fail_on: Annotated[
        str, typer.Option(help="Exit 1 on: any, none, or some of added,removed,changed by commas.")
    ] = "any",
    strict: Strict = False,
) -> None:
    """What may be opened after that could not before, and the reverse. Exit 1 where something differs.

    Example: `ringfence netpol diff ./main ./branch -o md --fail-on added,changed`
    """
    from ringfence.analysis.connectivity import connectivity as judge
    from ringfence.analysis.difference import difference
    from ringfence.cli import netpol_text as words

    failing = _failing(fail_on, ("added", "removed", "changed"))
    (old, whole), (new, all_read) = _paper(before, strict), _paper(after, strict)
    found = difference(judge(old), judge(new))
    drawn: dict[Graph, Callable[[], str]] = {
        Graph.txt: lambda: words.difference_text(found),
        Graph.csv: lambda: words.difference_csv(found),
        Graph.json: lambda: words.as_json(words.difference_plain(found)),
        Graph.yaml: lambda: words.as_yaml(words.difference_plain(found)),
        Graph.md: lambda: words.difference_markdown(found),
        Graph.dot: lambda: words.difference_dot(found),
    }
    if output is Graph.svg:
        raise Problem("no such format", "-o svg", "a difference is drawn with -o dot | dot -Tsvg")
    if output is Graph.jsonl:
        _lines(words.difference_plain(found))
    elif output is Graph.table:
        _rows(words.HEADS, words.difference_plain(found))
    else:
        sys.stdout.write(drawn[output]())
    if not (whole and all_read):
        raise typer.Exit(2)
    if any(change.kind in failing for change in found.changes):
        raise typer.Exit(1)


def explain(
    folder: Folder,
    consumer: Annotated[str, typer.Option("--from", help="Workload (NAME, NAMESPACE/NAME) or address.")],
    provider: Annotated[str, typer.Option("--to", help="Workload (NAME, NAMESPACE/NAME) or address.")],
    port: Annotated[str, typer.Option(help="80, UDP/53, or the name of a port of the provider.")],
    output: Annotated[Words, typer.Option("-o", "--output", help="Format.")] = Words.txt,
    strict: Strict = False,
) -> None:
    """Why one connection passes or not: the rules of both ends in their order. Exit 1 where it is denied.

    Example: `ringfence netpol explain ./deploy --from shop/front-end --to shop/carts --port 80`
    """
    from ringfence.analysis import explain as why
    from ringfence.analysis.netpol import Malformed

    paper, whole = _paper(folder, strict)
    try:
        ends = why.party(paper, consumer), why.party(paper, provider)
        wanted = why.port_of(ends[1], port)
    except Malformed as error:
        raise Problem(
            "unknown end or port", f"{folder}: {error}", "see `netpol connectivity` for the names"
        ) from None
    answer = why.explain(paper, *ends, *wanted)
    _tell(answer, output)
    if not whole:
        raise typer.Exit(2)
    if not answer.allowed:
        raise typer.Exit(1)


def _tell(answer: Answer, output: Words) -> None:
    from ringfence.cli import netpol_text as words

    document = _plain(answer)
    if output is Words.json:
        sys.stdout.write(words.as_json(document))
    elif output is Words.yaml:
        sys.stdout.write(words.as_yaml(document))
    elif output is Words.jsonl:
        _lines([document])
    else:
        sys.stdout.write(words.explanation(answer))


def lint(
    folder: Folder,
    output: Annotated[Words, typer.Option("-o", "--output", help="Format.")] = Words.txt,
    fail_on: Annotated[str, typer.Option(help="Exit 1 on: any, none, or names of checks by commas.")] = "any",
    strict: Strict = False,
) -> None:
    """What is probably not meant: policies that select nobody, block DNS, isolate by accident, ... Exit 1 on any.

    Example: `ringfence netpol lint ./deploy --fail-on selects-nothing,dns-blocked`
    """
    from ringfence.analysis.lint import CHECKS
    from ringfence.analysis.lint import lint as judge

    failing = _failing(fail_on, CHECKS)
    paper, whole = _paper(folder, strict)
    found = judge(paper)
    _list(found, output)
    if not whole:
        raise typer.Exit(2)
    if any(finding.check in failing for finding in found):
        raise typer.Exit(1)


def _list(found: tuple[Finding, ...], output: Words) -> None:
    from ringfence.cli import netpol_text as words

    plain = [finding._asdict() for finding in found]
    if output is Words.json:
        sys.stdout.write(words.as_json(plain))
    elif output is Words.yaml:
        sys.stdout.write(words.as_yaml(plain))
    elif output is Words.jsonl:
        _lines(plain)
    elif output is Words.table:
        _rows(("check", "subject", "what", "fix", "where"), plain)
    else:
        for x in found:
            place = f"{x.where}: " if x.where else ""
            sys.stdout.write(f"{place}{x.check}: {x.subject}: {x.what}: {x.fix}\n")


def _paper(folder: str, strict: bool) -> tuple[Paper, bool]:
    """The manifests, and whether all of them could be read. Raises Problem on what the API server would refuse.

    A document that is no YAML costs itself: the answer is without it, says so, and the exit code is 2.
    """
    from ringfence.analysis.paper import Raw, read
    from ringfence.kube.plain import load_plain

    documents = load_plain(folder)
    paper = read(Raw(*one) for one in documents.objects)
    problems = list(documents.problems)
    if strict:
        fix = "name only manifests, or leave --strict away"
        problems += [Problem("not a manifest", note, fix) for note in documents.notes]
    else:
        _notes(documents.notes)
    _notes(paper.notes)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if paper.problems:
        for problem in paper.problems[1:]:
            print(f"error: {problem}", file=sys.stderr)
        raise paper.problems[0]
    return paper, not problems


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _noted_six(paper: Paper, ipv6: bool) -> None:
    rules = [r for p in paper.policies for rules in (p.ingress, p.egress) for r in rules or ()]
    if not ipv6 and any(peer.version == 6 for rule in rules for peer in rule.peers or ()):
        print("note: policies name IPv6 addresses; --ipv6 lists them", file=sys.stderr)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _check_focus(paper: Paper, focus: Focus) -> None:
    known = {name for w in paper.workloads for name in (w.name, f"{w.namespace}/{w.name}")}
    known |= {"ingress-controller", "ingress-controller-ns/ingress-controller"} if paper.entrances else set()
    for name in (*focus.workloads, *focus.peers):
        if name not in known:
            raise Problem("no such workload", name, "name a workload of these manifests, as NAMESPACE/NAME")
    if not focus.workloads and (focus.peers or focus.direction):
        raise Problem(
            "no workload in focus", "--focus-direction, --focus-workload-peer", "give --focus-workload"
        )


def _asked(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(tcp|udp|sctp)[-/](\d{1,5})", text.lower())
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise Problem("no connection", f"--focus-conn {text}", "write PROTOCOL-PORT, such as tcp-8080")
    return match[1].upper(), int(match[2])


def _failing(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if text in ("any", "none"):
        return known if text == "any" else ()
    names = _names(text)
    for name in names:
        if name not in known:
            raise Problem("unknown word", f"--fail-on {name}", f"write any, none, or of {', '.join(known)}")
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _plain(held) for key, held in value._asdict().items()}
    return [_plain(held) for held in value] if isinstance(value, tuple) else value


def _lines(rows: Any) -> None:
    from ringfence.cli.output import emit_lines

    emit_lines(rows)


def _rows(heads: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    from ringfence.cli.output import emit_table

    emit_table(None, heads, [tuple(row.values()) for row in rows])
