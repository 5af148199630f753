"""The flow as users see it: the public contract's JSON (design section 10). Made only for answers."""

from __future__ import annotations

import msgspec


class FlowEnd(msgspec.Struct, frozen=True):
    """One end of a flow with what its address was at that time. Unknown facts are None."""

    ip: str | None
    """Null only where another tool's log left the address out."""
    port: int | None
    kind: str
    cluster: str | None = None
    namespace: str | None = None
    name: str | None = None
    workload: str | None = None
    node: str | None = None
    service: str | None = None
    labels: dict[str, str] | None = None


class Tap(msgspec.Struct, frozen=True):
    """One place that saw the flow. `at` is `pod`, `node` or `tunnel`; `role` is a `columns.Role`, of the node.

    In the answer about one connection also what this tap itself counted, and its own `role`; elsewhere those fields
    are left out. `way` is how the consumer's packets passed: `in` from the interface, `out` through it, or `both`.
    """

    node: str
    interface: str
    at: str
    role: int
    way: str | msgspec.UnsetType | None = msgspec.UNSET
    start: str | msgspec.UnsetType | None = msgspec.UNSET
    end: str | msgspec.UnsetType | None = msgspec.UNSET
    consumer_packets: int | msgspec.UnsetType | None = msgspec.UNSET
    consumer_octets: int | msgspec.UnsetType | None = msgspec.UNSET
    provider_packets: int | msgspec.UnsetType | None = msgspec.UNSET
    provider_octets: int | msgspec.UnsetType | None = msgspec.UNSET


class Process(msgspec.Struct, frozen=True):
    """The process at one end, its container's id, and the process that started it."""

    exe: str | None
    name: str
    pid: int
    container: str | None = None
    parent: str | None = None
    parent_pid: int | None = None


class Tls(msgspec.Struct, frozen=True):
    """What the consumer asked for in the clear at the start of TLS."""

    server_name: str | None
    alpn: tuple[str, ...]


class Flow(msgspec.Struct, frozen=True):
    """One flow. Times are RFC 3339 UTC with microseconds; octets are IP-layer octets; absent facts are null.

    `snat` says that the source of a `post-dnat` leg was translated too, so its consumer is not the opener.
    `drop_reason` is null when nothing was seen to drop it. `provider_names` are the DNS names by which the consumer
    had learnt the provider's address when it connected.
    """

    flow_id: str
    connection_id: str
    leg: str
    snat: bool
    category: str
    link: str
    start: str | None
    """Null, like `end` and `duration_us`, only where another tool's log has no time that can be read."""
    end: str | None
    duration_us: int | None
    protocol: str
    direction: str
    consumer: FlowEnd
    provider: FlowEnd
    consumer_packets: int | None
    consumer_octets: int | None
    consumer_flags: str | None
    provider_packets: int | None
    provider_octets: int | None
    provider_flags: str | None
    rtt_us: int | None
    srtt_us: int | None
    retransmits: int | None
    zero_windows: int | None
    drop_reason: str | None
    process: Process | None
    provider_process: Process | None
    provider_names: tuple[str, ...]
    tls: Tls | None
    tunnel: str | None
    vni: int | None
    icmp: str | None
    taps: tuple[Tap, ...]
    counts: bool
    verdict: str | None
    connections: int = 1
    """How many connections it stands for, where consumers' ports were folded away."""
    sample: int | None = None
    """One packet in so many was counted, and told as so many: counters are estimates. Null where every one was."""
    origin: str | None = None
    """Whose flow it is where an import read it: `zeek`, `hubble`, `calico`, `netobserv`, `vpc`, `ipfix`, `sflow`. Null: seen by ourselves."""
    community_id: str | None = None
    """Community ID 1 of its tuple, by which Zeek, Suricata and others name the same conversation. Null where the tuple
    is not one on the wire (ports folded away)."""
    opened_by: FlowEnd | None = None
    """Who opened the connection, where source translation put this leg's consumer in its place."""
