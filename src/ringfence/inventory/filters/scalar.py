"""Terms → closures over one row's facts: the exact three-valued meaning, one value at a time.

A closure takes (facts, bound): a sequence with a value for each field of `FIELDS`, None where absent, and the
variables of macros. It gives a Python value, or a `Fault`: an error with its reason, or UNKNOWN, which stands for
a fact that is not decided yet (what is left when it is, no fact of that kind can change). Errors are values, as
in CEL: && and || absorb them, everything else passes them on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from ringfence.inventory.filters.fields import NUMBER
from ringfence.inventory.filters.functions import CHECKS, FUNCTIONS, shown
from ringfence.inventory.filters.syntax import At, Term
from ringfence.inventory.filters.texts import LARGEST, SMALLEST


class Fault:
    """Why a part has no value, and where that part stands."""

    __slots__ = ("at", "text")

    def __init__(self, text: str, at: At) -> None:
        self.text = text
        self.at = at

    def __repr__(self) -> str:
        return f"Fault({self.text!r})"


UNKNOWN = Fault("not decided yet", At(0, 0))

Facts = Sequence[Any]
Bound = list[Any]
Run = Callable[[Facts, Bound], Any]

NO_BOUND: Bound = [None, None]


def run_of(term: Term) -> Run:
    """The closure of a term."""
    return _MAKERS.get(term.op, _operator)(term)


def _const(term: Term) -> Run:
    value = term.value
    return lambda facts, bound: value


def _field(term: Term) -> Run:
    number = NUMBER[str(term.value)]
    absent = Fault(f"there is no `{term.value}`", term.at)

    def read(facts: Facts, bound: Bound) -> Any:
        value = facts[number]
        return absent if value is None else value

    return read


def _bound(term: Term) -> Run:
    slot = term.value
    assert isinstance(slot, int)
    return lambda facts, bound: bound[slot]


def _worse(faults: Sequence[Any]) -> Fault:
    """Of the arguments of a strict operation, the fault it has: an error is one whatever else is unknown."""
    found = [value for value in faults if value.__class__ is Fault]
    for fault in found:
        if fault is not UNKNOWN:
            return fault
    return UNKNOWN


def _key(term: Term) -> Run:
    base, key = (run_of(arg) for arg in term.args)
    name = term.args[0].value if term.args[0].op == "field" else "the map"

    def get(facts: Facts, bound: Bound) -> Any:
        mapping, wanted = base(facts, bound), key(facts, bound)
        if mapping.__class__ is Fault or wanted.__class__ is Fault:
            return _worse((mapping, wanted))
        value = mapping.get(wanted)
        return Fault(f"{name} has no key `{shown(wanted)}`", term.at) if value is None else value

    return get


def _item(term: Term) -> Run:
    base, key = (run_of(arg) for arg in term.args)

    def get(facts: Facts, bound: Bound) -> Any:
        items, position = base(facts, bound), key(facts, bound)
        if items.__class__ is Fault or position.__class__ is Fault:
            return _worse((items, position))
        if 0 <= position < len(items):
            return items[position]
        return Fault(f"there is no [{position}] in a list of {len(items)}", term.at)

    return get


def _member(term: Term) -> Run:
    base = run_of(term.args[0])
    name = term.value
    absent = Fault(f"the {term.args[0].type} has no `{name}`", term.at)

    def get(facts: Facts, bound: Bound) -> Any:
        thing = base(facts, bound)
        if thing.__class__ is Fault:
            return thing
        value = thing.get(name)
        return absent if value is None else value

    return get


def _has(term: Term) -> Run:
    """Total: whatever is absent on the way, the answer is false."""
    asked = run_of(term.args[0])

    def has(facts: Facts, bound: Bound) -> Any:
        value = asked(facts, bound)
        return value if value is UNKNOWN else value.__class__ is not Fault

    return has


def _list(term: Term) -> Run:
    items = [run_of(arg) for arg in term.args]
    if all(arg.op == "const" for arg in term.args):
        fixed = tuple(arg.value for arg in term.args)
        return lambda facts, bound: fixed

    def make(facts: Facts, bound: Bound) -> Any:
        values = tuple(item(facts, bound) for item in items)
        return _worse(values) if any(value.__class__ is Fault for value in values) else values

    return make


def _fold(term: Term) -> Run:
    """&& and ||: the value that decides wins, then what is unknown, then an error."""
    parts = [run_of(arg) for arg in term.args]
    decides = term.op == "||"

    def fold(facts: Facts, bound: Bound) -> Any:
        result: Any = not decides
        for part in parts:
            value = part(facts, bound)
            if value is decides:
                return decides
            if value.__class__ is Fault and (value is UNKNOWN or result.__class__ is not Fault):
                result = value
        return result

    return fold


def _not(term: Term) -> Run:
    part = run_of(term.args[0])

    def negate(facts: Facts, bound: Bound) -> Any:
        value = part(facts, bound)
        return value if value.__class__ is Fault else not value

    return negate


def _if(term: Term) -> Run:
    condition, yes, no = (run_of(arg) for arg in term.args)

    def choose(facts: Facts, bound: Bound) -> Any:
        value = condition(facts, bound)
        if value.__class__ is Fault:
            return value
        return yes(facts, bound) if value else no(facts, bound)

    return choose


def _in(term: Term) -> Run:
    if term.args[1].op == "list" and all(arg.op == "const" for arg in term.args[1].args):
        return _among(term)
    return _operator(term)


def _among(term: Term) -> Run:
    """`in` a list of literals: one look into a set, however long the list."""
    left = run_of(term.args[0])
    values = frozenset(arg.value for arg in term.args[1].args)

    def test(facts: Facts, bound: Bound) -> Any:
        value = left(facts, bound)
        return value if value.__class__ is Fault else value in values

    return test


def _bounded(work: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def check(left: int, right: int) -> int:
        value = work(left, right)
        if not SMALLEST <= value <= LARGEST:
            raise ValueError("a number beyond 64 bits")
        return value

    return check


_NUMBERS = {"+": _bounded(operator.add), "-": _bounded(operator.sub), "*": _bounded(operator.mul)}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, container: value in container,
}


def _operator(term: Term) -> Run:
    left, right = (run_of(arg) for arg in term.args)
    if term.op in _OPERATORS:
        return _strict(_OPERATORS[term.op], left, right)
    if term.type.name == "string":
        return _strict(operator.add, left, right)
    return _caught(_NUMBERS[term.op], [left, right], term.at)


def _strict(work: Callable[[Any, Any], Any], left: Run, right: Run) -> Run:
    def apply(facts: Facts, bound: Bound) -> Any:
        one, other = left(facts, bound), right(facts, bound)
        if one.__class__ is Fault or other.__class__ is Fault:
            return _worse((one, other))
        return work(one, other)

    return apply


def _caught(work: Callable[..., Any], parts: list[Run], at: At) -> Run:
    """A strict operation that may fail by ValueError."""

    def apply(facts: Facts, bound: Bound) -> Any:
        values = [part(facts, bound) for part in parts]
        for value in values:
            if value.__class__ is Fault:
                return _worse(values)
        try:
            return work(*values)
        except ValueError as error:
            return Fault(str(error), at)

    return apply


def _negative(term: Term) -> Run:
    return _caught(lambda value: _NUMBERS["-"](0, value), [run_of(term.args[0])], term.at)


def _call(term: Term) -> Run:
    assert isinstance(term.value, int)
    function = FUNCTIONS[term.value]
    parts = [run_of(arg) for arg in term.args]
    # A network written out is taken apart once, not at every row.
    if function.name in ("ip", "cidr") and term.args[0].op == "const":
        made = CHECKS[function.name](str(term.args[0].value))
        return lambda facts, bound: made
    return _caught(function.run, parts, term.at)


def _fold_items(term: Term) -> Run:
    """exists and all: || and && over the elements of a list or the keys of a map."""
    over, body = (run_of(arg) for arg in term.args)
    slot, decides = term.value, term.op == "exists"
    assert isinstance(slot, int)

    def fold(facts: Facts, bound: Bound) -> Any:
        items = over(facts, bound)
        if items.__class__ is Fault:
            return items
        result: Any = not decides
        inner = [*bound]
        for inner[slot] in items:
            value = body(facts, inner)
            if value is decides:
                return decides
            if value.__class__ is Fault and (value is UNKNOWN or result.__class__ is not Fault):
                result = value
        return result

    return fold


def _one_item(term: Term) -> Run:
    """exists_one: any error of the test is an error."""
    over, body = (run_of(arg) for arg in term.args)
    slot = term.value
    assert isinstance(slot, int)

    def count(facts: Facts, bound: Bound) -> Any:
        items = over(facts, bound)
        if items.__class__ is Fault:
            return items
        inner = [*bound]
        values = []
        for inner[slot] in items:
            values.append(body(facts, inner))
        if any(value.__class__ is Fault for value in values):
            return _worse(values)
        return values.count(True) == 1

    return count


_MAKERS: dict[str, Callable[[Term], Run]] = {
    "const": _const,
    "field": _field,
    "bound": _bound,
    "key": _key,
    "item": _item,
    "member": _member,
    "has": _has,
    "list": _list,
    "&&": _fold,
    "||": _fold,
    "!": _not,
    "if": _if,
    "in": _in,
    "neg": _negative,
    "call": _call,
    "exists": _fold_items,
    "all": _fold_items,
    "exists_one": _one_item,
}
