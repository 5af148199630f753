"""The Kubernetes objects that run Ringfence in a cluster, each with exactly the rights it needs. Pure.

What needs which capability is listed once, in `CAPABILITIES`; tests/real/test_privilege.py takes each away and looks
(capabilities(7)).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.kube.decode import KINDS
from ringfence.model.problems import Problem

Document = dict[str, Any]

API_PORT, AGENTS_PORT = 8443, 8444
NOBODY = 65_532
"""User and group of server and connector."""
PATHS = ("auto", "tcx", "clsact", "packet")
SECRET, AUTHORITY = "ringfence-server", "ringfence-authority"
PROFILE = "ringfence-agent.json"
"""Name of our seccomp profile below the kubelet's folder of profiles."""
CAPABILITIES = {
    "counts": ("BPF", "NET_ADMIN"),
    "ring": ("NET_ADMIN", "NET_RAW"),
    "facts": ("BPF", "PERFMON"),
    "processes": ("BPF", "PERFMON", "SYS_PTRACE"),
    "socket_links": ("BPF", "NET_ADMIN", "PERFMON"),
    "inside": ("SYS_ADMIN",),
    "packets": ("NET_RAW",),
}
"""Feature and capabilities. Counts: maps and programs, hooks, conntrack. Ring: packet sockets in place of eBPF. Facts:
raw tracepoints. Processes: the same, and /proc/PID/exe of processes with other rights. Socket links: hooks at the pods'
cgroup and tracepoints. Inside: entering pods'
namespaces, by the files below /run/netns, for socket tables and interfaces without a host end. Packets: packet sockets
of `ringfence capture`."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to render."""

    namespace: str = "ringfence"
    cluster: str = "default"
    image: str = "ringfence:latest"
    path: str = "auto"
    """How the agents meet packets; `packet` is the way without eBPF."""
    facts: bool = True
    processes: bool = True
    socket_links: bool = True
    inside: bool = False
    packets: bool = False
    """Allow `ringfence capture` on these nodes."""
    own_seccomp: bool = False
    """Use the shipped profile, which must lie on every node, in place of the runtime's own."""
    mode: str = "conversation"
    storage: str = "20Gi"


def documents(wanted: Wanted) -> dict[str, list[Document]]:
    """The objects by the file they belong in, in the order to apply them. Raises Problem for names that are none."""
    for where, name in (("--namespace", wanted.namespace), ("--cluster", wanted.cluster)):
        plain = name.replace("-", "").replace(".", "")
        if not (name.isascii() and plain.isalnum() and name == name.lower() and len(name) <= 63):
            raise Problem(f"not a name: `{name[:60]}`", where, "use lower-case letters, digits and dashes")
    if wanted.path not in PATHS:
        raise Problem(f"no such capture path: `{wanted.path[:60]}`", "--path", f"use {', '.join(PATHS)}")
    return {
        "namespace.yaml": [_namespace(wanted)],
        "rbac.yaml": _rights(wanted),
        "server.yaml": _server(wanted),
        "agent.yaml": [_agent(wanted)],
        "connector.yaml": [_connector(wanted)],
    }


def capabilities(wanted: Wanted) -> list[str]:
    """Of the agent's container, sorted."""
    return sorted({name for feature in features(wanted) for name in CAPABILITIES[feature]})


def features(wanted: Wanted) -> list[str]:
    """Those switched on: names of `CAPABILITIES`."""
    asked = {
        "counts": wanted.path != "packet",
        "ring": wanted.path == "packet",
        "facts": wanted.facts,
        "processes": wanted.processes,
        "socket_links": wanted.socket_links,
        "inside": wanted.inside,
        "packets": wanted.packets,
    }
    return [name for name in CAPABILITIES if asked[name]]


def _thing(version: str, kind: str, name: str, namespace: str | None, **more: Any) -> Document:
    metadata: Document = {"name": name, "labels": {"app.kubernetes.io/part-of": "ringfence"}}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _namespace(wanted: Wanted) -> Document:
    """The agent is a node's own program (host network, host pids), which no stricter level admits."""
    made = _thing("v1", "Namespace", wanted.namespace, None)
    made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "privileged"
    return made


def _rights(wanted: Wanted) -> list[Document]:
    space, rbac = wanted.namespace, "rbac.authorization.k8s.io/v1"
    names = ("ringfence-agent", "ringfence-server", "ringfence-connector")
    accounts = [_thing("v1", "ServiceAccount", n, space, automountServiceAccountToken=False) for n in names]
    review = [_rule("authentication.k8s.io", ["tokenreviews"], ["create"])]
    follow = [_rule(group, plurals, ["list", "watch"]) for group, plurals in _followed().items()]
    publish = [{**_rule("", ["configmaps"], ["patch"]), "resourceNames": [AUTHORITY]}]
    return [
        *accounts,
        _thing(rbac, "ClusterRole", "ringfence-server", None, rules=review),
        _binding("ClusterRole", "ringfence-server", None, space),
        _thing(rbac, "ClusterRole", "ringfence-connector", None, rules=follow),
        _binding("ClusterRole", "ringfence-connector", None, space),
        _thing(rbac, "Role", "ringfence-server", space, rules=publish),
        _binding("Role", "ringfence-server", space, space),
        _thing("v1", "ConfigMap", AUTHORITY, space),
    ]


def _followed() -> dict[str, list[str]]:
    """API group and plurals that the connector follows."""
    found: dict[str, list[str]] = {}
    for entry in KINDS.values():
        found.setdefault(entry.group, []).append(entry.plural)
    return {group: sorted(set(plurals)) for group, plurals in sorted(found.items())}


def _rule(group: str, resources: list[str], verbs: list[str]) -> Document:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _binding(kind: str, name: str, namespace: str | None, of: str) -> Document:
    return _thing(
        "rbac.authorization.k8s.io/v1",
        f"{kind}Binding",
        name,
        namespace,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": of}],
    )


def _server(wanted: Wanted) -> list[Document]:
    space, name = wanted.namespace, "ringfence-server"
    ports = [{"name": "api", "port": API_PORT}, {"name": "agents", "port": AGENTS_PORT}]
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": wanted.storage}},
        },
    }
    service = _thing("v1", "Service", name, space, spec={"selector": _labels(name), "ports": ports})
    spec = {
        "serviceName": name,
        "replicas": 1,
        "selector": {"matchLabels": _labels(name)},
        "template": _template(name, _server_pod(wanted)),
        "volumeClaimTemplates": [claim],
    }
    return [service, _thing("apps/v1", "StatefulSet", name, space, spec=spec)]


def _server_pod(wanted: Wanted) -> Document:
    space, name = wanted.namespace, "ringfence-server"
    arguments = [
        "server",
        f"--listen=0.0.0.0:{API_PORT}",
        f"--agents=0.0.0.0:{AGENTS_PORT}",
        "--data=/data/server",
    ]
    arguments += [
        f"--name={each}"
        for each in (name, f"{name}.{space}", _host(wanted), f"{_host(wanted)}.cluster.local")
    ]
    arguments += ["--review=in-cluster", f"--review-cluster={wanted.cluster}"]
    arguments += [f"--review-account={space}/ringfence-agent", f"--publish-authority={space}/{AUTHORITY}"]
    container = {
        "name": "server",
        "image": wanted.image,
        "args": arguments,
        "env": [
            _from_secret("RINGFENCE_ADMIN_TOKEN", "admin-token"),
            _from_secret("RINGFENCE_CONNECTOR_TOKEN", "connector-token"),
        ],
        "ports": [
            {"name": "api", "containerPort": API_PORT},
            {"name": "agents", "containerPort": AGENTS_PORT},
        ],
        "readinessProbe": {"httpGet": {"path": "/v1/health", "port": "api", "scheme": "HTTPS"}},
        "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "securityContext": _locked(),
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    # Of all of these only the server speaks to the Kubernetes API as itself: it reviews tokens.
    return {**_unprivileged(name, container, [_empty("tmp")]), "automountServiceAccountToken": True}


def _connector(wanted: Wanted) -> Document:
    name = "ringfence-connector"
    container = {
        "name": "connector",
        "image": wanted.image,
        "args": [
            "connector",
            f"--cluster={wanted.cluster}",
            f"--server=https://{_host(wanted)}:{API_PORT}",
            "--server-token-file=/etc/ringfence/token/connector-token",
            "--server-ca-file=/etc/ringfence/authority/ca.crt",
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": _locked(),
        "volumeMounts": [
            {"name": "token", "mountPath": "/etc/ringfence/token", "readOnly": True},
            {"name": "authority", "mountPath": "/etc/ringfence/authority", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    items = [{"key": "connector-token", "path": "connector-token"}]
    volumes = [
        {"name": "token", "secret": {"secretName": SECRET, "items": items}},
        # Named keys: the pod waits until the server has published its authority.
        {
            "name": "authority",
            "configMap": {"name": AUTHORITY, "items": [{"key": "ca.crt", "path": "ca.crt"}]},
        },
        _empty("tmp"),
    ]
    pod = {**_unprivileged(name, container, volumes), "automountServiceAccountToken": True}
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": _labels(name)},
        "template": _template(name, pod),
    }
    return _thing("apps/v1", "Deployment", name, wanted.namespace, spec=spec)


def _agent(wanted: Wanted) -> Document:
    name = "ringfence-agent"
    spec = {
        "selector": {"matchLabels": _labels(name)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        "template": _template(name, _agent_pod(wanted)),
    }
    return _thing("apps/v1", "DaemonSet", name, wanted.namespace, spec=spec)


def _agent_pod(wanted: Wanted) -> Document:
    return {
        "serviceAccountName": "ringfence-agent",
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "hostPID": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"seccompProfile": _profile(wanted)},
        "containers": [_agent_container(wanted)],
        "volumes": [
            _folder("data", "/var/lib/ringfence/agent"),
            _folder("bpf", "/sys/fs/bpf"),
            _folder("cgroup", "/sys/fs/cgroup"),
            _folder("netns", "/run/netns"),
            {"name": "authority", "configMap": {"name": AUTHORITY, "optional": True}},
            {"name": "token", "projected": {"sources": [_token()]}},
        ],
    }


def _agent_container(wanted: Wanted) -> Document:
    arguments = [
        "agent",
        f"--server=https://{_host(wanted)}:{AGENTS_PORT}",
        f"--cluster={wanted.cluster}",
        "--node=$(NODE_NAME)",
        "--account-token-file=/var/run/ringfence/token",
        "--ca-file=/etc/ringfence/authority/ca.crt",
        "--data=/var/lib/ringfence/agent",
        "--pin-dir=/sys/fs/bpf/ringfence",
        f"--mode={wanted.mode}",
        f"--path={wanted.path}",
    ]
    arguments += [] if wanted.facts else ["--no-facts"]
    arguments += [] if wanted.processes else ["--no-processes"]
    arguments += [] if wanted.socket_links else ["--no-socket-links"]
    return {
        "name": "agent",
        "image": wanted.image,
        "args": arguments,
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": capabilities(wanted)},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/ringfence/agent"},
            {"name": "bpf", "mountPath": "/sys/fs/bpf", "mountPropagation": "HostToContainer"},
            # The pods' own, beyond what the container's cgroup namespace shows (capture/asked.py).
            {"name": "cgroup", "mountPath": "/host/cgroup", "readOnly": True},
            {
                "name": "netns",
                "mountPath": "/run/netns",
                "mountPropagation": "HostToContainer",
                "readOnly": True,
            },
            {"name": "authority", "mountPath": "/etc/ringfence/authority", "readOnly": True},
            {"name": "token", "mountPath": "/var/run/ringfence", "readOnly": True},
        ],
    }


def _token() -> Document:
    """The pod's own token for our audience, replaced by the kubelet long before it runs out."""
    return {"serviceAccountToken": {"path": "token", "audience": "ringfence", "expirationSeconds": 3600}}


def _profile(wanted: Wanted) -> Document:
    if wanted.own_seccomp:
        return {"type": "Localhost", "localhostProfile": PROFILE}
    return {"type": "RuntimeDefault"}


def _unprivileged(account: str, container: Document, volumes: list[Document]) -> Document:
    """A pod that the Pod Security level `restricted` admits."""
    return {
        "serviceAccountName": account,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def _locked() -> Document:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _template(name: str, spec: Document) -> Document:
    return {"metadata": {"labels": _labels(name)}, "spec": spec}


def _labels(name: str) -> Document:
    return {"app.kubernetes.io/name": name}


def _host(wanted: Wanted) -> str:
    return f"ringfence-server.{wanted.namespace}.svc"


def _from_secret(variable: str, key: str) -> Document:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}


def _empty(name: str) -> Document:
    return {"name": name, "emptyDir": {}}


def _folder(name: str, path: str) -> Document:
    return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
