"""Terms → SQL with the exact three-valued meaning of filters: NULL is an error, and only what is true is found.

Every literal becomes a typed parameter, so no text of a user is ever part of a statement. `&&`, `||` and `!` are
written twice, as "is true" and "is false", neither of which is ever NULL; everything below them is a *leaf* whose
value may be NULL. A part that asks one end alone becomes a set of that end's versions: the engine reads `endpoints`
once, and each row costs one look into the set, however many labels were asked.

No part is written more often than twice, or the text would double with every level it is nested.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ringfence.inventory.filters.check import resolve
from ringfence.inventory.filters.fields import BOOL, INT, IP, NOTHING, STRING
from ringfence.inventory.filters.grammar import syntax_tree
from ringfence.inventory.filters.networks import Address, Network
from ringfence.inventory.filters.scalar import NO_BOUND, Fault, run_of
from ringfence.inventory.filters.syntax import Term, problem
from ringfence.model.problems import Problem
from ringfence.store.engine import DATABASE, Value
from ringfence.store.search.fields import (
    BY_NAME,
    END_OF,
    LENGTH,
    SHOWN_BY,
    TIME,
    TIMES,
    WORDS,
    End,
    Field,
    field_of,
)

LONGEST = 200_000
"""Characters of SQL one expression may become; the engine's parser refuses a quarter more."""

_SQL = {"bool": "UInt8", "int": "Int64", "string": "String", "timestamp": "Int64", "duration": "Int64"}
_LOGIC = ("&&", "||", "!")
_FLIPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_MAPPED = ("toIPv6('::ffff:0.0.0.0')", "toIPv6('::ffff:255.255.255.255')")


class Written(NamedTuple):
    """A condition in SQL, what fills its places, and the ends whose columns it wants joined to each row."""

    sql: str
    values: dict[str, Value]
    joins: frozenset[str]


def parse(text: str, where: str = "where") -> Term:
    """The checked terms of a search. Raises Problem with line and column."""
    return resolve(syntax_tree(text, where), where, WORDS)


def split(term: Term) -> tuple[Term | None, Term | None]:
    """The conjuncts that ask what each minute of a flow tells, and those that ask its sums."""
    parts = term.args if term.op == "&&" else (term,)
    sums = [part for part in parts if asks_sums(part)]
    facts = [part for part in parts if not asks_sums(part)]
    return _joined(term, facts), _joined(term, sums)


def asks_sums(term: Term) -> bool:
    """Whether a term reads anything that only all minutes of a flow together tell."""
    path = path_of(term)
    if path is not None:
        found = field_of(path)
        return found is not None and found[1].sums
    return any(map(asks_sums, term.args))


def all_of(terms: Sequence[Term]) -> Term:
    """What is true where all of these are; one at least."""
    parts = tuple(part for term in terms for part in (term.args if term.op == "&&" else (term,)))
    return parts[0] if len(parts) == 1 else Term("&&", terms[0].at, BOOL, parts)


def _joined(whole: Term, parts: list[Term]) -> Term | None:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else Term("&&", whole.at, BOOL, tuple(parts))


def paths_of(term: Term) -> frozenset[str]:
    """The fields that a term reads, by their names with dots."""
    path = path_of(term)
    if path is not None:
        return frozenset((path,))
    return frozenset().union(*map(paths_of, term.args))


def path_of(term: Term) -> str | None:
    """The name with dots that a term reads a field by; None for every other term."""
    if term.op == "field":
        return str(term.value)
    if term.op == "member" and term.args[0].op == "field":
        return f"{term.args[0].value}.{term.value}"
    return None


def condition(term: Term, where: str = "where", prefix: str = "w") -> Written:
    """Where a term is true. Places are called `prefix` and a number. Raises Problem for what SQL cannot answer."""
    writer = Writer(where, prefix)
    return Written(writer.true(term), writer.values, frozenset(writer.joins))


def reading(path: str) -> Written:
    """The value of a field for each row, NULL where it is absent."""
    writer = Writer("field", "f")
    found = field_of(path)
    assert found is not None
    return Written(writer.field(*found), {}, frozenset(writer.joins))


class Writer:
    """One expression on its way to SQL. `values` fill its places; `joins` are the ends whose columns it reads."""

    def __init__(self, where: str, prefix: str, alone: bool = False) -> None:
        self.values: dict[str, Value] = {}
        self.joins: set[str] = set()
        self._where, self._prefix = where, prefix
        self._alone = alone
        """Over `endpoints` itself."""
        self._inside = 0
        """Macros around what is being written: their variables are unknown to another SELECT."""

    # What is true, and what is false.

    def true(self, term: Term) -> str:
        """SQL that is 1 where a term is true, else 0."""
        return self._decided(term, True)

    def false(self, term: Term) -> str:
        """SQL that is 1 where a term is false, else 0: neither where it is true nor where it is an error."""
        return self._decided(term, False)

    def _decided(self, term: Term, wanted: bool) -> str:
        return self._short(term, self._decision(term, wanted))

    def _short(self, term: Term, sql: str) -> str:
        """What was written of a term, which may have become too long at any level."""
        if len(sql) > LONGEST:
            what = f"an expression too large (over {LONGEST} characters of SQL)"
            raise self._refuse(term, what, "split it into several searches")
        return sql

    def _decision(self, term: Term, wanted: bool) -> str:
        end = None if self._alone or self._inside else _only_end(term)
        if end is not None:
            return self._among(end, term, wanted)
        if term.op == "!":
            return self._decided(term.args[0], not wanted)
        if term.op in ("&&", "||"):
            sign = "AND" if (term.op == "&&") == wanted else "OR"
            return _chain(sign, [self._decided(part, wanted) for part in self._by_end(term)])
        if term.op in ("exists", "all"):
            return self._items(term, wanted)
        near = self._near(term)
        if near is not None:
            present, sql = near
            return _chain("AND", [*filter(None, [present]), sql if wanted else f"NOT {sql}"])
        return f"ifNull({self.value(term) if wanted else f'NOT {self.value(term)}'}, 0)"

    def _by_end(self, term: Term) -> list[Term]:
        """The parts of a chain, those of one end together: they are one set."""
        if self._alone or self._inside:
            return list(term.args)
        groups: dict[str, list[Term]] = {}
        for number, part in enumerate(term.args):
            end = _only_end(part)
            groups.setdefault(f" {number}" if end is None else end.name, []).append(part)
        return [
            parts[0] if len(parts) == 1 else Term(term.op, term.at, BOOL, tuple(parts))
            for parts in groups.values()
        ]

    def _among(self, end: End, term: Term, wanted: bool) -> str:
        inner = Writer(self._where, self._prefix, alone=True)
        inner.values = self.values
        sql = inner._decided(term, wanted)
        return f"({end.version} IN (SELECT version FROM {DATABASE}.endpoints WHERE {sql}))"

    def _items(self, term: Term, wanted: bool) -> str:
        """exists is true where any test is, false where all are false; all the other way around."""
        over, guard = self._array(term.args[0])
        any_of = (term.op == "exists") == wanted
        self._inside += 1
        body = self._decided(term.args[1], wanted)
        self._inside -= 1
        sql = f"{'arrayExists' if any_of else 'arrayAll'}(x{term.value} -> {body}, {over})"
        return f"({sql} AND NOT {guard})" if guard else sql

    def _near(self, term: Term) -> tuple[str, str] | None:
        """A column against literals, as (where it is there, the test of the bare column), which indexes serve."""
        if len(term.args) != 2:
            return None
        left, right, sign = term.args[0], term.args[1], term.op
        if left.op == "const" and sign in _FLIPPED:
            left, right, sign = right, left, _FLIPPED[sign]
        found = self._column(left)
        if found is None or found[1].type.name not in _SQL or found[1].type == BOOL:
            return None
        end, field = found
        if sign == "in":
            return self._near_list(end, field, right)
        value = _literal(right)
        if value is None or sign not in _FLIPPED or (field.shown and sign not in ("==", "!=")):
            return None
        present, raw = self._plain(end, field)
        if field.code is None:
            return present, f"({raw} {_sign(sign)} {self._place(value, _SQL[field.type.name])})"
        coded = field.code(str(value))
        if coded is None:
            return present, "0" if sign == "==" else "1"
        return present, f"({raw} {_sign(sign)} {self._place(coded, field.coded)})"

    def _near_list(self, end: End | None, field: Field, right: Term) -> tuple[str, str] | None:
        if right.op != "list" or any(arg.op != "const" for arg in right.args):
            return None
        if field.shown and field.code is None:
            return None
        present, raw = self._plain(end, field)
        values: list[Any] = [arg.value for arg in right.args]
        if field.code is not None:
            values = [coded for coded in map(field.code, values) if coded is not None]
        if not values:
            return present, "0"
        return present, f"({raw} IN {self._place(values, f'Array({field.coded or _SQL[field.type.name]})')})"

    # Values; NULL is an error.

    def value(self, term: Term) -> str:
        """SQL of a scalar, NULL where it is an error."""
        return self._short(term, self._valued(term))

    def _valued(self, term: Term) -> str:
        if _is_constant(term):
            return self._constant(term)
        if term.op in ("field", "member"):
            found = self._column(term)
            assert found is not None
            return self.field(*found)
        return _VALUES[term.op](self, term)

    def field(self, end: End | None, field: Field) -> str:
        """SQL of a field's value for each row."""
        present, raw = self._plain(end, field)
        shown = field.shown.replace("{raw}", raw)
        if not shown:
            shown = f"toInt64({raw})" if field.type in (INT, TIME, LENGTH) else raw
        return shown if present in ("", f"isNotNull({raw})") else f"if({present}, {shown}, NULL)"

    def _plain(self, end: End | None, field: Field) -> tuple[str, str]:
        """(where it is there, the bare column)."""
        prefix = ""
        if end is not None and not self._alone:
            self.joins.add(end.name)
            prefix = f"{end.name}__"
        return field.present.replace("{e}", prefix), field.raw.replace("{e}", prefix)

    def _column(self, term: Term) -> tuple[End | None, Field] | None:
        path = path_of(term)
        return None if path is None else field_of(path)

    def _place(self, value: Value, sql: str) -> str:
        name = f"{self._prefix}{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{sql}}}"

    def _constant(self, term: Term) -> str:
        value = _constant(term)
        if value is None:
            return f"CAST(NULL, 'Nullable({_SQL.get(term.type.name, 'IPv6')})')"
        if isinstance(value, bool):
            return "1" if value else "0"
        if isinstance(value, Address):
            return f"toIPv6({self._place(_written(value), 'String')})"
        assert isinstance(value, int | str), value
        return self._place(value, _SQL[term.type.name])

    def _array(self, term: Term) -> tuple[str, str]:
        """SQL of a list, or of a map's keys, and where it is an error, empty for nowhere."""
        if term.type.name == "map":
            return f"mapKeys({self._map(term)})", ""
        if term.op == "list":
            return self._list(term)
        found = self._column(term)
        if found is None:
            raise self._refuse(
                term, "a list that a search cannot choose", "ask `names`, or write one list out"
            )
        return self._plain(*found)[1], ""

    def _list(self, term: Term) -> tuple[str, str]:
        item = term.type.item or NOTHING
        if item == NOTHING:
            return "emptyArrayString()", ""
        if all(arg.op == "const" for arg in term.args):
            values: list[Any] = [arg.value for arg in term.args]
            return self._place(values, f"Array({_SQL[item.name]})"), ""
        parts = [self.value(arg) for arg in term.args]
        sure = ", ".join(f"assumeNotNull({part})" for part in parts)
        return f"[{sure}]", _chain("OR", [f"isNull({part})" for part in parts])

    def _map(self, term: Term) -> str:
        found = self._column(term)
        if found is None:
            raise self._refuse(term, "a map that a search cannot read", "ask `labels` of an end")
        return self._plain(*found)[1]

    def _refuse(self, term: Term, what: str, fix: str) -> Problem:
        return problem(what, self._where, term.at, fix)

    def _logic(self, term: Term) -> str:
        if term.op == "!":
            return f"(NOT {self.value(term.args[0])})"
        return _chain("AND" if term.op == "&&" else "OR", [self.value(part) for part in term.args])

    def _if(self, term: Term) -> str:
        test, yes, no = (self.value(arg) for arg in term.args)
        return f"[{no}, {yes}][{test} + 1]"

    def _equal(self, term: Term) -> str:
        left, right = term.args
        sign = "=" if term.op == "==" else "!="
        if left.type.name != "list":
            return f"({self.value(left)} {sign} {self.value(right)})"
        for one, other in ((left, right), (right, left)):
            if other.op == "list" and not other.args:
                sql, guard = self._array(one)
                return _guarded(f"({'empty' if sign == '=' else 'notEmpty'}({sql}))", guard)
        (mine, bad), (its, worse) = self._array(left), self._array(right)
        return _guarded(f"({mine} {sign} {its})", _chain("OR", [each for each in (bad, worse) if each]))

    def _order(self, term: Term) -> str:
        left, right = map(self.value, term.args)
        return f"({left} {term.op} {right})"

    def _in(self, term: Term) -> str:
        left, right = term.args
        near = self._near(term)
        if near is not None:
            present, sql = near
            return f"if({present}, {sql}, NULL)" if present else sql
        if right.type.name == "map":
            mapping = self._map(right)
            return self._once(left, lambda key: f"if(isNull({key}), NULL, mapContains({mapping}, {key}))")
        sql, guard = self._array(right)
        if (right.type.item or NOTHING) == NOTHING:
            sql = "emptyArrayString()"
        inside = self._once(left, lambda item: f"if(isNull({item}), NULL, has({sql}, {item}))")
        return _guarded(inside, guard)

    def _once(self, term: Term, use: Callable[[str], str]) -> str:
        """SQL that uses a term's value several times though it is written once."""
        value = self.value(term)
        if term.op in ("const", "field", "member", "bound"):
            return use(value)
        return f"arrayMap(t -> {use('t')}, [{value}])[1]"

    def _arithmetic(self, term: Term) -> str:
        parts = [self.value(arg) for arg in term.args]
        if term.type == STRING:
            return f"concat({', '.join(parts)})"
        wide = [f"toInt256({part})" for part in parts]
        sql = f"-{wide[0]}" if term.op == "neg" else f"{wide[0]} {term.op} {wide[1]}"
        return f"accurateCastOrNull({sql}, 'Int64')"

    def _key(self, term: Term) -> str:
        mapping, key = self._map(term.args[0]), term.args[1]
        value = self.value(key)
        if key.op == "const":
            return f"if(mapContains({mapping}, {value}), {mapping}[{value}], NULL)"
        return f"arrayElementOrNull(mapValues({mapping}), indexOf(mapKeys({mapping}), {value}))"

    def _item(self, term: Term) -> str:
        sql, guard = self._array(term.args[0])
        place = f"accurateCastOrNull({self.value(term.args[1])}, 'UInt32')"
        return _guarded(f"arrayElementOrNull({sql}, ifNull({place} + 1, 0))", guard)

    def _bound(self, term: Term) -> str:
        return f"x{term.value}"

    def _has(self, term: Term) -> str:
        asked = term.args[0]
        path = path_of(asked)
        if path in SHOWN_BY:
            return f"({SHOWN_BY[path]} != '')"
        if path in END_OF or asked.type.name in ("list", "map"):
            return "1"
        return f"isNotNull({self.value(asked)})"

    def _counted(self, term: Term) -> str:
        """exists_one: any error of the test is an error."""
        over, guard = self._array(term.args[0])
        self._inside += 1
        body = self.value(term.args[1])
        self._inside -= 1
        bound = f"x{term.value}"
        sql = f"arrayMap({bound} -> {body}, {over})"
        one = f"if(arrayExists(y -> isNull(y), {sql}), NULL, arrayCount(y -> ifNull(y, 0), {sql}) = 1)"
        return _guarded(one, guard)

    def _any(self, term: Term) -> str:
        """The value of exists and all."""
        return f"multiIf({self.true(term)}, 1, {self.false(term)}, 0, NULL)"

    def _call(self, term: Term) -> str:
        assert isinstance(term.value, int)
        return _CALLS[WORDS.functions[term.value].name](self, term)

    def _text_call(self, term: Term) -> str:
        assert isinstance(term.value, int)
        name = WORDS.functions[term.value].name
        text, part = map(self.value, term.args)
        return f"(position({text}, {part}) > 0)" if name == "contains" else f"{name}({text}, {part})"

    def _matches(self, term: Term) -> str:
        # The engine lets a dot match a line end, which RE2 by itself does not.
        pattern = self._place(f"(?-s){term.args[1].value}", "String")
        return f"match({self.value(term.args[0])}, {pattern})"

    def _size(self, term: Term) -> str:
        asked = term.args[0]
        if asked.type == STRING:
            return f"toInt64(lengthUTF8({self.value(asked)}))"
        sql, guard = self._array(asked)
        return _guarded(f"toInt64(length({sql}))", guard)

    def _int(self, term: Term) -> str:
        asked = self.value(term.args[0])
        if term.args[0].type == INT:
            return asked
        digits = f"extract({asked}, '^[+-]?[0-9]{{1,25}}$')"
        return f"accurateCastOrNull(toInt256OrNull({digits}), 'Int64')"

    def _ip(self, term: Term) -> str:
        """`ip()` of a text: an address field."""
        found = self._column(term.args[0])
        if found is None or found[1].coded != "IPv6":
            fix = "it reads literals and the `ip` of an end"
            raise self._refuse(term, "a search cannot read an address out of any text", fix)
        return self._plain(*found)[1]

    def _is_ip(self, term: Term) -> str:
        self._ip(term)
        return "1"

    def _is_cidr(self, term: Term) -> str:
        raise self._refuse(
            term, "a search knows networks that are written out alone", "ask containsIP of one"
        )

    def _family(self, term: Term) -> str:
        address = self.value(term.args[0])
        return f"toInt64(6 - 2 * ({address} BETWEEN {_MAPPED[0]} AND {_MAPPED[1]}))"

    def _contains_ip(self, term: Term) -> str:
        outer = _constant(term.args[0]) if _is_constant(term.args[0]) else None
        if not isinstance(outer, Network):
            raise self._refuse(term.args[0], "a network that is not written out", 'write cidr("10.0.0.0/8")')
        inner = term.args[1]
        if inner.type == IP:
            return self._once(inner, lambda address: self._within(outer, address))
        whole = Term("call", inner.at, IP, (inner,), 0)
        return self._within(outer, self._constant_ip(inner) if inner.op == "const" else self._ip(whole))

    def _constant_ip(self, term: Term) -> str:
        return f"toIPv6({self._place(str(term.value), 'String')})"

    def _within(self, outer: Network, address: str) -> str:
        low, high = (f"toIPv6({self._place(text, 'String')})" for text in _range(outer))
        sql = f"({address} BETWEEN {low} AND {high})"
        # Never across families: the table keeps IPv4 addresses within ::ffff:0:0/96.
        if outer.family == 6 and outer.prefix < 96:
            sql = f"({sql} AND NOT ({address} BETWEEN {_MAPPED[0]} AND {_MAPPED[1]}))"
        return sql


_VALUES: dict[str, Callable[[Writer, Term], str]] = {
    "&&": Writer._logic,
    "||": Writer._logic,
    "!": Writer._logic,
    "if": Writer._if,
    "==": Writer._equal,
    "!=": Writer._equal,
    **dict.fromkeys(("<", "<=", ">", ">="), Writer._order),
    "in": Writer._in,
    **dict.fromkeys(("+", "-", "*", "neg"), Writer._arithmetic),
    "key": Writer._key,
    "item": Writer._item,
    "bound": Writer._bound,
    "has": Writer._has,
    "exists": Writer._any,
    "all": Writer._any,
    "exists_one": Writer._counted,
    "call": Writer._call,
}
_CALLS: dict[str, Callable[[Writer, Term], str]] = {
    **dict.fromkeys(("startsWith", "endsWith", "contains"), Writer._text_call),
    "matches": Writer._matches,
    "size": Writer._size,
    "int": Writer._int,
    "ip": Writer._ip,
    "isIP": Writer._is_ip,
    "family": Writer._family,
    "containsIP": Writer._contains_ip,
    **dict.fromkeys(("isCIDR", "cidr", "prefixLength", "containsCIDR"), Writer._is_cidr),
}
_TIME_NAMES = {function.name: function for function in TIMES}


def _chain(sign: str, parts: Iterable[str]) -> str:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"({f' {sign} '.join(parts)})" if parts else ""


def _guarded(sql: str, guard: str) -> str:
    return f"if({guard}, NULL, {sql})" if guard else sql


def _sign(sign: str) -> str:
    return "=" if sign == "==" else sign


def _only_end(term: Term) -> End | None:
    """The one end whose versions decide a term; None where a row's own columns, or several ends, do."""
    ends: set[str] = set()
    if not _gather(term, ends) or len(ends) != 1:
        return None
    return END_OF[ends.pop()]


def _gather(term: Term, ends: set[str]) -> bool:
    """Add the ends that a term asks; whether it asks nothing else."""
    path = path_of(term)
    if path is None:
        return all(_gather(arg, ends) for arg in term.args)
    whole = path.partition(".")[0]
    if path in BY_NAME or whole not in END_OF:
        return False
    ends.add(whole)
    return True


def _is_constant(term: Term) -> bool:
    """Whether a term asks nothing of a row."""
    return term.op not in ("field", "bound") and all(map(_is_constant, term.args))


def _literal(term: Term) -> int | str | None:
    """The value of a literal that is no bool."""
    if term.op == "const" or (term.op == "call" and _is_constant(term)):
        value = _constant(term)
        return value if isinstance(value, int | str) and not isinstance(value, bool) else None
    return None


def _constant(term: Term) -> Any:
    """The value of a term without fields; None where it is an error."""
    value = run_of(_without_times(term))((), NO_BOUND)
    return None if isinstance(value, Fault) else value


def _without_times(term: Term) -> Term:
    """The same term with its times and durations as the numbers they are."""
    if term.op == "call" and isinstance(term.value, int):
        function = WORDS.functions[term.value]
        if function.name in _TIME_NAMES:
            return Term("const", term.at, INT, (), function.run(term.args[0].value))
    return Term(term.op, term.at, term.type, tuple(map(_without_times, term.args)), term.value)


def _written(address: Address) -> str:
    found = (
        ipaddress.IPv4Address(address.number)
        if address.family == 4
        else ipaddress.IPv6Address(address.number)
    )
    return f"::ffff:{found}" if address.family == 4 else str(found)


def _range(outer: Network) -> tuple[str, str]:
    """The first and the last address of a network."""
    spare = (32 if outer.family == 4 else 128) - outer.prefix
    low = outer.number >> spare << spare
    return _written(Address(outer.family, low)), _written(Address(outer.family, low + (1 << spare) - 1))
