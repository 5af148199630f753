"""The scope tree of a server: draft, review, commit, with who joins and who leaves shown first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ringfence.flows.present import rfc3339
from ringfence.inventory.filters import Key, Population
from ringfence.inventory.members import Member, called, member, sample
from ringfence.inventory.scope_designs import per_namespace, single
from ringfence.inventory.scopes import Scope, Tree, make_tree
from ringfence.inventory.standing import (
    Conflict,
    ScopeChange,
    ScopeRow,
    changes_between,
    conflicts_of,
    deciding_path,
    rows_of,
    stand,
)
from ringfence.model.problems import Problem
from ringfence.server.catalog import Catalog
from ringfence.server.refusals import Conflicting, NotFound
from ringfence.store.catalog import CatalogStore, Draft, Moved, SavedTree, check_revision

DESIGNS = ("per-namespace", "single", "given")


class TreeBody(msgspec.Struct, frozen=True):
    """A tree as it stands over the inventory of now."""

    version: int
    """The committed version, or the one that the draft began from."""
    revision: int | None
    """Of the draft; None for a committed tree."""
    at: str | None
    by: str
    note: str
    scopes: tuple[ScopeRow, ...]
    conflicts: tuple[Conflict, ...]
    draft: int | None = None
    """The revision of the draft there is, beside a committed tree."""


class Review(msgspec.Struct, frozen=True):
    """What committing the draft would change."""

    revision: int
    base: int
    version: int
    """The last committed version; another than `base` cannot be committed on."""
    changes: tuple[ScopeChange, ...]
    conflicts: tuple[Conflict, ...]


class PathRow(msgspec.Struct, frozen=True):
    """Which scopes decide for an endpoint, from the root down; `undecided`: unordered siblings that both hold it."""

    endpoint: Member
    path: tuple[str, ...]
    undecided: tuple[str, ...]


class Scopes:
    """The trees of one server over its catalog's population."""

    def __init__(self, store: CatalogStore, catalog: Catalog, clock: Callable[[], int]) -> None:
        self._store, self._catalog, self._clock = store, catalog, clock

    def tree(self, version: int | None) -> TreeBody:
        """A committed tree, by default the last. Raises NotFound."""
        saved, draft = self.committed(version), self._store.draft()
        return self._body(saved.tree, saved, None, draft.revision if draft else None)

    def committed(self, version: int | None = None) -> SavedTree:
        """A committed version, by default the last. Raises NotFound."""
        saved = self._store.committed(version)
        if saved is None:
            raise NotFound(f"no version {version}", "version", "see `ringfence scope versions`")
        return saved

    def draft(self) -> TreeBody:
        """The draft. Raises NotFound."""
        draft = self._draft()
        return self._body(draft.tree, draft, draft.revision, draft.revision)

    def init(self, scopes: Sequence[Scope], by: str, replace: bool) -> Draft:
        """Begin a draft with these scopes. Raises Moved where there is one already, unless it may be replaced."""
        tree, draft = make_tree(scopes), self._store.draft()
        if draft is not None and not replace:
            what = f"there is a draft already (revision {draft.revision}, by {draft.by})"
            raise Moved(what, "scopes", "review and commit it, or `ringfence scope discard` it")
        return self._store.save_draft(tree, self._clock(), by, draft.revision if draft else 0)

    def design(self, design: str, clusters: Sequence[str]) -> tuple[Scope, ...]:
        """The scopes of a design for what the inventory holds now. Raises Problem."""
        if design == "single":
            return single(clusters)
        if design != "per-namespace":
            raise Problem(f"unknown design `{design[:40]}`", "design", f"use one of {', '.join(DESIGNS)}")
        with self._catalog.population() as population:
            places = set(_places(population))
        chosen = {place for place in places if not clusters or place[0] in clusters}
        for cluster in sorted(set(clusters) - {cluster for cluster, _ in places}):
            raise NotFound(f"no cluster `{cluster[:60]}`", "cluster", "name one with pods or services")
        if not chosen:
            raise Problem("no namespace is known", "the inventory", "start `ringfence connector` first")
        return per_namespace(chosen)

    def put(self, name: str, given: dict[str, Any], by: str, revision: int | None) -> Draft:
        """Add a scope to the draft, or change what is given of the one there is; begins a draft where there is none.

        A new scope that names no parent stands below the root.
        """

        def edit(tree: Tree) -> Tree:
            roots = tree.children.get(None, ())
            scope = tree.by_name.get(name) or Scope(name, roots[0].name if roots else None)
            return tree.with_scope(msgspec.structs.replace(scope, **given))

        return self._edit(edit, by, revision)

    def delete(self, name: str, by: str, revision: int | None) -> Draft:
        """Take a scope out of the draft. Raises Problem for one with scopes below it."""
        return self._edit(lambda tree: tree.without(name), by, revision)

    def review(self) -> Review:
        """What committing the draft would change. Raises NotFound where there is none."""
        draft, last = self._draft(), self.committed()
        with self._catalog.population() as population:
            before, after = stand(last.tree, population), stand(draft.tree, population)
            return Review(
                draft.revision,
                draft.base,
                last.version,
                changes_between(before, after, population),
                conflicts_of(after, population),
            )

    def commit(self, revision: int | None, note: str, by: str) -> SavedTree:
        """Make the draft the next version. Raises Conflicting with the endpoints named, and Moved."""
        draft = self._draft()
        with self._catalog.population() as population:
            clashes = conflicts_of(stand(draft.tree, population), population)
            if clashes:
                raise Conflicting(clashes)
            # What was judged here is what is committed, whoever edits meanwhile.
            seen = draft.revision if revision is None else revision
            return self._store.commit(seen, note, self._clock(), by)

    def discard(self, by: str) -> bool:
        """Drop the draft; whether there was one."""
        return self._store.discard(self._clock(), by)

    def versions(self) -> list[dict[str, Any]]:
        """Every committed version, newest first, without its tree."""
        return [
            {"version": one.version, "at": rfc3339(one.at), "by": one.by, "note": one.note}
            | {"scopes": len(one.tree.scopes)}
            for one in self._store.versions()
        ]

    def members(self, name: str, limit: int) -> tuple[int, list[Member]]:
        """Whom a scope of the committed tree holds now. Raises NotFound."""
        tree = self.committed().tree
        if name not in tree.by_name:
            raise NotFound(f"no scope `{name[:60]}`", "name", "see `ringfence scope tree`")
        with self._catalog.population() as population:
            rows = stand(tree, population).rows[name]
            found = sample(population, rows.tolist(), limit)
        return found.count, list(found.first)

    def paths(self, name: str, only: frozenset[Key] | None = None) -> list[PathRow]:
        """The deciding paths of the endpoints that go by a name, in the committed tree. Raises NotFound.

        `only`: as if there were no others.
        """
        tree = self.committed().tree
        with self._catalog.population() as population:
            keys = [key for key in called(population, name) if only is None or key in only]
            if not keys:
                raise NotFound(f"no endpoint `{name[:60]}`", "name", "see `ringfence inventory list`")
            found = [(member(population, key), deciding_path(tree, population, key)) for key in keys]
        return [PathRow(one, deciding.path, deciding.undecided) for one, deciding in found]

    def _edit(self, edit: Callable[[Tree], Tree], by: str, revision: int | None) -> Draft:
        """Edit what is there now; somebody else's edit in between is refused, not undone."""
        draft = self._store.draft()
        check_revision(draft, revision)
        tree = edit(draft.tree if draft else self.committed().tree)
        return self._store.save_draft(tree, self._clock(), by, draft.revision if draft else 0)

    def _draft(self) -> Draft:
        draft = self._store.draft()
        if draft is None:
            raise NotFound(
                "no draft", "scopes", "begin one: `ringfence scope init` or `ringfence scope edit`"
            )
        return draft

    def _body(
        self, tree: Tree, saved: SavedTree | Draft, revision: int | None, draft: int | None
    ) -> TreeBody:
        with self._catalog.population() as population:
            standing = stand(tree, population)
            clashes = conflicts_of(standing, population)
        version = saved.version if isinstance(saved, SavedTree) else saved.base
        note = saved.note if isinstance(saved, SavedTree) else ""
        at = rfc3339(saved.at) if saved.at else None
        return TreeBody(version, revision, at, saved.by, note, rows_of(standing), clashes, draft)


def narrowed(body: TreeBody, tops: tuple[str, ...]) -> TreeBody:
    """The tree as somebody sees it who may read these scopes and what is below them: as if nothing stood above.

    How many endpoints of the parent a top's filter cannot judge is left out, and so are notes and the draft.
    """
    shown: dict[str, ScopeRow] = {}
    for row in body.scopes:
        if row.name in tops:
            shown[row.name] = msgspec.structs.replace(row, depth=0, parent=None, errors=0)
        elif row.parent in shown:
            shown[row.name] = msgspec.structs.replace(row, depth=shown[row.parent].depth + 1)
    conflicts = tuple(one for one in body.conflicts if one.parent in shown)
    return msgspec.structs.replace(
        body, scopes=tuple(shown.values()), conflicts=conflicts, note="", by="", draft=None
    )


def shortened(row: PathRow, readable: Callable[[str], bool]) -> PathRow:
    """A path without the scopes that somebody may not read."""
    return msgspec.structs.replace(
        row, path=tuple(filter(readable, row.path)), undecided=tuple(filter(readable, row.undecided))
    )


def _places(population: Population) -> list[tuple[str, str]]:
    """(cluster, namespace) of every endpoint that has one, once."""
    return [name for name in population.namespaces.names.values if name is not None]
