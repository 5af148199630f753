"""What one capture can be told."""

from __future__ import annotations

import msgspec


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one capture looks at. Everything has a default that suits a node."""

    netns: str | None = None
    """Path of the node's network namespace; None is the process' own."""
    pin_dir: str = "/sys/fs/bpf/ringfence"
    """Where maps and programs are pinned, so that a crash loses nothing. A bpffs is mounted here if none is."""
    map_entries: int = 131_072
    """Entries of each per-tuple map: (tap, direction, 5-tuple) seen between two drains; half of it for tunnels."""
    tunnel_ports: tuple[int, ...] = (4789, 8472)
    """UDP ports that carry VXLAN (RFC 7348, and Linux' older default)."""
    geneve_ports: tuple[int, ...] = (6081,)
    """UDP ports that carry Geneve (RFC 8926)."""
    include: tuple[str, ...] = ()
    """Patterns (fnmatch) of interfaces to tap although the rules would not."""
    exclude: tuple[str, ...] = ()
    """Patterns of interfaces never to tap."""
    path: str = "auto"
    """How packets are met: `tcx` (6.6 and later), `clsact`, `packet` (an AF_PACKET ring, without eBPF); `auto` takes
    the first that the machine allows."""
    detailed: bool = False
    """Also take what sockets say of their own sending: smoothed round trips and segments sent again."""
    sample: int = 1
    """One packet in so many is counted, as so many; those that open or end a connection always."""
    processes: bool = True
    """Name the processes at both ends of conversations (needs raw tracepoints and kernel BTF)."""
    socket_links: bool = True
    """Follow load balancing at sockets, by hooks at the pods' cgroup (needs kernel BTF and Linux 6.3)."""
    names: bool = True
    """Hear which names pods were answered by DNS, and what TLS clients ask for."""
    names_ring: int = 1 << 20
    """Octets of the kernel's ring that names are told by: a power of two, 4096 or more."""
    facts: bool = True
    """Take what the kernel tells beside the packets: its drops, and what `detailed` adds (needs raw tracepoints)."""
