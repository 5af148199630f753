"""Real nodes on one machine: each is a set of namespaces with its own containerd, kubelet and kube-proxy.

Nodes hang on a bridge in a namespace of their own (10.88.K.0/24); this machine is 10.88.K.1 on it, outside the
cluster. Pod networks are 10.244.N.0/24, routed between nodes; what leaves the pod network is translated to the node.
The API server stays on loopback and is offered to the nodes at 10.88.K.2 by a forwarder.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from testbed import binaries, debian, images, links, pki, processes
from testbed.api import Api
from testbed.groups import make_groups, remove_groups
from testbed.places import SOURCE, Failed, Home, run, say
from testbed.settings import (
    containerd_settings,
    dns_objects,
    kube_proxy_settings,
    kubelet_settings,
    network_settings,
)

READY_SECONDS = 120.0


def prepare(home: Home) -> None:
    """Choose the nodes' network. Raises Failed where nodes cannot be: no root, missing tools, or no free network."""
    if os.geteuid() != 0:
        raise Failed("nodes need root", "this user", "run as root, or use --api-only")
    for tool in ("nsenter", "unshare", "ip", "iptables", "conntrack"):
        if shutil.which(tool) is None:
            raise Failed(f"no `{tool}`", "this machine", "run `make setup` as root")
    home.remember(net=links.choose(home))


def start(home: Home, count: int, proxy: str) -> None:
    """Bring up `count` nodes and the cluster's DNS; returns when all are ready. Raises Failed with last words."""
    programs, packages = binaries.folder(), debian.unpack(debian.NODES)
    archives = images.make(programs, packages)
    facts = home.remember(nodes=count, proxy=proxy)
    links.fabric(home)
    port = str(facts["port"])
    server = f"https://{home.at(2)}:{port}"
    forward = [str(SOURCE / "forward.py"), str(links.netns(home, "fabric")), home.at(2), port, port]
    processes.start(home, "forwarder", [sys.executable, *forward])
    pki.kubeconfig(home, home / "etc" / "kube-proxy.kubeconfig", server, "kube-proxy", "kube-proxy")
    (home / "etc" / "resolv.conf").write_text("nameserver 10.96.0.10\nsearch cluster.local\n")
    with Api(home) as api:
        for number in range(1, count + 1):
            say(f"starting node{number}")
            _node(home, api, number, count, proxy, programs, packages, archives)
        _wait(home, "nodes", lambda: len(_ready_nodes(api)) == count, f"node{count}")
        for path, body in dns_objects():
            api.create(path, body)
        say("waiting for the cluster's DNS")
        _wait(home, "DNS", lambda: _dns_ready(api), "node1")


def stop(home: Home) -> None:
    """End every node and take away its namespaces, links and control groups. Safe when half of it is there."""
    for name in [each for each in processes.names(home) if each.startswith("node")]:
        _end_node(home, name)
    processes.stop(home, "forwarder")
    links.remove(home)
    remove_groups(home.tag)


def remove(folder: Path) -> None:
    """The home itself; only what `up` made is in it."""
    if (folder / "facts.json").exists() or (folder / "pki").exists():
        shutil.rmtree(folder)


def node_pid(home: Home, name: str) -> int:
    """The pid, on this machine, of the first process inside a node's namespaces. Raises Failed."""
    outer = processes.pid_of(home, name)
    inner = _children(outer) if outer else []
    if not inner:
        raise Failed(f"{name} does not run", str(home.path), "see `python3 -m testbed status`")
    return inner[0]


def _node(
    home: Home, api: Api, number: int, count: int, proxy: str, programs: Path, packages: Path, archives: Path
) -> None:
    name, address = f"node{number}", home.at(10 + number)
    server = f"https://{home.at(2)}:{home.facts()['port']}"
    folder = home / "nodes" / name
    for part in ("cni", "log", "fake", "kubelet", "podlogs", "containerd"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    links.node(home, number, count)
    make_groups(home.tag, name)
    pki.kubelet(home, name, address)
    pki.kubeconfig(home, home / "etc" / f"kubelet-{name}.kubeconfig", server, name, f"kubelet-{name}")
    (folder / "containerd.toml").write_text(containerd_settings(packages))
    (folder / "cni" / "10-bridge.conflist").write_text(network_settings(number))
    (folder / "kubelet.yaml").write_text(kubelet_settings(home, name, address))
    (folder / "kube-proxy.yaml").write_text(kube_proxy_settings(home, name, proxy))
    block = f"10.244.{number}.0/24"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number}"}
    spec = {"podCIDR": block, "podCIDRs": [block]}
    api.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}, "spec": spec})
    argv = [
        "nsenter",
        f"--net={links.netns(home, name)}",
        "unshare",
        "--mount",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
    ]
    argv += ["--mount-proc", "--kill-child=KILL", "bash", str(SOURCE / "node-init.sh"), name, address]
    argv += [str(folder), str(programs), str(packages), str(archives), str(home / "etc")]
    processes.start(home, name, argv)


def _end_node(home: Home, name: str) -> None:
    """The first process of a node's pid namespace ends kindly what it started; with it ends everything inside."""
    outer = processes.pid_of(home, name)
    for child in _children(outer) if outer else []:
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + processes.PATIENCE
    while processes.alive(home, name) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes.stop(home, name, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _ready_nodes(api: Api) -> list[str]:
    return [
        node["metadata"]["name"]
        for node in api.get("/api/v1/nodes")["items"]
        for condition in node["status"].get("conditions", ())
        if condition["type"] == "Ready" and condition["status"] == "True"
    ]


def _dns_ready(api: Api) -> bool:
    found = api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    return bool(found["status"].get("readyReplicas"))


def _wait(home: Home, what: str, done: object, node: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not done():  # type: ignore[operator]
        for name in processes.names(home):
            processes.check(home, name)
        if time.monotonic() > deadline:
            log = home / "nodes" / node / "log" / "kubelet.log"
            words = run(["tail", "-n", "1", str(log)], str(log), "read it") if log.exists() else "no log"
            raise Failed(
                f"{what} not ready after {READY_SECONDS:.0f} s ({words.strip()[:300]})",
                str(log),
                "read the logs",
            )
        time.sleep(0.25)
