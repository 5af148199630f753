"""A second opinion, one packet at a time, written from the API's text and sharing nothing with the engine.

NetworkPolicy: networking.k8s.io/v1. Admin tiers: KEP-2091 and policy.networking.k8s.io/v1alpha1. It reads the
documents themselves, so that a misreading there cannot hide behind a shared parser.
"""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple


class Who(NamedTuple):
    """A pod (namespace and labels) or an address outside."""

    namespace: str = ""
    labels: dict[str, str] | None = None
    ports: list[dict[str, Any]] | None = None
    address: str = ""


def selected(selector: dict[str, Any] | None, held: dict[str, str] | None) -> bool:
    labels = held or {}
    for key, value in ((selector or {}).get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for part in (selector or {}).get("matchExpressions") or []:
        has, value = part["key"] in labels, labels.get(part["key"])
        good = {
            "In": has and value in part.get("values", []),
            "NotIn": not has or value not in part.get("values", []),
            "Exists": has,
            "DoesNotExist": not has,
        }[part["operator"]]
        if not good:
            return False
    return True


class Cluster(NamedTuple):
    namespaces: dict[str, dict[str, str]]
    policies: list[dict[str, Any]]

    def passes(self, consumer: Who, provider: Who, protocol: str, port: int) -> bool:
        packet = (provider, protocol, port)
        out = consumer.address or self.end(consumer, provider, "egress", packet)
        into = provider.address or self.end(provider, consumer, "ingress", packet)
        return bool(out) and bool(into)

    def end(self, own: Who, other: Who, way: str, packet: tuple[Who, str, int]) -> bool:
        admin = sorted(
            (p for p in self.policies if p["kind"] == "AdminNetworkPolicy"),
            key=lambda p: p["spec"]["priority"],
        )
        said = self.first(admin, own, other, way, packet)
        if said in ("Allow", "Deny"):
            return said == "Allow"
        isolated, allowed = False, False
        for policy in self.policies:
            if policy["kind"] == "NetworkPolicy" and self.applies(policy, own, way):
                isolated = True
                allowed = allowed or self.network_allows(policy, other, way, packet)
        if isolated:
            return allowed
        base = [p for p in self.policies if p["kind"] == "BaselineAdminNetworkPolicy"]
        return self.first(base, own, other, way, packet) != "Deny"

    def first(self, policies: list[dict[str, Any]], own: Who, other: Who, way: str, packet: Any) -> str:
        for policy in policies:
            if not self.admin_peer(policy["spec"]["subject"], own):
                continue
            for rule in policy["spec"].get(way) or []:
                peers = rule["from" if way == "ingress" else "to"]
                if any(self.admin_peer(peer, other) for peer in peers) and self.admin_port(rule, packet):
                    return str(rule["action"])
        return ""

    def admin_peer(self, peer: dict[str, Any], who: Who) -> bool:
        if "networks" in peer:
            return bool(who.address) and any(inside(who.address, text) for text in peer["networks"])
        if who.address:
            return False
        space = self.namespaces[who.namespace]
        if "namespaces" in peer:
            return selected(peer["namespaces"], space)
        pods = peer["pods"]
        return selected(pods.get("namespaceSelector"), space) and selected(
            pods.get("podSelector"), who.labels
        )

    def admin_port(self, rule: dict[str, Any], packet: tuple[Who, str, int]) -> bool:
        provider, protocol, port = packet
        if rule.get("ports") is None:
            return True
        for entry in rule["ports"]:
            if "namedPort" in entry:
                held = [(p["name"], p["protocol"], p["containerPort"]) for p in provider.ports or ()]
                if (entry["namedPort"], protocol, port) in held:
                    return True
            elif "portNumber" in entry:
                if (entry["portNumber"]["protocol"], entry["portNumber"]["port"]) == (protocol, port):
                    return True
            elif (
                entry["portRange"]["protocol"] == protocol
                and entry["portRange"]["start"] <= port <= entry["portRange"]["end"]
            ):
                return True
        return False

    def applies(self, policy: dict[str, Any], own: Who, way: str) -> bool:
        spec = policy["spec"]
        types = spec.get("policyTypes")
        if not types:
            types = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
        return (
            way.capitalize() in types
            and not own.address
            and policy["metadata"]["namespace"] == own.namespace
            and selected(spec.get("podSelector"), own.labels)
        )

    def network_allows(self, policy: dict[str, Any], other: Who, way: str, packet: Any) -> bool:
        for rule in policy["spec"].get(way) or []:
            peers, ports = rule.get("from" if way == "ingress" else "to"), rule.get("ports")
            means = not peers or any(self.network_peer(policy, peer, other) for peer in peers)
            if means and (not ports or any(network_port(port, packet) for port in ports)):
                return True
        return False

    def network_peer(self, policy: dict[str, Any], peer: dict[str, Any], who: Who) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            return (
                bool(who.address)
                and inside(who.address, block["cidr"])
                and not any(inside(who.address, text) for text in block.get("except") or [])
            )
        if who.address:
            return False
        if "namespaceSelector" in peer:
            if not selected(peer["namespaceSelector"], self.namespaces[who.namespace]):
                return False
        elif who.namespace != policy["metadata"]["namespace"]:
            return False
        return selected(peer.get("podSelector"), who.labels)


def network_port(entry: dict[str, Any], packet: tuple[Who, str, int]) -> bool:
    provider, protocol, port = packet
    if entry.get("protocol", "TCP") != protocol:
        return False
    if "port" not in entry:
        return True
    if isinstance(entry["port"], str):
        held = [(p["name"], p["protocol"], p["containerPort"]) for p in provider.ports or ()]
        return (entry["port"], protocol, port) in held
    return bool(entry["port"] <= port <= entry.get("endPort", entry["port"]))


def inside(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)
