"""The testbed itself: up, hurt, down, and nothing left; real pods that talk in every way a cluster has."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testbed import __main__ as testbed
from testbed import images, links
from testbed.places import KUBERNETES, Home
from tests.kubernetes import ApiServer, Cluster, wait_for

pytestmark = [pytest.mark.testbed, pytest.mark.slow]


def traces() -> dict[str, list[str]]:
    """What a testbed could leave on this machine."""
    commands = [Path(f"/proc/{pid.name}/cmdline") for pid in Path("/proc").iterdir() if pid.name.isdigit()]
    processes = []
    for command in commands:
        try:
            processes.append(command.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    ours = re.compile(r"kube-|kubelet|containerd|coredns|/etcd |forward\.py|node-init")
    links_now = json.loads(
        subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout
    )
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    return {
        "processes": sorted(each for each in processes if ours.search(each)),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": sorted(link["ifname"] for link in links_now if not link["ifname"].startswith("veth")),
        "routes": sorted(routes.splitlines()),
        "groups": sorted(str(each) for each in Path("/sys/fs/cgroup").glob("*/rf*")),
    }


def test_the_api_server_alone_says_its_version(apiserver: ApiServer) -> None:
    assert apiserver.api.get("/version")["gitVersion"] == f"v{KUBERNETES}"


def test_users_without_rights_are_refused(apiserver: ApiServer) -> None:
    nobody = [f"--kubeconfig={apiserver.token_kubeconfig('nobody')}", "auth", "can-i", "list", "pods"]
    with pytest.raises(AssertionError):
        apiserver.kubectl(*nobody)
    assert apiserver.kubectl("auth", "can-i", "list", "pods").strip() == "yes"


def test_old_versions_expire_and_data_stays_over_restarts(apiserver: ApiServer) -> None:
    api = apiserver.api
    old = api.get("/api/v1/namespaces")["metadata"]["resourceVersion"]
    for number in range(3):
        api.create("/api/v1/namespaces/default/configmaps", {"metadata": {"name": f"kept-{number}"}})
    apiserver.compact()
    apiserver.restart()
    names = [each["metadata"]["name"] for each in api.get("/api/v1/namespaces/default/configmaps")["items"]]
    assert {"kept-0", "kept-1", "kept-2"} <= set(names)
    answer = apiserver.kubectl(
        "get", "--raw", f"/api/v1/configmaps?watch=1&resourceVersion={old}&timeoutSeconds=1"
    )
    assert '"code":410' in answer


def test_two_at_once_do_not_meet(apiserver: ApiServer, tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "second")]
    assert testbed.main(["up", "--api-only", *home]) == 0
    second = ApiServer(Home(tmp_path / "second"))
    second.api.namespace("only-here")
    second.api.close()
    names = [each["metadata"]["name"] for each in apiserver.api.get("/api/v1/namespaces")["items"]]
    assert "only-here" not in names
    assert testbed.main(["down", *home]) == 0
    assert not (tmp_path / "second").exists()


def test_bad_asks_are_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path / "none")]
    assert testbed.main(["status", *home]) == 1
    assert testbed.main(["pause", *home]) == 2
    assert "error: kube-apiserver does not run" in capsys.readouterr().err
    assert testbed.main(["down", *home]) == 0


def test_images_are_the_same_each_time() -> None:
    files = [images.File("bin/a", b"x"), images.File("bin/b", link="a")]
    assert images._tar(files) == images._tar(files)


@pytest.mark.real
def test_nothing_is_left_after_down_whole_or_half(tmp_path: Path) -> None:
    before = traces()
    home = ["--home", str(tmp_path / "third")]
    assert testbed.main(["up", "--nodes", "1", *home]) == 0
    assert traces() != before
    assert links.choose(Home(tmp_path / "another")) != links.choose(Home(tmp_path / "third"))
    assert testbed.main(["down", *home]) == 0
    assert traces() == before
    # Half of it: the network and one control group, as an interrupted start leaves them.
    home_half = Home(tmp_path / "half")
    home_half.remember(nodes=1, net=links.choose(home_half))
    links.fabric(home_half)
    links.node(home_half, 1, 1)
    assert testbed.main(["down", "--home", str(home_half.path)]) == 0
    assert traces() == before


def workload(name: str, replicas: int, *argv: str, **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    container = {
        "name": "main",
        "image": "localhost/toolbox:1",
        "imagePullPolicy": "Never",
        "command": list(argv),
    } | more
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "terminationGracePeriodSeconds": 0,
        "topologySpreadConstraints": [spread],
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "life"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "web", "port": 80, "targetPort": "web"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "life"},
        "spec": {"selector": {"app": "web"}, "ports": ports} | spec,
    }


@pytest.mark.real
def test_real_pods_talk_in_every_way(cluster: Cluster) -> None:
    probe = {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 1}
    web = workload(
        "web",
        2,
        *("talk", "serve", "--http", "8080"),
        ports=[{"name": "web", "containerPort": 8080}],
        readinessProbe=probe,
    )
    cluster.apply(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "life"}},
            web,
            workload("client", 2, "sleep", "3600"),
            service("web"),
            service("web-np", type="NodePort", ports=[{"port": 80, "targetPort": "web", "nodePort": 30080}]),
            service("web-headless", clusterIP="None"),
        ]
    )
    servers = wait_for(lambda: len(found := cluster.pods("life", app="web")) == 2 and found, "web")
    clients = wait_for(lambda: len(found := cluster.pods("life", app="client")) == 2 and found, "client")
    assert {pod["spec"]["nodeName"] for pod in servers} == {"node1", "node2"}
    names = {pod["metadata"]["name"] for pod in servers}
    for client in clients:
        me = client["metadata"]["name"]
        for place in (
            *(f"{pod['status']['podIP']}:8080" for pod in servers),
            "web.life.svc.cluster.local:80",
            "web-headless.life.svc.cluster.local:8080",
            *(f"{cluster.address(node)}:30080" for node in cluster.nodes),
        ):
            call = ("talk", "call", "http", place)
            heard = wait_for(lambda call=call, me=me: _said(cluster, me, call), f"{me} calls {place}", 20)
            assert heard in names
    for node in cluster.nodes:
        outside = subprocess.run(
            ["curl", "-s", "-m", "5", f"http://{cluster.address(node)}:30080/"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert outside.stdout.strip() in names


def _said(cluster: Cluster, pod: str, call: tuple[str, ...]) -> str:
    try:
        return cluster.exec(pod, *call, namespace="life").strip()
    except AssertionError:
        return ""
