"""The golden categories (design section 4): the conversations a cluster is made of, and the legs each must show."""

from __future__ import annotations

import msgspec


class Golden(msgspec.Struct, frozen=True):
    """One golden category. `legs` are the legs its connections have, `outer` added where an overlay carries it."""

    name: str
    title: str
    category: str
    legs: tuple[str, ...]
    placement: str | None = None
    overlay: str | None = None
    """`vxlan` and the like; `none` for routed; None where it does not matter."""


GOLDEN = (
    Golden("pod-to-pod-same-node", "pod → pod, same node", "pod-to-pod", ("direct",), "same-node"),
    Golden(
        "pod-to-pod-routed", "pod → pod, other node, routed", "pod-to-pod", ("direct",), "other-node", "none"
    ),
    Golden(
        "pod-to-pod-vxlan",
        "pod → pod, other node, VXLAN",
        "pod-to-pod",
        ("direct", "outer"),
        "other-node",
        "vxlan",
    ),
    Golden(
        "pod-to-service-same-node",
        "pod → ClusterIP, same node",
        "pod-to-pod-via-service",
        ("pre-dnat", "post-dnat"),
        "same-node",
    ),
    Golden(
        "pod-to-service-other-node",
        "pod → ClusterIP, other node",
        "pod-to-pod-via-service",
        ("pre-dnat", "post-dnat"),
        "other-node",
    ),
    Golden(
        "pod-to-own-service", "pod → own service (hairpin)", "pod-to-own-service", ("pre-dnat", "post-dnat")
    ),
    Golden(
        "external-to-nodeport",
        "external → NodePort",
        "external-to-pod-via-nodeport",
        ("pre-dnat", "post-dnat"),
    ),
    Golden("pod-to-nodeport", "pod → NodePort", "pod-to-pod-via-nodeport", ("pre-dnat", "post-dnat")),
    Golden("pod-to-external", "pod → external", "pod-to-external", ("pre-snat", "post-snat")),
    Golden("node-to-service", "node → ClusterIP", "node-to-pod-via-service", ("pre-dnat", "post-dnat")),
    Golden("probe", "node → pod (probe)", "probe", ("direct",)),
)


def golden_of(category: str, placement: str | None, overlay: str) -> Golden | None:
    """The golden category of a connection; None for the others (they are shown by their own category)."""
    for golden in GOLDEN:
        same = golden.category == category and golden.placement in (None, placement)
        if same and golden.overlay in (None, overlay):
            return golden
    return None
