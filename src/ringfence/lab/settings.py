"""What a lab is asked to be, and the addresses that follow from it. Pure."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ringfence.model.problems import Problem

STATE = Path("/run/ringfence/lab")
"""One folder a lab: state, log files, kubeconfig, control socket. Gone after `down`."""

OVERLAYS = ("routed", "vxlan")
CLUSTER_CIDR4, CLUSTER_CIDR6 = "10.244.0.0/16", "fd00:10:244::/48"
NODE_CIDR4, NODE_CIDR6 = "10.88.0.0/24", "fd88::/64"
SERVICE_CIDR4, SERVICE_CIDR6 = "10.96.0.0/16", "fd00:10:96::/112"
FABRIC4, FABRIC6 = "10.88.0.1", "fd88::1"
OUTSIDE4, OUTSIDE6 = "203.0.113.10", "2001:db8::10"
OUTSIDE_GATEWAY4, OUTSIDE_GATEWAY6 = "203.0.113.1", "2001:db8::1"
DNS4, DNS6 = "10.96.0.10", "fd00:10:96::a"
VXLAN_PORT = 8472
"""The Linux kernel's own default and flannel's; IANA's is 4789."""


class LabSettings(msgspec.Struct, frozen=True):
    """One lab. `traffic=False` makes pods listen only, so that a test makes exactly the calls it wants."""

    name: str = "lab"
    """Letters and digits only: it is the prefix of every namespace, and no name may be another's prefix."""
    nodes: int = 2
    """How many nodes, 1 to 50."""
    overlay: str = "routed"
    """`routed` (static routes between nodes) or `vxlan` (a device as flannel makes it)."""
    manifests: str | None = None
    """A folder or file of Kubernetes YAML to run instead of the built-in Sock Shop."""
    intruder: bool = False
    """Add a pod that scans the shop and calls user-db."""
    seed: int | None = None
    """Fixes UIDs, pod names and interface names; None draws new ones."""
    ipv6: bool = True
    """Give pods, services and nodes IPv6 addresses too."""
    traffic: bool = True
    """Let every pod make its calls; without it pods only listen."""
    probes: bool | None = None
    """Whether node probers run; None follows `traffic`."""
    rate: float = 1.0
    """Multiplies how often every pod calls; 1.0 is about one call a second and pod."""
    apps: bool = True
    """False leaves only the cluster's DNS, for tests that add their own pods."""

    def prefix(self) -> str:
        """What every network namespace of this lab starts with."""
        return f"rf-{self.name}-"

    def folder(self) -> Path:
        """This lab's state folder."""
        return STATE / self.name


class NodePlan(msgspec.Struct, frozen=True):
    """Addresses of node number `index` (from 1). IPv6 fields are None in a lab without IPv6."""

    index: int
    name: str
    netns: str
    uplink4: str
    uplink6: str | None
    cidr4: str
    cidr6: str | None
    bridge4: str
    bridge6: str | None
    tunnel4: str
    tunnel6: str | None

    def path(self) -> str:
        """The network namespace's file."""
        return f"/run/netns/{self.netns}"

    def pod_addresses(self, host: int) -> tuple[str, ...]:
        """The addresses of the pod with host number `host` (2-254) on this node, IPv4 first."""
        first = (f"10.244.{self.index}.{host}",)
        return first if self.cidr6 is None else (*first, f"fd00:10:244:{self.index:x}::{host:x}")


def check(settings: LabSettings) -> None:
    """Refuse settings no lab can be built from."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,19}", settings.name):
        raise Problem("bad lab name", repr(settings.name), "use 1-20 lower-case letters and digits")
    if settings.overlay not in OVERLAYS:
        raise Problem("unknown overlay", repr(settings.overlay), f"use one of: {', '.join(OVERLAYS)}")
    if not 1 <= settings.nodes <= 50:
        raise Problem("bad number of nodes", str(settings.nodes), "use 1 to 50")
    if not 0.01 <= settings.rate <= 100:
        raise Problem("bad traffic rate", str(settings.rate), "use 0.01 to 100")


def plan_nodes(settings: LabSettings) -> tuple[NodePlan, ...]:
    """The nodes of a lab, in order."""
    return tuple(_node(settings, index) for index in range(1, settings.nodes + 1))


def _node(settings: LabSettings, index: int) -> NodePlan:
    six = settings.ipv6
    return NodePlan(
        index=index,
        name=f"node{index}",
        netns=f"{settings.prefix()}node{index}",
        uplink4=f"10.88.0.{10 + index}",
        uplink6=f"fd88::{10 + index}" if six else None,
        cidr4=f"10.244.{index}.0/24",
        cidr6=f"fd00:10:244:{index:x}::/64" if six else None,
        bridge4=f"10.244.{index}.1",
        bridge6=f"fd00:10:244:{index:x}::1" if six else None,
        tunnel4=f"10.244.{index}.0",
        tunnel6=f"fd00:10:244:{index:x}::" if six else None,
    )


def pod_mtu(settings: LabSettings) -> int:
    """1500 less what the overlay adds: 50 octets for VXLAN over IPv4, 70 over IPv6."""
    if settings.overlay == "routed":
        return 1500
    return 1430 if settings.ipv6 else 1450
