"""The cluster's own DNS: who serves it and on which target ports, so that restricted egress keeps names."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ringfence.discovery.facts import Facts, Subject, backing, target_ports
from ringfence.model.edges import Edge
from ringfence.model.objects import Service
from ringfence.model.policies import Port, Selector

NAMES = frozenset({"kube-dns", "coredns", "dns-default", "rke2-coredns-rke2-coredns", "core-dns"})
"""Names that distributions give their DNS service or its `k8s-app` label."""

SPACES = frozenset({"kube-system", "openshift-dns", "kube-dns"})
"""Namespaces that distributions run it in."""

ASK = 53
"""The port resolvers ask (RFC 1035); pods may listen on another (OpenShift: 5353)."""

NODE_LOCAL = "node-local-dns"
NODE_LOCAL_ADDRESS = "169.254.20.10"
"""NodeLocal DNSCache listens here on every node, by Kubernetes' own manifest."""

USUAL = (Port("TCP", ASK), Port("UDP", ASK))
ASSUMED = Selector((("k8s-app", "kube-dns"),))
"""The label that kubeadm, k3s, GKE, EKS and AKS put on DNS pods; used when nothing better is known."""


class Dns(msgspec.Struct, frozen=True):
    """Servers as `(namespace, workload)` with their ports; `node_local` when NodeLocal DNSCache runs."""

    servers: tuple[tuple[str, str, tuple[Port, ...]], ...] = ()
    node_local: bool = False

    def serves(self, namespace: str | None, workload: str | None) -> bool:
        """Whether this workload is one of the cluster's DNS servers."""
        return any((namespace, workload) == server[:2] for server in self.servers)


def find_dns(facts: Facts, edges: Iterable[Edge]) -> Dns:
    """The DNS servers that services name, and those that edges show being asked through such a service."""
    found: dict[tuple[str, str], set[Port]] = {}
    for service in facts.services:
        if not _is_dns(service.namespace, service.name, dict(service.labels).get("k8s-app")):
            continue
        for subject in backing(service, facts):
            if not subject.host_network:
                found.setdefault((subject.namespace, subject.name), set()).update(_ports(subject, service))
    for edge in edges:
        provider, asked = edge.provider, (edge.service or "/").split("/", 1)
        named = provider.kind == "workload" and provider.namespace and provider.workload
        if named and edge.port and edge.answered and _is_dns(asked[0], asked[1], None):
            key = (provider.namespace or "", provider.workload or "")
            if edge.protocol in ("TCP", "UDP") and edge.port in (ASK, 5353):
                found.setdefault(key, set()).update(Port(p, edge.port) for p in ("TCP", "UDP"))
    local = any(subject.name == f"DaemonSet/{NODE_LOCAL}" for subject in facts.subjects)
    return Dns(tuple((*key, tuple(sorted(ports))) for key, ports in sorted(found.items()) if ports), local)


def _is_dns(namespace: str, name: str, label: str | None) -> bool:
    return (namespace in SPACES and name in NAMES) or label in NAMES


def _ports(subject: Subject, service: Service) -> set[Port]:
    """Target ports of the service's port 53, for UDP and TCP alike: large answers come over TCP (RFC 7766)."""
    targets = {target for _, port, target in target_ports(service, subject) if port == ASK}
    return {Port(protocol, target) for target in targets or {ASK} for protocol in ("TCP", "UDP")}
