"""Uploaded lists of outside addresses: a list is replaced as a whole, from a time on, and its past stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from ringfence.inventory.externals_file import Entry, check_catalog, external
from ringfence.inventory.history import Statement, spans, value_at
from ringfence.inventory.inventory import EVERYWHERE
from ringfence.inventory.restate import restate
from ringfence.model.objects import Change, External
from ringfence.model.problems import Problem
from ringfence.server.book import Book
from ringfence.server.catalog import LAST
from ringfence.server.refusals import NotFound

Said = dict[str, tuple[Statement, ...]]


class CatalogRow(msgspec.Struct, frozen=True):
    """One list: how many entries it has now."""

    catalog: str
    entries: int


class Difference(msgspec.Struct, frozen=True):
    """What replacing a list changes from its time on, by network."""

    catalog: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    same: int


class Externals:
    """The lists of one server. One is replaced at a time."""

    def __init__(
        self, book: Book, learn: Callable[[Sequence[Change]], int], clock: Callable[[], int]
    ) -> None:
        self._book, self._learn, self._clock = book, learn, clock
        self._replacing = threading.Lock()

    def lists(self) -> list[CatalogRow]:
        """Every list that has an entry now."""
        counts: dict[str, int] = {}
        for value in self._now():
            counts[value.catalog] = counts.get(value.catalog, 0) + 1
        return [CatalogRow(name, count) for name, count in sorted(counts.items())]

    def entries(self, catalog: str) -> list[External]:
        """The entries of a list now. Raises NotFound for one without any."""
        found = sorted(
            (value for value in self._now() if value.catalog == catalog), key=lambda one: one.network
        )
        if not found:
            raise NotFound(f"no list `{catalog[:60]}`", "catalog", "see `ringfence inventory externals list`")
        return found

    def replace(self, catalog: str, entries: Sequence[Entry], since: int, dry_run: bool) -> Difference:
        """Let a list be these entries, and no others, from `since` (UTC ns, not in the future) on. All or nothing.

        What it was before `since`, and what was known of it until now, stays as it is. Raises Problem.
        """
        check_catalog(catalog)
        with self._replacing:
            now = self._clock()
            if since > now:
                raise Problem("a time in the future", "from", "upload the list when it holds")
            said = self._said(catalog)
            wanted = {one.uid: one for one in (external(catalog, entry) for entry in entries)}
            if not dry_run:
                self._learn(_changes(said, wanted, since, now))
            return _difference(catalog, said, wanted, since)

    def _said(self, catalog: str) -> Said:
        """Everything ever said of a list's entries."""
        every = self._book.statements(EVERYWHERE, "External")
        return {uid: said for uid, said in every.items() if uid.startswith(catalog + "/")}

    def _now(self) -> list[External]:
        values = self._book.objects(EVERYWHERE, LAST, "External")
        return [value for value in values if isinstance(value, External)]


def _changes(said: Said, wanted: dict[str, External], since: int, now: int) -> list[Change]:
    return [
        Change(EVERYWHERE, "External", uid, word.at, word.known, msgspec.Raw(msgspec.json.encode(word.value)))
        for uid in sorted(said.keys() | wanted.keys())
        for word in restate(said.get(uid, ()), since, now, wanted.get(uid))
    ]


def _difference(catalog: str, said: Said, wanted: dict[str, External], since: int) -> Difference:
    before = {uid: value_at(spans(words), since) for uid, words in said.items()}
    held = {uid: value for uid, value in before.items() if isinstance(value, External)}
    both = held.keys() & wanted.keys()
    changed = tuple(sorted(wanted[uid].network for uid in both if held[uid] != wanted[uid]))
    return Difference(
        catalog,
        added=tuple(sorted(wanted[uid].network for uid in wanted.keys() - held.keys())),
        changed=changed,
        removed=tuple(sorted(held[uid].network for uid in held.keys() - wanted.keys())),
        same=len(both) - len(changed),
    )
