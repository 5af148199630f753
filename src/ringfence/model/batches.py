"""The header of a batch an agent ships; the columns themselves are `columns.SIGHTING` and `TRANSLATION`."""

from __future__ import annotations

import msgspec

from ringfence.model.columns import LAYOUT


class TapInfo(msgspec.Struct, frozen=True):
    """One tap of this node. `at` is pod, node or tunnel; `pod` is the pod's UID for pod taps."""

    interface: str
    at: str
    pod: str | None = None


class ProcessInfo(msgspec.Struct, frozen=True):
    """A process at one end of conversations; `pod` its pod's UID and `container` its container's id, where its cgroup
    tells; `parent` the name of the process that started it."""

    name: str
    pid: int
    exe: str | None = None
    pod: str | None = None
    container: str | None = None
    parent: str | None = None
    parent_pid: int | None = None


class TlsInfo(msgspec.Struct, frozen=True):
    """What a ClientHello asks for in the clear: server name (RFC 6066) and protocols (ALPN, RFC 7301)."""

    server_name: str | None = None
    alpn: tuple[str, ...] = ()


class Loss(msgspec.Struct, frozen=True):
    """What a stage could not keep, counted, in this batch. `stage` is e.g. `kernel-map-full`, `conntrack-overrun`."""

    stage: str
    packets: int = 0
    octets: int = 0
    events: int = 0


class BatchHeader(msgspec.Struct, frozen=True):
    """Who sends, in what order, and the dictionaries the columns point into. Times are UTC nanoseconds.

    `(node, epoch, sequence)` names the batch for ever: epochs are random and never used again, sequences
    start at 1 and have no gaps. `windows` lists the starts of every window this batch closes, also those in
    which nothing was seen: an absent window means an absent agent, not silence.
    """

    cluster: str
    node: str
    epoch: str
    sequence: int
    sent: int
    window_length: int
    windows: tuple[int, ...]
    mode: str = "detailed"
    layout: int = LAYOUT
    version: str = ""
    taps: tuple[TapInfo, ...] = ()
    pods: tuple[str, ...] = ()
    """UIDs that `consumer_pod` and `provider_pod` point at, by index + 1."""
    processes: tuple[ProcessInfo, ...] = ()
    names: tuple[str, ...] = ()
    """DNS names of providers as consumers had learnt them; several of one flow with spaces between."""
    tls: tuple[TlsInfo, ...] = ()
    addresses: tuple[str, ...] = ()
    """Every local address of the node, the bridge's included."""
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()
    """What this agent cannot see, in words."""
    packets: int = 0
    """Packets its taps counted in these windows, all taps added, before folding: what came in."""
    records: int = 0
    """Kernel map entries drained, before folding."""
    generation: int = 0
    """The kernel's name for the counts in here: an agent that comes back drops counts it already kept."""
    unnamed_taps: int = 0
    """Taps that saw a flow beyond the `columns.MAX_TAPS` a row can name (a flooded multicast, mostly)."""
    open_window: int | None = None
    """A window that rows are of and this batch does not close: the kernel's maps were read early, more is to come."""
    sample: int = 1
    """One packet in so many was counted; counters are already scaled."""
