"""The inventory over HTTP: at a time, as known at another, one thing's history, and the connectors' words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringfence.model.objects import Change, External, Node, Object, Pod, Service

SECOND = 1_000_000_000


def change(
    value: Object, at: int, known: int | None = None, gone: bool = False, cluster: str = "c"
) -> Change:
    body = msgspec.Raw(b"null" if gone else msgspec.json.encode(value))
    return Change(cluster, type(value).__name__, value.uid, at, at if known is None else known, body)


def pod(name: str, *addresses: str, **more: Any) -> Pod:
    return Pod(uid=f"uid-{name}", namespace="shop", name=name, addresses=addresses, node="node1", **more)


def tell(api: Any, *changes: Change) -> int:
    body = {"cluster": changes[0].cluster, "changes": changes, "sequence": 1}
    answer = api.client.post(
        "/v1/ingest/changes",
        content=msgspec.json.encode(body),
        headers={"Authorization": f"Bearer {api.agent}"},
    )
    assert answer.status_code == 200, answer.text
    return int(answer.json()["new"])


def holders(api: Any, address: str, **parameters: Any) -> list[str]:
    found = api.get("/v1/inventory/history", address=address, **parameters)["holders"]
    return [each["name"] or each["kind"] for each in found]


def stamp(moment: int) -> str:
    from ringfence.flows.present import rfc3339

    return rfc3339(moment)


def test_the_same_question_before_and_after_late_news(api, now):
    first, second = pod("a", "10.244.1.5"), pod("b", "10.244.1.5")
    tell(api, change(first, now - 100 * SECOND))
    assert holders(api, "10.244.1.5", since="90s") == ["a"]
    known = now - 40 * SECOND
    tell(
        api,
        change(first, now - 60 * SECOND, known=now - 30 * SECOND, gone=True),
        change(second, now - 50 * SECOND, known=now - 30 * SECOND),
    )
    assert holders(api, "10.244.1.5", since="90s") == ["a", "unresolved", "b"]
    assert holders(api, "10.244.1.5", since="90s", known=stamp(known)) == ["a"]
    names = [each["name"] for each in api.get("/v1/inventory", kind="Pod", at="45s")["endpoints"]]
    assert names == ["b"]
    then = api.get("/v1/inventory", kind="Pod", at="45s", known=stamp(known))["endpoints"]
    assert [each["name"] for each in then] == ["a"]


def test_an_object_s_history_names_what_changed(api, now):
    tell(api, change(pod("a", labels=(("v", "1"),)), now - 60 * SECOND))
    tell(api, change(pod("a", labels=(("v", "2"),), phase="Running"), now - 30 * SECOND))
    tell(api, change(pod("a"), now - 10 * SECOND, gone=True))
    for name in ("a", "shop/a", "uid-a"):
        (found,) = api.get("/v1/inventory/history", name=name)["objects"]
        spans = found["spans"]
        assert [span["changed"] for span in spans] == [[], ["labels", "phase"], []]
        assert [span["value"] is None for span in spans] == [False, False, True]
        assert spans[0]["until"] == spans[1]["from"]
        assert [span["known"] for span in spans] == [span["from"] for span in spans]
    (recent,) = api.get("/v1/inventory/history", name="a", since="20s")["objects"]
    assert len(recent["spans"]) == 2
    assert api.get("/v1/inventory/history", name="nobody")["objects"] == []


def test_clusters_never_mix_and_an_unknown_one_is_404(api, now):
    for cluster in ("east", "west"):
        tell(api, change(pod(cluster, "10.244.1.5"), now - 60 * SECOND, cluster=cluster))
    assert holders(api, "10.244.1.5", since="30s", cluster="east") == ["east"]
    assert sorted(holders(api, "10.244.1.5", since="30s")) == ["east", "west"]
    answer = api.client.get(
        "/v1/inventory", params={"cluster": "north"}, headers={"Authorization": f"Bearer {api.admin}"}
    )
    assert answer.status_code == 404
    assert answer.json()["error"]["fix"] == "known: east, west"


def test_outside_names_are_facts_of_no_cluster(api, now):
    tell(api, change(pod("a", "10.244.1.5"), now - 60 * SECOND))
    value = External("dc/203.0.113.0/24", "dc", "203.0.113.0/24", "bank", (("site", "hh"),))
    api.server.service.learn([change(value, now - 40 * SECOND, cluster="")])
    assert holders(api, "203.0.113.7", since="60s") == ["external", "bank"]
    assert [each["cluster"] for each in api.get("/v1/inventory")["endpoints"]] == ["", "c"]
    assert [each["cluster"] for each in api.get("/v1/inventory", cluster="c")["endpoints"]] == ["c"]


def test_ranges_say_how_they_are_known(api, now):
    node = Node(uid="n", name="node1", addresses=("192.168.0.1",), pod_cidrs=("10.244.1.0/24",))
    service = Service(uid="s", namespace="shop", name="carts", cluster_ips=("10.96.0.7",))
    tell(
        api,
        change(node, now - SECOND),
        change(service, now - SECOND),
        change(pod("a", "10.9.9.9"), now - SECOND),
    )
    found = {each["network"]: each["shown_by"] for each in api.get("/v1/inventory/ranges")["ranges"]}
    assert found == {"10.244.1.0/24": "node", "10.96.0.0/16": "services", "10.9.9.0/24": "pods"}


@pytest.mark.parametrize(
    "question",
    ["history", "history?name=a&address=10.0.0.1", "history?address=carts", "history?name=a&kind=Secret"],
)
def test_bad_questions_say_what_to_do(api, now, question):
    tell(api, change(pod("a"), now - SECOND))
    answer = api.client.get(f"/v1/inventory/{question}", headers={"Authorization": f"Bearer {api.admin}"})
    assert answer.status_code == 400
    assert answer.json()["error"]["fix"]


def put(api: Any, path: str, body: bytes, cluster: str = "c") -> Any:
    return api.client.put(
        path, content=body, params={"cluster": cluster}, headers={"Authorization": f"Bearer {api.agent}"}
    )


def test_a_connector_s_word_and_its_checkpoint_are_kept(api):
    report = {
        "cluster": "c",
        "server_version": "v1.34.9",
        "states": {"Pod": {"state": "forbidden", "detail": "no", "since": 5}},
        "problems": {"x": 2},
    }
    assert put(api, "/v1/ingest/connector", msgspec.json.encode(report)).status_code == 200
    (kept,) = api.get("/v1/connectors")["connectors"]
    assert kept["states"]["Pod"]["state"] == "forbidden"
    assert kept["seen"].startswith("20")
    path = "/v1/ingest/checkpoint"
    token = {"Authorization": f"Bearer {api.agent}"}
    assert api.client.get(path, params={"cluster": "c"}, headers=token).content == b""
    assert put(api, path, b"\x00\xff" * 1000).status_code == 200
    assert api.client.get(path, params={"cluster": "c"}, headers=token).content == b"\x00\xff" * 1000
    assert api.client.get(path, params={"cluster": "d"}, headers=token).content == b""


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"cluster": "other"}', b'{"cluster": "c", "states": {"Pod": 3}}']
)
def test_bad_reports_are_refused(api, body):
    assert put(api, "/v1/ingest/connector", body).status_code == 400


def test_what_was_told_survives_a_restart(tmp_path, now):
    from tests.server.conftest import Api

    first = Api(tmp_path / "data", lambda: now)
    tell(first, change(pod("a", "10.244.1.5"), now - 60 * SECOND))
    again = tell(first, change(pod("a", "10.244.1.5"), now - 60 * SECOND, known=now))
    first.close()
    assert again == 0
    second = Api(tmp_path / "data", lambda: now)
    second.admin = first.admin
    assert holders(second, "10.244.1.5", since="30s") == ["a"]
    second.close()


def test_listeners_hear_what_was_touched_and_may_ask(api, now):
    heard = []
    book = api.server.service.book
    book.on_change(lambda touched: heard.extend((one, book.current(*one)) for one in sorted(touched)))
    tell(api, change(pod("a"), now - SECOND))
    tell(api, change(pod("a"), now - SECOND))
    tell(api, change(pod("a"), now, gone=True))
    assert [(one.uid, value is None) for one, value in heard] == [("uid-a", False), ("uid-a", True)]
