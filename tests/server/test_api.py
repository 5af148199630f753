"""The door: tokens, hostile input, refusals in one form, the documented routes."""

from __future__ import annotations

import re

import pytest

from ringfence.server.app import ROUTES
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.codec import encode

PATHS = sorted((route.http_methods.copy().pop(), path) for route in ROUTES for path in route.paths)


def ask(api, method, path, token=None, **how):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return api.client.request(method, path, headers=headers, **how)


def test_every_route_but_health_wants_a_token(api):
    for method, path in PATHS:
        path = re.sub(r"{\w+:str}", "0", path)
        for token in (None, "wrong", "ü"):
            headers = {"Authorization": b"Bearer " + token.encode()} if token else {}
            status = api.client.request(method, path, headers=headers).status_code
            assert status == {"/v1/health": 200, "/v1/login": 400}.get(path, 401), path


def test_an_agent_may_only_ingest(api, now):
    for method, path in PATHS:
        if path in ("/v1/health", "/v1/login"):
            continue
        status = ask(api, method, re.sub(r"{\w+:str}", "0", path), api.agent).status_code
        assert (status == 403) == ("ingest" not in path and not path.startswith("/v1/agents/")), path


@pytest.mark.parametrize("body", [b"", b"junk", b"RFBATCH\x01" + bytes(40), bytes(1000)])
def test_hostile_batches_are_refused_in_words(api, body):
    status, answer = api.post(body)
    assert status == 400
    assert set(answer["error"]) == {"what", "where", "fix"}


def test_a_good_batch_with_the_wrong_token_leaves_nothing(api, now):
    body = encode(header(1, (now - SECOND,)), sighting(now - SECOND), no_translations())
    assert api.post(body, "wrong")[0] == 401
    assert api.get("/v1/flows")["flows"] == []


@pytest.mark.parametrize(
    "question",
    [
        "/v1/flows?since=yesterday",
        "/v1/flows?since=1m&until=2m",
        "/v1/flows?limit=0",
        "/v1/flows?limit=x",
        "/v1/flows?connection=zz",
        "/v1/flows/zz",
        "/v1/flows/11112222333344445",
        "/v1/inventory?kind=Secret",
        "/v1/completeness?since=999999999w&until=0001-01-01",
        "/v1/flows?name_space=shop",
        "/v1/agents?limit=3",
    ],
)
def test_bad_questions_are_400_with_a_fix(api, question):
    answer = ask(api, "GET", question, api.admin)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["fix"]


@pytest.mark.parametrize("since", ["0001-01-01", "1969-12-31T23:59:59Z", "1970-01-01"])
def test_times_beyond_what_columns_hold_are_their_ends(api, now, since):
    api.send(sighting(now - SECOND), (now - SECOND,))
    answer = ask(api, "GET", "/v1/flows", api.admin, params={"since": since, "until": "9999-12-31"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["flows"]) == 1


def test_the_body_of_discover_may_be_left_out(api):
    assert ask(api, "POST", "/v1/policies/discover", api.admin).status_code == 200


def test_the_schema_loads_nothing_from_elsewhere(api):
    answer = ask(api, "GET", "/v1/schema", api.admin)
    assert answer.json()["info"]["title"] == "Ringfence"


def test_unknown_things_are_404(api):
    assert ask(api, "GET", "/v1/flows/00ff", api.admin).status_code == 404
    assert ask(api, "GET", "/v1/nothing", api.admin).json()["error"]["what"]


@pytest.mark.parametrize("value", ["' OR 1=1 --", "a\\'b", "\x00", "{since:Int64}", "x" * 3000])
def test_filters_are_values_never_sql(api, now, value):
    api.send(sighting(now - SECOND), (now - SECOND,))
    answer = ask(api, "GET", "/v1/flows", api.admin, params={"namespace": value, "category": value})
    assert answer.status_code == 200
    assert answer.json()["flows"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"cluster": "", "changes": [{"cluster": "", "kind": "External", "uid": "u", "at": 1, "known": 1}]}',
        b'{"cluster": "lab", "changes": [{"cluster": "other", "kind": "Pod", "uid": "u", "at": 1, "known": 1}]}',
        b'{"cluster": "lab", "changes": [{"cluster": "lab", "kind": "Secret", "uid": "u", "at": 1, "known": 1}]}',
        b'{"cluster": "lab", "changes": [{"cluster": "lab", "kind": "Pod", "uid": "u", "at": 1, "known": 1, "value": {"uid": 3}}]}',
    ],
)
def test_bad_changes_are_refused_whole(api, body):
    assert ask(api, "POST", "/v1/ingest/changes", api.agent, content=body).status_code == 400


def test_openapi_lists_every_route(api):
    answer = ask(api, "GET", "/v1/schema/openapi.json", api.admin)
    assert answer.status_code == 200
    paths = answer.json()["paths"]
    assert {path.replace(":str}", "}") for _, path in PATHS} == set(paths)


def test_the_reference_names_every_route(repo):
    page = (repo / "docs" / "reference" / "api.md").read_text()
    for method, path in PATHS:
        assert f"`{method} {path.replace(':str}', '}')}`" in page
