"""What a lab says of itself: its nodes, pods and services, as written to its state file. Pure."""

from __future__ import annotations

import msgspec

from ringfence.lab.settings import LabSettings, NodePlan


class PodRecord(msgspec.Struct, frozen=True):
    """One running pod. `netns` is its node's for a host-network pod, whose `veth` is None."""

    namespace: str
    name: str
    uid: str
    node: str
    addresses: tuple[str, ...]
    """IPv4 first."""
    netns: str
    veth: str | None
    """Name of the host end in the node's namespace."""
    labels: dict[str, str]
    workload: str
    """Root owner as `Kind/name`."""
    host_network: bool
    containers: tuple[str, ...]
    """Container ids."""
    cgroup: str
    """Path below each cgroup root."""
    ports: tuple[tuple[str, int, str], ...]
    """Declared ports: name, number, protocol."""
    pid: int | None = None

    def path(self) -> str:
        """The network namespace's file."""
        return f"/run/netns/{self.netns}"


class ServiceRecord(msgspec.Struct, frozen=True):
    """One service. `addresses` are its ClusterIPs, IPv4 first; none for a headless one."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, int, str, int | None], ...]
    """Port name, port, protocol, node port."""
    dns: str


class LabState(msgspec.Struct, frozen=True):
    """The state file: all that a client of a running lab needs."""

    settings: LabSettings
    pid: int
    start_time: int
    """Of the supervisor, in clock ticks since boot, so that a re-used pid is not taken for it."""
    api_url: str
    token: str
    kubeconfig: str
    nodes: tuple[NodePlan, ...]
    pods: tuple[PodRecord, ...]
    services: tuple[ServiceRecord, ...]
    outside: str
    """Network namespace of the outside host."""
