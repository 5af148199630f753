"""Saved filters over the inventory, kept current change by change; and questions to the inventory of a past time.

Goals: members are what the inventory says now, a moment after it says so; a change costs the filters that read it.
Lock order: this lock, then the book's. The book calls `follow` outside its own lock, so the two cannot meet.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from ringfence.flows.present import rfc3339
from ringfence.inventory.filters import Filter, Memberships, Population, parse_any
from ringfence.inventory.inventory import EVERYWHERE
from ringfence.inventory.members import Member, sample_keys
from ringfence.inventory.previews import Failed, Previewed, failures, previewed, unjudged
from ringfence.model.problems import Problem
from ringfence.server.book import Book, Changed
from ringfence.server.refusals import NotFound
from ringfence.store.catalog import CatalogStore, SavedFilter

LAST = 2**62
"""A time after every fact."""
LONGEST_NAME = 100
LONGEST_DESCRIPTION = 1_000

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)
_TAKEN = ("preview",)


class FilterRow(msgspec.Struct, frozen=True):
    """A saved filter and how many endpoints it holds now. `problem`: why its text cannot be read any more."""

    name: str
    text: str
    description: str
    version: int
    at: str
    by: str
    count: int
    errors: int
    """Endpoints that it cannot judge (`inventory.previews`): it does not hold them."""
    problem: str | None = None


class Members(NamedTuple):
    """Who a filter holds: how many, and the first of them by name."""

    text: str
    total: int
    first: tuple[Member, ...]


class Catalog:
    """Saved filters and the population they are asked of. For many threads."""

    def __init__(self, store: CatalogStore, book: Book, clock: Callable[[], int]) -> None:
        self._store, self._book, self._clock = store, book, clock
        self._lock = threading.RLock()
        self._memberships = Memberships()
        self._broken: dict[str, Problem] = {}

    def start(self) -> None:
        """Take the inventory as it is, and the saved filters; from then on follow every change."""
        with self._lock:
            self._memberships = Memberships(self._snapshot(LAST, None))
            for saved in self._store.filters():
                self._define(saved)
            self._book.on_change(self.follow)

    def follow(self, touched: Iterable[Changed]) -> None:
        """Bring members up to date with these objects."""
        with self._lock:
            self._memberships.apply((*one, self._book.current(*one)) for one in touched)

    @contextmanager
    def population(self, at: int | None = None, known: int | None = None) -> Iterator[Population]:
        """The endpoints of a time, by default as they are now. What is asked of it must be asked inside."""
        if at is None and known is None:
            with self._lock:
                yield self._memberships.population
        else:
            yield self._snapshot(LAST if at is None else at, known)

    def saved(self) -> list[FilterRow]:
        """Every saved filter."""
        with self._lock:
            return [self._row(saved) for saved in self._store.filters()]

    def one(self, name: str) -> FilterRow:
        """A saved filter. Raises NotFound."""
        with self._lock:
            return self._row(self._saved(name))

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Every version of a filter, newest first."""
        versions = self._store.filter_versions(name)
        return [{**msgspec.structs.asdict(each), "at": rfc3339(each.at)} for each in versions]

    def save(self, name: str, text: str, description: str, by: str, base: int | None) -> FilterRow:
        """Save a filter under a name. Raises Problem, and Moved where `base` is not its last version."""
        check_name(name)
        if len(description) > LONGEST_DESCRIPTION:
            raise Problem("a long description", name, f"keep to {LONGEST_DESCRIPTION:,} characters")
        parse_any(text, f"filter {name}")
        with self._lock:
            saved = self._store.save_filter(name, text, description, self._clock(), by, base)
            self._define(saved)
            return self._row(saved)

    def delete(self, name: str, by: str) -> None:
        """Forget a filter; its versions stay. Raises NotFound."""
        with self._lock:
            self._saved(name)
            self._store.save_filter(name, None, "", self._clock(), by)
            self._memberships.forget(name)
            self._broken.pop(name, None)

    def filter(self, name: str) -> Filter:
        """A saved filter. Raises NotFound, and Problem where its text cannot be read any more."""
        with self._lock:
            self._saved(name)
            if name in self._broken:
                raise self._broken[name]
            return self._memberships.filter(name)

    def members(self, name: str, at: int | None, known: int | None, limit: int) -> Members:
        """Who a saved filter holds, at a time; at most `limit` of them by name."""
        filter = self.filter(name)
        with self.population(at, known) as population:
            live = at is None and known is None
            keys = self._memberships.members(name) if live else population.select(filter).keys()
            found = sample_keys(population, keys, limit)
        return Members(filter.text, found.count, found.first)

    def addresses(self, name: str) -> tuple[int, list[str]]:
        """The policy object of a saved filter: its generation, and the addresses it holds."""
        self.filter(name)
        with self._lock:
            held = self._memberships.addresses(name)
            return held.generation, sorted(held.addresses)

    def preview(
        self, old: Filter | None, new: Filter, at: int | None, known: int | None, limit: int
    ) -> Previewed:
        """Who would join and who would leave if `new` took the place of `old`."""
        with self.population(at, known) as population:
            return previewed(population, old, new, limit)

    def failures(self, name: str) -> tuple[Failed, ...]:
        """The first endpoints that a saved filter cannot judge, and why."""
        filter = self.filter(name)
        with self.population() as population:
            return failures(filter, population)[1]

    def _snapshot(self, at: int, known: int | None) -> Population:
        clusters = (EVERYWHERE, *self._book.clusters())
        return Population(
            (cluster, value) for cluster in clusters for value in self._book.objects(cluster, at, None, known)
        )

    def _define(self, saved: SavedFilter) -> None:
        """Ask a saved text; one that an older version took and this one does not is kept and said."""
        try:
            self._memberships.define(saved.name, parse_any(saved.text or "", f"filter {saved.name}"))
            self._broken.pop(saved.name, None)
        except Problem as problem:
            self._memberships.forget(saved.name)
            self._broken[saved.name] = problem.with_traceback(None)

    def _saved(self, name: str) -> SavedFilter:
        versions = self._store.filter_versions(name)
        if not versions or versions[0].text is None:
            raise NotFound(f"no filter `{name[:60]}`", "name", "see `ringfence inventory filters list`")
        return versions[0]

    def _row(self, saved: SavedFilter) -> FilterRow:
        count = errors = 0
        if saved.name not in self._broken:
            filter = self._memberships.filter(saved.name)
            count = len(self._memberships.members(saved.name))
            population = self._memberships.population
            errors = len(unjudged(filter, population, population.select(filter)))
        broken = self._broken.get(saved.name)
        return FilterRow(
            saved.name,
            saved.text or "",
            saved.description,
            saved.version,
            rfc3339(saved.at),
            saved.by,
            count,
            errors,
            str(broken) if broken else None,
        )


def check_name(name: str) -> str:
    """The name of a filter. Raises Problem."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME or name in _TAKEN:
        fix = "use a-z, 0-9, `.`, `_` and `-`, at most 100, and not `preview`"
        raise Problem(f"not a name for a filter: `{name[:60]}`", "name", fix)
    return name
