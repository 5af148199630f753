"""Proposals: what discovery suggests, with the evidence of every rule, and what it leaves to people.

Also the verdict of a judge. Nothing here knows a dialect: `compiler` turns proposals into documents.
"""

from __future__ import annotations

import msgspec

from ringfence.model.edges import Party
from ringfence.model.endpoints import Labels

INGRESS, EGRESS = "ingress", "egress"


class Selector(msgspec.Struct, frozen=True):
    """Pods of one namespace that carry all of `labels` and none of the keys in `absent`."""

    labels: Labels = ()
    absent: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether a pod with these labels is selected."""
        held = dict(labels)
        return all(held.get(key) == value for key, value in self.labels) and not any(
            key in held for key in self.absent
        )


class Port(msgspec.Struct, frozen=True, order=True):
    """One target port. `protocol` is TCP, UDP or SCTP: what NetworkPolicy can say."""

    protocol: str
    port: int


class Evidence(msgspec.Struct, frozen=True):
    """What a rule rests on: connections added up over its edges. Times are UTC nanoseconds, 0 is none seen."""

    connections: int = 0
    first: int = 0
    last: int = 0
    answered: int = 0
    guessed: int = 0
    snat: int = 0
    refused: int = 0
    services: tuple[str, ...] = ()
    """Services the consumers asked for, `namespace/name`."""
    examples: tuple[str, ...] = ()
    """Up to five flow ids to look at."""


class Peer(msgspec.Struct, frozen=True):
    """The far side of a rule.

    `kind` is `workload` (pods that `selector` selects in `namespace`), `addresses` (CIDRs) or `all-pods`
    (every pod of the cluster; only for the cluster's DNS server). `workloads` names who is meant.
    """

    kind: str
    namespace: str | None = None
    workloads: tuple[str, ...] = ()
    selector: Selector | None = None
    cidrs: tuple[str, ...] = ()


class Rule(msgspec.Struct, frozen=True):
    """Let `peer` in (or out) on `ports`. Peers and ports are one cross product and never merged wider.

    `because` says in a sentence why the rule is there when traffic alone does not explain its form;
    `decide` marks a rule that stands only until a person decides.
    """

    direction: str
    peer: Peer
    ports: tuple[Port, ...]
    evidence: Evidence
    because: str = ""
    decide: bool = False


class Proposal(msgspec.Struct, frozen=True):
    """The proposed policy of one workload, or of several that no label tells apart."""

    namespace: str
    workloads: tuple[str, ...]
    selector: Selector
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]
    notes: tuple[str, ...] = ()


class Unresolved(msgspec.Struct, frozen=True):
    """Something seen that a person must decide. `reason` is a key of `discovery.reasons.REASONS`.

    `admitted` says whether a rule lets it through until then. What no rule stands for is one question per peer:
    `ports` lists every port, and `port` is None where there are several.
    """

    reason: str
    namespace: str | None
    workload: str | None
    direction: str
    peer: Party
    protocol: str
    port: int | None
    admitted: bool
    why: str
    decide: str
    evidence: Evidence
    ports: tuple[int, ...] = ()


class Discovery(msgspec.Struct, frozen=True):
    """Everything one discovery run says. Equal inputs, in any order, give equal values."""

    cluster: str | None
    proposals: tuple[Proposal, ...]
    unresolved: tuple[Unresolved, ...]
    notes: tuple[str, ...] = ()


class Half(msgspec.Struct, frozen=True):
    """What policy says at one end. `selected` are the policies that isolate it, `allowed_by` those that allow.

    `allowed` is None when the policy model does not say (e.g. ICMP under NetworkPolicy).
    """

    allowed: bool | None
    selected: tuple[str, ...] = ()
    allowed_by: tuple[str, ...] = ()
    why: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """`action` is allow, deny or unknown; a conversation passes when both ends allow it."""

    action: str
    egress: Half
    ingress: Half
