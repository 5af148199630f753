"""The control plane on loopback: etcd, API server, and for nodes the controller manager and the scheduler."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from pathlib import Path

from testbed import binaries, pki, processes
from testbed.api import Api
from testbed.places import Failed, Home, free_ports, say

SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
READY_SECONDS = 120.0


def start(home: Home, api_only: bool, port: int = 0, flags: tuple[str, ...] = ()) -> None:
    """Everything up to a ready API server (and its companions). Raises Failed with the last words of what failed."""
    programs = binaries.build(binaries.API_ONLY if api_only else binaries.WHOLE)
    store = binaries.etcd()
    facts = home.facts()
    if "port" not in facts:
        etcd, peer, server = free_ports(3)
        facts = home.remember(
            port=port or server, etcd=etcd, peer=peer, api_only=api_only, nodes=0, flags=list(flags)
        )
    pki.make(home)
    _kubeconfigs(home)
    _etcd(home, store)
    start_api_server(home, programs)
    if not api_only:
        _companions(home, programs)


def start_api_server(home: Home, programs: Path | None = None) -> None:
    """The API server alone, over the etcd that runs; returns when it is ready."""
    programs = programs or binaries.folder()
    if not processes.alive(home, "kube-apiserver"):
        _wait_until_free(home.facts()["port"])
    processes.start(home, "kube-apiserver", [str(programs / "kube-apiserver"), *_api_flags(home)])
    deadline = time.monotonic() + READY_SECONDS
    with Api(home) as api:
        while not api.ready():
            processes.check(home, "kube-apiserver")
            if time.monotonic() > deadline:
                words = processes.last_words(home, "kube-apiserver")
                raise Failed(f"the API server is not ready ({words})", str(home / "logs"), "read its log")
            time.sleep(0.1)


def _wait_until_free(port: int) -> None:
    """A killed process's last threads hold its sockets for a moment after it is gone from view."""
    deadline = time.monotonic() + processes.PATIENCE
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Failed(
                    f"cannot listen ({error.strerror})", f"port {port}", "give another --port"
                ) from None
        time.sleep(0.02)


def restart_api_server(home: Home, hard: bool = False) -> None:
    """End the API server (`hard`: at once) and start it again on the same port; etcd keeps its data.

    A kind end waits for open watches, a minute and more, so it is helped along after a moment.
    """
    processes.stop(home, "kube-apiserver", signal.SIGKILL if hard else signal.SIGTERM)
    start_api_server(home)


def compact(home: Home) -> int:
    """Forget all of etcd's history before now, so that older resource versions are gone; returns the revision."""
    revision = int(_etcd_post(home, "/v3/kv/range", {"key": "AA=="})["header"]["revision"])
    _etcd_post(home, "/v3/kv/compaction", {"revision": revision, "physical": True})
    return revision


def _etcd_post(home: Home, path: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
    """One call of etcd's JSON gateway."""
    connection = http.client.HTTPConnection("127.0.0.1", home.facts()["etcd"], timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Failed(f"etcd refused ({text[:200]!r})", path, "read logs/etcd.log")
    return dict(json.loads(text))


def _kubeconfigs(home: Home) -> None:
    server = f"https://127.0.0.1:{home.facts()['port']}"
    pki.kubeconfig(home, home.kubeconfig, server, "admin", "admin")
    for user, _ in pki.USERS:
        pki.kubeconfig(home, home / f"kubeconfig-{user}-token", server, user)
    for name in ("controller-manager", "scheduler"):
        pki.kubeconfig(home, home / "etc" / f"{name}.kubeconfig", server, name, name)


def _etcd(home: Home, program: Path) -> None:
    facts = home.facts()
    client, peer = (f"http://127.0.0.1:{facts[name]}" for name in ("etcd", "peer"))
    argv = [str(program), "--name", "testbed", "--data-dir", str(home / "etcd")]
    argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
    argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    argv += ["--initial-cluster", f"testbed={peer}", "--unsafe-no-fsync", "--log-level", "warn"]
    processes.start(home, "etcd", argv)


def _api_flags(home: Home) -> list[str]:
    facts, folder = home.facts(), home / "pki"
    flags = {
        "etcd-servers": f"http://127.0.0.1:{facts['etcd']}",
        "bind-address": "127.0.0.1",
        "advertise-address": home.at(2),
        "secure-port": facts["port"],
        "service-cluster-ip-range": SERVICES,
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "endpoint-reconciler-type": "none" if facts["api_only"] else "lease",
        "client-ca-file": folder / "ca.crt",
        "tls-cert-file": folder / "apiserver.crt",
        "tls-private-key-file": folder / "apiserver.key",
        "token-auth-file": folder / "tokens.csv",
        "kubelet-client-certificate": folder / "kubelet-client.crt",
        "kubelet-client-key": folder / "kubelet-client.key",
        "kubelet-certificate-authority": folder / "ca.crt",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": folder / "sa.pub",
        "service-account-signing-key-file": folder / "sa.key",
        # A kind end must not wait for watches that never end.
        "shutdown-delay-duration": "0s",
        "shutdown-watch-termination-grace-period": "0s",
    }
    return [f"--{name}={value}" for name, value in flags.items()] + list(facts.get("flags", ()))


def _companions(home: Home, programs: Path) -> None:
    config = home / "etc"
    say("starting the controller manager and the scheduler")
    manager = {
        "kubeconfig": config / "controller-manager.kubeconfig",
        "authentication-kubeconfig": config / "controller-manager.kubeconfig",
        "authorization-kubeconfig": config / "controller-manager.kubeconfig",
        "bind-address": "127.0.0.1",
        "secure-port": 0,
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "service-account-private-key-file": home / "pki" / "sa.key",
        "root-ca-file": home / "pki" / "ca.crt",
        "cluster-signing-cert-file": home / "pki" / "ca.crt",
        "cluster-signing-key-file": home / "pki" / "ca.key",
        "flex-volume-plugin-dir": home / "etc" / "flex",
        "cert-dir": home / "etc",
    }
    scheduler = {
        "kubeconfig": config / "scheduler.kubeconfig",
        "authentication-kubeconfig": config / "scheduler.kubeconfig",
        "authorization-kubeconfig": config / "scheduler.kubeconfig",
        "bind-address": "127.0.0.1",
        "secure-port": 0,
        "leader-elect": "false",
        "cert-dir": home / "etc",
    }
    for name, flags in (("kube-controller-manager", manager), ("kube-scheduler", scheduler)):
        argv = [str(programs / name), *(f"--{flag}={value}" for flag, value in flags.items())]
        processes.start(home, name, argv)
