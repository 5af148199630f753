"""Kubernetes label selectors → filters, and which of the two a text is.

The grammar and its limits are apimachinery's (pkg/labels/selector.go, Parse and NewRequirement), the mapping form
is LabelSelector (meta/v1). What comes out is total: it is never an error for want of a label, so `NotIn` and
`DoesNotExist` hold endpoints without the key, as Kubernetes has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from ringfence.inventory.filters.fields import BY_NAME
from ringfence.inventory.filters.filter import Filter, parse
from ringfence.inventory.filters.functions import number_of
from ringfence.inventory.filters.grammar import syntax_tree
from ringfence.inventory.filters.syntax import At, problem
from ringfence.inventory.filters.texts import quoted
from ringfence.model.problems import Problem

EVERYTHING = "true"
NOTHING = "false"

_TOKEN = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!(),<>])|([^=!(),<> \t\r\n]+))")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_SELECTOR_CHARACTERS = re.compile(r"[A-Za-z0-9_./=!(),<>\- \t\r\n]*", re.ASCII)
_FIRST_WORD = re.compile(r"[!\s(]*([A-Za-z_][A-Za-z0-9_]*)")

_BY_SIGN = {
    "=": "In",
    "==": "In",
    "!=": "NotIn",
    "in": "In",
    "notin": "NotIn",
    ">": "Gt",
    "<": "Lt",
}


class Token(msgspec.Struct, frozen=True):
    """One word or sign; `word` is false for signs and at the end."""

    text: str
    word: bool
    column: int


class Requirement(msgspec.Struct, frozen=True):
    """One demand on one label; `operator` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def cel(self) -> str:
        """The demand as a filter."""
        key = quoted(self.key)
        there, value = f"{key} in labels", f"labels[{key}]"
        match self.operator:
            case "Exists":
                return there
            case "DoesNotExist":
                return f"!({there})"
            case "In":
                return f"({there} && {_among(value, self.values, '==')})"
            case "NotIn":
                return f"(!({there}) || {_among(value, self.values, '!=')})"
            case _:
                sign = ">" if self.operator == "Gt" else "<"
                return f"({there} && int({value}) {sign} {number_of(self.values[0])})"


def _among(value: str, values: Sequence[str], sign: str) -> str:
    if len(values) == 1:
        return f"{value} {sign} {quoted(values[0])}"
    listed = f"{value} in [{', '.join(quoted(one) for one in values)}]"
    return listed if sign == "==" else f"!({listed})"


def from_selector(selector: str | Mapping[str, object] | None, where: str = "selector") -> str:
    """The CEL text of a label selector: `app=web,tier in (a,b),!x`, or {matchLabels, matchExpressions}.

    An empty selector holds everything, None nothing (LabelSelectorAsSelector). Raises Problem for anything else.
    """
    if selector is None:
        return NOTHING
    if isinstance(selector, str):
        found = _Reader(selector, where).requirements()
    else:
        found = _from_mapping(selector, where)
    return " && ".join(one.cel() for one in found) or EVERYTHING


def parse_any(given: str | Mapping[str, object], where: str = "filter") -> Filter:
    """A filter from CEL or from a label selector; a mapping is always a selector.

    A text is CEL where it is valid CEL. Otherwise it is a selector if it has only a selector's characters and
    either the CEL grammar refuses it (`app=web`, `tier in (a,b)`) or its first word names no field (`app==web`).
    So `ready` asks the field and `namespace == default` is an error about quotes, not a label nobody has.
    """
    if not isinstance(given, str):
        return parse(from_selector(given, where), where)
    try:
        return parse(given, where)
    except Problem:
        if not given.strip() or not _SELECTOR_CHARACTERS.fullmatch(given) or _means_cel(given):
            raise
    return parse(from_selector(given, where), where)


def _means_cel(text: str) -> bool:
    """Whether a text that is wrong as CEL was meant as CEL: its grammar is, and it begins with a field."""
    first = _FIRST_WORD.match(text)
    if first is None or first.group(1) not in BY_NAME:
        return False
    try:
        syntax_tree(text, "")
    except Problem:
        return False
    return True


class _Reader:
    """apimachinery's parser: one token ahead; `in` and `notin` are words wherever a key or value may stand."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._tokens = _tokens(text)
        self._next = 0

    def requirements(self) -> list[Requirement]:
        if not self._peek().text:
            return []
        found = [self._requirement()]
        while self._peek().text:
            comma = self._take()
            if comma.text != ",":
                raise self._refuse(comma, "put a comma between requirements")
            found.append(self._requirement())
        return found

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _refuse(self, token: Token, fix: str) -> Problem:
        what = (
            f"unexpected `{token.text}` in a label selector"
            if token.text
            else "the label selector ends too early"
        )
        return problem(what, self._where, At(1, token.column), fix)

    def _requirement(self) -> Requirement:
        absent = self._peek().text == "!"
        if absent:
            self._take()
        key = self._take()
        if not key.word:
            raise self._refuse(key, "a label's key is expected here")
        _check_key(key.text, self._where, key.column)
        if absent:
            return Requirement(key.text, "DoesNotExist")
        if self._peek().text in ("", ","):
            return Requirement(key.text, "Exists")
        sign = self._take()
        operator = _BY_SIGN.get(sign.text)
        if operator is None:
            raise self._refuse(sign, "an operator is expected here: = == != in notin > <")
        values = self._values() if sign.word else self._value()
        if operator in ("Gt", "Lt"):
            _check_number(values[0], self._where, sign.column)
        return Requirement(key.text, operator, tuple(dict.fromkeys(values)))

    def _value(self) -> list[str]:
        if self._peek().text in ("", ","):
            return [""]
        token = self._take()
        if not token.word:
            raise self._refuse(token, "a value is expected here")
        return [self._checked(token)]

    def _checked(self, token: Token) -> str:
        _check_value(token.text, self._where, token.column)
        return token.text

    def _values(self) -> list[str]:
        opened = self._take()
        if opened.text != "(":
            raise self._refuse(opened, "values stand in parentheses, e.g. tier in (a, b)")
        if self._peek().text == ")":
            raise self._refuse(self._peek(), "name at least one value")
        values: list[str] = []
        while True:
            values.append(self._checked(self._take()) if self._peek().word else "")
            token = self._take()
            if token.text == ")":
                return values
            if token.text != ",":
                raise self._refuse(token, "put commas between values and close the parenthesis")


def _tokens(text: str) -> list[Token]:
    found = []
    end = 0
    while piece := _TOKEN.match(text, end):
        end = piece.end()
        written = piece.group(1) or piece.group(2)
        found.append(Token(written, piece.group(2) is not None, end - len(written) + 1))
    return [*found, Token("", False, len(text) + 1)]


def _check_key(key: str, where: str, column: int = 1) -> None:
    prefix, slash, name = key.rpartition("/")
    wrong = not _NAME.fullmatch(name) or (slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix)))
    if wrong:
        fix = (
            "a key is [DNS name/]name: letters, digits, - _ . with a letter or digit at both ends, 63 at most"
        )
        raise problem(f"`{key[:80]}` is no label key", where, At(1, column), fix)


def _check_value(value: str, where: str, column: int = 1) -> None:
    if value and not _NAME.fullmatch(value):
        fix = "a value is empty, or letters, digits, - _ . with a letter or digit at both ends, 63 at most"
        raise problem(f"`{value[:80]}` is no label value", where, At(1, column), fix)


def _check_number(value: str, where: str, column: int) -> None:
    try:
        number_of(value)
    except ValueError:
        raise problem(
            f"`{value}` is no whole number", where, At(1, column), "> and < compare with one"
        ) from None


def _from_mapping(selector: Mapping[str, object], where: str) -> list[Requirement]:
    for name in selector:
        if name not in ("matchLabels", "matchExpressions"):
            fix = "a label selector has matchLabels and matchExpressions"
            raise Problem(f"unknown member `{name}` of a label selector", where, fix)
    labels, expressions = selector.get("matchLabels") or {}, selector.get("matchExpressions") or []
    if not isinstance(labels, Mapping):
        raise Problem("matchLabels is no mapping", where, "write matchLabels: {key: value}")
    if not isinstance(expressions, Sequence) or isinstance(expressions, str):
        raise Problem(
            "matchExpressions is no list", where, "write matchExpressions: [{key, operator, values}]"
        )
    found = [_from_label(key, value, where) for key, value in labels.items()]
    return found + [
        _from_expression(one, f"{where} matchExpressions[{n}]") for n, one in enumerate(expressions)
    ]


def _from_label(key: object, value: object, where: str) -> Requirement:
    if not isinstance(key, str) or not isinstance(value, str):
        raise Problem(f"matchLabels {key!r}: {value!r} is not a text", where, "put it in quotes")
    _check_key(key, where)
    _check_value(value, where)
    return Requirement(key, "In", (value,))


def _from_expression(expression: object, where: str) -> Requirement:
    if not isinstance(expression, Mapping):
        raise Problem("not an expression", where, "write {key, operator, values}")
    key, operator, values = expression.get("key"), expression.get("operator"), expression.get("values") or []
    if not isinstance(key, str) or operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
        fix = "write key, and operator In, NotIn, Exists or DoesNotExist"
        raise Problem(f"key {key!r} with operator {operator!r}", where, fix)
    _check_key(key, where)
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or not all(isinstance(v, str) for v in values)
    ):
        raise Problem("values is no list of texts", where, "write values: [a, b], each in quotes if need be")
    if (operator in ("In", "NotIn")) != bool(values):
        fix = "In and NotIn need values, Exists and DoesNotExist take none"
        raise Problem(f"{operator} with {len(values)} values", where, fix)
    for value in values:
        _check_value(value, where)
    return Requirement(key, str(operator), tuple(dict.fromkeys(values)))
