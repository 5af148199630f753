"""The inventory over HTTP, chosen by a filter and grouped, at any time."""

from __future__ import annotations

import pytest

from ringfence.model.objects import External
from tests.server.catalog import SECOND, SHOP, ask, good, names, pod, tell


@pytest.fixture
def shop(api, now):
    tell(api, *SHOP, at=now - 60 * SECOND)
    return api


def listed(api, **parameters):
    return sorted(names(good(api, "GET", "/v1/inventory", **parameters)["endpoints"]))


def test_a_filter_or_a_selector_chooses_endpoints(shop, now):
    assert listed(shop, filter='labels["app"] == "web"') == ["web-1", "web-2", "web-3"]
    assert listed(shop, filter="app=web", namespace="shop") == ["web-1", "web-2"]
    assert listed(shop, filter="true", kind="Node") == ["node1"]
    tell(shop, pod("web-1"), at=now - 10 * SECOND, gone=True)
    assert listed(shop, filter="app=web", namespace="shop") == ["web-2"]
    assert listed(shop, filter="app=web", namespace="shop", at="30s") == ["web-1", "web-2"]


def test_how_many_a_filter_could_not_judge_is_said(shop):
    assert good(shop, "GET", "/v1/inventory")["errors"] == 0
    # dns, node1 and the service have no such label; no node ever has a namespace.
    assert good(shop, "GET", "/v1/inventory", filter='labels["app"] == "web"')["errors"] == 3
    assert good(shop, "GET", "/v1/inventory", filter='namespace == "shop"')["errors"] == 0


def test_outside_addresses_are_endpoints_too(shop, now):
    tell(shop, External("dc/1.2.3.0/24", "dc", "1.2.3.0/24", "bank"), at=now - SECOND, cluster="")
    assert listed(shop, kind="External") == ["bank"]
    assert listed(shop, filter='catalog == "dc"') == ["bank"]
    assert listed(shop, filter='catalog == "dc"', cluster="lab") == []


def test_a_bad_filter_says_line_and_column(shop):
    status, answer = ask(shop, "GET", "/v1/inventory", filter='labels["app" == "web"')
    assert status == 400
    assert answer["error"]["where"].startswith("filter line 1 column")


def grouped(api, **parameters):
    found = good(api, "GET", "/v1/inventory/groups", **parameters)["groups"]
    return {each["name"]: each["pods"] for each in found}


def test_pods_by_what_they_belong_to(shop):
    assert grouped(shop, by="namespace") == {"kube-system": 1, "other": 1, "shop": 3}
    assert grouped(shop, by="namespace", namespace="shop") == {"shop": 3}
    assert grouped(shop, by="service") == {"web": 2}
    assert grouped(shop, by="service", filter="app=web") == {"web": 2}
    assert grouped(shop, by="service", filter="app=web", at="10s") == {"web": 2}
    assert grouped(shop, by="node") == {"node1": 0}
    assert grouped(shop, by="workload", filter="app=db") == {"Pod/db-1": 1}
    assert grouped(shop, by="workload", namespace="other") == {"Pod/web-3": 1}
    assert grouped(shop, by="namespace", at="2h") == {}
    assert ask(shop, "GET", "/v1/inventory/groups", by="colour")[0] == 400
    assert ask(shop, "GET", "/v1/inventory/groups")[0] == 400
