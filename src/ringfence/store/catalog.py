"""What people keep about endpoints: saved filters with every version they had, and the scope tree's versions.

Goals: nothing anybody saved is overwritten; two people who edit at once never undo each other in silence. A draft
knows the version it began from and has a revision that grows with every edit; committing names both.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import sqlalchemy as sa

from ringfence.inventory.scopes import EMPTY, Tree
from ringfence.model.problems import Problem
from ringfence.store.tables import DRAFTS, FILTERS, SCOPES


class Moved(Problem):
    """What was to be replaced is no longer what it was: somebody else was faster."""


class SavedFilter(msgspec.Struct, frozen=True):
    """One version of a filter. `text` None: it was deleted then. `at` is UTC nanoseconds."""

    name: str
    version: int
    text: str | None
    description: str
    at: int
    by: str


class SavedTree(msgspec.Struct, frozen=True):
    """One committed version of the scope tree; version 0 is the empty tree that every server begins with."""

    version: int
    tree: Tree
    note: str = ""
    at: int = 0
    by: str = ""


class Draft(msgspec.Struct, frozen=True):
    """The tree that is being worked on: from which version it began, and how far it got."""

    revision: int
    base: int
    tree: Tree
    at: int
    by: str


NEVER = SavedTree(0, EMPTY)


class CatalogStore:
    """The tables over an open `Facts` file. Methods may be called from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        # One writer at a time, so that what was read is still so when it is replaced.
        self._writing = threading.Lock()

    def filters(self) -> list[SavedFilter]:
        """The filters there are, in their last version, by name."""
        last = sa.select(sa.func.max(FILTERS.c.number)).group_by(FILTERS.c.name)
        asked = _filters().where(FILTERS.c.number.in_(last), FILTERS.c.text.is_not(None))
        return self._filters(asked.order_by(FILTERS.c.name))

    def filter_versions(self, name: str) -> list[SavedFilter]:
        """Every version a filter ever had, its deletions among them, newest first."""
        return self._filters(_filters().where(FILTERS.c.name == name).order_by(FILTERS.c.version.desc()))

    def save_filter(
        self, name: str, text: str | None, description: str, now: int, by: str, base: int | None = None
    ) -> SavedFilter:
        """Keep a new version (None deletes); what is so already is not saved again.

        Raises Moved where `base` is given and is not the last version.
        """
        with self._writing:
            versions = self.filter_versions(name)
            last = versions[0] if versions else SavedFilter(name, 0, None, "", 0, "")
            if base is not None and base != last.version:
                what = f"filter `{name}` is at version {last.version} by now"
                raise Moved(what, f"version {base}", "look at the new version, then save again")
            if (last.text, last.description) == (text, description):
                return last
            saved = SavedFilter(name, last.version + 1, text, description, now, by)
            with self._engine.begin() as connection:
                connection.execute(FILTERS.insert().values(msgspec.structs.asdict(saved)))
            return saved

    def versions(self) -> list[SavedTree]:
        """Every committed tree, newest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(SCOPES).order_by(SCOPES.c.version.desc()))
            return [_saved(row) for row in rows]

    def last(self) -> int:
        """The version of the last committed tree; 0 before the first."""
        return self._last()

    def committed(self, version: int | None = None) -> SavedTree | None:
        """The last committed tree, or that of a version; None where there is no such version."""
        if version == 0:
            return NEVER
        asked = sa.select(SCOPES).order_by(SCOPES.c.version.desc()).limit(1)
        if version is not None:
            asked = asked.where(SCOPES.c.version == version)
        with self._engine.connect() as connection:
            row = connection.execute(asked).first()
        if row is None:
            return NEVER if version is None else None
        return _saved(row)

    def draft(self) -> Draft | None:
        """The draft, if there is one."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(DRAFTS).order_by(DRAFTS.c.revision.desc()).limit(1)).first()
        if row is None or row.tree is None:
            return None
        return Draft(row.revision, row.base, _tree(row.tree), row.at, row.by)

    def save_draft(self, tree: Tree, now: int, by: str, revision: int | None = None) -> Draft:
        """Put a tree in place of the draft, or begin one from the last version.

        Raises Moved where `revision` is given and is not the draft's (0: there is none).
        """
        with self._writing:
            draft = self.draft()
            check_revision(draft, revision)
            base = draft.base if draft else self._last()
            self._write_draft(base, tree, now, by)
        made = self.draft()
        assert made is not None
        return made

    def discard(self, now: int, by: str) -> bool:
        """Drop the draft; whether there was one."""
        with self._writing:
            draft = self.draft()
            if draft is not None:
                self._write_draft(draft.base, None, now, by)
            return draft is not None

    def commit(self, revision: int | None, note: str, now: int, by: str) -> SavedTree:
        """Make the draft the next version. Raises Moved where it is not the revision that was looked at, or where
        another version was committed since it began."""
        with self._writing:
            draft, last = self.draft(), self._last()
            if draft is None:
                raise Moved("no draft", "scopes", "begin one: `ringfence scope init` or `scope edit`")
            check_revision(draft, revision)
            if draft.base != last:
                what = f"the draft began from version {draft.base}, and version {last} was committed since"
                raise Moved(what, "scopes", "discard it and make the change again from the new version")
            saved = SavedTree(last + 1, draft.tree, note, now, by)
            values = {**msgspec.structs.asdict(saved), "tree": msgspec.json.encode(draft.tree)}
            with self._engine.begin() as connection:
                connection.execute(SCOPES.insert().values(values))
                connection.execute(DRAFTS.delete())
            return saved

    def _last(self) -> int:
        with self._engine.connect() as connection:
            return connection.execute(sa.select(sa.func.max(SCOPES.c.version))).scalar() or 0

    def _write_draft(self, base: int, tree: Tree | None, now: int, by: str) -> None:
        body = None if tree is None else msgspec.json.encode(tree)
        with self._engine.begin() as connection:
            connection.execute(DRAFTS.delete())
            connection.execute(DRAFTS.insert().values(base=base, tree=body, at=now, by=by))

    def _filters(self, asked: sa.Select[Any]) -> list[SavedFilter]:
        with self._engine.connect() as connection:
            return [SavedFilter(*row) for row in connection.execute(asked)]


def _filters() -> sa.Select[Any]:
    return sa.select(*(FILTERS.c[name] for name in SavedFilter.__struct_fields__))


def check_revision(draft: Draft | None, revision: int | None) -> None:
    """Raise Moved where the draft is not at a revision (0: there is none) that somebody names."""
    current = draft.revision if draft else 0
    if revision is not None and revision != current:
        what = f"the draft is at revision {current} by now" if draft else "there is no draft any more"
        raise Moved(what, f"revision {revision}", "look at it again: `ringfence scope review`")


def _saved(row: Any) -> SavedTree:
    return SavedTree(row.version, _tree(row.tree), row.note, row.at, row.by)


def _tree(body: bytes) -> Tree:
    return msgspec.json.decode(body, type=Tree)
