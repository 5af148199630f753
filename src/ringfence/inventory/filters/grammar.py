"""Text → nodes, by the grammar of cel-python (a lark LALR grammar of the CEL specification).

The library is asked for its grammar only; what names and calls mean is decided in `check`. It is imported at the
first filter: it takes some 0.2 s.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ringfence.inventory.filters.guard import MAX_DEPTH, guard, too_deep
from ringfence.inventory.filters.syntax import At, Node, problem
from ringfence.inventory.filters.texts import integer, unquoted
from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from lark import Lark, Token

Tree = Any
"""A lark tree or token, as the grammar makes them."""

_SIGNS = {
    "relation_lt": "<",
    "relation_le": "<=",
    "relation_gt": ">",
    "relation_ge": ">=",
    "relation_eq": "==",
    "relation_ne": "!=",
    "relation_in": "in",
    "addition_add": "+",
    "addition_sub": "-",
    "multiplication_mul": "*",
    "multiplication_div": "/",
    "multiplication_mod": "%",
    "unary_not": "!",
    "unary_neg": "neg",
}
_CHAINS = {"conditionalor": "||", "conditionaland": "&&"}
_REFUSED = {
    "dot_ident": ("names with a leading dot are not supported", "write the name without it"),
    "dot_ident_arg": ("names with a leading dot are not supported", "write the name without it"),
    "map_lit": ("maps cannot be written out", 'ask for single keys, e.g. labels["app"] == "web"'),
    "member_object": ("messages cannot be made", "compare single fields"),
}
_LITERALS = {
    "UINT_LIT": ("unsigned numbers are not supported", "write the number without the u"),
    "FLOAT_LIT": ("fractions are not supported", "no field has one: write a whole number"),
    "BYTES_LIT": ("bytes are not supported", "write a text without the b"),
    "NULL_LIT": ("null is not supported", "ask has(field) whether a fact is there"),
}
_WORDS = {
    "and": "write &&",
    "or": "write ||",
    "not": "write !",
    "notin": "write !(x in [...])",
    "is": "write ==",
}


def syntax_tree(text: str, where: str) -> Node:
    """The nodes of a filter. Raises Problem with line and column for everything the grammar refuses."""
    guard(text, where)
    return _Reader(where).read(_parsed(text, where), 0)


@lru_cache(maxsize=1)
def _parser() -> Lark:
    """A parser of cel-python's grammar, made as that package makes its own but for one thing.

    Its own gives `true` and `false` no place in the text.
    """
    from lark import Lark

    return Lark.open_from_package(
        "celpy",
        "cel.lark",
        ("",),
        parser="lalr",
        start="expr",
        g_regex_flags=re.MULTILINE,
        lexer_callbacks={"IDENT": _true_or_false},
        propagate_positions=True,
        maybe_placeholders=False,
        priority="invert",
    )


def _true_or_false(token: Token) -> Token:
    """The grammar cannot tell these two from names."""
    return token.update("BOOL_LIT") if token.value in ("true", "false") else token


def _parsed(text: str, where: str) -> Tree:
    parser = _parser()
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        return parser.parse(text)
    except UnexpectedToken as error:
        raise _syntax_problem(text, where, error.token) from None
    except UnexpectedCharacters as error:
        at = At(error.line, error.column)
        raise problem("unexpected character", where, at, "see docs/reference/filters.md") from None


def _syntax_problem(text: str, where: str, token: Token) -> Problem:
    if token.type == "$END":
        lines = text.split("\n")
        at = At(len(lines), len(lines[-1]) + 1)
        return problem("the filter ends too early", where, at, "complete the expression")
    fix = _WORDS.get(str(token), "an operator such as && or ==, or the end, is expected here")
    if token.type == "QMARK":
        fix = "put the inner conditional in parentheses"
    return problem(f"unexpected `{token}`", where, At(token.line or 1, token.column or 1), fix)


class _Reader:
    """One walk over a parse tree. Chains of && and || are read in a loop, everything else by depth."""

    def __init__(self, where: str) -> None:
        self._where = where

    def read(self, tree: Tree, depth: int) -> Node:
        while len(tree.children) == 1 and tree.data in _PASSED:
            tree = tree.children[0]
        at = _at(tree)
        if depth > MAX_DEPTH:
            raise too_deep(self._where, at)
        if tree.data in _REFUSED:
            what, fix = _REFUSED[tree.data]
            raise problem(what, self._where, at, fix)
        reader = getattr(self, f"_{tree.data}")
        node: Node = reader(tree, at, depth + 1)
        return node

    def _expr(self, tree: Tree, at: At, depth: int) -> Node:
        return Node("if", at, tuple(self.read(child, depth) for child in tree.children))

    def _chain(self, tree: Tree, at: At, depth: int) -> Node:
        """`a && b && c`, which the grammar nests to the left, as one node of three."""
        data, parts = tree.data, []
        while tree.data == data and len(tree.children) == 2:
            parts.append(tree.children[1])
            tree = tree.children[0]
        parts.append(tree)
        return Node(_CHAINS[data], at, tuple(self.read(part, depth) for part in reversed(parts)))

    _conditionalor = _chain
    _conditionaland = _chain

    def _binary(self, tree: Tree, at: At, depth: int) -> Node:
        operator, right = tree.children
        left = self.read(operator.children[0], depth)
        return Node(_SIGNS[operator.data], at, (left, self.read(right, depth)))

    _relation = _binary
    _addition = _binary
    _multiplication = _binary

    def _unary(self, tree: Tree, at: At, depth: int) -> Node:
        operator, operand = tree.children
        return Node(_SIGNS[operator.data], at, (self.read(operand, depth),))

    def _member_dot(self, tree: Tree, at: At, depth: int) -> Node:
        base, name = tree.children
        return Node("select", _name_at(at, name), (self.read(base, depth),), str(name))

    def _member_dot_arg(self, tree: Tree, at: At, depth: int) -> Node:
        base, name, *rest = tree.children
        args = (self.read(base, depth), *self._arguments(rest, depth))
        return Node("method", _name_at(at, name), args, str(name))

    def _member_index(self, tree: Tree, at: At, depth: int) -> Node:
        return Node("index", at, tuple(self.read(child, depth) for child in tree.children))

    def _ident_arg(self, tree: Tree, at: At, depth: int) -> Node:
        name, *rest = tree.children
        return Node("call", at, tuple(self._arguments(rest, depth)), str(name))

    def _list_lit(self, tree: Tree, at: At, depth: int) -> Node:
        return Node("list", at, tuple(self._arguments(tree.children, depth)))

    def _arguments(self, rest: list[Tree], depth: int) -> list[Node]:
        return [self.read(child, depth) for exprlist in rest for child in exprlist.children]

    def _ident(self, tree: Tree, at: At, depth: int) -> Node:
        return Node("name", at, (), str(tree.children[0]))

    def _literal(self, tree: Tree, at: At, depth: int) -> Node:
        token = tree.children[0]
        if token.type in _LITERALS:
            what, fix = _LITERALS[token.type]
            raise problem(what, self._where, at, fix)
        try:
            return Node("const", at, (), _constant(token))
        except ValueError as error:
            raise problem(str(error), self._where, at, "see docs/reference/filters.md") from None


_PASSED = frozenset(
    {
        "expr",
        "conditionalor",
        "conditionaland",
        "relation",
        "addition",
        "multiplication",
        "unary",
        "member",
        "primary",
        "paren_expr",
    }
)


def _constant(token: Any) -> bool | int | str:
    if token.type == "BOOL_LIT":
        return bool(token == "true")
    if token.type == "INT_LIT":
        return integer(str(token))
    return unquoted(str(token))


def _at(tree: Tree) -> At:
    meta = tree.meta
    return At(meta.line, meta.column, meta.start_pos, meta.end_pos)


def _name_at(whole: At, name: Any) -> At:
    """Problems of a member point at its name, while the part as written is the whole of it."""
    return At(name.line, name.column, whole.start, whole.end)
