"""Nodes → terms: names resolved to fields, calls to functions, and every type checked when a filter is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from ringfence.inventory.filters.fields import BOOL, BY_NAME, INT, MAP, NOTHING, STRING, Type
from ringfence.inventory.filters.functions import CHECKS, FUNCTIONS, REFUSED, Function
from ringfence.inventory.filters.syntax import At, Node, Term, problem
from ringfence.model.problems import Problem

MAX_LIST = 1000
MAX_NESTING = 2
MACROS = ("exists", "all", "exists_one")
_ORDERED = (INT, STRING)
_EQUAL = ("bool", "int", "string", "ip", "cidr", "map")

Scope = dict[str, tuple[int, Type]]
"""The variables of the macros around a node: slot and type."""


class Words(NamedTuple):
    """What an expression may say: fields, functions, what their literals are tried with, what is refused and why, and
    which types can be ordered and compared. `page` tells people of them."""

    fields: Mapping[str, Type]
    functions: tuple[Function, ...] = FUNCTIONS
    checks: Mapping[str, Callable[[str], Any]] = CHECKS
    refused: Mapping[str, tuple[str, str]] = REFUSED
    ordered: tuple[Type, ...] = _ORDERED
    equal: tuple[str, ...] = _EQUAL
    page: str = "docs/reference/filters.md"


FILTERS = Words({field.name: field.type for field in BY_NAME.values()})
"""The words of filters over endpoints."""


def resolve(node: Node, where: str, words: Words = FILTERS) -> Term:
    """The terms of a whole filter. Raises Problem with the place of the first thing that is wrong."""
    term = _Check(where, words).term(node, {})
    if term.type != BOOL:
        fix = "a filter must say yes or no: compare it with something"
        raise problem(f"the filter gives {_a(term.type)}, not true or false", where, node.at, fix)
    return term


class _Check:
    def __init__(self, where: str, words: Words) -> None:
        self._where, self._words = where, words

    def _refuse(self, what: str, at: At, fix: str) -> Problem:
        return problem(what, self._where, at, fix)

    def term(self, node: Node, scope: Scope) -> Term:
        method = _METHODS.get(node.op)
        if method is None:
            fix = "only + - * work on numbers"
            raise self._refuse(f"`{node.op}` is not supported", node.at, fix)
        result: Term = getattr(self, method)(node, scope)
        return result

    def _args(self, node: Node, scope: Scope) -> tuple[Term, ...]:
        return tuple(self.term(arg, scope) for arg in node.args)

    def _const(self, node: Node, scope: Scope) -> Term:
        kinds = {bool: BOOL, int: INT, str: STRING}
        return Term("const", node.at, kinds[type(node.value)], (), node.value)

    def _list(self, node: Node, scope: Scope) -> Term:
        if len(node.args) > MAX_LIST:
            fix = "label the endpoints and ask for the label, or split the filter"
            raise self._refuse(f"a list of {len(node.args)} values, the limit is {MAX_LIST}", node.at, fix)
        args = self._args(node, scope)
        for arg in args:
            if arg.type not in (BOOL, INT, STRING):
                raise self._refuse(f"a list cannot hold {_a(arg.type)}", arg.at, "list texts or numbers")
            if arg.type != args[0].type:
                what = f"a list of {args[0].type} cannot hold {_a(arg.type)}"
                raise self._refuse(what, arg.at, "list values of one type")
        return Term("list", node.at, Type("list", args[0].type if args else NOTHING), args)

    def _name(self, node: Node, scope: Scope) -> Term:
        name = str(node.value)
        if name in scope:
            slot, bound = scope[name]
            return Term("bound", node.at, bound, (), slot)
        kind = self._words.fields.get(name)
        if kind is None:
            names = [*scope, *self._words.fields]
            raise self._refuse(
                f"unknown field `{name}`",
                node.at,
                _guess(
                    name, names, f'a text needs quotes, "{name}"; the fields are {_list(self._words.fields)}'
                ),
            )
        return Term("field", node.at, kind, (), name)

    def _select(self, node: Node, scope: Scope) -> Term:
        base = self.term(node.args[0], scope)
        name = str(node.value)
        if base.type == MAP:
            key = Term("const", node.at, STRING, (), name)
            return Term("key", node.at, STRING, (base, key))
        return Term("member", node.at, self._member(base, name, node.at), (base,), name)

    def _member(self, base: Term, name: str, at: At) -> Type:
        members = dict(base.type.members)
        if not members:
            raise self._refuse(f"{_a(base.type)} has no members, so no `{name}`", at, "use it as it is")
        if name not in members:
            fix = _guess(name, list(members), f"its members are {_list(members)}")
            raise self._refuse(f"{_a(base.type)} has no `{name}`", at, fix)
        return members[name]

    def _index(self, node: Node, scope: Scope) -> Term:
        base, key = self._args(node, scope)
        if base.type == MAP:
            self._wants(key, STRING, "a map is asked by a text")
            return Term("key", node.at, STRING, (base, key))
        if base.type.name == "list" and base.type.item:
            self._wants(key, INT, "a list is asked by a number")
            return Term("item", node.at, base.type.item, (base, key))
        raise self._refuse(f"{_a(base.type)} cannot be indexed", node.at, "only maps and lists can")

    def _wants(self, term: Term, wanted: Type, why: str) -> None:
        if term.type not in (wanted, NOTHING):
            raise self._refuse(f"{_a(term.type)} where {_a(wanted)} is needed", term.at, why)

    def _logic(self, node: Node, scope: Scope) -> Term:
        args = self._args(node, scope)
        for arg in args:
            self._wants(arg, BOOL, f"`{node.op}` works on true and false: compare it with something")
        return Term(node.op, node.at, BOOL, args)

    def _if(self, node: Node, scope: Scope) -> Term:
        condition, yes, no = self._args(node, scope)
        self._wants(condition, BOOL, "a condition is true or false: compare it with something")
        kind = _common(yes.type, no.type)
        if kind is None:
            what = f"one branch gives {_a(yes.type)}, the other {_a(no.type)}"
            raise self._refuse(what, no.at, "give both the same type")
        return Term("if", node.at, kind, (condition, yes, no))

    def _equal(self, node: Node, scope: Scope) -> Term:
        left, right = self._args(node, scope)
        kind = _common(left.type, right.type)
        if kind is None:
            fix = _convert(left, right)
            raise self._refuse(f"cannot compare {_a(left.type)} with {_a(right.type)}", right.at, fix)
        scalar = kind.item if kind.name == "list" and kind.item else kind
        if scalar.name not in (*self._words.equal, "nothing"):
            raise self._refuse(f"cannot compare {_a(kind)} as a whole", node.at, "compare its members")
        return Term(node.op, node.at, BOOL, (left, right))

    def _order(self, node: Node, scope: Scope) -> Term:
        left, right = self._args(node, scope)
        kind = _common(left.type, right.type)
        if kind is None:
            what = f"cannot compare {_a(left.type)} with {_a(right.type)}"
            raise self._refuse(what, right.at, _convert(left, right))
        if kind not in self._words.ordered:
            raise self._refuse(
                f"`{node.op}` cannot order {_a(left.type)}", left.at, "it orders numbers and texts"
            )
        return Term(node.op, node.at, BOOL, (left, right))

    def _in(self, node: Node, scope: Scope) -> Term:
        left, right = self._args(node, scope)
        if right.type == MAP:
            self._wants(left, STRING, "the keys of a map are texts")
        elif right.type.name == "list" and right.type.item:
            if _common(left.type, right.type.item) is None or left.type.members:
                what = f"{_a(left.type)} cannot be in a {right.type}"
                raise self._refuse(what, left.at, "ask for a value of the list's type")
        else:
            raise self._refuse(
                f"`in` cannot look into {_a(right.type)}", right.at, "it looks into lists and maps"
            )
        return Term("in", node.at, BOOL, (left, right))

    def _arithmetic(self, node: Node, scope: Scope) -> Term:
        args = self._args(node, scope)
        wanted = args[0].type if node.op == "+" and args[0].type == STRING else INT
        for arg in args:
            self._wants(arg, wanted, f"`{node.op.replace('neg', '-')}` needs {_a(wanted)} on each side")
        return Term(node.op, node.at, wanted, args)

    def _call(self, node: Node, scope: Scope) -> Term:
        name = str(node.value)
        if name == "has":
            return self._has(node, scope)
        if node.op == "method" and name in MACROS:
            return self._macro(node, scope)
        if name in MACROS:
            raise self._refuse(
                f"`{name}` goes through a list or map", node.at, f"write list.{name}(x, test of x)"
            )
        if name in self._words.refused:
            what, fix = self._words.refused[name]
            raise self._refuse(what, node.at, fix)
        names = {function.name for function in self._words.functions}
        if name not in names:
            fix = _guess(name, [*sorted(names), *MACROS, "has"], f"see the functions in {self._words.page}")
            raise self._refuse(f"unknown function `{name}`", node.at, fix)
        args = self._args(node, scope)
        functions = self._words.functions
        number = _overload(functions, name, node.op == "method", [arg.type for arg in args])
        if number is None:
            written = ", ".join(str(arg.type) for arg in args)
            raise self._refuse(
                f"`{name}` cannot be called with ({written})", node.at, _signatures(functions, name)
            )
        self._fixed(functions[number], args)
        return Term("call", node.at, functions[number].gives, args, number)

    def _fixed(self, function: Function, args: tuple[Term, ...]) -> None:
        """Try literal arguments now, so that a filter that can only be an error is not saved."""
        if function.fixed is None:
            return
        arg = args[function.fixed]
        if arg.op != "const":
            if function.literal:
                kind = "pattern" if function.gives == BOOL else "text"
                what = f"the {kind} of `{function.name}` is not a literal"
                raise self._refuse(what, arg.at, "write it out")
            return
        try:
            self._words.checks[function.name](str(arg.value))
        except ValueError as error:
            pattern = function.literal and function.gives == BOOL
            fix = (
                "patterns are RE2: no lookaround, no backreferences"
                if pattern
                else f"see the functions in {self._words.page}"
                if function.literal
                else "write it as Kubernetes does"
            )
            what = f"not a pattern ({error})" if pattern else str(error)
            raise self._refuse(what, arg.at, fix) from None

    def _has(self, node: Node, scope: Scope) -> Term:
        fix = "ask for a field, or for a key or member after a dot, e.g. has(node) or has(labels.app)"
        if node.op != "call" or len(node.args) != 1:
            raise self._refuse("`has` is written has(x)", node.at, fix)
        asked = node.args[0]
        if asked.op == "index":
            raise self._refuse("`has` cannot ask for an index", asked.at, 'write "key" in labels')
        if asked.op not in ("name", "select") or str(asked.value) in (scope if asked.op == "name" else ()):
            raise self._refuse("`has` cannot ask for this", asked.at, fix)
        term = self.term(asked, scope)
        return Term("has", node.at, BOOL, (term,))

    def _macro(self, node: Node, scope: Scope) -> Term:
        name = str(node.value)
        if len(node.args) != 3 or node.args[1].op != "name":
            fix = f"write list.{name}(x, test of x)"
            raise self._refuse(f"`{name}` takes a variable and a test", node.at, fix)
        depth = 1 + max((slot for slot, _ in scope.values()), default=-1)
        if depth >= MAX_NESTING:
            raise self._refuse(
                f"macros nested more than {MAX_NESTING} deep", node.at, "test two levels at most"
            )
        over = self.term(node.args[0], scope)
        item = STRING if over.type == MAP else over.type.item if over.type.name == "list" else None
        if item is None:
            raise self._refuse(
                f"`{name}` cannot go through {_a(over.type)}",
                node.args[0].at,
                "it goes through lists and maps",
            )
        inner = {**scope, str(node.args[1].value): (depth, item)}
        body = self.term(node.args[2], inner)
        self._wants(body, BOOL, "the test must be true or false: compare it with something")
        return Term(name, node.at, BOOL, (over, body), depth)


_METHODS = {
    "const": "_const",
    "list": "_list",
    "name": "_name",
    "select": "_select",
    "index": "_index",
    "&&": "_logic",
    "||": "_logic",
    "!": "_logic",
    "if": "_if",
    "==": "_equal",
    "!=": "_equal",
    "<": "_order",
    "<=": "_order",
    ">": "_order",
    ">=": "_order",
    "in": "_in",
    "+": "_arithmetic",
    "-": "_arithmetic",
    "*": "_arithmetic",
    "neg": "_arithmetic",
    "call": "_call",
    "method": "_call",
}


def _common(left: Type, right: Type) -> Type | None:
    """The type that both are; an empty list is a list of anything."""
    if left == right or right == NOTHING:
        return left
    if left == NOTHING:
        return right
    if left.name == right.name == "list" and left.item and right.item:
        item = _common(left.item, right.item)
        return None if item is None else Type("list", item)
    return None


def _overload(functions: tuple[Function, ...], name: str, method: bool, given: list[Type]) -> int | None:
    for number, function in enumerate(functions):
        if (function.name, function.method) == (name, method) and _all_fit(function.takes, given):
            return number
    return None


def _all_fit(takes: tuple[Type, ...], given: list[Type]) -> bool:
    return len(takes) == len(given) and all(map(_fits, takes, given))


def _fits(wanted: Type, given: Type) -> bool:
    return given in (wanted, NOTHING) or (
        wanted.item is None and wanted.name == given.name and wanted.name in ("list", "map")
    )


def _signatures(functions: tuple[Function, ...], name: str) -> str:
    forms = []
    for function in functions:
        if function.name == name:
            takes = [str(kind) for kind in function.takes]
            form = (
                f"{takes[0]}.{name}({', '.join(takes[1:])})"
                if function.method
                else f"{name}({', '.join(takes)})"
            )
            forms.append(form)
    return "write " + " or ".join(forms)


def _convert(left: Term, right: Term) -> str:
    if {left.type, right.type} == {INT, STRING}:
        return "put the number in quotes, or turn the text into one with int()"
    return "compare values of one type"


def _guess(name: str, names: Iterable[str], otherwise: str) -> str:
    close = get_close_matches(name, list(names), 1)
    return f"did you mean `{close[0]}`?" if close else otherwise


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _a(kind: Type) -> str:
    return f"{'an' if kind.name[0] in 'aeiou' else 'a'} {kind}"
