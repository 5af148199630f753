"""Lists of outside addresses as people keep them, CSV or YAML (JSON too) → checked entries.

A list with anything wrong in it is refused as a whole, with everything that is wrong: half a list would name some
addresses and leave others to guesswork. Pure: text in, values and problems out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from ringfence.inventory.externals_text import NETWORK_WORDS, read_csv, read_yaml
from ringfence.model.endpoints import Labels
from ringfence.model.objects import External
from ringfence.model.problems import Problem

MOST = 100_000
"""Entries of one list."""
LONGEST = 253
"""Characters of a name, a label's key or a list's name."""
LONGEST_VALUE = 1_000

_CATALOG = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_PREFIX = re.compile(r"[^/]*(?:/\d{1,3})?", re.ASCII)


class Entry(msgspec.Struct, frozen=True):
    """One line of a list: a network (a CIDR; one address is a /32 or /128) has a name and labels."""

    network: str
    name: str
    labels: Labels = ()


class Given(NamedTuple):
    """One line as written, and where it stands."""

    where: str
    network: str
    name: str
    labels: tuple[tuple[str, str], ...]


def read_externals(text: str, file: str) -> tuple[tuple[Entry, ...], list[Problem]]:
    """The entries of a list, sorted by network text; none of them where there is any problem.

    `file` tells the form by its ending (.csv, .yaml, .yml, .json); where it tells nothing, the first line does.
    """
    text = text.removeprefix("\ufeff")
    rows, found = (read_csv if _is_csv(text, file) else read_yaml)(text, file)
    entries, wrong = check_entries(Given(*row) for row in rows)
    found += wrong
    if not rows and not found:
        found.append(
            Problem("an empty list", file, "use `ringfence inventory externals delete` to drop a list")
        )
    return (() if found else entries), sorted(found, key=_line)


def check_entries(given: Iterable[Given]) -> tuple[tuple[Entry, ...], list[Problem]]:
    """Checked entries, sorted, and everything that is wrong with the others."""
    entries: dict[str, Entry] = {}
    first: dict[str, str] = {}
    found: list[Problem] = []
    for position, one in enumerate(given):
        if position == MOST:
            found.append(Problem(f"more than {MOST:,} entries", one.where, "divide the list in two"))
            break
        network = _network(one.network, one.where)
        if isinstance(network, Problem):
            found.append(network)
        elif network in first:
            what = f"{network} again, first in {first[network]}"
            found.append(Problem(what, f"{one.where} field `network`", "leave one of the two"))
        else:
            first[network] = one.where
            entries[network] = Entry(network, one.name, tuple(sorted(one.labels)))
        found += _wrong(one)
    return tuple(entries[network] for network in sorted(entries)), found


def check_catalog(name: str) -> str:
    """The name of a list. Raises Problem."""
    if not _CATALOG.fullmatch(name) or len(name) > LONGEST:
        fix = "use a-z, 0-9, `.`, `_` and `-`, e.g. datacentre"
        raise Problem(f"not a name for a list: `{name[:60]}`", "catalog", fix)
    return name


def external(catalog: str, entry: Entry) -> External:
    """An entry as the inventory holds it."""
    return External(f"{catalog}/{entry.network}", catalog, entry.network, entry.name, entry.labels)


def _network(text: str, where: str) -> str | Problem:
    """A network in its one form: an address is a network of itself, IPv4 in IPv6 is IPv4."""
    place, text = f"{where} field `network`", text.strip()
    fix = "write an IPv4 or IPv6 address or CIDR, e.g. 10.1.0.0/16"
    if not text:
        return Problem("no network", place, fix)
    try:
        found = ipaddress.ip_network(text, strict=False)
        first = ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        return Problem(f"not a network: `{text[:60]}`", place, fix)
    if not _PREFIX.fullmatch(text) or "%" in text:
        return Problem(f"not a network: `{text[:60]}`", place, fix)
    if found.network_address != first:
        what = f"`{text}` has bits set after its prefix"
        return Problem(what, place, f"write {found} for the network, or {first} for the address")
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):  # type: ignore[arg-type]
        inner = int(found.network_address) & 0xFFFF_FFFF
        return f"{ipaddress.IPv4Address(inner)}/{found.prefixlen - 96}"
    return str(found)


def _wrong(given: Given) -> Iterator[Problem]:
    """What is wrong with a line besides its network."""
    if not given.name:
        yield Problem("no name", f"{given.where} field `name`", "say what people call this network")
    elif len(given.name) > LONGEST or not given.name.isprintable():
        fix = f"use at most {LONGEST} printable characters"
        yield Problem("not a name", f"{given.where} field `name`", fix)
    seen: set[str] = set()
    for key, value in given.labels:
        place = f"{given.where} label `{key[:60]}`"
        if not key or len(key) > LONGEST or not key.isprintable():
            yield Problem("not a label's key", place, f"use 1 to {LONGEST} printable characters")
        if len(value) > LONGEST_VALUE or not value.isprintable():
            yield Problem("not a label's value", place, f"use at most {LONGEST_VALUE:,} printable characters")
        if key in seen:
            yield Problem("a label twice", place, "leave one of the two")
        seen.add(key)


def _is_csv(text: str, file: str) -> bool:
    ending = file.lower().rpartition(".")[2]
    if ending in ("csv", "yaml", "yml", "json"):
        return ending == "csv"
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    words = {word.strip().strip('"').lower() for word in next(lines, "").split(",")}
    return bool(words & set(NETWORK_WORDS)) and len(words) > 1


def _line(problem: Problem) -> int:
    found = re.search(r" line (\d+)", problem.where)
    return int(found[1]) if found else 0
