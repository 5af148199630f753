"""Lists of outside addresses over HTTP: replaced as a whole, from any time on, and their past stays."""

from __future__ import annotations

import pytest

from ringfence.flows.present import rfc3339
from tests.server.catalog import SECOND, SHOP, ask, good, names, tell
from tests.server.conftest import Api

DC = {"network": "203.0.113.0/24", "name": "dc", "labels": {"site": "hh"}}
BANK = {"network": "198.51.100.7", "name": "bank"}


def put(api, *entries, catalog="sites", **more):
    return good(api, "PUT", "/v1/externals", {"catalog": catalog, "entries": list(entries), **more})


def holders(api, address, **when):
    found = good(api, "GET", "/v1/inventory/history", address=address, **when)["holders"]
    return [each["name"] or each["kind"] for each in found]


@pytest.fixture
def shop(api, now):
    tell(api, *SHOP, at=now - 3600 * SECOND)
    return api


def test_a_list_is_kept_and_replaced_as_a_whole(shop):
    assert good(shop, "GET", "/v1/externals") == {"catalogs": []}
    first = put(shop, DC, BANK, **{"from": "10m"})
    assert (first["added"], first["same"]) == (["198.51.100.7/32", "203.0.113.0/24"], 0)
    wanted = {**DC, "name": "data centre"}, {"network": "2001:db8::/32", "name": "v6"}
    second = put(shop, *wanted, **{"from": "5m"})
    assert {key: second[key] for key in ("added", "changed", "removed", "same")} == {
        "added": ["2001:db8::/32"], "changed": ["203.0.113.0/24"], "removed": ["198.51.100.7/32"], "same": 0,
    }  # fmt: skip
    assert good(shop, "GET", "/v1/externals") == {"catalogs": [{"catalog": "sites", "entries": 2}]}
    entries = good(shop, "GET", "/v1/externals", catalog="sites")["entries"]
    assert [(each["network"], each["name"]) for each in entries] == [
        ("2001:db8::/32", "v6"),
        ("203.0.113.0/24", "data centre"),
    ]
    assert put(shop, *wanted)["same"] == 2


def test_a_list_from_yesterday_corrects_what_was_said_and_not_what_was_known(shop, now):
    put(shop, DC, **{"from": rfc3339(now - 600 * SECOND)})
    assert holders(shop, "203.0.113.9", since="20m") == ["external", "dc"]
    put(shop, {**DC, "name": "dc-2"}, **{"from": "15m"})
    assert holders(shop, "203.0.113.9", since="20m") == ["external", "dc-2", "dc", "dc-2"]
    spans = good(shop, "GET", "/v1/inventory/history", address="203.0.113.9", since="20m")["holders"]
    # The former word is left standing for one nanosecond (`inventory.restate`), in microseconds none at all.
    assert spans[2]["from"] == spans[2]["until"]


def test_other_lists_are_left_alone(shop):
    put(shop, DC)
    put(shop, BANK, catalog="sites2")
    put(shop, BANK, catalog="sites2-more")
    assert [row["entries"] for row in good(shop, "GET", "/v1/externals")["catalogs"]] == [1, 1, 1]
    ended = good(shop, "DELETE", "/v1/externals", catalog="sites2")
    assert ended["removed"] == ["198.51.100.7/32"]
    assert [row["catalog"] for row in good(shop, "GET", "/v1/externals")["catalogs"]] == [
        "sites",
        "sites2-more",
    ]
    assert ask(shop, "DELETE", "/v1/externals", catalog="sites2")[0] == 404
    assert ask(shop, "GET", "/v1/externals", catalog="sites2")[0] == 404


def test_a_list_can_end_in_the_past(shop, now):
    put(shop, DC, **{"from": "10m"})
    good(shop, "DELETE", "/v1/externals", catalog="sites", **{"from": "5m"})
    assert holders(shop, "203.0.113.9", since="20m") == ["external", "dc", "external"]


def test_a_dry_run_only_says_what_differs(shop):
    assert put(shop, DC, dry_run=True)["added"] == ["203.0.113.0/24"]
    assert good(shop, "GET", "/v1/externals") == {"catalogs": []}


def test_externals_are_members_of_filters(shop):
    good(shop, "PUT", "/v1/filters/partners", {"text": 'kind == "external" && labels["site"] == "hh"'})
    put(shop, DC, BANK)
    assert names(good(shop, "GET", "/v1/filters/partners/members")["members"]) == ["dc"]
    assert good(shop, "GET", "/v1/filters/partners/members", addresses=True)["addresses"] == [
        "203.0.113.0/24"
    ]
    put(shop, BANK)
    assert good(shop, "GET", "/v1/filters/partners/members")["members"] == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"entries": [DC, {"network": "10.1.2.3/16", "name": "x"}]}, "entry 2 field `network`"),
        ({"entries": [DC, DC, {"network": "x", "name": ""}]}, "(and 2 more)"),
        ({"entries": []}, "an empty list"),
        ({"entries": [DC], "catalog": "a/b"}, "not a name for a list"),
        ({"entries": [DC], "from": "2100-01-01"}, "a time in the future"),
        ({"entries": [DC], "from": "yesterday"}, "not a time"),
        ({"entries": [{**DC, "colour": "red"}]}, "colour"),
        ({"entries": [DC], "colour": "red"}, "colour"),
    ],
)
def test_a_bad_list_is_refused_whole(shop, body, said):
    status, answer = ask(shop, "PUT", "/v1/externals", {"catalog": "sites", **body})
    assert status == 400
    assert said in str(answer)
    assert good(shop, "GET", "/v1/externals") == {"catalogs": []}


def test_lists_survive_a_restart(tmp_path, now):
    first = Api(tmp_path / "data", lambda: now)
    put(first, DC)
    first.close()
    second = Api(tmp_path / "data", lambda: now)
    second.admin = first.admin
    assert good(second, "GET", "/v1/externals")["catalogs"][0]["entries"] == 1
    second.close()
