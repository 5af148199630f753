"""Why something is left to people, and what they can do about it. One row a reason."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """`why` says what was seen; `decide` what a person can do."""

    why: str
    decide: str


REASONS: dict[str, Reason] = {
    "outside": Reason(
        "an address outside the cluster; nothing here says what it is",
        "keep the address, widen it to the range or name it belongs to, or delete the rule",
    ),
    "unknown-address": Reason(
        "an address nobody known had at that time",
        "find out what it was; no rule was made",
    ),
    "unserved-service": Reason(
        "a service was asked for, and no pod was seen to serve it",
        "give the manifests of its pods, or capture where the translated flow can be seen",
    ),
    "guessed": Reason(
        "only a guess says who opened this conversation, and no container or service declares the port",
        "watch longer, so that its beginning is seen, or declare the port; no rule was made",
    ),
    "dynamic-ports": Reason(
        "many ports that nobody declares, between the same two workloads",
        "pin the application to a port or range and declare it; no rule was made",
    ),
    "unanswered": Reason(
        "the provider never answered; a scan looks like this, and so does one-way UDP",
        "add a rule by hand if this one-way traffic is wanted",
    ),
    "refused": Reason(
        "the provider only refused, or the consumer reset before it said anything (TCP reset); a scan looks like "
        "this, and so does a service that is down",
        "repair or retire the call; no rule was made",
    ),
    "protocol": Reason(
        "NetworkPolicy speaks of TCP, UDP and SCTP only; what it does to others is up to the CNI",
        "check with your CNI whether a policy cuts it",
    ),
    "node": Reason(
        "the peer is a node or a host-network pod: no pod selector can match it, only its addresses",
        "keep the addresses, or widen them to the nodes' range if nodes come and go",
    ),
    "node-address-unknown": Reason(
        "the peer is a node or hidden behind one, and no address of that node is known",
        "give the Node objects, or add the nodes' range by hand; no rule was made",
    ),
    "snat": Reason(
        "the provider sees a node's address instead of the client's (externalTrafficPolicy Cluster, or a call "
        "through a NodePort): admitting it admits whoever comes through the nodes, and a rule on the client's "
        "own address would never match",
        "keep the nodes' addresses, or set externalTrafficPolicy: Local and admit the clients",
    ),
    "host-network": Reason(
        "the workload runs on its nodes' network: NetworkPolicy does not select it",
        "guard it with node rules",
    ),
    "no-labels": Reason(
        "its pods carry no lasting label, so no selector can mean them alone",
        "label them; no rule was made",
    ),
    "other-cluster": Reason(
        "the peer is in another cluster: no selector of this one can match it",
        "admit the address it arrives from; no rule was made",
    ),
}
"""Every reason there is; the reference page lists them from here."""
