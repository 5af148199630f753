"""What is refused before the grammar sees the text: limits, unclosed texts, depth, syntax we do not support.

One linear pass. The grammar's own expressions for texts can take exponential time over an unclosed one, and its
trees grow with every bracket: both are found here first, with their place.
"""

from __future__ import annotations

import re

from ringfence.inventory.filters.syntax import At, problem

MAX_TEXT = 64 * 1024
"""Bytes of UTF-8 in a filter."""

MAX_DEPTH = 64
"""Brackets, conditionals, members and operators inside each other."""

_PIECE = re.compile(
    r"""(?P<space>[\t\n\f\r ]+|//[^\n]*)
      | (?P<prefix>[rRbB]{0,2})(?P<quote>\"{3}|'{3}|"|')
      | (?P<word>[_a-zA-Z0-9]+)
      | (?P<optional>\.\?|\[\?|\{\?)
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<sign>&&|\|\||[!<>=]=|[<>?:.,+*/%])
      | (?P<unary>[!-])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BODY = {
    ('"', False): re.compile(r'(?:[^\\"\n\r]|\\.)*"'),
    ("'", False): re.compile(r"(?:[^\\'\n\r]|\\.)*'"),
    ('"""', False): re.compile(r'(?:[^\\]|\\.)*?"""', re.DOTALL),
    ("'''", False): re.compile(r"(?:[^\\]|\\.)*?'''", re.DOTALL),
    ('"', True): re.compile(r'[^"\n\r]*"'),
    ("'", True): re.compile(r"[^'\n\r]*'"),
    ('"""', True): re.compile(r'.*?"""', re.DOTALL),
    ("'''", True): re.compile(r".*?'''", re.DOTALL),
}
_CLOSES = {")": "(", "]": "[", "}": "{"}
_HINTS = {
    "=": "compare with ==; a label selector such as app=web is accepted only as a whole filter",
    "&": "write && for both",
    "|": "write || for either",
    "!": "write != or !x",
    "`": "write texts in double quotes",
    "“": "write texts in plain double quotes",
    "”": "write texts in plain double quotes",
}


def guard(text: str, where: str) -> None:
    """Raise Problem for what the grammar must not see."""
    _size(text, where)
    open_at: list[tuple[str, At]] = []
    unary = 0
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        assert piece is not None
        position = piece.end()
        kind, written = piece.lastgroup, piece.group()
        if kind == "quote":
            position = _skip_text(text, piece, where)
        elif kind == "open":
            open_at.append((written, _at(text, piece.start())))
        elif kind == "close":
            _close(text, written, piece.start(), open_at, where)
        elif kind == "optional":
            raise problem(
                "optional syntax is not supported",
                where,
                _at(text, piece.start()),
                f"use has() or `in` instead of `{written}`",
            )
        elif kind == "other":
            fix = _HINTS.get(written, "use the operators and functions of docs/reference/filters.md")
            raise problem(f"unexpected `{_shown(written)}`", where, _at(text, piece.start()), fix)
        if kind != "space":
            unary = unary + 1 if kind == "unary" else 0
        if unary > MAX_DEPTH or len(open_at) > MAX_DEPTH:
            raise too_deep(where, _at(text, piece.start()))
    if open_at:
        opened, at = open_at[-1]
        raise problem(f"`{opened}` is never closed", where, at, "close it")


def too_deep(where: str, at: At) -> Exception:
    """The problem of an expression nested too deep."""
    return problem(
        f"nested more than {MAX_DEPTH} deep",
        where,
        at,
        "write it flatter: && and || take any number of parts",
    )


def _size(text: str, where: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        at = _at(text, error.start)
        raise problem("half of a surrogate pair", where, at, "write the whole character") from None
    if size > MAX_TEXT:
        raise problem(
            f"a filter of {size} bytes, the limit is {MAX_TEXT}",
            where,
            At(1, 1),
            "split it, or label the endpoints and ask for the label",
        )
    if not text.strip("\t\n\f\r "):
        raise problem("an empty filter", where, At(1, 1), 'write an expression, e.g. labels["app"] == "web"')


def _skip_text(text: str, piece: re.Match[str], where: str) -> int:
    """The position after a text literal."""
    prefix, quote = piece.group("prefix").lower(), piece.group("quote")
    at = _at(text, piece.start())
    if "b" in prefix:
        raise problem("bytes are not supported", where, at, "write a text without the b")
    if prefix == "rr":
        raise problem("unexpected `rr`", where, at, "write one r for a raw text")
    body = _BODY[quote, prefix == "r"].match(text, piece.end())
    if body is None:
        raise problem("a text without its closing quote", where, at, f"close it with {quote}")
    if prefix == "r" and re.search(r"\\[\"']", body.group()):
        fix = "write it without the r, with backslashes doubled"
        raise problem("a raw text with a backslash before a quote", where, at, fix)
    return body.end()


def _close(text: str, written: str, start: int, open_at: list[tuple[str, At]], where: str) -> None:
    if not open_at or open_at[-1][0] != _CLOSES[written]:
        raise problem(
            f"`{written}` closes nothing",
            where,
            _at(text, start),
            f"remove it or open a `{_CLOSES[written]}`",
        )
    open_at.pop()


def _at(text: str, start: int) -> At:
    line = text.count("\n", 0, start) + 1
    return At(line, start - (text.rfind("\n", 0, start) + 1) + 1, start)


def _shown(written: str) -> str:
    return written if written.isprintable() else f"U+{ord(written):04X}"
