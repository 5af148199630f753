"""The settings files of a node's programs, and the objects of the cluster's DNS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.groups import group
from testbed.places import Home

DNS = "10.96.0.10"

INSIDE = "/run/node"
"""A node's folder as its own programs see it: sockets' names may have 107 octets (unix(7)), and homes may be deep."""

COREFILE = """.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    cache 5
    reload
}
"""


def containerd_settings(packages: Path) -> str:
    """containerd 1.6: all of its state in the node's own folder, no registry."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    unused = [f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "zfs", "aufs", "devmapper")]
    unused += ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
    return f"""version = 2
root = "{INSIDE}/containerd"
state = "/run/containerd"
disabled_plugins = {json.dumps(unused)}
[grpc]
  address = "{INSIDE}/containerd.sock"
[{cri}]
  sandbox_image = "localhost/pause:1"
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = false
  restrict_oom_score_adj = true
  [{cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.containerd.runtimes.runc.options]
        BinaryName = "{packages}/usr/sbin/runc"
        SystemdCgroup = false
  [{cri}.cni]
    bin_dir = "{packages}/usr/lib/cni"
    conf_dir = "{INSIDE}/cni"
"""


def network_settings(number: int) -> str:
    """The plain bridge network of a node; it enforces no policy."""
    ranges = [[{"subnet": f"10.244.{number}.0/24"}]]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "dataDir": f"{INSIDE}/ipam", "ranges": ranges},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "testbed", "plugins": [bridge, ports]})


def kubelet_settings(home: Home, name: str, address: str) -> str:
    """KubeletConfiguration v1beta1, as JSON (which is YAML)."""
    pki = home / "pki"
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{pki}/kubelet-{name}.crt",
            "tlsPrivateKeyFile": f"{pki}/kubelet-{name}.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{group(home.tag, name)}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{home.path}/etc/resolv.conf",
            "containerRuntimeEndpoint": f"unix://{INSIDE}/containerd.sock",
            "podLogsDir": f"{INSIDE}/podlogs",
            "healthzBindAddress": "127.0.0.1",
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 99,
            "imageGCLowThresholdPercent": 98,
        }
    )


def kube_proxy_settings(home: Home, name: str, mode: str) -> str:
    """KubeProxyConfiguration v1alpha1; global conntrack limits stay as the machine has them."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{home.path}/etc/kube-proxy.kubeconfig"},
            "hostnameOverride": name,
            "mode": mode,
            "clusterCIDR": "10.244.0.0/16",
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
    )


def dns_objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """(collection, object) of CoreDNS and the service that kubelets tell pods of."""
    system = "/api/v1/namespaces/kube-system"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    name, labels = {"name": "coredns", "namespace": "kube-system"}, {"k8s-app": "kube-dns"}
    yield f"{system}/serviceaccounts", {"metadata": name}
    reads = {
        "apiGroups": [""],
        "resources": ["endpoints", "services", "pods", "namespaces"],
        "verbs": ["list", "watch"],
    }
    slices = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    yield f"{rbac}/clusterroles", {"metadata": {"name": "coredns"}, "rules": [reads, slices]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    subject = {"kind": "ServiceAccount", **name}
    yield (
        f"{rbac}/clusterrolebindings",
        {"metadata": {"name": "coredns"}, "roleRef": role, "subjects": [subject]},
    )
    yield f"{system}/configmaps", {"metadata": name, "data": {"Corefile": COREFILE}}
    container = {
        "name": "coredns",
        "image": "localhost/coredns:1",
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    yield (
        "/apis/apps/v1/namespaces/kube-system/deployments",
        {"metadata": {**name, "labels": labels}, "spec": spec},
    )
    ports = [
        {"name": name, "port": 53, "protocol": protocol}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    service = {"clusterIP": DNS, "selector": labels, "ports": ports}
    yield (
        f"{system}/services",
        {"metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels}, "spec": service},
    )
