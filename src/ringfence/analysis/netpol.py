"""What NetworkPolicy means, exactly: documents and pods in, verdicts with reasons out.

Written from the API's own words (networking.k8s.io/v1 and the Network Policies page) and proved on other
people's truth tables; it shares no code with the compiler, so that each can judge the other. The tension is
between the API text, which leaves corners to the CNI, and one definite answer: where the text is silent
(ICMP, host-network pods) the answer is *unknown*, or follows the note beside the code.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ringfence.model.endpoints import Labels
from ringfence.model.objects import Namespace, Node, Pod
from ringfence.model.policies import EGRESS, INGRESS, Half, Verdict

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Test = Callable[[Mapping[str, str]], bool]
"""Whether a set of labels is selected."""

SPOKEN = ("TCP", "UDP", "SCTP")
HIGHEST = 65535

Subject = Pod | Node | str
"""One end: a pod, a node, or the address of somebody outside the cluster."""


class Malformed(ValueError):
    """A document that the API server would refuse; the message names the field."""


class Ports(NamedTuple):
    """One entry of `ports`. `first` and `last` None is every port; `name` is resolved in the provider pod."""

    protocol: str
    first: int | None
    last: int | None
    name: str | None


class Peers(NamedTuple):
    """One entry of `from` or `to`: pods (namespace test ∧ pod test), or a block without its exceptions.

    `spaces` None means the policy's own namespace.
    """

    pods: Test | None
    spaces: Test | None
    block: Network | None
    but: tuple[Network, ...]


class Rule(NamedTuple):
    """One ingress or egress rule; None means "all"."""

    peers: tuple[Peers, ...] | None
    ports: tuple[Ports, ...] | None


class Policy(NamedTuple):
    """One NetworkPolicy. A direction that is None is not restricted by it."""

    name: str
    namespace: str
    selects: Test
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None


def read(document: Mapping[str, Any]) -> Policy:
    """A policy from its document. Raises `Malformed` with the field that is wrong."""
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    namespace, name = metadata.get("namespace") or "default", metadata.get("name") or ""
    # Without policyTypes, ingress is always meant, and egress where there is an egress rule.
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    for kind in types:
        if kind not in ("Ingress", "Egress"):
            raise Malformed(f"spec.policyTypes: {kind!r} is neither Ingress nor Egress")
    return Policy(
        name=f"{namespace}/{name}",
        namespace=namespace,
        selects=selector(spec.get("podSelector") or {}, "spec.podSelector"),
        ingress=_rules(spec, INGRESS, "from") if "Ingress" in types else None,
        egress=_rules(spec, EGRESS, "to") if "Egress" in types else None,
    )


def _rules(spec: Mapping[str, Any], direction: str, side: str) -> tuple[Rule, ...]:
    return tuple(
        _rule(rule or {}, side, f"spec.{direction}[{number}]")
        for number, rule in enumerate(spec.get(direction) or [])
    )


def _rule(rule: Mapping[str, Any], side: str, where: str) -> Rule:
    # An absent and an empty list both mean "all" (API text of `from`, `to` and `ports`).
    peers = tuple(_peers(peer, f"{where}.{side}[{i}]") for i, peer in enumerate(rule.get(side) or []))
    ports = tuple(_ports(port or {}, f"{where}.ports[{i}]") for i, port in enumerate(rule.get("ports") or []))
    return Rule(peers or None, ports or None)


def _peers(peer: Mapping[str, Any], where: str) -> Peers:
    pods, spaces, block = (peer.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        if pods is not None or spaces is not None:
            raise Malformed(f"{where}: ipBlock may not stand beside a selector")
        return _block(block, where)
    if pods is None and spaces is None:
        raise Malformed(f"{where}: names no peer")
    # A namespaceSelector alone means all pods of those namespaces; an empty selector is not an absent one.
    return Peers(
        selector(pods or {}, f"{where}.podSelector"),
        None if spaces is None else selector(spaces, f"{where}.namespaceSelector"),
        None,
        (),
    )


def _block(block: Mapping[str, Any], where: str) -> Peers:
    try:
        whole = ipaddress.ip_network(block["cidr"], strict=False)
        but = tuple(ipaddress.ip_network(text, strict=False) for text in block.get("except") or [])
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{where}.ipBlock: {error}") from None
    for part in but:
        if part.version != whole.version or not _within(part, whole):
            raise Malformed(f"{where}.ipBlock.except: {part} is not inside {whole}")
    return Peers(None, None, whole, but)


def _within(part: Network, whole: Network) -> bool:
    return int(part.network_address) >= int(whole.network_address) and int(part.broadcast_address) <= int(
        whole.broadcast_address
    )


def _ports(port: Mapping[str, Any], where: str) -> Ports:
    protocol, value, end = port.get("protocol") or "TCP", port.get("port"), port.get("endPort")
    if protocol not in SPOKEN:
        raise Malformed(f"{where}.protocol: {protocol!r} is none of {', '.join(SPOKEN)}")
    if value is None:
        if end is not None:
            raise Malformed(f"{where}.endPort: stands without a port")
        return Ports(protocol, None, None, None)
    if isinstance(value, str):
        if end is not None:
            raise Malformed(f"{where}.endPort: stands beside a named port")
        return Ports(protocol, None, None, value)
    if not isinstance(value, int) or not 1 <= value <= HIGHEST:
        raise Malformed(f"{where}.port: {value!r} is no port")
    last = value if end is None else end
    if not isinstance(last, int) or not value <= last <= HIGHEST:
        raise Malformed(f"{where}.endPort: {end!r} is no port from {value} up")
    return Ports(protocol, value, last, None)


def selector(body: Mapping[str, Any], where: str) -> Test:
    """A label selector as a test; an empty one selects everything. Raises `Malformed`."""
    tests: list[Test] = [_equal(key, value) for key, value in (body.get("matchLabels") or {}).items()]
    for number, part in enumerate(body.get("matchExpressions") or []):
        tests.append(_expression(part, f"{where}.matchExpressions[{number}]"))
    return lambda labels: all(test(labels) for test in tests)


def _equal(key: str, value: str) -> Test:
    return lambda labels: labels.get(key) == value


def _expression(part: Mapping[str, Any], where: str) -> Test:
    key, operator, values = part.get("key"), part.get("operator"), frozenset(part.get("values") or ())
    if not isinstance(key, str):
        raise Malformed(f"{where}.key: missing")
    if operator in ("In", "NotIn") and not values:
        raise Malformed(f"{where}.values: {operator} needs some")
    if operator in ("Exists", "DoesNotExist") and values:
        raise Malformed(f"{where}.values: {operator} takes none")
    tests: dict[object, Test] = {
        "In": lambda labels: labels.get(key) in values,
        # A label that is absent is not in any list, so NotIn selects its pods too.
        "NotIn": lambda labels: labels.get(key) not in values,
        "Exists": lambda labels: key in labels,
        "DoesNotExist": lambda labels: key not in labels,
    }
    if operator not in tests:
        raise Malformed(f"{where}.operator: {operator!r} is none of {', '.join(map(str, tests))}")
    return tests[operator]


class End(NamedTuple):
    """One end of a conversation, prepared. `pod` is None for nodes, host-network pods and outsiders."""

    pod: Pod | None
    node: str | None
    address: Address | None
    labels: Mapping[str, str]


class Judge:
    """Judges conversations by a fixed set of policies. Immutable but for caches of label tests.

    Goal: one question in microseconds after thousands of policies were read once. Policies are held by
    namespace, and which of them select a pod is remembered per (namespace, labels), as pods come in few
    kinds.
    """

    def __init__(
        self,
        documents: Iterable[Mapping[str, Any]],
        namespaces: Iterable[Namespace] = (),
        *,
        self_allowed: bool = True,
    ) -> None:
        """`self_allowed`: a pod always reaches itself, as on real networks; truth tables may differ."""
        self.policies: dict[str, list[Policy]] = {}
        for document in documents:
            policy = read(document)
            self.policies.setdefault(policy.namespace, []).append(policy)
        self.spaces = {space.name: dict(space.labels) for space in namespaces}
        self.self_allowed = self_allowed
        self._selecting: dict[tuple[str, Labels], tuple[Policy, ...]] = {}

    def verdict(
        self,
        consumer: Subject,
        provider: Subject,
        protocol: str,
        port: int | None,
        *,
        consumer_address: str | None = None,
        provider_address: str | None = None,
    ) -> Verdict:
        """May `consumer` open a conversation with `provider` on its target `port`? Replies belong to it.

        Addresses choose one of an end's several (the one the conversation uses); by default its first.
        """
        near, far = _end(consumer, consumer_address), _end(provider, provider_address)
        if near.pod is not None and near.pod is far.pod and self.self_allowed:
            own = Half(True, why="a pod always reaches itself")
            return Verdict("allow", own, own)
        egress = self._half(EGRESS, near, far, far, protocol, port)
        ingress = self._half(INGRESS, far, near, far, protocol, port)
        halves = (egress.allowed, ingress.allowed)
        action = "deny" if False in halves else "unknown" if None in halves else "allow"
        return Verdict(action, egress, ingress)

    def _half(
        self, direction: str, own: End, other: End, provider: End, protocol: str, port: int | None
    ) -> Half:
        if own.pod is None:
            return Half(True, why="NetworkPolicy selects pods only")
        if other.pod is None and other.node is not None and other.node == own.node:
            # "Traffic to and from the node where a Pod is running is always allowed."
            return Half(True, why="traffic with a pod's own node is always allowed")
        selected = [policy for policy in self._selects(own.pod) if _of(policy, direction) is not None]
        names = tuple(policy.name for policy in selected)
        if not selected:
            return Half(True, why=f"no policy isolates it for {direction}")
        if protocol not in SPOKEN:
            return Half(None, names, why=f"NetworkPolicy does not say what happens to {protocol}")
        by = tuple(
            f"{policy.name} {direction}[{number}]"
            for policy in selected
            for number, rule in enumerate(_of(policy, direction) or ())
            if self._allows(rule, policy.namespace, other, provider, protocol, port)
        )
        return Half(bool(by), names, by, "" if by else f"no {direction} rule matches")

    def _selects(self, pod: Pod) -> tuple[Policy, ...]:
        key = (pod.namespace, pod.labels)
        if key not in self._selecting:
            labels = dict(pod.labels)
            held = self.policies.get(pod.namespace, ())
            self._selecting[key] = tuple(policy for policy in held if policy.selects(labels))
        return self._selecting[key]

    def _allows(
        self, rule: Rule, home: str, other: End, provider: End, protocol: str, port: int | None
    ) -> bool:
        return (rule.ports is None or any(_fits(p, provider, protocol, port) for p in rule.ports)) and (
            rule.peers is None or any(self._is_peer(peer, home, other) for peer in rule.peers)
        )

    def _is_peer(self, peer: Peers, home: str, other: End) -> bool:
        if peer.block is not None:
            return _in_block(other.address, peer.block, peer.but)
        if other.pod is None or peer.pods is None:
            return False
        if peer.spaces is None:
            return other.pod.namespace == home and peer.pods(other.labels)
        return peer.spaces(self._labels_of(other.pod.namespace)) and peer.pods(other.labels)

    def _labels_of(self, namespace: str) -> Mapping[str, str]:
        # The API server labels every namespace with its name, also those we were not given.
        return self.spaces.get(namespace, {"kubernetes.io/metadata.name": namespace})


def _of(policy: Policy, direction: str) -> tuple[Rule, ...] | None:
    return policy.ingress if direction == INGRESS else policy.egress


def _end(subject: Subject, address: str | None) -> End:
    """A host-network pod stands for its node: its packets carry the node's address and no pod's."""
    if isinstance(subject, str):
        return End(None, None, ipaddress.ip_address(address or subject), {})
    first = address or next(iter(subject.addresses), None)
    parsed = ipaddress.ip_address(first) if first else None
    if isinstance(subject, Node):
        return End(None, subject.name, parsed, {})
    pod = None if subject.host_network else subject
    return End(pod, subject.node, parsed, dict(subject.labels))


def _in_block(address: Address | None, block: Network, but: Sequence[Network]) -> bool:
    if address is None or address.version != block.version:
        return False
    return address in block and not any(address in part for part in but)


def _fits(ports: Ports, provider: End, protocol: str, port: int | None) -> bool:
    if ports.protocol != protocol:
        return False
    if ports.name is not None:
        # A named port is looked up in the pod that serves; an address outside has no names.
        held = provider.pod.ports if provider.pod is not None else ()
        return any(p.name == ports.name and p.protocol == protocol and p.port == port for p in held)
    if ports.first is None or ports.last is None:
        return True
    return port is not None and ports.first <= port <= ports.last
