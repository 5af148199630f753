"""The two forms of a list of outside addresses, read line by line: each row says where it stood."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import yaml

from ringfence.model.problems import Problem

NETWORK_WORDS = ("network", "cidr", "address")
"""What the column or field with the network may be called."""

Row = tuple[str, str, str, tuple[tuple[str, str], ...]]
"""(where, network, name, labels), as written."""

_HEADER = "begin with a line `network,name`; further columns are labels"
_FORM = "write a list of `- {network: 10.1.0.0/16, name: dc, labels: {site: hh}}`"
DEEPEST = 4
"""Levels of a YAML list: the list, its entries, their labels; one more to say what is wrong."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_csv(text: str, file: str) -> tuple[list[Row], list[Problem]]:
    """Rows of comma-separated values with a header; empty lines and lines that begin with # are passed over."""
    reader = csv.reader(io.StringIO(text), strict=True, skipinitialspace=True)
    rows: list[Row] = []
    found: list[Problem] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{file} line {reader.line_num}"
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if header is None:
                header = [_column(cell) for cell in cells]
                found += _header(header, where)
                if found:
                    return [], found
            elif len(cells) != len(header):
                what = f"{len(cells)} columns where the header has {len(header)}"
                found.append(Problem(what, where, "write every column; quote cells that hold a comma"))
            else:
                rows.append(_csv_row(dict(zip(header, cells, strict=True)), where, found))
    except csv.Error as error:
        fix = "quote cells that hold a comma or a quote"
        found.append(Problem(f"not CSV ({error})", f"{file} line {reader.line_num}", fix))
    if header is None and not found:
        found.append(Problem("no header", file, _HEADER))
    return rows, found


def read_yaml(text: str, file: str) -> tuple[list[Row], list[Problem]]:
    """Rows of a YAML or JSON list of mappings. Values count as they are written: `no` is the text no."""
    try:
        root = _tree(yaml.parse(text, Loader=_LOADER), file)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        return [], [Problem("not YAML", f"{file} line {mark.line + 1}" if mark else file, _FORM)]
    except Problem as problem:
        return [], [problem.with_traceback(None)]
    if root is None or root.value == "":
        return [], []
    if root.form != "list":
        return [], [Problem("not a list", f"{file} line {root.line}", _FORM)]
    rows: list[Row] = []
    found: list[Problem] = []
    for node in root.items:
        where = f"{file} line {node.line}"
        if node.form == "mapping":
            rows.append(_yaml_row(node, where, found))
        else:
            found.append(Problem("not an entry", where, _FORM))
    return rows, found


class _Node:
    """A part of a YAML document: a text, or a list or mapping of parts (keys and values in turn)."""

    def __init__(self, form: str, line: int, value: str | None = None) -> None:
        self.form, self.line, self.value = form, line, value
        self.items: list[_Node] = []

    @property
    def pairs(self) -> list[tuple[_Node, _Node]]:
        return list(zip(self.items[::2], self.items[1::2], strict=True))


def _tree(events: Iterator[yaml.Event], file: str) -> _Node | None:
    """The document, built without recursion: a hostile one may be nested without end. Raises Problem."""
    root: _Node | None = None
    above: list[_Node] = []
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 1
        match event:
            case yaml.AliasEvent():
                raise Problem("an alias", f"{file} line {line}", "write the entry out")
            case yaml.ScalarEvent():
                node = _Node("text", line, event.value)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                node = _Node("list" if isinstance(event, yaml.SequenceStartEvent) else "mapping", line)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                above.pop()
                continue
            case _:
                continue
        if above:
            above[-1].items.append(node)
        elif root is not None:
            raise Problem("a second document", f"{file} line {line}", "keep one list in a file")
        root = root or node
        if node.form != "text":
            above.append(node)
        if len(above) > DEEPEST:
            raise Problem("nested too deeply", f"{file} line {line}", _FORM)
    return root


def _column(cell: str) -> str:
    """A header's cell; the words that mean something are known in any case."""
    lower = cell.lower()
    return lower if lower in (*NETWORK_WORDS, "name", "labels") else cell


def _header(header: list[str], where: str) -> Iterator[Problem]:
    networks = [name for name in header if name in NETWORK_WORDS]
    if len(networks) != 1:
        what = "no column for the network" if not networks else f"{len(networks)} columns for the network"
        yield Problem(what, where, "name one column `network`, `cidr` or `address`")
    if "name" not in header:
        yield Problem("no column `name`", where, _HEADER)
    for name in sorted({name for name in header if header.count(name) > 1}):
        yield Problem(f"column `{name[:60]}` twice", where, "give each column its own name")
    if "" in header:
        yield Problem("a column without a name", where, "name every column")


def _csv_row(cells: dict[str, str], where: str, found: list[Problem]) -> Row:
    network = next(cells.pop(word) for word in NETWORK_WORDS if word in cells)
    name, packed = cells.pop("name"), cells.pop("labels", "")
    labels = [(key, value) for key, value in cells.items() if value]
    for part in filter(None, (part.strip() for part in packed.split(";"))):
        key, sign, value = part.partition("=")
        if not sign:
            place = f"{where} field `labels`"
            found.append(Problem(f"not a label: `{part[:60]}`", place, "write key=value;key=value"))
        labels.append((key.strip() or part, value.strip()))
    return where, network, name, tuple(labels)


def _yaml_row(node: _Node, where: str, found: list[Problem]) -> Row:
    said: dict[str, list[str]] = {"network": [], "name": []}
    labels: tuple[tuple[str, str], ...] = ()
    for key, value in node.pairs:
        word = str(key.value)
        if word == "labels":
            labels = _labels(value, where, found)
        elif word not in (*NETWORK_WORDS, "name"):
            fix = "use network, name and labels; put other facts under labels"
            found.append(Problem(f"unknown field `{word[:60]}`", where, fix))
        elif value.value is None:
            found.append(Problem("not a text", f"{where} field `{word}`", _FORM))
        else:
            said["name" if word == "name" else "network"].append(value.value.strip())
    for what, values in said.items():
        if len(values) > 1:
            found.append(Problem(f"field `{what}` twice", where, "leave one of the two"))
    network, name = (values[0] if values else "" for values in said.values())
    return where, network, name, labels


def _labels(node: _Node, where: str, found: list[Problem]) -> tuple[tuple[str, str], ...]:
    if node.form != "mapping" or any(part.value is None for part in node.items):
        found.append(Problem("not labels", f"{where} field `labels`", "write {key: value}, values as text"))
        return ()
    return tuple((str(key.value), str(value.value)) for key, value in node.pairs)
