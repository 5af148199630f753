"""Literals: what the characters between quotes, and the digits of a number, stand for (CEL language definition)."""

from __future__ import annotations

import re

SIMPLE = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "?": "?",
    '"': '"',
    "'": "'",
    "`": "`",
}

_ESCAPE = re.compile(
    r"\\(?:[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL
)
_LITERAL = re.compile(r"([rR]?)(\"{3}|'{3}|\"|')(.*)\2", re.DOTALL)

LARGEST = 2**63 - 1
SMALLEST = -(2**63)


def unquoted(literal: str) -> str:
    """The text a literal stands for. Raises ValueError(reason) for an unknown escape or no character."""
    found = _LITERAL.fullmatch(literal)
    if found is None:
        raise ValueError("a text without its quotes")
    raw, _, body = found.groups()
    return body if raw else _ESCAPE.sub(_unescaped, body)


def _unescaped(found: re.Match[str]) -> str:
    short, four, eight, octal, simple = found.groups()
    if simple is not None:
        if simple not in SIMPLE:
            raise ValueError(f"unknown escape `\\{simple}`")
        return SIMPLE[simple]
    number = int(octal, 8) if octal else int(short or four or eight, 16)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        raise ValueError(f"`{found.group()}` is no character")
    return chr(number)


def quoted(text: str) -> str:
    """A literal for a text, that `unquoted` reads back."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_escaped(c) for c in plain) + '"'


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def integer(digits: str) -> int:
    """A number within 64 bits. Raises ValueError(reason) beyond."""
    negative, rest = digits.startswith("-"), digits.removeprefix("-")
    base = 16 if rest.startswith("0x") else 10
    # A text of 64 KiB could hold a number that takes seconds to read.
    if len(rest.lstrip("0x")) > 20:
        raise ValueError("a number beyond 64 bits")
    value = int(rest, base) * (-1 if negative else 1)
    if not SMALLEST <= value <= LARGEST:
        raise ValueError("a number beyond 64 bits")
    return value
