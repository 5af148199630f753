"""The functions a filter may call: one table of signatures, each with what it does to values.

Values are Python's: bool, int, str, dict for maps and objects, tuple for lists, `networks.Address` and `Network`.
A function raises ValueError(reason) where CEL says the call is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from ringfence.inventory.filters.fields import BOOL, CIDR, INT, IP, STRING, Type
from ringfence.inventory.filters.networks import Address, Network, address, covers, holds, network
from ringfence.inventory.filters.texts import LARGEST, SMALLEST

LIST = Type("list")
"""In a signature: a list of anything."""
MAP_OR_OBJECT = Type("map")
"""In a signature: a map."""


class Function(msgspec.Struct, frozen=True):
    """One signature. `method` calls are written `x.f(y)`, the receiver is the first of `takes`.

    `fixed` is the position of an argument that is checked, by a call, when the filter is saved: it must be a
    literal where `literal` is set.
    """

    name: str
    method: bool
    takes: tuple[Type, ...]
    gives: Type
    run: Callable[..., Any]
    fixed: int | None = None
    literal: bool = False


def address_of(text: str) -> Address:
    """`ip(text)`."""
    found = address(text)
    if found is None:
        raise ValueError(f"`{shown(text)}` is no address")
    return found


def network_of(text: str) -> Network:
    """`cidr(text)`."""
    found = network(text)
    if found is None:
        raise ValueError(f"`{shown(text)}` is no network")
    return found


def shown(text: str) -> str:
    """A text short enough for a message."""
    return text if len(text) <= 60 else text[:57] + "..."


_WHOLE = re.compile(r"[+-]?[0-9]{1,25}", re.ASCII)


def number_of(value: str | int) -> int:
    """`int(text)`: decimal digits with an optional sign, within 64 bits (Go strconv.ParseInt)."""
    if isinstance(value, int):
        return value
    found = int(value) if _WHOLE.fullmatch(value) else None
    if found is None or not SMALLEST <= found <= LARGEST:
        raise ValueError(f"`{shown(value)}` is no whole number")
    return found


@lru_cache(maxsize=4096)
def pattern(text: str) -> Any:
    """A compiled RE2 pattern. Raises ValueError(reason) for what RE2 does not know (lookaround, backreferences)."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it is not valid"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(text) from None


def _matches(text: str, expression: str) -> bool:
    try:
        return pattern(expression).search(text) is not None
    except UnicodeEncodeError:
        raise ValueError("the text holds half of a surrogate pair") from None


def _contains_ip(outer: Network, inner: Address | str) -> bool:
    return holds(outer, address_of(inner) if isinstance(inner, str) else inner)


def _contains_cidr(outer: Network, inner: Network | str) -> bool:
    return covers(outer, network_of(inner) if isinstance(inner, str) else inner)


def _table() -> tuple[Function, ...]:
    sized = [
        Function("size", method, (t,), INT, len)
        for method in (True, False)
        for t in (STRING, LIST, MAP_OR_OBJECT)
    ]
    matches = [
        Function("matches", method, (STRING, STRING), BOOL, _matches, 1, literal=True)
        for method in (True, False)
    ]
    return (
        Function("startsWith", True, (STRING, STRING), BOOL, str.startswith),
        Function("endsWith", True, (STRING, STRING), BOOL, str.endswith),
        Function("contains", True, (STRING, STRING), BOOL, str.__contains__),
        *matches,
        *sized,
        Function("int", False, (STRING,), INT, number_of, 0),
        Function("int", False, (INT,), INT, number_of),
        Function("isIP", False, (STRING,), BOOL, lambda text: address(text) is not None),
        Function("isCIDR", False, (STRING,), BOOL, lambda text: network(text) is not None),
        Function("ip", False, (STRING,), IP, address_of, 0),
        Function("cidr", False, (STRING,), CIDR, network_of, 0),
        Function("family", True, (IP,), INT, lambda one: one.family),
        Function("prefixLength", True, (CIDR,), INT, lambda one: one.prefix),
        Function("containsIP", True, (CIDR, STRING), BOOL, _contains_ip, 1),
        Function("containsIP", True, (CIDR, IP), BOOL, _contains_ip),
        Function("containsCIDR", True, (CIDR, STRING), BOOL, _contains_cidr, 1),
        Function("containsCIDR", True, (CIDR, CIDR), BOOL, _contains_cidr),
    )


FUNCTIONS: tuple[Function, ...] = _table()
NAMES = frozenset(function.name for function in FUNCTIONS)

CHECKS: dict[str, Callable[[str], Any]] = {
    "matches": pattern,
    "int": number_of,
    "ip": address_of,
    "cidr": network_of,
    "containsIP": address_of,
    "containsCIDR": network_of,
}
"""What a literal `fixed` argument is tried with when the filter is saved."""

REFUSED: dict[str, tuple[str, str]] = {
    "map": ("`map` makes a list, and a filter only tests", "use exists, all or exists_one"),
    "filter": ("`filter` makes a list, and a filter only tests", "use exists, all or exists_one"),
    "now": ("a filter cannot ask the clock", "ask the inventory as of a time instead"),
    "timestamp": ("times are not supported", "ask the inventory as of a time instead"),
    "duration": ("times are not supported", "ask the inventory as of a time instead"),
    "existsOne": ("unknown function `existsOne`", "did you mean `exists_one`?"),
    "optMap": ("optional syntax is not supported", "use has() or `in`"),
    "optFlatMap": ("optional syntax is not supported", "use has() or `in`"),
    "orValue": ("optional syntax is not supported", "use has() or `in`"),
    "hasValue": ("optional syntax is not supported", "use has() or `in`"),
}
"""Functions of CEL that are refused for a reason."""
