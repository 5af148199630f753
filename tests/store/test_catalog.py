"""Saved filters and scope trees: nothing saved is lost, and nobody overwrites what he has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.inventory.scopes import EMPTY, Scope, make_tree
from ringfence.store.catalog import NEVER, CatalogStore, Moved
from ringfence.store.facts import Facts

TREE = make_tree([Scope("root"), Scope("shop", "root", 'namespace == "shop"', 3, "the shop")])


@pytest.fixture
def facts(tmp_path: Path):
    facts = Facts(tmp_path)
    facts.open()
    yield facts
    facts.close()


@pytest.fixture
def store(facts) -> CatalogStore:
    return CatalogStore(facts.engine)


def test_every_save_of_a_filter_is_a_version_and_stays(store):
    assert store.save_filter("web", "app=web", "", 1, "ann").version == 1
    assert store.save_filter("web", "app=www", "pages", 2, "bob").version == 2
    assert store.save_filter("web", "app=www", "pages", 3, "eve").version == 2
    store.save_filter("db", "app=db", "", 4, "ann")
    assert [(one.name, one.text, one.by) for one in store.filters()] == [
        ("db", "app=db", "ann"),
        ("web", "app=www", "bob"),
    ]
    store.save_filter("web", None, "", 5, "ann")
    assert [one.name for one in store.filters()] == ["db"]
    assert store.save_filter("web", "app=web", "", 6, "ann").version == 4
    assert [(one.version, one.text, one.at) for one in store.filter_versions("web")] == [
        (4, "app=web", 6),
        (3, None, 5),
        (2, "app=www", 2),
        (1, "app=web", 1),
    ]
    assert store.filter_versions("nobody") == []


def test_a_filter_saved_by_somebody_else_is_not_overwritten(store):
    store.save_filter("web", "a=b", "", 1, "ann", base=0)
    store.save_filter("web", "a=c", "", 2, "bob", base=1)
    with pytest.raises(Moved, match="is at version 2 by now"):
        store.save_filter("web", "a=d", "", 3, "ann", base=1)
    assert store.filters()[0].text == "a=c"


def test_deleting_what_is_not_there_saves_nothing(store):
    assert store.save_filter("web", None, "", 1, "ann").version == 0
    assert store.filter_versions("web") == []


def test_a_server_begins_with_the_empty_tree(store):
    assert store.committed() == store.committed(0) == NEVER
    assert store.committed(1) is None
    assert store.draft() is None
    assert store.versions() == []


def test_a_draft_becomes_a_version_that_stays(store):
    draft = store.save_draft(TREE, 1, "ann")
    assert (draft.base, draft.tree) == (0, TREE)
    saved = store.commit(draft.revision, "first", 2, "bob")
    assert (saved.version, saved.tree, store.draft()) == (1, TREE, None)
    store.save_draft(EMPTY, 3, "ann")
    store.commit(None, "", 4, "ann")
    assert [(one.version, one.tree, one.note, one.by) for one in store.versions()] == [
        (2, EMPTY, "", "ann"),
        (1, TREE, "first", "bob"),
    ]
    assert store.committed() == store.committed(2)
    assert store.committed(1) == saved


def test_revisions_are_never_used_again(store):
    seen = []
    for _ in range(3):
        seen.append(store.save_draft(TREE, 1, "ann").revision)
        assert store.discard(2, "ann")
        seen.append(store.save_draft(TREE, 1, "ann").revision)
        store.commit(None, "", 3, "ann")
    assert not store.discard(4, "ann")
    assert sorted(set(seen)) == seen


def test_only_the_revision_that_was_looked_at_is_committed(store):
    seen = store.save_draft(TREE, 1, "ann")
    store.save_draft(EMPTY, 2, "bob")
    with pytest.raises(Moved, match="the draft is at revision"):
        store.commit(seen.revision, "", 3, "ann")
    with pytest.raises(Moved, match="the draft is at revision"):
        store.save_draft(TREE, 3, "ann", seen.revision)
    with pytest.raises(Moved, match="the draft is at revision"):
        store.save_draft(TREE, 3, "ann", 0)
    store.discard(4, "bob")
    with pytest.raises(Moved, match="no draft"):
        store.commit(seen.revision, "", 5, "ann")
    assert store.versions() == []


def test_a_draft_of_an_older_version_is_not_committed(store, facts):
    store.save_draft(TREE, 1, "ann")
    other = CatalogStore(facts.engine)
    stale = other.draft()
    store.commit(None, "", 2, "ann")
    # As a second server on the same file would leave it: a draft that began before the last version.
    other._write_draft(stale.base, EMPTY, 3, "bob")
    assert other.save_draft(EMPTY, 4, "bob").base == 0
    with pytest.raises(Moved, match="began from version 0, and version 1 was committed since"):
        other.commit(None, "", 5, "bob")
    assert other.committed().tree == TREE


def test_everything_is_there_after_a_restart(tmp_path):
    for round in range(2):
        facts = Facts(tmp_path)
        facts.open()
        store = CatalogStore(facts.engine)
        if not round:
            store.save_filter("web", "app=web", "", 1, "ann")
            store.save_draft(TREE, 1, "ann")
        assert store.filters()[0].text == "app=web"
        assert store.draft().tree == TREE
        facts.close()
