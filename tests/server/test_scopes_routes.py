"""The scope tree over HTTP: draft, review, commit, refusals that name the endpoints, and who decides."""

from __future__ import annotations

import pytest

from tests.server.catalog import SECOND, SHOP, ask, good, names, pod, tell
from tests.server.conftest import Api


@pytest.fixture
def shop(api, now):
    tell(api, *SHOP, at=now - 60 * SECOND)
    return api


def scopes(answer) -> dict[str, tuple[int, int]]:
    return {each["name"]: (each["count"], each["decides"]) for each in answer["scopes"]}


def edit(api, name, **fields):
    return good(api, "PUT", "/v1/scopes/draft", {"name": name, **fields})


def test_a_server_begins_without_scopes(api):
    found = good(api, "GET", "/v1/scopes")
    assert (found["version"], found["scopes"], found["draft"]) == (0, [], None)
    assert ask(api, "GET", "/v1/scopes/draft")[0] == 404
    assert ask(api, "GET", "/v1/scopes/review")[0] == 404
    assert ask(api, "POST", "/v1/scopes/commit")[0] == 404
    assert good(api, "POST", "/v1/scopes/discard") == {"discarded": False}


def test_one_scope_a_namespace_from_nothing_to_committed(shop):
    made = good(shop, "POST", "/v1/scopes/init", {"design": "per-namespace"})
    assert made["scopes"] == 4
    assert good(shop, "GET", "/v1/scopes")["scopes"] == []
    assert scopes(good(shop, "GET", "/v1/scopes/draft"))["shop"] == (4, 4)
    review = good(shop, "GET", "/v1/scopes/review")
    assert [(each["name"], each["what"], each["after"]) for each in review["changes"]] == [
        ("other", "added", 1), ("root", "added", 7), ("shop", "added", 4), ("system", "added", 1),
    ]  # fmt: skip
    assert names(review["changes"][2]["joins"]["first"]) == ["db-1", "web-1", "web-2", "web"]
    assert [each["errors"]["count"] for each in review["changes"]] == [0, 0, 0, 0]
    done = good(shop, "POST", "/v1/scopes/commit", {"revision": review["revision"], "note": "begin"})
    assert done == {"version": 1, "scopes": 4}
    tree = good(shop, "GET", "/v1/scopes")
    assert scopes(tree) == {"root": (7, 1), "other": (1, 1), "shop": (4, 4), "system": (1, 1)}
    assert [each["depth"] for each in tree["scopes"]] == [0, 1, 1, 1]
    (version,) = good(shop, "GET", "/v1/scopes/versions")["versions"]
    assert (version["version"], version["note"], version["scopes"]) == (1, "begin", 4)
    assert version["by"].startswith("token ")


def test_several_clusters_and_a_chosen_one(shop, now):
    tell(shop, pod("far", "shop"), at=now - SECOND, cluster="west")
    good(shop, "POST", "/v1/scopes/init", {"design": "per-namespace"})
    found = scopes(good(shop, "GET", "/v1/scopes/draft"))
    assert found["west/shop"] == (1, 1)
    assert found["lab/shop"] == (4, 4)
    good(shop, "POST", "/v1/scopes/init", {"design": "per-namespace", "clusters": ["west"], "replace": True})
    assert scopes(good(shop, "GET", "/v1/scopes/draft")) == {"root": (8, 3), "shop": (5, 5)}
    good(shop, "POST", "/v1/scopes/init", {"design": "single", "clusters": ["west"], "replace": True})
    assert scopes(good(shop, "GET", "/v1/scopes/draft")) == {"root": (1, 1)}


def test_members_of_a_scope_follow_the_inventory(shop, now):
    good(shop, "POST", "/v1/scopes/init", {"design": "per-namespace"})
    good(shop, "POST", "/v1/scopes/commit")
    assert names(good(shop, "GET", "/v1/scopes/members", name="other")["members"]) == ["web-3"]
    tell(shop, pod("new", "other"), at=now - SECOND)
    found = good(shop, "GET", "/v1/scopes/members", name="other", limit=1)
    assert (found["count"], names(found["members"])) == (2, ["new"])
    assert ask(shop, "GET", "/v1/scopes/members", name="nobody")[0] == 404


def test_an_edit_changes_what_it_says_and_nothing_else(shop):
    edit(shop, "root")
    edit(shop, "shop", filter='namespace == "shop"', description="the shop", order=5)
    edit(shop, "shop", order=None)
    edit(shop, "web", parent="shop", filter="app=web")
    draft = {each["name"]: each for each in good(shop, "GET", "/v1/scopes/draft")["scopes"]}
    assert (draft["shop"]["parent"], draft["shop"]["order"], draft["shop"]["description"]) == (
        "root",
        None,
        "the shop",
    )
    assert draft["web"]["count"] == 2
    assert ask(shop, "DELETE", "/v1/scopes/draft", name="shop")[0] == 400
    good(shop, "DELETE", "/v1/scopes/draft", name="web")
    good(shop, "POST", "/v1/scopes/commit")
    edit(shop, "shop", filter="app=web")
    (change,) = good(shop, "GET", "/v1/scopes/review")["changes"]
    assert (change["what"], change["before"], change["after"]) == ("edited", 4, 3)
    assert names(change["leaves"]["first"]) == ["db-1", "web"]
    assert good(shop, "POST", "/v1/scopes/discard") == {"discarded": True}
    assert ask(shop, "GET", "/v1/scopes/draft")[0] == 404


def test_a_commit_with_endpoints_in_two_unordered_siblings_is_refused_with_them(shop):
    edit(shop, "root")
    edit(shop, "shop", filter='namespace == "shop"')
    edit(shop, "web", filter="app=web")
    status, answer = ask(shop, "POST", "/v1/scopes/commit")
    assert status == 409
    assert answer["error"]["what"] == (
        "endpoints in two unordered scopes: pod shop/web-1 in lab, pod shop/web-2 in lab"
    )
    (conflict,) = answer["conflicts"]
    assert (conflict["parent"], conflict["scopes"]) == ("root", ["shop", "web"])
    assert names(conflict["endpoints"]["first"]) == ["web-1", "web-2"]
    assert good(shop, "GET", "/v1/scopes")["version"] == 0
    assert good(shop, "GET", "/v1/scopes/review")["conflicts"] == answer["conflicts"]
    edit(shop, "shop", order=2)
    edit(shop, "web", order=1)
    assert good(shop, "POST", "/v1/scopes/commit")["version"] == 1
    assert scopes(good(shop, "GET", "/v1/scopes")) == {"root": (7, 2), "web": (3, 3), "shop": (4, 2)}


def test_a_conflict_that_comes_later_is_shown(shop, now):
    edit(shop, "root")
    edit(shop, "shop", filter='namespace == "shop"')
    edit(shop, "hot", filter='"hot" in labels')
    good(shop, "POST", "/v1/scopes/commit")
    assert good(shop, "GET", "/v1/scopes")["conflicts"] == []
    tell(shop, pod("new", "shop", hot="1"), at=now - SECOND)
    (conflict,) = good(shop, "GET", "/v1/scopes")["conflicts"]
    assert names(conflict["endpoints"]["first"]) == ["new"]


def test_who_decides_for_an_endpoint(shop, now):
    good(shop, "POST", "/v1/scopes/init", {"design": "per-namespace"})
    edit(shop, "web", parent="shop", filter="app=web", order=1)
    edit(shop, "hot", parent="shop", filter='"hot" in labels', order=2)
    edit(shop, "cold", parent="other", filter='"cold" in labels')
    edit(shop, "late", parent="other", filter='"late" in labels')
    good(shop, "POST", "/v1/scopes/commit")
    tell(
        shop,
        pod("both", "shop", app="web", hot="1"),
        pod("torn", "other", cold="1", late="1"),
        at=now - SECOND,
    )

    def path(name):
        return [
            (each["path"], each["undecided"])
            for each in good(shop, "GET", "/v1/scopes/path", name=name)["endpoints"]
        ]

    assert path("shop/db-1") == path("uid-db-1") == [(["root", "shop"], [])]
    assert path("both") == [(["root", "shop", "web"], [])]
    assert path("torn") == [(["root", "other"], ["cold", "late"])]
    assert path("node1") == [(["root"], [])]
    assert path("web") == [(["root", "shop"], [])]
    assert ask(shop, "GET", "/v1/scopes/path", name="nobody")[0] == 404


def test_what_was_not_looked_at_is_not_committed(shop):
    seen = edit(shop, "root")["revision"]
    edit(shop, "shop", filter='namespace == "shop"')
    for method, path, body in (
        ("POST", "/v1/scopes/commit", {"revision": seen}),
        ("PUT", "/v1/scopes/draft", {"name": "a", "revision": seen}),
        ("POST", "/v1/scopes/init", {"design": "single"}),
    ):
        status, answer = ask(shop, method, path, body)
        assert status == 409, path
        assert "draft" in answer["error"]["what"]
    status, _ = ask(shop, "DELETE", "/v1/scopes/draft", name="shop", revision=seen)
    assert status == 409
    assert len(good(shop, "GET", "/v1/scopes/draft")["scopes"]) == 2


def test_a_tree_may_be_given_whole(shop):
    given = [{"name": "all"}, {"name": "a", "parent": "all", "filter": "app=web"}]
    good(shop, "POST", "/v1/scopes/init", {"design": "given", "scopes": given})
    good(shop, "POST", "/v1/scopes/commit")
    assert [each["name"] for each in good(shop, "GET", "/v1/scopes")["scopes"]] == ["all", "a"]


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("PUT", "draft", {"name": "a", "filter": 'nme == "x"'}, "scope a line 1 column 1"),
        ("PUT", "draft", {"name": "A"}, "not a scope's name"),
        ("PUT", "draft", {"name": "a", "parent": "nobody"}, "no parent `nobody`"),
        ("PUT", "draft", {"name": "a", "colour": "red"}, "colour"),
        ("PUT", "draft", {"name": "a", "order": "first"}, "order"),
        ("PUT", "draft", {}, "name"),
        ("POST", "init", {"design": "round"}, "unknown design `round`"),
        ("POST", "init", {"design": "given"}, "scopes and a design"),
        ("POST", "init", {"design": "single", "scopes": [{"name": "a"}]}, "scopes and a design"),
        ("POST", "init", {"design": "given", "scopes": [{"name": "a"}, {"name": "b"}]}, "2 roots"),
        ("POST", "init", {"design": "per-namespace", "clusters": ["north"]}, "no cluster `north`"),
    ],
)
def test_bad_trees_are_refused_and_leave_no_draft(shop, method, path, body, said):
    status, answer = ask(shop, method, f"/v1/scopes/{path}", body)
    assert status in (400, 404), answer
    assert said in str(answer)
    assert ask(shop, "GET", "/v1/scopes/draft")[0] == 404


def test_without_an_inventory_there_is_no_namespace(api):
    status, answer = ask(api, "POST", "/v1/scopes/init", {"design": "per-namespace"})
    assert (status, answer["error"]["what"]) == (400, "no namespace is known")


def test_old_versions_can_be_read_and_survive_a_restart(tmp_path, now):
    first = Api(tmp_path / "data", lambda: now)
    edit(first, "root")
    good(first, "POST", "/v1/scopes/commit")
    edit(first, "shop", filter='namespace == "shop"')
    good(first, "POST", "/v1/scopes/commit")
    edit(first, "more")
    first.close()
    second = Api(tmp_path / "data", lambda: now)
    second.admin = first.admin
    assert list(scopes(good(second, "GET", "/v1/scopes", version=1))) == ["root"]
    assert list(scopes(good(second, "GET", "/v1/scopes"))) == ["root", "shop"]
    assert list(scopes(good(second, "GET", "/v1/scopes/draft"))) == ["root", "more", "shop"]
    assert ask(second, "GET", "/v1/scopes", version=9)[0] == 404
    second.close()
