"""LIST and WATCH over real sockets, as a client of a cluster meets them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from ringfence.lab.cluster import Lab

pytestmark = pytest.mark.real
Json = dict[str, Any]


def get(lab: Lab, path: str, token: str | None = None, method: str = "GET") -> tuple[int, Json]:
    """One request; the status and the document."""
    url = urlsplit(lab.api_url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=10)
    try:
        connection.request(
            method, path, headers={"Authorization": f"Bearer {lab.token if token is None else token}"}
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def watch(lab: Lab, path: str) -> Iterator[Json]:
    """Events of a watch until the server ends it."""
    url = urlsplit(lab.api_url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=20)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {lab.token}"})
        response = connection.getresponse()
        assert response.status == 200
        while line := response.readline():
            yield json.loads(line)
    finally:
        connection.close()


def test_only_the_token_opens(lab: Lab) -> None:
    assert get(lab, "/api/v1/pods", token="wrong")[0] == 401
    assert get(lab, "/api/v1/pods", token="")[0] == 401
    status, body = get(lab, "/api/v1/pods", method="DELETE")
    assert (status, body["kind"]) == (405, "Status")


def test_every_kind_lists(lab: Lab) -> None:
    for group in (
        "api/v1",
        "apis/apps/v1",
        "apis/batch/v1",
        "apis/discovery.k8s.io/v1",
        "apis/networking.k8s.io/v1",
    ):
        for resource in get(lab, f"/{group}")[1]["resources"]:
            status, body = get(lab, f"/{group}/{resource['name']}")
            assert status == 200
            assert body["kind"] == f"{resource['kind']}List"
    assert get(lab, "/version")[1]["major"] == "1"
    assert {group["name"] for group in get(lab, "/apis")[1]["groups"]} >= {"apps", "discovery.k8s.io"}
    assert get(lab, "/api/v1/secrets")[0] == 404


def test_objects_are_those_that_run(lab: Lab) -> None:
    items = get(lab, "/api/v1/pods")[1]["items"]
    shown = {i["metadata"]["uid"]: [a["ip"] for a in i["status"]["podIPs"]] for i in items}
    assert shown == {pod.uid: list(pod.addresses) for pod in lab.pods}
    front = next(i for i in items if i["metadata"]["labels"].get("name") == "front-end")
    assert front["status"]["phase"] == "Running"
    assert front["metadata"]["labels"]["pod-template-hash"] in front["metadata"]["name"]
    owner = front["metadata"]["ownerReferences"][0]
    _, replica_set = get(lab, f"/apis/apps/v1/namespaces/sock-shop/replicasets/{owner['name']}")
    assert owner["uid"] == replica_set["metadata"]["uid"]
    assert replica_set["metadata"]["ownerReferences"][0]["name"] == "front-end"


def test_a_slice_names_target_ports_and_pods(lab: Lab) -> None:
    _, body = get(
        lab,
        "/apis/discovery.k8s.io/v1/namespaces/sock-shop/endpointslices"
        "?labelSelector=kubernetes.io/service-name=front-end",
    )
    assert [item["addressType"] for item in body["items"]] == ["IPv4", "IPv6"]
    pod = lab.pod("front-end")
    for item, address in zip(body["items"], pod.addresses, strict=True):
        assert item["ports"][0]["port"] == 8079
        assert item["endpoints"][0]["addresses"] == [address]
        assert item["endpoints"][0]["targetRef"]["uid"] == pod.uid


def test_pages_add_up_to_one_moment(lab: Lab) -> None:
    names, versions, token = [], set(), ""
    while True:
        _, body = get(lab, f"/api/v1/pods?limit=4&continue={token}" if token else "/api/v1/pods?limit=4")
        names += [item["metadata"]["name"] for item in body["items"]]
        versions.add(body["metadata"]["resourceVersion"])
        if not (token := body["metadata"].get("continue", "")):
            break
        if len(names) == 4:
            lab.add_pod("toolbox", "between-pages")
    assert sorted(names) == sorted(pod.name for pod in lab.pods if pod.name != "between-pages")
    assert len(versions) == 1
    lab.delete_pod("toolbox", "between-pages")
    status, body = get(lab, "/api/v1/pods?limit=4&continue=made-up")
    assert (status, body["reason"]) == (410, "Expired")


def test_selectors(lab: Lab) -> None:
    _, body = get(lab, "/api/v1/pods?fieldSelector=spec.nodeName=node1,metadata.namespace!=sock-shop")
    wanted = {pod.name for pod in lab.pods if pod.node == "node1" and pod.namespace != "sock-shop"}
    assert {item["metadata"]["name"] for item in body["items"]} == wanted
    assert get(lab, "/api/v1/pods?labelSelector=strange")[0] == 400


def test_a_watch_tells_of_a_pods_life(lab: Lab) -> None:
    _, body = get(lab, "/api/v1/pods")
    version = body["metadata"]["resourceVersion"]

    def live() -> None:
        lab.add_pod("toolbox", "passing", labels={"a": "b"})
        lab.label("toolbox", "passing", a="c")
        lab.delete_pod("toolbox", "passing")

    threading.Timer(0.2, live).start()
    seen = []
    for event in watch(
        lab, f"/api/v1/namespaces/toolbox/pods?watch=1&resourceVersion={version}&timeoutSeconds=15"
    ):
        item = event["object"]
        seen.append((event["type"], item["status"]["phase"], item["metadata"]["labels"].get("a")))
        if event["type"] == "DELETED":
            break
    assert seen[0] == ("ADDED", "Pending", "b")
    assert ("MODIFIED", "Running", "b") in seen
    assert ("MODIFIED", "Running", "c") in seen
    assert seen[-1][0] == "DELETED"


def test_a_quiet_watch_gets_bookmarks_and_ends_in_time(lab: Lab) -> None:
    events = list(
        watch(
            lab,
            f"/api/v1/nodes?watch=true&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={_now(lab)}",
        )
    )
    assert [event["type"] for event in events] == ["BOOKMARK"]
    assert events[0]["object"]["kind"] == "Node"
    assert list(watch(lab, f"/api/v1/nodes?watch=1&timeoutSeconds=1&resourceVersion={_now(lab)}")) == []


def test_a_forgotten_version_is_gone(lab: Lab) -> None:
    old = _now(lab)
    lab.add_pod("toolbox", "news")
    lab.delete_pod("toolbox", "news")
    lab.forget()
    (event,) = watch(lab, f"/api/v1/pods?watch=1&resourceVersion={old}&timeoutSeconds=5")
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_bad_numbers_are_refused(lab: Lab) -> None:
    for query in ("watch=1&resourceVersion=new", "watch=1&timeoutSeconds=-1", "limit=all"):
        status, body = get(lab, f"/api/v1/pods?{query}")
        assert (status, body["reason"]) == (400, "BadRequest")


def test_a_kubernetes_client_reads_it(lab: Lab) -> None:
    """lightkube, as the connector uses it: kubeconfig, pages, watch."""
    lightkube = pytest.importorskip("lightkube")
    from lightkube.resources.core_v1 import Pod

    config = lightkube.KubeConfig.from_file(lab.kubeconfig)
    client = lightkube.Client(config=config)
    names = {pod.metadata.name for pod in client.list(Pod, namespace="*", chunk_size=5)}
    assert names == {pod.name for pod in lab.pods}
    front = lab.pod("front-end")
    assert client.get(Pod, front.name, namespace="sock-shop").status.podIP == front.addresses[0]
    version = _now(lab)
    lab.label("sock-shop", front.name, looked="at")
    for event, pod in client.watch(Pod, namespace="sock-shop", resource_version=version, server_timeout=5):
        assert (event, pod.metadata.labels["looked"]) == ("MODIFIED", "at")
        break
    lab.label("sock-shop", front.name, looked=None)


def test_a_watch_without_version_starts_with_what_is(lab: Lab) -> None:
    events = list(watch(lab, "/api/v1/nodes?watch=1&timeoutSeconds=1"))
    assert [event["object"]["metadata"]["name"] for event in events] == [node.name for node in lab.nodes]


def _now(lab: Lab) -> str:
    return str(get(lab, "/api/v1/pods?limit=1")[1]["metadata"]["resourceVersion"])
