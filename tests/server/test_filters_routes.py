"""Saved filters over HTTP: versions, members that follow the inventory, policy objects, previews."""

from __future__ import annotations

import pytest

from tests.server.catalog import SECOND, SHOP, ask, good, names, pod, tell
from tests.server.conftest import Api

WEB = 'labels["app"] == "web"'


@pytest.fixture
def shop(api, now):
    tell(api, *SHOP, at=now - 60 * SECOND)
    return api


def test_a_filter_is_saved_listed_and_shown(shop):
    saved = good(shop, "PUT", "/v1/filters/web", {"text": WEB, "description": "pages"})
    assert (saved["version"], saved["count"]) == (1, 3)
    good(shop, "PUT", "/v1/filters/web", {"text": "app=web"})
    (row,) = good(shop, "GET", "/v1/filters")["filters"]
    # A selector is never an error; the CEL text is one for whatever has no such label.
    assert (row["name"], row["text"], row["version"], row["count"], row["errors"]) == (
        "web",
        "app=web",
        2,
        3,
        0,
    )
    good(shop, "PUT", "/v1/filters/web", {"text": WEB})
    shown = good(shop, "GET", "/v1/filters/web")
    assert [(each["version"], each["text"]) for each in shown["versions"]] == [
        (3, WEB),
        (2, "app=web"),
        (1, WEB),
    ]
    assert shown["versions"][0]["by"].startswith("token ")
    assert shop.admin not in str(shown)
    assert [each["endpoint"]["name"] for each in shown["failures"]] == ["node1", "dns", "web"]
    assert "app" in shown["failures"][0]["why"]["reason"]


def test_members_follow_the_inventory_change_by_change(shop, now):
    good(shop, "PUT", "/v1/filters/web", {"text": WEB})
    assert names(good(shop, "GET", "/v1/filters/web/members")["members"]) == ["web-3", "web-1", "web-2"]
    tell(
        shop,
        pod("web-1", "shop", "10.0.0.1", app="db"),
        pod("new", "shop", "10.0.0.9", app="web"),
        at=now - SECOND,
    )
    tell(shop, pod("web-2"), at=now - SECOND, gone=True)
    assert names(good(shop, "GET", "/v1/filters/web/members")["members"]) == ["web-3", "new"]
    then = good(shop, "GET", "/v1/filters/web/members", at="30s")
    assert names(then["members"]) == ["web-3", "web-1", "web-2"]
    some = good(shop, "GET", "/v1/filters/web/members", limit=1)
    assert (some["count"], len(some["members"])) == (2, 1)


def test_the_policy_object_says_when_it_changed(shop, now):
    good(shop, "PUT", "/v1/filters/web", {"text": WEB})
    first = good(shop, "GET", "/v1/filters/web/members", addresses=True)
    assert first["addresses"] == ["10.0.0.1", "10.0.0.2", "10.0.0.4"]
    tell(shop, pod("db-1", "shop", "10.0.0.3", app="db", other="label"), at=now - SECOND)
    assert good(shop, "GET", "/v1/filters/web/members", addresses=True) == first
    tell(shop, pod("web-2"), at=now - SECOND, gone=True)
    second = good(shop, "GET", "/v1/filters/web/members", addresses=True)
    assert second["addresses"] == ["10.0.0.1", "10.0.0.4"]
    assert second["generation"] > first["generation"]
    assert ask(shop, "GET", "/v1/filters/web/members", addresses=True, at="5m")[0] == 400


def test_namespace_labels_reach_the_members(shop, now):
    from ringfence.model.objects import Namespace

    good(shop, "PUT", "/v1/filters/hot", {"text": 'namespace_labels["team"] == "hot"'})
    assert good(shop, "GET", "/v1/filters/hot")["filter"]["count"] == 0
    tell(shop, Namespace("ns", "other", (("team", "hot"),)), at=now - SECOND)
    assert names(good(shop, "GET", "/v1/filters/hot/members")["members"]) == ["web-3"]


def test_a_preview_says_who_joins_who_leaves_and_for_whom_it_is_an_error(shop):
    good(shop, "PUT", "/v1/filters/web", {"text": "app=web"})
    found = good(shop, "POST", "/v1/filters/preview", {"name": "web", "text": 'labels["app"] == "db"'})
    assert (found["before"], found["after"]) == (3, 1)
    assert names(found["joins"]["first"]) == ["db-1"]
    assert names(found["leaves"]["first"]) == ["web-3", "web-1", "web-2"]
    assert found["errors"]["count"] == 3
    assert found["reasons"][0]["why"]["column"] == 1
    assert good(shop, "POST", "/v1/filters/preview", {"text": "app=db"})["joins"]["count"] == 1
    alone = good(shop, "POST", "/v1/filters/preview", {"name": "web", "limit": 1})
    assert (alone["joins"]["count"], len(alone["joins"]["first"])) == (3, 1)
    past = good(shop, "POST", "/v1/filters/preview", {"text": "app=db", "at": "2h"})
    assert past["after"] == 0


def test_a_deleted_filter_is_gone_and_its_versions_stay(shop):
    good(shop, "PUT", "/v1/filters/web", {"text": WEB})
    good(shop, "DELETE", "/v1/filters/web")
    assert good(shop, "GET", "/v1/filters")["filters"] == []
    for path in ("/v1/filters/web", "/v1/filters/web/members"):
        assert ask(shop, "GET", path)[0] == 404
    assert ask(shop, "DELETE", "/v1/filters/web")[0] == 404
    assert good(shop, "PUT", "/v1/filters/web", {"text": WEB})["version"] == 3


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("web", {"text": 'labels["app" == "web"'}, "filter web line 1 column"),
        ("web", {"text": 'nme == "x"'}, "filter web line 1 column 1"),
        ("web", {"text": "true", "colour": "red"}, "colour"),
        ("web", {}, "text"),
        ("web", [], ""),
        ("Web", {"text": "true"}, "not a name for a filter"),
        ("preview", {"text": "true"}, ""),
        ("web", {"text": "true", "description": "x" * 2000}, "a long description"),
    ],
)
def test_a_bad_save_says_where_and_saves_nothing(shop, path, body, said):
    status, answer = ask(shop, "PUT", f"/v1/filters/{path}", body)
    assert status in (400, 405), answer
    assert said in str(answer)
    assert good(shop, "GET", "/v1/filters")["filters"] == []


def test_too_large_a_body_is_refused(shop):
    assert ask(shop, "PUT", "/v1/filters/web", {"text": "x" * (1 << 20)})[0] == 413


@pytest.mark.parametrize(
    "body", [{}, {"text": "true", "limit": 0}, {"text": "true", "at": "yesterday"}, {"name": "nobody"}]
)
def test_a_bad_preview_is_refused(shop, body):
    assert ask(shop, "POST", "/v1/filters/preview", body)[0] in (400, 404)


def test_a_filter_somebody_else_saved_is_not_overwritten(shop):
    good(shop, "PUT", "/v1/filters/web", {"text": WEB, "base": 0})
    status, answer = ask(shop, "PUT", "/v1/filters/web", {"text": "true", "base": 0})
    assert status == 409
    assert "version 1 by now" in answer["error"]["what"]


def test_filters_and_members_are_there_after_a_restart(tmp_path, now):
    first = Api(tmp_path / "data", lambda: now)
    tell(first, *SHOP, at=now - 60 * SECOND)
    good(first, "PUT", "/v1/filters/web", {"text": WEB})
    first.server.service.catalog._store.save_filter(
        "old", "text nobody can read (", "", now, "an older version"
    )
    first.close()
    second = Api(tmp_path / "data", lambda: now)
    second.admin = first.admin
    broken, row = good(second, "GET", "/v1/filters")["filters"]
    assert (row["name"], row["count"]) == ("web", 3)
    assert "filter old line 1" in broken["problem"]
    assert ask(second, "GET", "/v1/filters/old/members")[0] == 400
    assert good(second, "GET", "/v1/filters/old")["failures"] == []
    tell(second, pod("web-9", "shop", app="web"), at=now - SECOND)
    assert good(second, "GET", "/v1/filters/web")["filter"]["count"] == 4
    second.close()
