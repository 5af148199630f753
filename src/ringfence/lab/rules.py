"""Service translation as kube-proxy writes it in iptables mode, and an ip-masq-agent's masquerade. Pure.

Chain names are kube-proxy's own (`pkg/proxy/iptables/proxier.go`): a base32 SHA-256 of the service port and
protocol, so a dump of a lab node reads like that of a real one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import msgspec

from ringfence.lab.settings import (
    CLUSTER_CIDR4,
    CLUSTER_CIDR6,
    NODE_CIDR4,
    NODE_CIDR6,
    SERVICE_CIDR4,
    SERVICE_CIDR6,
)

FIXED_CHAINS = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "IP-MASQ")
Family = int


class Backend(msgspec.Struct, frozen=True):
    """One pod behind a service port. `node` is the node it runs on."""

    address: str
    port: int
    node: str


class ServiceRule(msgspec.Struct, frozen=True):
    """One port of one service in one address family: what the rules of every node are made from."""

    namespace: str
    name: str
    port_name: str
    protocol: str
    """lower case: tcp, udp or sctp"""
    cluster_ip: str
    port: int
    node_port: int | None
    local: bool
    """externalTrafficPolicy: Local"""
    backends: tuple[Backend, ...]

    def title(self) -> str:
        """`namespace/name` or `namespace/name:port`, as kube-proxy's comments have it."""
        suffix = f":{self.port_name}" if self.port_name else ""
        return f"{self.namespace}/{self.name}{suffix}"


def chain(prefix: str, *parts: str) -> str:
    """`KUBE-<prefix>-<16 letters>`; the same letters that kube-proxy gives the same service port."""
    digest = hashlib.sha256("".join(parts).encode()).digest()
    return f"KUBE-{prefix}-{base64.b32encode(digest).decode()[:16]}"


def base(family: Family) -> str:
    """What is hooked in once per node: kube-proxy's jumps, and the masquerade of pods → outside."""
    masq = _masquerade(family)
    return "\n".join(
        [
            "*nat",
            *(f":{name} - [0:0]" for name in FIXED_CHAINS),
            '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
            '-A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all '
            'non-LOCAL destination traffic to our custom IP-MASQ chain" -m addrtype ! --dst-type LOCAL '
            "-j IP-MASQ",
            *masq,
            "COMMIT",
            "*filter",
            ":KUBE-FORWARD - [0:0]",
            ":KUBE-SERVICES - [0:0]",
            ":KUBE-EXTERNAL-SERVICES - [0:0]",
            '-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible '
            'service portals" -j KUBE-EXTERNAL-SERVICES',
            '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
            '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" '
            "-j KUBE-SERVICES",
            '-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" '
            "-j KUBE-SERVICES",
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" '
            "-m mark --mark 0x4000/0x4000 -j ACCEPT",
            '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" '
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "COMMIT",
            "",
        ]
    )


def _masquerade(family: Family) -> list[str]:
    """Pods keep their address inside the cluster and towards nodes; only outside sees the node's."""
    cluster, nodes, services = _cidrs(family)
    title = '-m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE"'
    lines = [f"-A IP-MASQ -d {cidr} {title} -j RETURN" for cidr in (cluster, nodes, services)]
    lines.append(
        '-A IP-MASQ -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be '
        f'last in chain)" -s {cluster} -j MASQUERADE --random-fully'
    )
    return lines


def _cidrs(family: Family) -> tuple[str, str, str]:
    if family == 4:
        return CLUSTER_CIDR4, NODE_CIDR4, SERVICE_CIDR4
    return CLUSTER_CIDR6, NODE_CIDR6, SERVICE_CIDR6


def sync(family: Family, node: str, services: Sequence[ServiceRule], stale: Sequence[str]) -> str:
    """The whole of kube-proxy's chains on `node` for `iptables-restore --noflush`.

    Every chain written here is emptied first by its declaration; `stale` chains of an earlier sync go.
    """
    rules, refused = _service_rules(family, node, services)
    names = chains(node, services)
    declared = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", *names]
    gone = [name for name in stale if name not in names]
    return "\n".join(
        [
            "*filter",
            ":KUBE-SERVICES - [0:0]",
            ":KUBE-EXTERNAL-SERVICES - [0:0]",
            *refused,
            *_no_local_endpoints(node, services),
            "COMMIT",
            "*nat",
            *(f":{name} - [0:0]" for name in [*declared, *gone]),
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
            '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" '
            "-j MASQUERADE --random-fully",
            "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
            *rules,
            '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last '
            'rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
            *(f"-X {name}" for name in gone),
            "COMMIT",
            "",
        ]
    )


def chains(node: str, services: Sequence[ServiceRule]) -> list[str]:
    """The chains `sync` fills for these services, in the order it declares them."""
    names: list[str] = []
    for service in services:
        if not service.backends:
            continue
        key = (service.title(), service.protocol)
        names.append(chain("SVC", *key))
        if service.node_port is not None:
            names.append(chain("EXT", *key))
            if service.local:
                names.append(chain("SVL", *key))
        names += [_sep(service, backend) for backend in service.backends]
    return names


def _sep(service: ServiceRule, backend: Backend) -> str:
    return chain("SEP", service.title(), service.protocol, _target(backend))


def _target(backend: Backend) -> str:
    address = f"[{backend.address}]" if ":" in backend.address else backend.address
    return f"{address}:{backend.port}"


def _service_rules(family: Family, node: str, services: Sequence[ServiceRule]) -> tuple[list[str], list[str]]:
    rules: list[str] = []
    refused: list[str] = []
    for service in services:
        match = f"-m {service.protocol} -p {service.protocol} -d {service.cluster_ip} --dport {service.port}"
        if not service.backends:
            refused.append(
                f'-A KUBE-SERVICES -m comment --comment "{service.title()} has no endpoints" {match} -j REJECT'
            )
            continue
        svc = chain("SVC", service.title(), service.protocol)
        title = f'-m comment --comment "{service.title()} cluster IP"'
        rules.append(f"-A KUBE-SERVICES {title} {match} -j {svc}")
        rules.append(f"-A {svc} {title} {match} ! -s {_cidrs(family)[0]} -j KUBE-MARK-MASQ")
        rules += _spread(svc, service, service.backends)
        rules += [line for backend in service.backends for line in _endpoint(service, backend)]
        if service.node_port is not None:
            rules += _node_port(family, node, service, svc)
    return rules, refused


def _spread(target: str, service: ServiceRule, backends: Sequence[Backend]) -> list[str]:
    """An even choice: the first of n with probability 1/n, then the first of the rest, and so on."""
    lines = []
    for index, backend in enumerate(backends):
        comment = f'-m comment --comment "{service.title()} -> {_target(backend)}"'
        left = len(backends) - index
        chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        lines.append(f"-A {target} {comment}{chance} -j {_sep(service, backend)}")
    return lines


def _endpoint(service: ServiceRule, backend: Backend) -> list[str]:
    """One backend; a pod that reaches itself is masqueraded, or its answer would never leave it."""
    sep, comment = _sep(service, backend), f"-m comment --comment {service.title()}"
    return [
        f"-A {sep} {comment} -s {backend.address} -j KUBE-MARK-MASQ",
        f"-A {sep} {comment} -m {service.protocol} -p {service.protocol} -j DNAT "
        f"--to-destination {_target(backend)}",
    ]


def _node_port(family: Family, node: str, service: ServiceRule, svc: str) -> list[str]:
    ext = chain("EXT", service.title(), service.protocol)
    match = f"-m {service.protocol} -p {service.protocol} --dport {service.node_port}"
    lines = [f"-A KUBE-NODEPORTS -m comment --comment {service.title()} {match} -j {ext}"]
    if not service.local:
        title = f'-m comment --comment "masquerade traffic for {service.title()} external destinations"'
        return [*lines, f"-A {ext} {title} -j KUBE-MARK-MASQ", f"-A {ext} -j {svc}"]
    svl = chain("SVL", service.title(), service.protocol)
    near = [backend for backend in service.backends if backend.node == node]
    pods = f'-m comment --comment "pod traffic for {service.title()} external destinations"'
    lines += [
        f"-A {ext} {pods} -s {_cidrs(family)[0]} -j {svc}",
        f"-A {ext} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
        f"-A {ext} -m addrtype --src-type LOCAL -j {svc}",
        f"-A {ext} -j {svl}",
    ]
    return lines + _spread(svl, service, near)


def _no_local_endpoints(node: str, services: Sequence[ServiceRule]) -> list[str]:
    """Callers from outside of a Local service get silence from a node without one of its pods."""
    return [
        f'-A KUBE-EXTERNAL-SERVICES -m comment --comment "{service.title()} has no local endpoints" '
        f"-m addrtype --dst-type LOCAL -m {service.protocol} -p {service.protocol} "
        f"--dport {service.node_port} -j DROP"
        for service in services
        if service.local and service.node_port and all(b.node != node for b in service.backends)
    ]
