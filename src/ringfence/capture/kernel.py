"""Kernel capture of one network namespace: taps, conntrack and processes behind one component."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ringfence.model.batches import Loss, ProcessInfo, TapInfo
from ringfence.model.columns import Table


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one capture looks at. Everything has a default that suits a node."""

    netns: str | None = None
    """Path of the node's network namespace; None is the process' own."""
    pin_dir: str = "/sys/fs/bpf/ringfence"
    """Where maps and programs are pinned, so that a crash loses nothing. A bpffs is mounted here if none is."""
    map_entries: int = 131_072
    """Entries of each per-tuple map: (tap, direction, 5-tuple) seen between two drains."""
    tunnel_ports: tuple[int, ...] = (4789, 8472)
    """UDP ports that carry VXLAN (RFC 7348, and Linux' older default)."""
    geneve_ports: tuple[int, ...] = (6081,)
    """UDP ports that carry Geneve (RFC 8926)."""
    include: tuple[str, ...] = ()
    """Patterns (fnmatch) of interfaces to tap although the rules would not."""
    exclude: tuple[str, ...] = ()
    """Patterns of interfaces never to tap."""
    processes: bool = True
    """Name the process that opens a TCP conversation (needs a raw tracepoint and kernel BTF)."""


class Drained(NamedTuple):
    """What the taps counted between two swaps."""

    counts: Table
    """`columns.TAP_COUNT`; `tap` indexes `taps`; times in UTC nanoseconds."""
    losses: tuple[Loss, ...]
    generation: int
    """Names these counts for ever (also over restarts): the same generation is the same counts, again."""
    packets: int
    """Packets counted, all taps added."""
    taps: tuple[TapInfo, ...] = ()
    """Index = tap id, as of this drain."""


class Capture:
    """Counts of every conversation at the taps of one network namespace.

    Goals: nothing lost, nothing doubled, also over a crash of this process. So counts stay in the kernel
    until `commit`: after `drain` make the counts durable together with their `generation`, then `commit`.
    A process that finds that the generation it drained is already durable drops it and commits.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self.settings = settings
        self.notes: tuple[str, ...] = ()
        """What this capture cannot see, in words."""

    def start(self) -> None:
        """Load the programs, or adopt what a crashed process left counting; attach to the taps.

        Raises Problem when a privilege, a kernel feature or the object is missing.
        """
        raise NotImplementedError

    def refresh(self) -> bool:
        """Attach to interfaces that came, forget those that went. Cheap when nothing changed; call each second.

        True when the taps or addresses changed.
        """
        raise NotImplementedError

    def drain(self) -> Drained:
        """Swap maps and read what was counted; again the same counts until `commit` is called."""
        raise NotImplementedError

    def commit(self) -> None:
        """The last drained counts are durable elsewhere: clear them in the kernel."""
        raise NotImplementedError

    def translations(self) -> tuple[Table, Table, tuple[Loss, ...]]:
        """Conntrack since the last call: `(columns.TRANSLATION, hints, losses)`.

        `hints` has the TUPLE columns, oriented as opened, of entries whose creation was seen.
        """
        raise NotImplementedError

    def processes(self) -> tuple[Table, tuple[ProcessInfo, ...]]:
        """Who opened conversations since the last call.

        The table has the TUPLE columns, oriented as opened, and `process` (u4), an index into the tuple.
        """
        raise NotImplementedError

    @property
    def taps(self) -> tuple[TapInfo, ...]:
        """All taps; the index is the tap id of `Drained.counts`. A tap that went keeps its place for a while."""
        raise NotImplementedError

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every local address of the namespace, both families, loopback left out."""
        raise NotImplementedError

    def stop(self, keep: bool = False) -> None:
        """Remove filters, pins and the mount this made; with `keep`, leave the kernel counting for an heir."""
        raise NotImplementedError
