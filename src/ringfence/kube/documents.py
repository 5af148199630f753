"""Texts become documents: YAML with many documents, JSON, JSON after JSON. Pure; a broken one costs itself.

YAML is read as Kubernetes reads it: no dates (a timestamp stays text), and what is not a mapping is not an
object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import yaml

from ringfence.model.problems import Problem

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # The C loader has no type of its own.
    """The safe loader without dates and without `=`: Kubernetes' YAML is JSON in other clothes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}

_MARK = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_TEMPLATE = re.compile(r"\{\{-?\s*[.$\w(/]")
_ONLY_COMMENTS = re.compile(r"\A(?:\s*(?:#.*)?(?:\n|\Z))*\Z")


DEEPEST = 128
"""Levels that a document may be nested: real objects have a few dozen, and beyond some thousands readers crash."""

_MAY_BE_DEEP = re.compile(r"^[ \t]*(?:[-?:][ \t]+){20}|^[ ]{128}", re.MULTILINE)


class Document(NamedTuple):
    """One document: its body (JSON bytes or plain values), its number (from 1) and its first line."""

    body: bytes | Any
    number: int
    line: int


def documents(text: str, where: str) -> Iterator[Document | Problem]:
    """Every document of `text`, and a Problem for each that cannot be read. `where` is the file's name."""
    if text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        found = list(_json(text, where))
        # Braces also begin YAML in flow style, so JSON has the last word only when it understood something.
        if any(isinstance(document, Document) for document in found) or not _is_yaml(text):
            yield from found
            return
    yield from _yaml(text, where)


def _is_yaml(text: str) -> bool:
    try:
        return isinstance(_load(text), dict)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def _json(text: str, where: str) -> Iterator[Document | Problem]:
    data = text.encode()
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        yield from _json_stream(text, where)
    else:
        yield Document(data, 1, 1)


def _json_stream(text: str, where: str) -> Iterator[Document | Problem]:
    """JSON after JSON. After a broken one, reading goes on at the next line that begins with a brace."""
    from json import JSONDecodeError, JSONDecoder

    decoder, position, number = JSONDecoder(), 0, 0
    while match := re.compile(r"[^\s\ufeff]").search(text, position):
        number, begin = number + 1, match.start()
        line = text.count("\n", 0, begin) + 1
        try:
            body, position = decoder.raw_decode(text, begin)
            yield Document(body, number, line)
        except (JSONDecodeError, RecursionError) as error:
            at = error.lineno if isinstance(error, JSONDecodeError) else line
            what = error.msg if isinstance(error, JSONDecodeError) else "nested too deeply"
            yield Problem(
                f"not JSON ({what})", place(where, number, at), "fix this document; it was left out"
            )
            following = re.compile(r"^\{", re.MULTILINE).search(
                text, max(begin + 1, getattr(error, "pos", 0))
            )
            position = following.start() if following else len(text)


def _yaml(text: str, where: str) -> Iterator[Document | Problem]:
    number = 0
    for line, part in _parts(text.removeprefix("\ufeff")):
        if _ONLY_COMMENTS.match(part):
            continue
        number += 1
        try:
            yield Document(_load(part), number, line)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            yield _broken(error, part, where, number, line)


def _load(text: str) -> Any:
    """The value of one YAML document. Raises ValueError for one that is nested too deeply, before the composer, which
    is recursive in C, can overflow the stack."""
    if text.count("[") + text.count("{") > DEEPEST or _MAY_BE_DEEP.search(text):
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep")
    return yaml.load(text, Loader=_Loader)


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each document. A line `---` cannot be inside one (YAML 1.2 section 9.1.2)."""
    line, begin = 1, 0
    for mark in _MARK.finditer(text):
        part = text[begin : mark.start()]
        # Directives such as %YAML stand before the mark and belong to the document after it.
        if part.lstrip().startswith("%") and not part.strip().count("\n"):
            continue
        yield line, part
        line += part.count("\n")
        begin = mark.start()
    yield line, text[begin:]


def _broken(error: Exception, part: str, where: str, number: int, line: int) -> Problem:
    mark = getattr(error, "problem_mark", None)
    at = line + mark.line if mark is not None else line
    if is_template(part):
        return template_problem(place(where, number, at))
    what = getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__
    return Problem(f"not YAML ({what})", place(where, number, at), "fix this document; it was left out")


def is_template(text: str) -> bool:
    """Whether a text holds actions of Go's template language, as Helm charts do."""
    return _TEMPLATE.search(text) is not None


def template_problem(where: str) -> Problem:
    """What to say of a chart's template."""
    return Problem("a template, not a manifest", where, "render it first, e.g. with `helm template CHART`")


def place(where: str, number: int, line: int) -> str:
    """`FILE document N line L`."""
    return f"{where} document {number} line {line}"
