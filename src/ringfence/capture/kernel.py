"""Kernel capture of one network namespace: taps, conntrack and processes behind one component."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ringfence.capture import netlink, paths, pins
from ringfence.capture.asked import Asked
from ringfence.capture.attach import Attached
from ringfence.capture.conntrack import Conntrack
from ringfence.capture.counters import Counters, Options
from ringfence.capture.entering import inside
from ringfence.capture.facts import Facts
from ringfence.capture.names import Hearing
from ringfence.capture.process import NOBODY, Heard, Openers
from ringfence.capture.settings import CaptureSettings
from ringfence.capture.sockets import Accepted
from ringfence.capture.taps import Insides, View, look, namespace_inode
from ringfence.flows.asked import ASK
from ringfence.flows.heard import Heard as Said
from ringfence.model.batches import Loss, TapInfo
from ringfence.model.columns import Table
from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from ringfence.capture.ring import Ring

RESCAN = 60.0
"""Seconds between full looks when no event asks for one."""
_RETRIES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between looks while a veth's pod is not known: its first process may come after its interface."""

_NEWCOMER = 20.0
"""Seconds in which each drain looks again for a pod that is not known: what its tap counted is named as of the drain."""

_OPENERS = 0.5
"""Seconds between looks at who opened conversations: later, a short-lived process can no longer be asked after."""


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
    Not safe for use by several threads.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self.settings = settings
        self._notes: list[str] = []
        # As of the last look: an interface that went in the middle of one must not be a note for ever.
        self._untapped: list[str] = []
        self._counters: Counters | Ring | None = None
        self._lock = -1
        self._accepted = Accepted(settings.netns)
        self._openers = Openers(settings.processes)
        self._facts = Facts(settings.facts)
        self._ring: Ring | None = None
        self._asked = Asked(settings.socket_links)
        self._asks: list[Table] = []
        self._hearing = Hearing(settings.names)
        self._detailed = settings.detailed
        self._next_openers = 0.0
        self._looking_up = True

    def start(self) -> None:
        """Load the programs, or adopt what a crashed process left counting; attach to the taps.

        Raises Problem when a privilege, a kernel feature or the object is missing.
        """
        self._notes = ["host-network conversations of this node with itself go over lo and are not seen"]
        # What a crashed process left must survive a start that fails, e.g. for want of a compiler.
        heir = pins.exist(Path(self.settings.pin_dir))
        try:
            self._start()
        except BaseException:
            self.stop(keep=heir)
            raise

    def _start(self) -> None:
        settings = self.settings
        path, note = paths.choose(settings.path, settings.netns)
        self._open_sockets()
        self._notes.append(note)
        self._folder = Path(settings.pin_dir)
        if settings.sample > 1:
            self._notes.append(f"one packet in {settings.sample} is counted, as {settings.sample}")
        if settings.sample > 1 and path == "packet":
            raise Problem(
                "sampling needs eBPF", f"sample={settings.sample}", "set it to 1, or allow tcx or clsact"
            )
        options = Options(
            settings.map_entries,
            settings.tunnel_ports,
            settings.geneve_ports,
            settings.sample,
            settings.names_ring,
        )
        if path == "packet":
            self._open_ring(options)
        else:
            self._notes += self._hearing.start(self._open_maps(options, path))
        self._attached.adopt()
        # Before the socket tables are read: what is opened meanwhile is in one of both.
        self._notes += self._openers.start()
        self._asked.start(self._openers.programs)
        self.detail(self._detailed)
        self._rescan()
        self._conntrack.start()
        self._notes += self._conntrack.notes + self._attached.notes

    def _open_maps(self, options: Options, path: str) -> Counters:
        netns = self.settings.netns
        pins.prepare(self._folder)
        self._lock = pins.lock(self._folder)
        self._counters = counters = Counters(self._folder, options)
        counters.open()
        hooks = paths.hooks(self._route, self._folder, counters.program, path, netns)
        self._attached: Attached | Ring = Attached(counters, hooks, path, netns)
        self._insides: Insides | None = Insides(netns)
        return counters

    def _open_ring(self, options: Options) -> None:
        # Imported here: it brings the decoders of packet files, which no other path needs in memory.
        from ringfence.capture.ring import Ring

        if pins.exist(self._folder):
            # A life before this one counted by eBPF: nobody will read that any more.
            self._open_maps(options, "clsact")
            self._attached.adopt()
            self._close_maps()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = pins.lock(self._folder)
        lock = threading.Lock()
        ear, notes = self._hearing.start_ring(lock)
        self._notes += notes
        self._counters = self._attached = self._ring = Ring(self.settings.netns, options, lock, ear)
        self._insides = None
        self._counters.open()

    def _open_sockets(self) -> None:
        settings = self.settings
        groups = (
            netlink.GROUP_LINK,
            netlink.GROUP_IPV4_ADDRESS,
            netlink.GROUP_IPV6_ADDRESS,
            netlink.GROUP_NSID,
        )

        def open_all() -> tuple[netlink.Netlink, netlink.Netlink, Conntrack]:
            return netlink.Netlink(), netlink.Netlink(groups=groups), Conntrack()

        self._route, self._events, self._conntrack = inside(settings.netns, open_all)
        self._own_inode = namespace_inode(Path(settings.netns or "/proc/self/ns/net"))

    @property
    def adopted(self) -> bool:
        """Whether `start` took over maps that had gone on counting for a process that is gone."""
        return self._counters is not None and self._counters.adopted

    def refresh(self) -> bool:
        """Attach to interfaces that came, forget those that went. Cheap when nothing changed; call each second.

        True when the taps or addresses changed.
        """
        self._conntrack.collect()
        self._hearing.collect()
        now = time.monotonic()
        if self._looking_up and now >= self._next_openers:
            self._next_openers = now + _OPENERS
            self._openers.collect(self._listened())
            self._asked.collect()
        changed = self._events.drained()
        if now >= self._next_look and self._insides:
            self._insides.forget()
        if now < self._next_look and not changed:
            return False
        return self._rescan()

    def fileno(self) -> int:
        """Readable (select, poll) as soon as an interface or address changed: then call `refresh`."""
        return self._events.socket.fileno()

    def _rescan(self) -> bool:
        changed, unknown = self._look()
        self._plan_next_look(unknown)
        self._accepted.look(self._own_inode, self._view.paths)
        self._asked.look(self._view.namespaces.values())
        tables = self._accepted.sockets()
        if self._looking_up:
            self._openers.began(tables, self._listened())
        return changed

    def _look(self) -> tuple[bool, tuple[int, ...]]:
        """Attach to what is there now. Whether anything changed, and interfaces whose pod is not known."""
        settings = self.settings
        view = look(
            self._route,
            self._own_inode,
            settings.include,
            settings.exclude,
            insides=self._insides,
            netns=settings.netns,
            own=self._attached.programs(),
        )
        before = (self._attached.taps, getattr(self, "_view", None) and self._view.addresses)
        self._view: View = view
        self._untapped = [*view.notes, *self._attached.apply(view.choices)]
        self._hearing.listen(self._attached.taps, view.addresses)
        unknown = tuple(c.ifindex for c in view.choices if c.at == "pod" and c.pod is None)
        return before != (self._attached.taps, view.addresses), unknown

    def _plan_next_look(self, unknown: tuple[int, ...]) -> None:
        """Soon, and then less and less soon, while a pod behind a veth is unknown; else in a minute."""
        if unknown != getattr(self, "_unknown", ()):
            self._tries, self._unknown_since = 0, time.monotonic()
        self._unknown = unknown
        wait = RESCAN
        if unknown and self._tries < len(_RETRIES):
            wait = _RETRIES[self._tries]
            self._tries += 1
        self._next_look = time.monotonic() + wait

    def drain(self) -> Drained:
        """Swap maps and read what was counted; again the same counts until `commit` is called."""
        assert self._counters is not None, "start() first"
        counts, losses, generation = self._counters.drain()
        if self._unknown and time.monotonic() < self._unknown_since + _NEWCOMER:
            self._look()
        return Drained(counts, losses, generation, int(counts["packets"].sum()), self._attached.taps)

    def commit(self) -> None:
        """The last drained counts are durable elsewhere: clear them in the kernel."""
        assert self._counters is not None, "start() first"
        self._counters.commit()
        self._attached.committed()

    def translations(self) -> tuple[Table, Table, tuple[Loss, ...]]:
        """Conntrack and the hooks at sockets since the last call: `(columns.TRANSLATION, hints, losses)`.

        `hints` has the TUPLE columns, oriented as opened, of entries whose creation was seen.
        """
        rows, hints, losses = self._conntrack.read()
        heard = self._asked.read(self._listened())
        self._asks.append(heard.asks)
        return np.concatenate([rows, heard.translations]), hints, (*losses, *heard.losses)

    def asks(self) -> Table:
        """What sockets sent datagrams to (`flows.asked.ASK`), as of the calls of `translations` since the last call."""
        asks, self._asks = self._asks, []
        return np.concatenate([np.zeros(0, ASK), *asks])

    def accepted(self) -> Table:
        """Connections found in socket tables since the last call: the TUPLE columns, oriented as opened.

        Each namespace's are read once, when it is first seen: what began before nobody else can tell.
        """
        return self._accepted.take()

    def processes(self) -> Heard:
        """Who opened conversations since the last call, and who holds which end now."""
        if not self._looking_up:
            return NOBODY
        return self._openers.read(self._listened())

    def names(self) -> tuple[Said, tuple[Loss, ...]]:
        """What DNS and TLS said at the taps since the last call; what of it found no room. Call after `drain`: what is
        told here was said before or while that was counted."""
        assert self._counters is not None, "start() first"
        return self._hearing.take(self._counters.utc_offset)

    def facts(self) -> Table:
        """What the kernel told beside the packets since the last call: `flows.facts.FACT`."""
        told = self._facts.take(self._listened())
        return told if self._ring is None else np.concatenate([told, self._ring.facts()])

    def detail(self, wanted: bool) -> None:
        """Go over to detailed mode, or back: what sockets say of their own sending is taken from now on, or no more."""
        self._detailed = wanted
        now = self._looking_up and wanted
        self._facts.switch(drops=self._looking_up, tcp=now)
        if self._ring is not None:
            # Where sockets cannot be asked, sequence numbers tell what was sent again; never both, which would double it.
            self._ring.detail(now and self.settings.facts and not self._facts.repeats)

    def look_up(self, wanted: bool) -> None:
        """Whether facts beyond the counts are looked up. What the kernel noted meanwhile is not told later."""
        if wanted and not self._looking_up:
            self._openers.read(self._listened())
        self._looking_up = wanted
        self._hearing.switch(wanted)
        self.detail(self._detailed)

    def _listened(self) -> dict[int, str | None]:
        """Namespaces whose openers are told: the node's own and its pods'."""
        return {self._own_inode: None, **self._view.namespaces}

    @property
    def filled(self) -> float:
        """How full the fullest of the kernel's maps is, 0 to 1: read it before it is 1."""
        return self._counters.filled if self._counters is not None else 0.0

    @property
    def taps(self) -> tuple[TapInfo, ...]:
        """All taps; the index is the tap id of `Drained.counts`. A tap that went keeps its place for a while."""
        return self._attached.taps

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every local address of the namespace, both families, loopback left out."""
        return self._view.addresses

    @property
    def notes(self) -> tuple[str, ...]:
        """What this capture cannot see, in words."""
        return tuple(
            dict.fromkeys(
                [
                    *self._notes,
                    *self._untapped,
                    *self._accepted.notes,
                    *self._openers.notes,
                    *self._facts.notes,
                    *self._asked.notes,
                ]
            )
        )

    def stop(self, keep: bool = False) -> None:
        """Remove filters, pins and the mount this made; with `keep`, leave the kernel counting for an heir."""
        self._openers.stop()
        self._facts.stop()
        self._asked.stop()
        self._close_maps(keep)
        for name in ("_route", "_events", "_conntrack"):
            if hasattr(self, name):
                getattr(self, name).close()

    def _close_maps(self, keep: bool = False) -> None:
        self._hearing.stop()
        if not keep and hasattr(self, "_attached"):
            self._attached.remove_all()
        if hasattr(self, "_attached"):
            self._attached.close()
        if self._counters is not None:
            self._counters.close()
            self._counters = self._ring = None
        locked, self._lock = self._lock >= 0, _closed(self._lock)
        if not keep and locked:
            pins.remove(self._folder)


def _closed(fd: int) -> int:
    """Close a descriptor if it is one; what to keep in its place."""
    if fd >= 0:
        os.close(fd)
    return -1
