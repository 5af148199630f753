"""How connectivity and its differences are written. txt, csv, json, md and dot are those of netpol-analyzer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ringfence.analysis.connectivity import Connectivity, Exposure, Line, Node
    from ringfence.analysis.conns import Conns
    from ringfence.analysis.difference import Change, Difference
    from ringfence.analysis.explain import Answer

OUT, IN = "egress", "ingress"


class Row(NamedTuple):
    """One line in words: consumer, provider, connections."""

    src: str
    dst: str
    conn: str


class Shown(NamedTuple):
    """An answer in rows. `asked` is the one connection that was asked about, as `TCP 80`, or empty."""

    rows: tuple[Row, ...]
    asked: str = ""
    exposed: bool = False
    egress: tuple[Row, ...] = ()
    ingress: tuple[Row, ...] = ()
    open: tuple[str, ...] = ()
    width: int = 0

    @property
    def title(self) -> str:
        """Heading of the second part."""
        return "Exposure Analysis Result" + (f" On {self.asked}" if self.asked else "")


def shown(answer: Connectivity, asked: tuple[str, int] | None, exposed: bool) -> Shown:
    """Rows of an answer; with `asked` only those that hold this (protocol, port)."""
    lines = [line for line in answer.lines if asked is None or line.conns.holds(*asked)]
    rows = tuple(_row(line) for line in lines)
    word = f"{asked[0]} {asked[1]}" if asked else ""
    if not exposed:
        return Shown(rows, word)
    concerned = [x for x in answer.exposures if not x.protected or x.towards]
    titles = {exposure.workload.title for exposure in concerned}
    egress, ingress = (_exposed(answer, lines, titles, way, asked) for way in (OUT, IN))
    return Shown(
        rows,
        word,
        True,
        tuple(sorted(egress)),
        tuple(sorted(ingress, key=lambda row: (row.dst, row.src))),
        () if asked else tuple(sorted(_unprotected(answer.exposures))),
        max(map(len, titles), default=0),
    )


def _row(line: Line) -> Row:
    return Row(line.consumer.title, line.provider.title, str(line.conns))


def _exposed(
    answer: Connectivity, lines: Sequence[Line], titles: set[str], way: str, asked: tuple[str, int] | None
) -> list[Row]:
    """What a direction is exposed to: stand-ins and the entire cluster, and the outside addresses of the lines."""
    rows = []
    looked = False
    for exposure in answer.exposures:
        if exposure.direction != way:
            continue
        looked = True
        for name, conns in _asked_towards(exposure, asked):
            own = exposure.workload.title
            rows.append(Row(own, name, str(conns)) if way == OUT else Row(name, own, str(conns)))
    outside = [line for line in lines if (line.provider if way == OUT else line.consumer).span]
    own_side = [line for line in outside if (line.consumer if way == OUT else line.provider).title in titles]
    return rows + [_row(line) for line in own_side] if looked else rows


def _asked_towards(exposure: Exposure, asked: tuple[str, int] | None) -> Iterable[tuple[str, Conns]]:
    """All of an exposure; with one connection asked about, who may use it, the entire cluster standing for all."""
    if asked is None:
        return exposure.towards
    held = [(name, conns) for name, conns in exposure.towards if conns.holds(*asked)]
    return [pair for pair in held if pair[0] == "entire-cluster"] or held


def _unprotected(exposures: Iterable[Exposure]) -> Iterable[str]:
    return (
        f"{x.workload.title} is not protected on {x.direction.capitalize()}"
        for x in exposures
        if not x.protected
    )


def text(answer: Shown) -> str:
    """txt."""
    lines = [f"Permitted connections on {answer.asked}:"] if answer.asked else []
    lines += [f"{r.src} => {r.dst}" + (f" : {r.conn}" if not answer.asked else "") for r in answer.rows]
    if answer.exposed:
        lines += ["", *_exposure_text(answer)] if lines else _exposure_text(answer)
    return "".join(f"{line}\n" for line in lines)


def _exposure_text(answer: Shown) -> list[str]:
    def aligned(own: str, arrow: str, other: str, conn: str) -> str:
        tail = "" if answer.asked else f" : {conn}"
        return f"{own:<{answer.width}} \t{arrow} \t{other}{tail}"

    out = [aligned(r.src, "=>", r.dst, r.conn) for r in answer.egress]
    into = [aligned(r.dst, "<=", r.src, r.conn) for r in answer.ingress]
    parts = [["Egress Exposure:", *out]] if out else []
    parts += [["Ingress Exposure:", *into]] if into else []
    parts += [["Workloads not protected by network policies:", *answer.open]] if answer.open else []
    body = [line for part in parts for line in ("", *part)]
    return [f"{answer.title}:", *body[1:]]


def as_csv(answer: Shown) -> str:
    """csv."""
    rows = [_heads(answer), *_cells(answer, answer.rows)]
    if answer.exposed:
        rows.append([f"{answer.title}:", "", ""])
        if answer.egress:
            rows += [["Egress Exposure:", "", ""], _heads(answer), *_cells(answer, answer.egress)]
        if answer.ingress:
            turned = [Row(r.dst, r.src, r.conn) for r in answer.ingress]
            rows += [["Ingress Exposure:", "", ""], _heads(answer, True), *_cells(answer, turned)]
    return _csv(rows)


def _heads(answer: Shown, turned: bool = False) -> list[str]:
    heads = ["dst", "src"] if turned else ["src", "dst"]
    return heads if answer.asked else [*heads, "conn"]


def _cells(answer: Shown, rows: Iterable[Row]) -> list[list[str]]:
    return [list(row[:2] if answer.asked else row) for row in rows]


def _csv(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def plain(answer: Shown) -> Any:
    """The document of json and yaml."""
    rows = _plain_rows(answer, answer.rows)
    if not answer.exposed:
        return rows
    focus = "_conn_focus" if answer.asked else ""
    none: Any = [] if answer.asked else None
    return {
        f"connlist{focus}_results": rows,
        f"exposure{focus}_results": {
            "egress_exposure": _plain_rows(answer, answer.egress) or none,
            "ingress_exposure": _plain_rows(answer, answer.ingress) or none,
        },
    }


def _plain_rows(answer: Shown, rows: Iterable[Row]) -> list[dict[str, str]]:
    return [
        {"src": r.src, "dst": r.dst} if answer.asked else {"src": r.src, "dst": r.dst, "conn": r.conn}
        for r in rows
    ]


def as_json(document: Any) -> str:
    """json, indented by two."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_yaml(document: Any) -> str:
    """yaml."""
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def markdown(answer: Shown) -> str:
    """md."""
    lines = _markdown_table(_heads(answer), _cells(answer, answer.rows))
    if answer.exposed:
        lines.append(f"## {answer.title}:")
        if answer.egress:
            lines += [
                "### Egress Exposure:",
                *_markdown_table(_heads(answer), _cells(answer, answer.egress)),
                "",
            ]
        if answer.ingress:
            turned = [Row(r.dst, r.src, r.conn) for r in answer.ingress]
            lines += [
                "### Ingress Exposure:",
                *_markdown_table(_heads(answer, True), _cells(answer, turned)),
                "",
            ]
    return "\n".join(lines) + "\n"


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = "|" + "|".join("-" * (len(head) + 2) for head in heads) + "|"
    return [_bars(heads), rule, *map(_bars, rows)]


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def dot(answer: Connectivity, rows: Shown) -> str:
    """dot: workloads framed by namespace, connections as arrows."""
    drawn = {node.title: node for node in answer.nodes}
    for line in answer.lines:
        drawn.setdefault(line.consumer.title, line.consumer)
        drawn.setdefault(line.provider.title, line.provider)
    edges = [_edge(r.src, r.dst, r.conn, "gold2", "darkgreen") for r in rows.rows]
    promised = _standing_in(rows, drawn)
    edges += [
        _edge(r.src, r.dst, r.conn, "darkorange4", "darkgreen") for r in rows.egress if r.dst in promised
    ]
    edges += [
        _edge(r.src, r.dst, r.conn, "darkorange2", "darkgreen") for r in rows.ingress if r.src in promised
    ]
    outer = [_outer(node) for node in drawn.values() if not node.inside]
    outer += [f'\t{_quoted(t)} [label={_quoted(t)} color="red2" fontcolor="red2"]' for t in promised]
    inner = _frames(node for node in drawn.values() if node.inside)
    return "\n".join(["digraph {", *inner, *sorted(outer), *sorted(edges), "}"]) + "\n"


def _standing_in(rows: Shown, drawn: dict[str, Node]) -> list[str]:
    titles = [*(row.dst for row in rows.egress), *(row.src for row in rows.ingress)]
    return sorted({title for title in titles if title not in drawn})


def _frames(nodes: Iterable[Node], color: Callable[[str], str] = lambda title: "blue") -> list[str]:
    spaces: dict[str, list[str]] = {}
    for node in nodes:
        label, ink = f"{node.name}[{node.kind}]", color(node.title)
        spaces.setdefault(node.namespace, []).append(
            f'\t\t{_quoted(node.title)} [label={_quoted(label)} color="{ink}" fontcolor="{ink}"]'
        )
    lines = []
    for space, held in sorted(spaces.items()):
        frame = _quoted(f"cluster_{space.replace('-', '_')}")
        lines += [f"\tsubgraph {frame} {{", '\t\tcolor="black"', '\t\tfontcolor="black"', *sorted(held)]
        lines += [f"\t\tlabel={_quoted(space)}", "\t}"]
    return lines


def _outer(node: Node) -> str:
    ink = "red2" if node.span else "blue"
    return f'\t{_quoted(node.title)} [label={_quoted(node.title)} color="{ink}" fontcolor="{ink}"]'


def _edge(src: str, dst: str, label: str, ink: str, words: str) -> str:
    return f'\t{_quoted(src)} -> {_quoted(dst)} [label={_quoted(label)} color="{ink}" fontcolor="{words}"]'


def _quoted(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'


NO_CHANGE = ""
HEADS = ("diff-type", "source", "destination", "ref1", "ref2", "workloads-diff-info")


def _change_cells(change: Change) -> tuple[str, ...]:
    return (
        change.kind,
        change.consumer.title,
        change.provider.title,
        str(change.before),
        str(change.after),
        change.info,
    )


def difference_text(found: Difference) -> str:
    """txt; nothing where nothing changed."""
    if not found:
        return NO_CHANGE
    lines = ["Connectivity diff:"]
    for change in found.changes:
        kind, src, dst, before, after, info = _change_cells(change)
        line = f"diff-type: {kind}, source: {src}, destination: {dst}, ref1: {before}, ref2: {after}"
        lines.append(line + (f", workloads-diff-info: {info}" if info else ""))
    return "\n".join(lines) + "\n"


def difference_csv(found: Difference) -> str:
    """csv; nothing where nothing changed."""
    return _csv([HEADS, *map(_change_cells, found.changes)]) if found else NO_CHANGE


def difference_markdown(found: Difference) -> str:
    """md; nothing where nothing changed."""
    if not found:
        return NO_CHANGE
    return "\n".join(_markdown_table(HEADS, map(_change_cells, found.changes))) + "\n"


def difference_plain(found: Difference) -> list[dict[str, str]]:
    """The document of json and yaml."""
    names = ("diff_type", "source", "destination", "ref1", "ref2", "workloads_diff_info")
    return [dict(zip(names, _change_cells(change), strict=True)) for change in found.changes]


INKS = {"unchanged": "grey", "changed": "magenta", "removed": "red2", "added": "#008000"}


def difference_dot(found: Difference) -> str:
    """dot: what stayed in grey, what changed in colour."""
    drawn: dict[str, Node] = {}
    edges = []
    for change in (*found.unchanged, *found.changes):
        drawn.setdefault(change.consumer.title, change.consumer)
        drawn.setdefault(change.provider.title, change.provider)
        ink = INKS[change.kind]
        label = str(change.after if change.after else change.before)
        label += f" (ref1: {change.before})" if change.kind == "changed" else ""
        edges.append(_edge(change.consumer.title, change.provider.title, label, ink, ink))
    news = {title: "#008000" if c.kind == "added" else "red" for c in found.changes for title in _news(c)}
    inner = _frames((n for n in drawn.values() if n.inside), lambda title: news.get(title, "blue"))
    outer = [
        f'\t{_quoted(node.title)} [label={_quoted(node.title)} color="blue" fontcolor="blue"]'
        for node in drawn.values()
        if not node.inside
    ]
    return "\n".join(["digraph {", *inner, *sorted(outer), *sorted(edges), "}"]) + "\n"


def _news(change: Change) -> list[str]:
    return [
        node.title for node in (change.consumer, change.provider) if f"{node.title} " in f"{change.info} "
    ]


def explanation(answer: Answer) -> str:
    """txt of one explained connection: the verdict, then both sides with every rule asked."""
    word = "allowed" if answer.allowed else "denied"
    lines = [f"{answer.consumer} => {answer.provider} : {answer.protocol} {answer.port}: {word}"]
    for side in answer.sides:
        lines.append(f"{side.direction} of {side.end}: {'allows' if side.allowed else 'denies'}: {side.why}")
        lines += [
            f"  {number}. {a.policy} {a.rule}: {a.action}: {a.effect} ({a.place})"
            for number, a in enumerate(side.asked, 1)
        ]
    return "".join(f"{line}\n" for line in [*lines, *(f"note: {note}" for note in answer.notes)])
