"""What an agent can be told, checked, and what follows from it for its parts. Pure but for reading the cgroup's limits."""

from __future__ import annotations

import msgspec

from ringfence.agent.budget import Budget
from ringfence.agent.budget import check as check_budget
from ringfence.agent.meter import allowed
from ringfence.capture.settings import CaptureSettings
from ringfence.model.problems import Problem

SECOND = 1_000_000_000
MODES = {"conversation": 15.0, "detailed": 1.0}
"""Seconds of one window in each mode (design section 4)."""

MOST_ENTRIES = 400_000
"""Entries of each map: all maps together must fit one batch (`wire.codec.MAX_ROWS`)."""
MOST_SAMPLED = 10_000


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an agent can be told; `--config` takes the same fields. Documented in docs/reference/settings.md."""

    server: str = "https://127.0.0.1:8444"
    """Address of the server's listener for agents."""
    enrol_token_file: str | None = None
    """File with a one-time token of `ringfence enrol token`. Without it RINGFENCE_ENROL_TOKEN is read."""
    account_token_file: str | None = None
    """In a cluster: file with the pod's projected service-account token, audience `ringfence`."""
    ca_file: str | None = None
    """File with the server's authority (PEM), for `account_token_file`; one-time tokens need none."""
    token_file: str | None = None
    """For development, instead of enrolling: file with the agent token of a server started with `agent_tokens`.
    Without it RINGFENCE_AGENT_TOKEN is read."""
    cluster: str = "default"
    """Name of the cluster this node belongs to."""
    node: str = ""
    """Name of this node as Kubernetes spells it; the host name when empty."""
    data: str = "/var/lib/ringfence/agent"
    """Folder of the spool: batches wait here until the server has them."""
    spool_cap: int = 1 << 30
    """Octets the spool may hold; beyond, the oldest batches are dropped and the loss is counted."""
    mode: str = "conversation"
    """`conversation` (15 s windows) or `detailed` (1 s windows)."""
    window: float | None = None
    """Seconds of one window, in place of the mode's own."""
    netns: str | None = None
    """Path of the node's network namespace; the agent's own when absent."""
    pin_dir: str = "/run/ringfence/bpf/agent"
    """Where kernel maps and programs are pinned, so that a crash loses nothing; a bpffs is mounted there unless it
    lies in one (as /sys/fs/bpf/ringfence does on most machines)."""
    map_entries: int = 131_072
    """Entries of each kernel map."""
    tunnel_ports: tuple[int, ...] = (4789, 8472)
    """UDP ports that carry VXLAN."""
    geneve_ports: tuple[int, ...] = (6081,)
    """UDP ports that carry Geneve."""
    include: tuple[str, ...] = ()
    """Patterns of interfaces to tap although the rules would not."""
    exclude: tuple[str, ...] = ()
    """Patterns of interfaces never to tap; those of a pod's own namespace are called pod/NAME."""
    path: str = "auto"
    """How packets are met: tcx (Linux 6.6), clsact, packet (an AF_PACKET ring, without eBPF); auto takes the first that
    the machine allows."""
    sample: int = 1
    """One packet in so many is counted, and told as so many; 1 counts every one. Those that open or end a TCP connection are
    always counted, so every connection stays known. Flows that were sampled say so (`sample`)."""
    processes: bool = True
    """Name the processes at both ends of conversations."""
    socket_links: bool = True
    """Follow load balancing at sockets (as Cilium's without kube-proxy), by hooks at the pods' cgroup."""
    names: bool = True
    """Hear by which names pods knew their providers (DNS) and what TLS clients ask for (server name, ALPN)."""
    names_ring: int = 1 << 20
    """Octets of the kernel's ring through which names are heard: a power of two, 4096 or more."""
    facts: bool = True
    """Take what the kernel tells beside the packets: what it drops, and in detailed mode retransmissions and smoothed
    round trips."""
    cpu_limit: float | None = None
    """Cores the agent keeps itself to (0.05 is 5 % of one); 0 is no limit. By default nine tenths of its cgroup's."""
    memory_limit: int | None = None
    """Octets of memory it keeps itself to; 0 is no limit. By default nine tenths of its cgroup's."""
    keep_counting: bool = False
    """On a clean stop leave the kernel counting for the next agent, instead of removing everything."""


def check(settings: AgentSettings) -> None:
    """Raise Problem for settings that make no sense together."""
    if settings.mode not in MODES:
        raise Problem(f"unknown mode `{settings.mode}`", "mode", f"use one of: {', '.join(MODES)}")
    if settings.window is not None and not 0.1 <= settings.window <= 3600:
        raise Problem(f"window of {settings.window} s", "window", "use 0.1 to 3600 seconds")
    check_budget(budget(settings))
    if not 1 <= settings.sample <= MOST_SAMPLED:
        raise Problem(f"one packet in {settings.sample}", "sample", f"use 1 (every packet) to {MOST_SAMPLED}")
    ring = settings.names_ring
    if not 4096 <= ring <= 1 << 28 or ring & ring - 1:
        raise Problem(f"ring of {ring} octets", "names_ring", "use a power of two, 4096 to 268435456")
    if not 1 <= settings.map_entries <= MOST_ENTRIES:
        raise Problem(
            f"map of {settings.map_entries} entries",
            "map_entries",
            f"use 1 to {MOST_ENTRIES}; 131072 is the default",
        )


def length(settings: AgentSettings, mode: str) -> int:
    """Nanoseconds of one window; a length that was set is that of the mode that was set."""
    own = settings.window if mode == settings.mode else None
    return int((own or MODES[mode]) * SECOND)


def budget(settings: AgentSettings) -> Budget:
    """Its own limits, or those of its cgroup."""
    cpu, memory = settings.cpu_limit, settings.memory_limit
    found = allowed() if cpu is None or memory is None else Budget()
    return Budget(found.cpu if cpu is None else cpu, found.memory if memory is None else memory)


def capture_settings(settings: AgentSettings) -> CaptureSettings:
    """What its capture is told."""
    return CaptureSettings(
        netns=settings.netns,
        pin_dir=settings.pin_dir,
        map_entries=settings.map_entries,
        tunnel_ports=settings.tunnel_ports,
        geneve_ports=settings.geneve_ports,
        include=settings.include,
        exclude=settings.exclude,
        path=settings.path,
        sample=settings.sample,
        processes=settings.processes,
        socket_links=settings.socket_links,
        names=settings.names,
        names_ring=settings.names_ring,
        facts=settings.facts,
        detailed=settings.mode == "detailed",
    )
