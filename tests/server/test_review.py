"""Service-account tokens, made and reviewed by a real API server; enrolment with them over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.kube.access import from_kubeconfig
from ringfence.model.problems import Problem
from ringfence.server.access import Refusal
from ringfence.server.review import TokenReviewer, access_of, publish
from ringfence.wire.client import Acknowledged, Refused, Unreachable
from tests.kubernetes import ApiServer
from tests.server.site import Agent, Site

NAMESPACE = "review"
ACCOUNT = f"{NAMESPACE}/ringfence-agent"
REVIEWED = {
    "review_cluster": "lab",
    "review_account": ACCOUNT,
    "publish_authority": f"{NAMESPACE}/authority",
}


def thing(
    kind: str, name: str, namespace: str | None = NAMESPACE, version: str = "v1", **more: Any
) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def pod(name: str, node: str, account: str = "ringfence-agent") -> dict[str, Any]:
    container = {"name": "agent", "image": "agent"}
    return thing(
        "Pod", name, spec={"nodeName": node, "serviceAccountName": account, "containers": [container]}
    )


@pytest.fixture(scope="module")
def reviewer(apiserver: ApiServer) -> TokenReviewer:
    """With no other right than to review tokens, and to patch one ConfigMap."""
    rbac = "rbac.authorization.k8s.io/v1"
    rights = [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["authority"], "verbs": ["patch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reviews"}
    items = [
        thing("Namespace", NAMESPACE, None),
        thing("ServiceAccount", "ringfence-agent"),
        thing("ServiceAccount", "another"),
        thing("Node", "node1", None),
        thing("Node", "node2", None),
        thing("ConfigMap", "authority"),
        thing("ConfigMap", "other"),
        pod("agent-1", "node1"),
        pod("other-1", "node1", "another"),
        thing("ClusterRole", "reviews", None, rbac, rules=rights),
        thing(
            "ClusterRoleBinding",
            "reviews",
            None,
            rbac,
            roleRef=role,
            subjects=[{"kind": "User", "name": "reader"}],
        ),
    ]
    apiserver.kubectl(
        "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    return TokenReviewer("lab", from_kubeconfig(str(apiserver.token_kubeconfig("reader")), None), ACCOUNT)


def token(
    apiserver: ApiServer,
    account: str = "ringfence-agent",
    pod: str | None = "agent-1",
    audience: str = "ringfence",
) -> str:
    """As a kubelet asks for a projected one."""
    bound = ("--bound-object-kind", "Pod", "--bound-object-name", pod) if pod else ()
    return apiserver.kubectl(
        "create", "token", account, "-n", NAMESPACE, "--audience", audience, *bound
    ).strip()


@pytest.mark.testbed
def test_a_pods_token_names_its_node(apiserver: ApiServer, reviewer: TokenReviewer) -> None:
    assert reviewer.node_of(token(apiserver)) == "node1"


@pytest.mark.testbed
def test_every_other_token_is_refused(apiserver: ApiServer, reviewer: TokenReviewer) -> None:
    good = token(apiserver)
    head, body, seal = good.split(".")
    cases = {
        "another service account": token(apiserver, "another", "other-1"),
        "does not know this token": token(apiserver, audience="https://kubernetes.default.svc.cluster.local"),
        "names no node": token(apiserver, pod=None),
    }
    for words, each in cases.items():
        with pytest.raises(Refusal, match=words):
            reviewer.node_of(each)
    for forged in ("", "x", "a.b.c", f"{head}.{body}.{seal[::-1]}", f"{head}.{body}.", "x" * 70_000):
        with pytest.raises(Refusal):
            reviewer.node_of(forged)


@pytest.mark.testbed
def test_a_pod_that_is_gone_vouches_for_nobody(apiserver: ApiServer, reviewer: TokenReviewer) -> None:
    apiserver.kubectl("create", "-f", "-", text=json.dumps(pod("short", "node2")))
    kept = token(apiserver, pod="short")
    assert reviewer.node_of(kept) == "node2"
    apiserver.kubectl("delete", "pod", "short", "-n", NAMESPACE, "--force", "--grace-period=0")
    deadline = time.monotonic() + 30
    # The API server remembers good reviews for some seconds.
    while time.monotonic() < deadline:
        try:
            reviewer.node_of(kept)
        except Refusal:
            return
        time.sleep(0.5)
    pytest.fail("the token of a pod that is gone was still good")


@pytest.mark.testbed
def test_a_server_that_may_not_review_says_so(apiserver: ApiServer, reviewer: TokenReviewer) -> None:
    nobody = access_of(str(apiserver.token_kubeconfig("nobody")), None)
    with pytest.raises(Problem, match="does not review tokens"):
        TokenReviewer("lab", nobody, ACCOUNT).node_of(token(apiserver))
    with pytest.raises(Problem, match="not a service account"):
        TokenReviewer("lab", nobody, "ringfence-agent")


@pytest.mark.testbed
def test_the_authority_is_published_into_its_own_config_map_alone(
    apiserver: ApiServer, reviewer: TokenReviewer
) -> None:
    access = access_of(str(apiserver.token_kubeconfig("reader")), None)
    publish(access, f"{NAMESPACE}/authority", "a certificate")
    read = json.loads(apiserver.kubectl("get", "configmap", "authority", "-n", NAMESPACE, "-o", "json"))
    assert read["data"] == {"ca.crt": "a certificate"}
    with pytest.raises(Problem, match="cannot publish"):
        publish(access, f"{NAMESPACE}/other", "a certificate")


@pytest.fixture
def site(apiserver: ApiServer, reviewer: TokenReviewer, tmp_path: Path) -> Iterator[Site]:
    made = Site(
        tmp_path / "server",
        review=str(apiserver.token_kubeconfig("reader")),
        **REVIEWED,
    )
    yield made
    made.close()


def in_pod(site: Site, apiserver: ApiServer, folder: Path, node: str) -> Agent:
    """An agent as the DaemonSet runs it: a projected token and the published authority in files."""
    folder.mkdir()
    (folder / "account.token").write_text(token(apiserver))
    published = json.loads(apiserver.kubectl("get", "configmap", "authority", "-n", NAMESPACE, "-o", "json"))
    (folder / "ca.crt").write_text(published["data"]["ca.crt"])
    return Agent(site, folder, node, **files(folder))


def files(folder: Path) -> dict[str, str]:
    return {"account_token_file": str(folder / "account.token"), "ca_file": str(folder / "ca.crt")}


@pytest.mark.testbed
def test_an_agent_enrols_as_the_node_of_its_pod_and_as_no_other(
    site: Site, apiserver: ApiServer, tmp_path: Path
) -> None:
    agent = in_pod(site, apiserver, tmp_path / "a", "node1")
    assert agent.send() == Acknowledged(1)
    assert site.listed()[agent.serial]["how"] == "account"
    other = in_pod(site, apiserver, tmp_path / "b", "node2")
    outcome = other.send()
    assert isinstance(outcome, Unreachable)
    assert "this token is of a pod on node node1" in outcome.reason
    assert site.stored() == 1


@pytest.mark.testbed
def test_a_refused_agent_enrols_anew_by_itself_unless_revoked(
    site: Site, apiserver: ApiServer, tmp_path: Path
) -> None:
    agent = in_pod(site, apiserver, tmp_path / "a", "node1")
    assert agent.send() == Acknowledged(1)
    first = agent.serial
    thief = Agent(site, agent.folder, "node1", **files(agent.folder))
    thief.identity._machine = "f" * 64
    assert isinstance(thief.send(epoch="x"), Refused)
    assert isinstance(agent.send(), Refused)
    assert agent.send(sequence=2) == Acknowledged(2)
    assert agent.serial != first
    assert site.listed()[first]["state"] == "copied"
    assert site.ask("POST", "/v1/enrol/revoke", {"cluster": "lab", "node": "node1"}) == (200, {"revoked": 1})
    assert isinstance(agent.send(sequence=3), Refused)
    outcome = agent.send(sequence=3)
    assert isinstance(outcome, Unreachable)
    assert "this node is revoked" in outcome.reason
    site.ask("POST", "/v1/enrol/allow", {"cluster": "lab", "node": "node1"})
    assert agent.send(sequence=3) == Acknowledged(3)


@pytest.mark.testbed
def test_an_agent_whose_server_lost_its_authority_enrols_with_the_new_one(
    site: Site, apiserver: ApiServer, tmp_path: Path
) -> None:
    agent = in_pod(site, apiserver, tmp_path / "a", "node1")
    assert agent.send() == Acknowledged(1)
    site.close()
    again = Site(tmp_path / "another server", **REVIEWED, review=str(apiserver.token_kubeconfig("reader")))
    try:
        moved = in_pod(again, apiserver, tmp_path / "b", "node1")
        moved.identity._folder.mkdir()
        for name in ("identity.pem", "ca.pem"):
            (moved.pem.parent / name).write_text((agent.pem.parent / name).read_text())
        first = moved.serial
        assert isinstance(moved.send(sequence=1), Unreachable)
        assert moved.send(sequence=1) == Acknowledged(1)
        assert moved.serial != first
    finally:
        again.close()
