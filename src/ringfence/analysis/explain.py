"""Why one connection passes or not: the rules of both ends in the order in which they were asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

from ringfence.analysis.netpol import Malformed
from ringfence.analysis.paper import Paper, Workload
from ringfence.analysis.policies import ADMIN, ALLOW, BASELINE, DENY, NORMAL, PASS, Policy, Rule
from ringfence.analysis.reach import CONTROLLER, RANGE, End, Engine, end_of, holds, meant
from ringfence.model.policies import EGRESS, INGRESS


class Party(NamedTuple):
    """One end of the question: how it is written, and its column."""

    title: str
    end: End
    host_network: bool = False


class Asked(NamedTuple):
    """One rule and what it said: `decides`, `passes on`, or why it had no say."""

    policy: str
    place: str
    rule: str
    action: str
    effect: str


class Side(NamedTuple):
    """One direction: the verdict, the sentence that carries it, and every rule asked, in order."""

    direction: str
    end: str
    allowed: bool
    why: str
    asked: tuple[Asked, ...]


class Answer(NamedTuple):
    """Both sides of one question; a connection passes when both allow."""

    consumer: str
    provider: str
    protocol: str
    port: int
    allowed: bool
    sides: tuple[Side, Side]
    notes: tuple[str, ...] = ()


def party(paper: Paper, name: str) -> Party:
    """The end that `name` means: `name`, `namespace/name`, `namespace/name[Kind]`, an address.

    Raises Malformed where nobody or several are meant.
    """
    address = _address(name)
    if address is not None:
        number = int(address)
        return Party(str(address), End(RANGE, version=address.version, first=number, last=number))
    if name.strip("{}") == "ingress-controller":
        return Party("{ingress-controller}", CONTROLLER)
    found = [w for w in paper.workloads if name in _names(w)]
    if not found:
        raise Malformed(f"no workload {name!r}")
    if len(found) > 1:
        raise Malformed(f"{name!r} may be {' or '.join(w.title for w in found)}")
    return Party(found[0].title, end_of(found[0], paper), found[0].host_network)


def _names(workload: Workload) -> tuple[str, ...]:
    full = f"{workload.namespace}/{workload.name}"
    pods = [text for pod in workload.pods for text in (pod, f"{workload.namespace}/{pod}")]
    return workload.name, full, workload.title, f"{workload.name}[{workload.kind}]", *pods


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def port_of(provider: Party, text: str) -> tuple[str, int]:
    """(protocol, number) of `80`, `UDP/53`, `tcp-80` or the name of a port of the provider. Raises Malformed."""
    protocol, _, value = text.replace("-", "/", 1).rpartition("/")
    if value.isdecimal() and 1 <= int(value) <= 65535 and protocol.upper() in ("", "TCP", "UDP", "SCTP"):
        return protocol.upper() or "TCP", int(value)
    for held in provider.end.ports:
        if held.name == text:
            return held.protocol, held.port
    raise Malformed(f"{text!r} is no port: write 80, UDP/53, or the name of a port of {provider.title}")


def explain(paper: Paper, consumer: Party, provider: Party, protocol: str, port: int) -> Answer:
    """Judge one connection and keep the reasons."""
    sides = tuple(
        _side(paper.policies, own, other, provider, direction, (protocol, port))
        for own, other, direction in ((consumer, provider, EGRESS), (provider, consumer, INGRESS))
    )
    allowed = all(side.allowed for side in sides)
    return Answer(
        consumer.title,
        provider.title,
        protocol,
        port,
        allowed or consumer.title == provider.title,
        (sides[0], sides[1]),
        tuple(_notes(consumer, provider)),
    )


def _notes(consumer: Party, provider: Party) -> list[str]:
    notes = [
        f"{one.title} uses the host's network: most networks apply no NetworkPolicy to it"
        for one in (consumer, provider)
        if one.host_network
    ]
    if consumer.title == provider.title:
        notes.append("a pod always reaches itself; between two pods of the workload the rules above count")
    return notes


def _side(
    policies: Sequence[Policy],
    own: Party,
    other: Party,
    provider: Party,
    direction: str,
    wanted: tuple[str, int],
) -> Side:
    engine = Engine(policies, [other.end])
    selecting = engine.selecting(own.end, direction)
    asking = _Asking(own, other, provider, direction, wanted)
    isolated = [policy for policy in selecting if policy.tier == NORMAL]
    asking.tier([policy for policy in selecting if policy.tier == ADMIN])
    if isolated:
        asking.union(isolated)
    else:
        asking.tier([policy for policy in selecting if policy.tier == BASELINE])
    allowed, why = asking.verdict or (True, _open(own, direction, selecting))
    return Side(direction, own.title, allowed, why, tuple(asking.asked))


def _open(own: Party, direction: str, selecting: Sequence[Policy]) -> str:
    if own.end.kind == RANGE:
        return "no policy applies to addresses outside"
    if selecting:
        return f"no rule of the policies that select it decides, and none isolates it for {direction}"
    return f"no policy selects it for {direction}"


class _Asking:
    """Rules asked one after the other about one connection, until one decides."""

    def __init__(
        self, own: Party, other: Party, provider: Party, direction: str, wanted: tuple[str, int]
    ) -> None:
        self.own, self.other, self.provider, self.direction, self.wanted = (
            own,
            other,
            provider,
            direction,
            wanted,
        )
        self.asked: list[Asked] = []
        self.verdict: tuple[bool, str] | None = None

    def tier(self, policies: Sequence[Policy]) -> None:
        """First match wins; a pass ends the tier."""
        passed = False
        for policy in policies:
            for rule in policy.rules(self.direction) or ():
                if self.verdict is not None or passed:
                    self._note(policy, rule, "comes too late")
                    continue
                effect = self._effect(policy, rule)
                if not effect and rule.action == PASS:
                    passed = True
                    effect = "passes on"
                elif not effect:
                    self._decide(policy, rule, rule.action == ALLOW)
                self._note(policy, rule, effect or "decides")

    def union(self, policies: Sequence[Policy]) -> None:
        """NetworkPolicy: what any rule allows passes, the rest does not."""
        done = self.verdict is not None
        for policy in policies:
            for rule in policy.rules(self.direction) or ():
                effect = "comes too late" if done else self._effect(policy, rule)
                if not effect and self.verdict is None:
                    self._decide(policy, rule, True)
                self._note(policy, rule, effect or "decides")
        if self.verdict is None:
            names = ", ".join(policy.title for policy in policies)
            self.verdict = (False, f"{names} isolates it for {self.direction} and no rule allows this")

    def _decide(self, policy: Policy, rule: Rule, allowed: bool) -> None:
        word = "allows" if allowed else "denies"
        self.verdict = (allowed, f"{policy.title} {rule.where}{_called(rule)} {word} it")

    def _effect(self, policy: Policy, rule: Rule) -> str:
        """Why a rule has no say; empty when it means this connection."""
        peers = rule.peers
        if peers is not None and not any(
            holds(peer, policy.namespace, self.own.end, self.other.end) for peer in peers
        ):
            return "means other peers"
        if not meant(rule, self.provider.end).holds(*self.wanted):
            return "means other ports"
        return ""

    def _note(self, policy: Policy, rule: Rule, effect: str) -> None:
        action = rule.action if rule.action in (ALLOW, DENY, PASS) else ""
        self.asked.append(Asked(policy.title, policy.place, rule.where + _called(rule), action, effect))


def _called(rule: Rule) -> str:
    return f" ({rule.name})" if rule.name else ""
