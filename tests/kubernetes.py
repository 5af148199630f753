"""Fixtures of a real Kubernetes: `apiserver` (seconds, no nodes) and `cluster` (two real nodes, root)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import __main__ as testbed
from testbed import binaries, control, links, nodes, processes
from testbed.api import Api
from testbed.places import Home

PATIENCE = 60.0


class ApiServer:
    """A running API server that a test may hurt. `api` is the administrator's client."""

    def __init__(self, home: Home) -> None:
        self.home, self.api = home, Api(home)
        self.port = int(home.facts()["port"])
        self.url = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = home.kubeconfig

    def token_kubeconfig(self, user: str) -> Path:
        """`admin`, `reader`, whom a test may bind to a role, or `nobody`, to whom none is ever bound."""
        return self.home / f"kubeconfig-{user}-token"

    def restart(self, hard: bool = True) -> None:
        """End it and start it again on the same port; watches are cut, etcd keeps its data."""
        control.restart_api_server(self.home, hard)

    def kill(self) -> None:
        """End it at once."""
        processes.stop(self.home, "kube-apiserver", signal.SIGKILL)

    def start(self) -> None:
        """Start it after `kill`."""
        control.start_api_server(self.home)

    def pause(self) -> None:
        """Stop it without ending it: connections stay and nothing comes."""
        processes.send(self.home, "kube-apiserver", signal.SIGSTOP)

    def resume(self) -> None:
        """After `pause`."""
        processes.send(self.home, "kube-apiserver", signal.SIGCONT)

    def compact(self) -> int:
        """Make every older resource version expire."""
        return control.compact(self.home)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """What kubectl says. Raises with its last words."""
        argv = [
            str(binaries.build(["kubectl"]) / "kubectl"),
            "--kubeconfig",
            str(self.kubeconfig),
            *arguments,
        ]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


class Cluster(ApiServer):
    """Two real nodes besides."""

    nodes = ("node1", "node2")

    @property
    def here(self) -> str:
        """This machine on the nodes' network: outside the cluster."""
        return self.home.at(1)

    @property
    def outside(self) -> str:
        """The fabric between the nodes, in a namespace of its own: outside the cluster too."""
        return self.home.at(2)

    def address(self, node: str) -> str:
        """A node's own address."""
        return self.home.at(10 + int(node.removeprefix("node")))

    def in_node(self, node: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine in all of a node's namespaces."""
        enter = ["nsenter", "-t", str(nodes.node_pid(self.home, node)), "-n", "-m", "-p", "-u", "-i"]
        done = subprocess.run([*enter, *argv], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr or done.stdout
        return done

    def netns(self, node: str) -> Path:
        """The file of a node's network namespace."""
        return links.netns(self.home, node)

    def apply(self, documents: list[dict[str, Any]]) -> None:
        """As `kubectl apply`."""
        body = {"apiVersion": "v1", "kind": "List", "items": documents}
        self.kubectl("apply", "-f", "-", text=json.dumps(body))

    def exec(self, pod: str, *argv: str, namespace: str = "default") -> str:
        """Run a program of the toolbox image in a pod."""
        return self.kubectl("exec", "-n", namespace, pod, "--", *argv)

    def pods(self, namespace: str, **labels: str) -> list[dict[str, Any]]:
        """Running, ready pods."""
        wanted = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={wanted}")["items"]
        return [pod for pod in found if _ready(pod)]

    def wait_for(self, done: Callable[[], Any], what: str) -> Any:
        """The first true answer of `done`."""
        return wait_for(done, what)


def wait_for(done: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first true answer of `done`; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = done()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def _ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of this session's own, without nodes."""
    home = Home(tmp_path_factory.mktemp("testbed-api") / "home")
    assert testbed.main(["up", "--api-only", "--home", str(home.path)]) == 0
    server = ApiServer(home)
    yield server
    server.api.close()
    assert testbed.main(["down", "--home", str(home.path)]) == 0


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A whole cluster of this session's own; kube-proxy writes iptables rules."""
    yield from _whole_cluster(tmp_path_factory, "iptables")


@pytest.fixture(scope="session")
def nftables_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same with kube-proxy in nftables mode."""
    yield from _whole_cluster(tmp_path_factory, "nftables")


def _whole_cluster(tmp_path_factory: pytest.TempPathFactory, proxy: str) -> Iterator[Cluster]:
    home = Home(tmp_path_factory.mktemp(f"testbed-{proxy}") / "home")
    try:
        assert testbed.main(["up", "--home", str(home.path), "--proxy", proxy]) == 0
        whole = Cluster(home)
        yield whole
        whole.api.close()
    finally:
        if os.environ.get("RINGFENCE_KEEP_LOGS"):
            shutil.copytree(home / "logs", os.environ["RINGFENCE_KEEP_LOGS"], dirs_exist_ok=True)
        assert testbed.main(["down", "--home", str(home.path)]) == 0
