"""What readers of a scope see agrees with what the scope holds, now and in the past."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Namespace
from ringfence.server.rights import EXECUTE, OWNER, READ, ROOT, Ability, Grant, Rights
from tests.server.catalog import SECOND, SHOP, good, names, pod, tell

ROWS = {
    "web-1": Endpoint("pod", "lab", "shop", "web-1", "Pod/web-1", None, None, (("app", "web"),), "uid-web-1"),
    "db-1": Endpoint("pod", "lab", "shop", "db-1", "Pod/db-1", None, None, (("app", "db"),), "uid-db-1"),
    "web-3": Endpoint("pod", "lab", "other", "web-3", "Pod/web-3", None, None, (("app", "web"),), "uid-web-3"),
    "web": Endpoint("service", "lab", "shop", "web", None, None, "shop/web", (), "s1"),
    "node1": Endpoint("node", "lab", None, "node1", "Node/node1", "node1", None, (), "n1"),
    "out": Endpoint("external", "lab", name="partner"),
    "who": Endpoint("unresolved", "lab"),
}  # fmt: skip


@pytest.fixture
def shop(api, now):
    tell(api, *SHOP, at=now - 60 * SECOND)
    return api


def commit(api, *scopes):
    given = [{"name": "root"}, *scopes]
    good(api, "POST", "/v1/scopes/init", {"design": "given", "scopes": given, "replace": True})
    good(api, "POST", "/v1/scopes/commit")


def reader(*scopes: str, ability: Ability = READ) -> Rights:
    return Rights(tuple(Grant(scope, ability) for scope in scopes))


def seen(api, rights, rows=None, ability=READ) -> set[str]:
    rows = rows or ROWS
    mask = api.server.service.sight.visible(rights, list(rows.values()), ability)
    return {name for name, shown in zip(rows, mask.tolist(), strict=True) if shown}


SHOP_SCOPE = {"name": "shop", "parent": "root", "filter": 'namespace == "shop"'}
WEB_SCOPE = {"name": "web", "parent": "shop", "filter": "app=web"}


def test_a_scope_shows_what_it_holds_and_its_children_less(shop):
    commit(shop, SHOP_SCOPE, WEB_SCOPE)
    assert seen(shop, reader("shop")) == {"web-1", "db-1", "web"}
    assert seen(shop, reader("web")) == {"web-1"}
    assert seen(shop, reader("root")) == set(ROWS) - {"out", "who"}
    assert seen(shop, reader(ROOT)) == set(ROWS)
    assert seen(shop, reader("gone")) == seen(shop, Rights()) == set()
    assert seen(shop, reader("shop"), ability=EXECUTE) == set()
    assert seen(shop, reader("shop", ability=OWNER), ability=EXECUTE) == {"web-1", "db-1", "web"}


@pytest.mark.parametrize("scope", ["root", "shop", "web"])
def test_it_agrees_with_the_members_of_the_scope(shop, scope):
    commit(shop, SHOP_SCOPE, WEB_SCOPE)
    members = names(good(shop, "GET", "/v1/scopes/members", name=scope)["members"])
    rows = {name: row for name, row in ROWS.items() if row.uid}
    assert seen(shop, reader(scope), rows) == set(members) & set(rows)


def test_a_new_tree_counts_at_once(shop):
    commit(shop, SHOP_SCOPE)
    assert "web-1" in seen(shop, reader("shop"))
    commit(shop, {**SHOP_SCOPE, "filter": 'namespace == "other"'})
    assert seen(shop, reader("shop")) == {"web-3"}


def test_versions_of_one_pod_are_judged_by_their_own_labels(shop, now):
    commit(shop, {"name": "web", "parent": "root", "filter": "app=web"})
    before = ROWS["web-1"]
    tell(shop, pod("web-1", "shop", "10.0.0.1", app="db"), at=now - SECOND)
    after = msgspec.structs.replace(before, labels=(("app", "db"),))
    assert seen(shop, reader("web"), {"before": before, "after": after}) == {"before"}


def test_a_pod_that_is_gone_stays_whose_it_was(shop, now):
    commit(shop, SHOP_SCOPE)
    tell(shop, pod("web-1", "shop"), at=now - SECOND, gone=True)
    assert "web-1" in seen(shop, reader("shop"))


def test_what_is_not_known_of_a_version_is_not_seen(shop):
    commit(shop, {"name": "a", "parent": "root", "filter": 'service_account == "x"'})
    assert seen(shop, reader("a")) == set()


def test_labels_of_namespaces_are_those_of_now(shop, now):
    commit(shop, {"name": "a", "parent": "root", "filter": 'namespace_labels["team"] == "a"'})
    assert seen(shop, reader("a")) == set()
    tell(shop, Namespace("ns", "shop", (("team", "a"),)), at=now - SECOND)
    assert seen(shop, reader("a")) == {"web-1", "db-1", "web"}


def test_many_endpoints_are_answered_in_their_order(shop):
    commit(shop, SHOP_SCOPE)
    rows = [ROWS["web-3"], ROWS["web-1"], ROWS["web-3"], ROWS["out"], ROWS["web-1"]]
    found = shop.server.service.sight.visible(reader("shop"), rows)
    assert found.dtype == np.bool_
    assert found.tolist() == [False, True, False, False, True]
