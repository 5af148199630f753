"""Every route of the OpenAPI document, asked by everybody; and what a reader of one scope finds of another's."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import msgspec
import pytest
from argon2 import PasswordHasher
from litestar.connection import ASGIConnection

from ringfence.model.objects import Namespace, Workload
from ringfence.server.access import Needs, again, guard
from ringfence.server.app import AGENT_ROUTES, ROUTES
from ringfence.server.captures import Capture, Wish
from ringfence.server.passwords import Passwords
from ringfence.server.refusals import Refusal
from ringfence.server.routes import capture, flows
from ringfence.testing.batches import SECOND, sighting
from tests.server.catalog import good, pod, tell

PASSWORD = "correct horse battery"
WHO = ("nobody", "bare", "a", "reader", "writer", "owner", "connector", "agent")
OPEN, READ_A, READ, WRITE, EXECUTE, OWNER, PERSON, TELL, AGENT = (
    {"nobody": True, "bare": True, "a": True, "reader": True, "writer": True, "owner": True, "connector": True, "agent": True},
    {"a", "reader", "writer", "owner"},
    {"reader", "writer", "owner"},
    {"writer", "owner"},
    {"owner"},
    {"owner"},
    {"bare", "a", "reader", "writer", "owner"},
    {"owner", "connector", "agent"},
    {"agent"},
)  # fmt: skip
TABLE = {
    "GET /v1/health": OPEN,
    "POST /v1/login": OPEN,
    **dict.fromkeys(
        ("POST /v1/logout", "GET /v1/whoami", "PUT /v1/password", "GET /v1/grants", "PUT /v1/grants",
         "DELETE /v1/grants", "GET /v1/tokens", "POST /v1/tokens", "DELETE /v1/tokens"), PERSON),
    **dict.fromkeys(
        ("GET /v1/flows", "GET /v1/flows/{flow_id}", "GET /v1/flows/facets", "GET /v1/flows/histogram",
         "GET /v1/flows/hints", "GET /v1/flows/export", "GET /v1/flows/follow", "GET /v1/connections", "GET /v1/edges",
         "GET /v1/completeness", "GET /v1/agents", "GET /v1/inventory", "GET /v1/inventory/groups",
         "GET /v1/inventory/history", "POST /v1/filters/preview", "GET /v1/scopes", "GET /v1/scopes/members",
         "GET /v1/scopes/path", "GET /v1/captures", "GET /v1/captures/{id}", "POST /v1/policies/discover"),
        READ_A),
    **dict.fromkeys(
        ("GET /v1/inventory/ranges", "GET /v1/connectors", "GET /v1/filters", "GET /v1/filters/{name}",
         "GET /v1/filters/{name}/members", "GET /v1/scopes/draft", "GET /v1/scopes/review",
         "GET /v1/scopes/versions", "GET /v1/externals", "GET /v1/orders"), READ),
    **dict.fromkeys(
        ("PUT /v1/filters/{name}", "DELETE /v1/filters/{name}", "PUT /v1/scopes/draft", "DELETE /v1/scopes/draft",
         "POST /v1/scopes/init", "POST /v1/scopes/discard", "PUT /v1/externals", "DELETE /v1/externals",
         "POST /v1/imports"), WRITE),
    **dict.fromkeys(("POST /v1/captures", "DELETE /v1/captures/{id}", "PUT /v1/orders"), EXECUTE),
    **dict.fromkeys(
        ("POST /v1/scopes/commit", "GET /v1/users", "POST /v1/users", "PUT /v1/users/{name}", "GET /v1/audit",
         "GET /v1/audit/verify", "POST /v1/enrol/tokens", "GET /v1/enrol/agents", "POST /v1/enrol/revoke",
         "POST /v1/enrol/allow"), OWNER),
    **dict.fromkeys(
        ("POST /v1/ingest/changes", "PUT /v1/ingest/connector", "PUT /v1/ingest/checkpoint",
         "GET /v1/ingest/checkpoint"), TELL),
    **dict.fromkeys(("POST /v1/ingest/batches", "GET /v1/agents/orders", "POST /v1/agents/captures/{id}"), AGENT),
}  # fmt: skip
"""For each route who is let in; everybody else is refused."""


class Site:
    """A server with two scopes, and people with rights in them."""

    def __init__(self, api, now):
        self.api = api
        api.server.service.accounts._passwords = Passwords(PasswordHasher(1, 64, 1))
        told = [
            pod("apple-1", "alpha", "10.244.1.5", app="apple"),
            pod("apple-2", "alpha", "10.244.1.6", app="apple"),
            pod("beet-1", "beta", "10.244.2.7", app="beet"),
            pod("beet-2", "beta", "10.244.2.8", app="beet"),
            Namespace("ns-a", "alpha", (("team", "apricot"),)),
            Namespace("ns-b", "beta", (("team", "beetroot"),)),
            Workload("w-b", "Deployment", "beta", "beet-w"),
        ]
        tell(api, *told, at=now - 60 * SECOND)
        rows = [
            sighting(now - SECOND, "10.244.1.5", "10.244.1.6"),
            sighting(now - SECOND, "10.244.2.7", "10.244.2.8", (41023, 8081)),
            sighting(now - SECOND, "10.244.2.7", "198.51.100.9", (41024, 8082)),
        ]
        for row in rows:
            api.send(row, (now - SECOND,))
        two = ("alpha", "beta")
        scopes = [{"name": one, "parent": "root", "filter": f'namespace == "{one}"'} for one in two]
        scopes.append({"name": "root"})
        good(api, "POST", "/v1/scopes/init", {"design": "given", "scopes": scopes})
        good(api, "POST", "/v1/scopes/commit", {"note": "beta is new"})
        good(api, "PUT", "/v1/filters/beets", {"text": 'namespace == "beta"'})
        self.tokens = {"nobody": None, "agent": api.agent}
        self.tokens["connector"] = (api.server._data / "connector.token").read_text().strip()
        for name, grant in (("bare", None), ("a", ("alpha", "read")), ("reader", ("/", "read")),
                            ("writer", ("/", "write")), ("owner", ("/", "owner"))):  # fmt: skip
            good(api, "POST", "/v1/users", {"name": name, "password": PASSWORD})
            if grant:
                body = {"user": name, "scope": grant[0], "ability": grant[1]}
                good(api, "PUT", "/v1/grants", body)
            self.tokens[name] = self.sign_in(name)

    def sign_in(self, name):
        return self.ask(None, "POST", "/v1/login", {"user": name, "password": PASSWORD})[1]["token"]

    def ask(self, who, method, path, body=None, **parameters):
        token = self.tokens.get(who, who)
        answer = self.api.client.request(
            method,
            path,
            params=parameters,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            **({} if body is None else {"json": body}),
        )
        try:
            return answer.status_code, answer.json()
        except ValueError:
            return answer.status_code, answer.text


@pytest.fixture
def site(api, now):
    return Site(api, now)


def document(site):
    paths = site.ask("owner", "GET", "/v1/schema/openapi.json")[1]["paths"]
    return sorted(f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs)


def test_every_route_lets_in_whom_the_table_says_and_nobody_else(site):
    routes = document(site)
    assert routes == sorted(TABLE), "a route is missing from the table"
    # What would end the sessions that ask, or wait, is asked last, or with what answers at once.
    routes.sort(key=lambda route: route.endswith("/logout"))
    for route in routes:
        method, path = route.split(" ")
        path = re.sub(r"{\w+}", "zero", path)
        for who in WHO:
            extra = {"cluster": "lab", "node": "n", "after": 0} if path.endswith("orders") else {}
            if extra and who == "agent" and method == "GET":
                extra["after"] = -1
            more = {"seconds": 0} if path.endswith("/follow") else extra if "/agents/" in path else {}
            status, answer = site.ask(who, method, path, None, **more)
            let_in = status not in (401, 403)
            assert let_in == (who in TABLE[route]), (route, who, status, answer)
            if not let_in:
                assert status == (401 if who == "nobody" else 403), (route, who)
            assert status < 500, (route, who, answer)


def test_every_route_says_what_it_needs():
    for route in (*ROUTES, *AGENT_ROUTES):
        needs = route.opt.get("needs")
        assert isinstance(needs, Needs), route
        assert needs != Needs(), route


HIDDEN = ("beet", "beta", "10.244.2.", "198.51.100", "8081", "8082", "apricots-not")
QUESTIONS = [
    ("GET", "/v1/flows", None, {}),
    ("GET", "/v1/flows", None, {"fold": "true"}),
    ("GET", "/v1/flows", None, {"where": "true"}),
    ("GET", "/v1/flows", None, {"where": "octets >= 0", "sort": "-octets"}),
    ("GET", "/v1/flows", None, {"where": 'consumer.namespace == "beta" || port > 0'}),
    ("GET", "/v1/flows", None, {"since": "2h", "sort": "start"}),
    ("GET", "/v1/flows/facets", None, {"field": "provider.ip"}),
    ("GET", "/v1/flows/facets", None, {"field": "served_by.namespace", "by": "connections"}),
    ("GET", "/v1/flows/facets", None, {"field": "port", "where": "octets > 0"}),
    ("GET", "/v1/flows/histogram", None, {}),
    ("GET", "/v1/flows/hints", None, {"field": "consumer.workload"}),
    ("GET", "/v1/flows/hints", None, {"field": "consumer.labels"}),
    ("GET", "/v1/flows/hints", None, {"field": "port"}),
    ("GET", "/v1/flows/export", None, {}),
    ("GET", "/v1/flows/export", None, {"format": "csv", "where": "octets >= 0"}),
    ("GET", "/v1/flows/follow", None, {"seconds": 1}),
    ("GET", "/v1/connections", None, {}),
    ("GET", "/v1/edges", None, {}),
    ("GET", "/v1/completeness", None, {}),
    ("GET", "/v1/agents", None, {}),
    ("GET", "/v1/inventory", None, {}),
    ("GET", "/v1/inventory", None, {"filter": "kind == \"pod\""}),
    ("GET", "/v1/inventory", None, {"at": "30s"}),
    ("GET", "/v1/inventory/groups", None, {"by": "namespace"}),
    ("GET", "/v1/inventory/groups", None, {"by": "workload"}),
    ("GET", "/v1/inventory/history", None, {"address": "10.244.1.5"}),
    ("POST", "/v1/filters/preview", {"text": "true"}, {}),
    ("GET", "/v1/scopes", None, {}),
    ("GET", "/v1/scopes/path", None, {"name": "apple-1"}),
    ("GET", "/v1/scopes/members", None, {"name": "alpha"}),
    ("POST", "/v1/policies/discover", {}, {}),
    ("GET", "/v1/captures", None, {}),
    ("GET", "/v1/grants", None, {}),
    ("GET", "/v1/tokens", None, {}),
    ("GET", "/v1/whoami", None, {}),
]  # fmt: skip


def test_a_reader_of_one_scope_sees_nothing_of_another_on_any_route(site):
    for method, path, body, parameters in QUESTIONS:
        status, answer = site.ask("a", method, path, body, **parameters)
        assert status == 200, (path, answer)
        text = json.dumps(answer)
        for word in HIDDEN:
            assert word not in text, (path, parameters, word)
        whole = json.dumps(site.ask("reader", method, path, body, **parameters)[1])
        if path.startswith("/v1/flows"):
            assert text != whole, (path, parameters)
        if path in ("/v1/flows", "/v1/connections", "/v1/edges", "/v1/inventory", "/v1/scopes"):
            assert "apple" in text or "alpha" in text, path
            assert "beet" in whole or "beta" in whole, path


def test_what_is_not_his_is_absent_as_if_it_were_not_there(site):
    flows = site.ask("reader", "GET", "/v1/flows")[1]["flows"]
    mine = {flow["flow_id"] for flow in site.ask("a", "GET", "/v1/flows")[1]["flows"]}
    assert len(flows) == 3
    assert len(mine) == 1
    for flow in flows:
        status, _ = site.ask("a", "GET", f"/v1/flows/{flow['flow_id']}")
        assert status == (200 if flow["flow_id"] in mine else 404)
    for there, not_there in (("beta", "gamma"), ("root", "gamma")):
        asked = [site.ask("a", "GET", "/v1/scopes/members", name=name) for name in (there, not_there)]
        said = [
            (status, json.dumps(answer).replace(name, "X"))
            for (status, answer), name in zip(asked, (there, not_there), strict=True)
        ]
        assert said[0] == said[1]
        assert said[0][0] == 404
    assert site.ask("a", "GET", "/v1/scopes/path", name="beet-1")[0] == 404
    assert site.ask("a", "GET", "/v1/flows", namespace="beta")[1]["flows"] == []
    assert site.ask("a", "GET", "/v1/inventory/history", name="beet-1")[1]["objects"] == []
    assert site.ask("a", "GET", "/v1/inventory/history", address="10.244.2.7")[1]["holders"] == []
    assert site.ask("a", "POST", "/v1/filters/preview", {"text": "true"})[1]["after"] == 2
    assert site.ask("a", "POST", "/v1/filters/preview", {"name": "beets", "text": "true"})[0] == 404


def test_who_talks_to_mine_is_seen_with_the_connection(site, now):
    site.api.send(sighting(now - SECOND, "10.244.2.7", "10.244.1.5", (41055, 80)), (now - SECOND,))
    (edge,) = [
        edge
        for edge in site.ask("a", "GET", "/v1/edges")[1]["edges"]
        if edge["consumer"]["namespace"] == "beta"
    ]
    assert edge["provider"]["namespace"] == "alpha"


def test_what_is_ended_lets_nobody_in_at_once(site, now):
    held = [site.ask("a", "POST", "/v1/tokens", {"name": f"t{n}"})[1] for n in range(2)]
    for token in held:
        assert site.ask(token["token"], "GET", "/v1/flows")[0] == 200
    assert site.ask("a", "DELETE", "/v1/tokens", number=held[0]["number"])[0] == 200
    assert site.ask(held[0]["token"], "GET", "/v1/flows")[0] == 401
    assert site.ask("owner", "PUT", "/v1/users/a", {"disabled": True})[0] == 200
    assert site.ask("a", "GET", "/v1/flows")[0] == site.ask(held[1]["token"], "GET", "/v1/flows")[0] == 401
    short = site.ask("reader", "POST", "/v1/tokens", {"name": "short", "seconds": 60})[1]["token"]
    assert site.ask(short, "GET", "/v1/flows")[0] == 200
    site.api.server.service.accounts._clock = lambda: now + 61 * SECOND
    assert site.ask(short, "GET", "/v1/flows")[0] == 401


def test_a_token_reaches_no_further_than_its_user(site):
    narrow = {"name": "n", "grants": [{"scope": "alpha", "ability": "read"}]}
    token = site.ask("owner", "POST", "/v1/tokens", narrow)[1]["token"]
    assert "beet" not in json.dumps(site.ask(token, "GET", "/v1/flows")[1])
    wide = {"name": "w", "grants": [{"scope": "beta", "ability": "read"}]}
    assert site.ask("a", "POST", "/v1/tokens", wide)[0] == 403
    assert site.ask(token, "POST", "/v1/tokens", {"name": "x"})[0] == 403
    assert site.ask("a", "POST", "/v1/tokens", {"name": "x", "user": "owner"})[0] == 403
    shown = site.ask("owner", "GET", "/v1/tokens")[1]
    assert token not in json.dumps(shown)


def test_nobody_grants_what_he_has_not_and_the_last_owner_stays(site):
    give = {"user": "bare", "scope": "alpha", "ability": "read"}
    assert site.ask("a", "PUT", "/v1/grants", give)[0] == 403
    assert site.ask("a", "PUT", "/v1/grants", {**give, "scope": "beta"})[0] == 404
    assert site.ask("writer", "PUT", "/v1/grants", give)[0] == 403
    site.ask("owner", "PUT", "/v1/grants", {**give, "user": "a", "ability": "owner"})
    assert site.ask("a", "PUT", "/v1/grants", give)[0] == 200
    assert "apple" in json.dumps(site.ask("bare", "GET", "/v1/flows")[1])
    for refused in (
        site.ask("owner", "DELETE", "/v1/grants", user="owner", scope="/"),
        site.ask("owner", "PUT", "/v1/grants", {"user": "owner", "scope": "/", "ability": "read"}),
        site.ask("owner", "PUT", "/v1/users/owner", {"disabled": True}),
    ):
        assert refused[0] == 403
        assert "last owner" in refused[1]["error"]["what"]


def test_wrong_passwords_are_told_alike_and_slow_down(site):
    def wrong(name):
        return site.ask(None, "POST", "/v1/login", {"user": name, "password": "not this one"})

    first = wrong("reader")
    assert first == wrong("no-such-user")
    assert first[0] == 401
    for name in ("reader", "no-such-user"):
        assert [wrong(name)[0] for _ in range(5)] == [401] * 4 + [429]
    assert site.ask(None, "POST", "/v1/login", {"user": "reader", "password": PASSWORD})[0] == 429


def test_no_secret_is_in_the_log_or_in_an_error(site):
    secret = "hunter2-hunter2"
    said = [
        site.ask(None, "POST", "/v1/login", {"user": secret, "password": secret}),
        site.ask(None, "POST", "/v1/login", {"user": "reader", "password": [secret]}),
        site.ask("reader", "PUT", "/v1/password", {"old": PASSWORD, "new": secret}),
        site.ask("owner", "PUT", "/v1/users/bare", {"password": secret}),
        site.ask("owner", "POST", "/v1/users", {"name": "x", "password": secret, "more": 1}),
    ]
    assert [status for status, _ in said] == [401, 400, 200, 200, 400]
    log = json.dumps(site.ask("owner", "GET", "/v1/audit", after=0, limit=1000)[1])
    for text in (secret, PASSWORD, *filter(None, site.tokens.values())):
        assert text not in log
        assert text not in json.dumps(said)
    kept = (site.api.server._data / "facts.sqlite").read_bytes()
    kept += (site.api.server._data / "facts.sqlite-wal").read_bytes()
    for text in (secret, PASSWORD, *filter(None, site.tokens.values())):
        assert text.encode() not in kept


def test_the_audit_log_tells_of_changes_sign_ins_and_refusals(site):
    site.ask("a", "PUT", "/v1/filters/x", {"text": "true"})
    site.ask(None, "POST", "/v1/login", {"user": "a", "password": "not this one"})
    rows = site.ask("owner", "GET", "/v1/audit", after=0, limit=1000)[1]["entries"]
    told = {(row["by"], row["what"], row["outcome"]) for row in rows}
    assert ("user a", "PUT /v1/filters/{name:str}", "refused") in told
    assert ("nobody", "POST /v1/login", "refused") in told
    assert ("nobody", "POST /v1/login", "done") in told
    assert any(row["details"].get("scope") == "alpha" for row in rows if row["what"] == "PUT /v1/grants")
    assert site.ask("owner", "GET", "/v1/audit/verify")[1]["broken"] is None


def admitted(site, who, route):
    """A connection that the guard let in, as a request that lasts holds it."""
    service = site.api.server.service
    header = f"Bearer {site.tokens.get(who, who)}".encode()
    connection = ASGIConnection({"type": "http", "headers": [(b"authorization", header)]})
    guard(site.api.server.tokens, service.accounts, service.sight.tree)(connection, route)
    return connection


def test_requests_that_last_are_refused_once_what_let_them_in_is_ended(site):
    token = site.ask("a", "POST", "/v1/tokens", {"name": "t"})[1]
    session, by_token = admitted(site, "a", flows.flows), admitted(site, token["token"], flows.flows)
    assert again(session).user == again(by_token).user == "a"
    site.ask("a", "DELETE", "/v1/tokens", number=token["number"])
    with pytest.raises(Refusal):
        again(by_token)
    assert again(session).user == "a"
    site.ask("owner", "DELETE", "/v1/grants", user="a", scope="alpha")
    with pytest.raises(Refusal):
        again(session)


def test_a_capture_ends_when_it_is_no_longer_its_readers(site, monkeypatch):
    service = site.api.server.service
    site.ask("owner", "PUT", "/v1/grants", {"user": "a", "scope": "alpha", "ability": "execute"})
    over = []
    monkeypatch.setattr(service.captures, "over", over.append)
    monkeypatch.setattr(capture, "CHECK", -1)
    made = Capture("c", "a", 0, (), Wish(), None, frozenset({("lab", "Pod", "uid-apple-1")}))
    theirs = msgspec.structs.replace(made, keys=frozenset({("lab", "Pod", "uid-beet-1")}))
    check = capture._may_go_on(admitted(site, "a", capture.begin), service, made)
    check()
    with pytest.raises(Refusal):
        capture._may_go_on(admitted(site, "a", capture.begin), service, theirs)()
    site.ask("owner", "PUT", "/v1/grants", {"user": "a", "scope": "alpha", "ability": "read"})
    with pytest.raises(Refusal):
        check()
    assert over == [theirs, made]


def test_captures_of_others_are_neither_made_nor_seen(site):
    site.ask("owner", "PUT", "/v1/grants", {"user": "a", "scope": "alpha", "ability": "execute"})
    there = site.ask("a", "POST", "/v1/captures", {"pods": ["beta/beet-1"]})
    not_there = site.ask("a", "POST", "/v1/captures", {"pods": ["beta/nobody"]})
    assert there[0] == not_there[0] == 400
    assert there[1]["error"]["what"].replace("beet-1", "X") == not_there[1]["error"]["what"].replace(
        "nobody", "X"
    )
    service = site.api.server.service
    made = Capture("c", "user owner", 0, ("beta/beet-1",), Wish(), SimpleNamespace(packets=0, notes=()),
                   frozenset({("lab", "Pod", "uid-beet-1")}))  # fmt: skip
    service.captures._running["c"] = made
    try:
        assert site.ask("a", "GET", "/v1/captures")[1] == {"captures": []}
        assert (
            site.ask("a", "GET", "/v1/captures/c")[0] == site.ask("a", "DELETE", "/v1/captures/c")[0] == 404
        )
        assert len(site.ask("owner", "GET", "/v1/captures")[1]["captures"]) == 1
    finally:
        del service.captures._running["c"]
