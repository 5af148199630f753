"""Policies of every tier as one kind of value: NetworkPolicy, the admin policies v1alpha1, ClusterNetworkPolicy.

Read from the API's own schemas; what the API server would refuse is refused here, by field. Three tiers, judged
in this order: admin rules by priority, then NetworkPolicy where one isolates the pod, else baseline rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ringfence.analysis.conns import HIGHEST, LOWEST, PROTOCOLS
from ringfence.analysis.intervals import Intervals, of
from ringfence.analysis.netpol import Malformed
from ringfence.analysis.selectors import EVERYTHING, Selector, selector
from ringfence.model.policies import EGRESS, INGRESS

ADMIN, NORMAL, BASELINE = range(3)
"""The tiers, in the order in which they are asked."""

ALLOW, DENY, PASS = "Allow", "Deny", "Pass"

LAST_PRIORITY = 1000
GROUP = "policy.networking.k8s.io"


class Port(NamedTuple):
    """One entry of `ports` or `protocols`: a range, or a name that each provider pod resolves.

    A named port without a protocol takes the protocol of the container's port.
    """

    protocol: str
    first: int
    last: int
    name: str | None = None


class Same(NamedTuple):
    """`sameLabels` or `notSameLabels` of the first admin API: namespaces compared with the subject's own."""

    keys: tuple[str, ...]
    equal: bool


class Peer(NamedTuple):
    """One entry of `from` or `to`. Exactly one meaning: pods by selectors, or addresses, or `other`.

    `spaces` None means the policy's own namespace. `other` names a kind that manifests alone cannot resolve
    (nodes, domainNames): it holds nobody here.
    """

    spaces: Selector | None = None
    pods: Selector = EVERYTHING
    version: int = 0
    addresses: Intervals = Intervals()
    same: Same | None = None
    other: str = ""


class Rule(NamedTuple):
    """One rule. `peers` None is everybody, inside and outside; `ports` None is everything."""

    where: str
    name: str
    action: str
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


class Policy(NamedTuple):
    """One policy. A direction that is None is none of its business.

    `spaces` None: it selects in its own namespace only. `place` tells file, document and line.
    """

    kind: str
    namespace: str
    name: str
    tier: int
    priority: int
    spaces: Selector | None
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    place: str = ""
    wrote: frozenset[str] = frozenset()
    """Fields of the spec that the document holds, not null: what the author said, beside what it means."""

    @property
    def title(self) -> str:
        """`NetworkPolicy shop/web`, `AdminNetworkPolicy deny-all`."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def rules(self, direction: str) -> tuple[Rule, ...] | None:
        """The rules of one direction; None where the policy does not touch it."""
        return self.ingress if direction == INGRESS else self.egress


class Dialect(NamedTuple):
    """How one admin API spells things."""

    actions: Mapping[str, str]
    ports: str
    port: Callable[[Mapping[str, Any], str], Iterator[Port]]


def network_policy(document: Mapping[str, Any], place: str = "") -> Policy:
    """A `networking.k8s.io` NetworkPolicy. Raises `Malformed` with the field that is wrong."""
    metadata, spec = _mapping(document, "metadata"), _mapping(document, "spec")
    # Without policyTypes, ingress is always meant, and egress where there is an egress rule.
    types = _list(spec, "policyTypes", "spec") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    for kind in types:
        if kind not in ("Ingress", "Egress"):
            raise Malformed(f"spec.policyTypes: {kind!r} is neither Ingress nor Egress")
    return Policy(
        "NetworkPolicy",
        metadata.get("namespace") or "default",
        str(metadata.get("name") or ""),
        NORMAL,
        0,
        None,
        selector(spec.get("podSelector"), "spec.podSelector"),
        _normal(spec, INGRESS, "from") if "Ingress" in types else None,
        _normal(spec, EGRESS, "to") if "Egress" in types else None,
        place,
        frozenset(key for key, value in spec.items() if value is not None),
    )


def _normal(spec: Mapping[str, Any], direction: str, side: str) -> tuple[Rule, ...]:
    rules = []
    for number, rule in enumerate(_list(spec, direction, "spec")):
        where = f"spec.{direction}[{number}]"
        rule = _object(rule, where)
        # An absent and an empty list both mean "all" (API text of `from`, `to` and `ports`).
        peers = [_normal_peer(p, f"{where}.{side}[{i}]") for i, p in enumerate(_list(rule, side, where))]
        ports = [_normal_port(p, f"{where}.ports[{i}]") for i, p in enumerate(_list(rule, "ports", where))]
        rules.append(Rule(where, "", ALLOW, tuple(peers) or None, tuple(ports) or None))
    return tuple(rules)


def _normal_peer(peer: object, where: str) -> Peer:
    body = _object(peer, where)
    pods, spaces, block = (body.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        if pods is not None or spaces is not None:
            raise Malformed(f"{where}: cannot have both ipBlock and podSelector/namespaceSelector set")
        return _block(_object(block, f"{where}.ipBlock"), f"{where}.ipBlock")
    if pods is None and spaces is None:
        raise Malformed(
            f"{where}: cannot have an empty rule peer; name podSelector, namespaceSelector or ipBlock"
        )
    return Peer(
        None if spaces is None else selector(spaces, f"{where}.namespaceSelector"),
        selector(pods, f"{where}.podSelector"),
    )


def _block(block: Mapping[str, Any], where: str) -> Peer:
    version, whole = cidr(block.get("cidr"), f"{where}.cidr")
    left = whole
    for number, text in enumerate(_list(block, "except", where)):
        other, part = cidr(text, f"{where}.except[{number}]")
        if other != version or not part.within(whole):
            raise Malformed(f"{where}.except[{number}]: {text} is not inside {block.get('cidr')}")
        left = left.minus(part)
    return Peer(version=version, addresses=left)


def cidr(text: object, where: str) -> tuple[int, Intervals]:
    """(IP version, addresses) of a CIDR. Raises `Malformed`."""
    if not isinstance(text, str) or "/" not in text:
        raise Malformed(f"{where}: invalid CIDR address: {text!r}")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Malformed(f"{where}: invalid CIDR address: {text!r}") from None
    return network.version, of([(int(network.network_address), int(network.broadcast_address))])


def _normal_port(port: object, where: str) -> Port:
    body = _object(port, where)
    protocol, value, end = body.get("protocol") or "TCP", body.get("port"), body.get("endPort")
    if protocol not in PROTOCOLS:
        raise Malformed(f"{where}.protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}")
    if value is None and end is not None:
        raise Malformed(f"{where}.endPort: stands without a port")
    if value is None:
        return Port(protocol, LOWEST, HIGHEST)
    if isinstance(value, str):
        if end is not None:
            raise Malformed(f"{where}.endPort: endPort cannot be defined beside a named port ({value!r})")
        return Port(protocol, 0, 0, value)
    return _range(protocol, value, value if end is None else end, f"{where}.port")


def _range(protocol: object, first: object, last: object, where: str) -> Port:
    if protocol not in PROTOCOLS:
        raise Malformed(f"{where}: protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    for number in (first, last):
        if not isinstance(number, int) or isinstance(number, bool) or not LOWEST <= number <= HIGHEST:
            raise Malformed(f"{where}: {number!r} is no port, ports are {LOWEST}-{HIGHEST}")
    if last < first:  # type: ignore[operator]  # Both are int by now.
        raise Malformed(f"{where}: illegal port range {first}-{last}, the end may not be less than the start")
    return Port(str(protocol), first, last)  # type: ignore[arg-type]


def admin_policy(document: Mapping[str, Any], place: str = "") -> Policy:
    """An AdminNetworkPolicy (v1alpha1). Raises `Malformed`."""
    spec = _mapping(document, "spec")
    return _admin(document, place, ADMIN, _priority(spec), OLD)


def baseline_policy(document: Mapping[str, Any], place: str = "") -> Policy:
    """The BaselineAdminNetworkPolicy (v1alpha1), of which a cluster has one, named `default`. Raises `Malformed`."""
    name = _mapping(document, "metadata").get("name")
    if name not in (None, "default"):
        raise Malformed(
            f"metadata.name: {name!r}: only one baseline admin network policy with metadata.name=default"
            " can be created in the cluster"
        )
    return _admin(document, place, BASELINE, LAST_PRIORITY + 1, OLD_BASELINE)


def cluster_policy(document: Mapping[str, Any], place: str = "") -> Policy:
    """A ClusterNetworkPolicy (v1alpha2), of the Admin or Baseline tier. Raises `Malformed`."""
    spec = _mapping(document, "spec")
    tiers = {"Admin": ADMIN, "Baseline": BASELINE}
    if spec.get("tier") not in tiers:
        raise Malformed(f"spec.tier: {spec.get('tier')!r} is neither Admin nor Baseline")
    return _admin(document, place, tiers[spec["tier"]], _priority(spec), NEW)


def _priority(spec: Mapping[str, Any]) -> int:
    value = spec.get("priority")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_PRIORITY:
        raise Malformed(
            f"spec.priority: Invalid Priority Value: {value!r}; it must be between 0-{LAST_PRIORITY}"
        )
    return value


def _admin(document: Mapping[str, Any], place: str, tier: int, priority: int, dialect: Dialect) -> Policy:
    metadata, spec = _mapping(document, "metadata"), _mapping(document, "spec")
    subject = _object(spec.get("subject"), "spec.subject")
    kinds = [key for key in ("namespaces", "pods") if subject.get(key) is not None]
    if len(kinds) != 1:
        raise Malformed("spec.subject: exactly one field must be set in a subject, namespaces or pods")
    chosen = _selected(subject, kinds[0], "spec.subject")
    return Policy(
        str(document.get("kind") or "AdminNetworkPolicy"),
        "",
        str(metadata.get("name") or ""),
        tier,
        priority,
        chosen.spaces,
        chosen.pods,
        _admin_rules(spec, INGRESS, "from", dialect),
        _admin_rules(spec, EGRESS, "to", dialect),
        place,
    )


def _admin_rules(
    spec: Mapping[str, Any], direction: str, side: str, dialect: Dialect
) -> tuple[Rule, ...] | None:
    """Admin rules isolate nothing: without rules a direction is untouched."""
    rules = []
    for number, rule in enumerate(_list(spec, direction, "spec")):
        where = f"spec.{direction}[{number}]"
        body = _object(rule, where)
        action = str(body.get("action"))
        if action not in dialect.actions:
            raise Malformed(
                f"{where}.action: unrecognized action {action!r}, it is one of {', '.join(dialect.actions)}"
            )
        peers = _list(body, side, where)
        if not peers:
            raise Malformed(f"{where}.{side}: {side} field must be defined and contain at least one item")
        members = [m for i, p in enumerate(peers) for m in _admin_peer(p, f"{where}.{side}[{i}]", direction)]
        ports = _admin_ports(body, where, dialect)
        rules.append(Rule(where, str(body.get("name") or ""), dialect.actions[action], tuple(members), ports))
    return tuple(rules) or None


def _admin_ports(body: Mapping[str, Any], where: str, dialect: Dialect) -> tuple[Port, ...] | None:
    if body.get(dialect.ports) is None:
        return None
    entries = enumerate(_list(body, dialect.ports, where))
    return tuple(
        port
        for number, entry in entries
        for port in dialect.port(
            _object(entry, f"{where}.{dialect.ports}[{number}]"), f"{where}.{dialect.ports}[{number}]"
        )
    )


KINDS_OF_PEER = {
    INGRESS: ("namespaces", "pods"),
    EGRESS: ("namespaces", "pods", "nodes", "networks", "domainNames"),
}


def _admin_peer(peer: object, where: str, direction: str) -> Iterator[Peer]:
    body = _object(peer, where)
    allowed = KINDS_OF_PEER[direction]
    kinds = [key for key in allowed if body.get(key) is not None]
    if len(kinds) != 1 or any(key not in allowed for key in body):
        raise Malformed(f"{where}: exactly one field must be set in a rule peer, of {', '.join(allowed)}")
    kind = kinds[0]
    if kind in ("namespaces", "pods"):
        yield _selected(body, kind, where)
    elif kind == "networks":
        for number, text in enumerate(_list(body, kind, where)):
            version, addresses = cidr(text, f"{where}.networks[{number}]")
            yield Peer(version=version, addresses=addresses)
    else:
        yield Peer(other=kind)


def _selected(body: Mapping[str, Any], kind: str, where: str) -> Peer:
    """`namespaces` or `pods`, of this API and of its first form (`namespaceSelector`, `sameLabels` one level down)."""
    held = _object(body.get(kind), f"{where}.{kind}")
    if kind == "namespaces":
        return _spaces(held, f"{where}.namespaces")
    pods = selector(held.get("podSelector"), f"{where}.pods.podSelector")
    if held.get("namespaces") is not None:
        inner = _spaces(_object(held["namespaces"], f"{where}.pods.namespaces"), f"{where}.pods.namespaces")
        return inner._replace(pods=pods)
    return Peer(selector(held.get("namespaceSelector"), f"{where}.pods.namespaceSelector"), pods)


def _spaces(held: Mapping[str, Any], where: str) -> Peer:
    for key, equal in (("sameLabels", True), ("notSameLabels", False)):
        if held.get(key):
            return Peer(EVERYTHING, same=Same(tuple(map(str, _list(held, key, where))), equal))
    if "namespaceSelector" in held:
        return Peer(selector(held["namespaceSelector"], f"{where}.namespaceSelector"))
    return Peer(selector(held, where))


def _old_port(body: Mapping[str, Any], where: str) -> Iterator[Port]:
    kinds = [key for key in ("portNumber", "portRange", "namedPort") if body.get(key) is not None]
    if len(kinds) != 1:
        raise Malformed(
            f"{where}: exactly one field must be set in an AdminNetworkPolicyPort, of portNumber, portRange, namedPort"
        )
    if kinds[0] == "namedPort":
        yield Port("", 0, 0, str(body["namedPort"]))
        return
    held = _object(body[kinds[0]], f"{where}.{kinds[0]}")
    first, last = (
        (held.get("port"), held.get("port"))
        if kinds[0] == "portNumber"
        else (held.get("start"), held.get("end"))
    )
    yield _range(held.get("protocol") or "TCP", first, last, f"{where}.{kinds[0]}")


def _new_port(body: Mapping[str, Any], where: str) -> Iterator[Port]:
    fields = ("tcp", "udp", "sctp", "destinationNamedPort")
    kinds = [key for key in fields if body.get(key) is not None]
    if len(kinds) != 1:
        raise Malformed(f"{where}: exactly one field must be set in a protocol, of {', '.join(fields)}")
    kind = kinds[0]
    if kind == "destinationNamedPort":
        yield Port("", 0, 0, str(body[kind]))
        return
    held = _object(_object(body[kind], f"{where}.{kind}").get("destinationPort"), f"{where}.{kind}")
    span = held.get("range")
    if span is not None and held.get("number") is not None:
        raise Malformed(f"{where}.{kind}.destinationPort: number and range exclude each other")
    if span is None and held.get("number") is None:
        yield Port(kind.upper(), LOWEST, HIGHEST)
        return
    ends = _object(span, where) if span is not None else {"start": held["number"], "end": held["number"]}
    yield _range(kind.upper(), ends.get("start"), ends.get("end"), f"{where}.{kind}.destinationPort")


OLD = Dialect({"Allow": ALLOW, "Deny": DENY, "Pass": PASS}, "ports", _old_port)
OLD_BASELINE = Dialect({"Allow": ALLOW, "Deny": DENY}, "ports", _old_port)
NEW = Dialect({"Accept": ALLOW, "Deny": DENY, "Pass": PASS}, "protocols", _new_port)


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _object(body.get(key), key)


def _object(body: object, where: str) -> Mapping[str, Any]:
    if body is None:
        return {}
    if not isinstance(body, Mapping):
        raise Malformed(f"{where}: not a mapping")
    return body


def _list(body: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = body.get(key)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Malformed(f"{where}.{key}: not a list")
    return value
