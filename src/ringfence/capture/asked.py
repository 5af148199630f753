"""Which addresses pods asked for where a program at their sockets gave them others: `bpf/asked.bpf.c`. Optional.

Its hooks are attached to the cgroup that holds the node's pods, never to the root: a node's own processes are not its
business; and only where somebody else's program is at a pod's sockets, since a hook costs each send of an unconnected
socket, and the tracepoints that belong to them each send of any. There they run before any other program, whether that is attached above (as Cilium's is, to the root), below or
beside: Linux 6.15 lets a program be ordered before those below, 6.17 before those beside; before that, those beside and
below go first, and what they rewrite is not told. Nothing is pinned: the hooks end with this process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ringfence.capture import bpf, libbpf
from ringfence.capture.build import object_bytes
from ringfence.capture.decode.asked import (
    PAIR,
    TIMES,
    asks,
    cgroup_mounts,
    folder_of,
    subtree,
    translations,
    unified,
)
from ringfence.capture.privilege import why
from ringfence.capture.taps import pod_processes
from ringfence.flows.asked import ASK, ASKS_LOST
from ringfence.model.batches import Loss
from ringfence.model.columns import TRANSLATION, Table
from ringfence.model.problems import Problem

HOOKS = {"connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15}
"""Program → attach type (linux/bpf.h, enum bpf_attach_type)."""
TRACEPOINTS = ("settled", "sent")
PREORDER = 1 << 6
"""BPF_F_PREORDER: before programs of cgroups below."""
ORDERS = (PREORDER | bpf.BEFORE, PREORDER, 0)
AGAIN = 60.0
"""Seconds after which a connection that is still open is told again, as conntrack's are."""
MOST = 65_536
"""Open connections remembered; of more, those opened first are not told again."""


class Heard(NamedTuple):
    """What sockets asked since the last call."""

    translations: Table
    """`columns.TRANSLATION`, of sockets that know both addresses."""
    asks: Table
    """`flows.asked.ASK`, of datagrams."""
    losses: tuple[Loss, ...]


NOTHING = Heard(np.zeros(0, TRANSLATION), np.zeros(0, ASK), ())
_ROW = np.dtype([("pair", PAIR), ("times", TIMES)])


class Asked:
    """The hooks and their map. The tracepoints see the whole machine: `read` keeps the namespaces asked for."""

    def __init__(self, wanted: bool = True, proc: Path = Path("/proc")) -> None:
        self._wanted, self._proc = wanted, proc
        self._loaded: libbpf.Object | None = None
        self._pairs = self._missed = -1
        self._lost = 0
        self._tracepoints: list[int] = []
        self._hooks: dict[str, dict[str, int]] = {}
        self._pods: dict[str, tuple[str, str]] = {}
        self._rows: list[Table] = []
        self._ours: frozenset[int] = frozenset()
        self._open = np.zeros(0, _ROW)
        self._next_telling = 0.0
        self.notes: tuple[str, ...] = ()

    def start(self, ours: frozenset[int] = frozenset()) -> None:
        """Load the programs; hooks are attached by `look`. Where that cannot be, `notes` say why.

        `ours` are programs (ids) of this agent's at sockets, which are nobody else's.
        """
        self._ours = ours
        if not self._wanted:
            return
        try:
            self._load()
        except (OSError, Problem) as error:
            self.stop()
            self.notes = (f"load balancing at sockets is not followed: {why(error, 'BPF', 'PERFMON')}",)

    def _load(self) -> None:
        self._loaded = libbpf.Object(object_bytes("asked"), "asked.bpf.o")
        self._loaded.load()
        self._pairs, self._missed = self._loaded.map("pairs"), self._loaded.map("missed")
        self._trace()
        self._untrace()  # it can be done; whether it needs to be shows at the pods' cgroups

    def _trace(self) -> None:
        """Listen to what becomes of sockets that the hooks saw; before they are attached, so that none is missed."""
        assert self._loaded is not None
        for name in TRACEPOINTS[len(self._tracepoints) :]:
            program = self._loaded.program(name)
            try:
                self._tracepoints.append(bpf.open_tracepoint(program, None))
            finally:
                os.close(program)

    def _untrace(self) -> None:
        _close(self._tracepoints)
        self._tracepoints = []

    def look(self, pods: Collection[str]) -> None:
        """Find where the processes of these pods (UIDs) run, as far as they are new, and attach where that is needed."""
        if self._pairs < 0:
            return
        self._pods = {uid: place for uid, place in self._pods.items() if uid in pods}
        for folder in [each for each in self._hooks if not os.path.isdir(each)]:
            _close(self._hooks.pop(folder).values())
        if not any(self._hooks.values()):
            self._untrace()
        if set(pods) - set(self._pods):
            self._find(set(pods))

    def _find(self, wanted: set[str]) -> None:
        mounts = cgroup_mounts((self._proc / "self" / "mountinfo").read_text())
        unseen = ""
        for pid, uid in pod_processes(self._proc):
            if uid not in wanted or uid in self._pods:
                continue
            with contextlib.suppress(OSError):  # it ended
                text = (self._proc / str(pid) / "cgroup").read_text()
                path, own = subtree(text), unified(text)
                folder, lowest = (folder_of(each, mounts) if each else None for each in (path, own))
                self._pods[uid] = (folder or "", lowest or "")
                if not folder or not lowest:
                    unseen = "the pods' cgroups are not in a cgroup v2 tree that is mounted here"
                    continue
                if folder not in self._hooks:
                    self._hooks[folder] = {}
                    self._note(self._attach(folder, HOOKS))
                    _close(self._hooks[folder].values())  # it can be done; whether it needs to be comes now
                    self._hooks[folder] = {}
                self._follow(folder, lowest)
        self._note(unseen)

    def _note(self, reason: str) -> None:
        if reason:
            self.notes = (f"load balancing at sockets is not followed: {reason}",)

    def _follow(self, folder: str, lowest: str) -> None:
        """Attach to `folder` what somebody else has attached to this pod's cgroup (`lowest`) or one above it."""
        attached = self._hooks.get(folder, {})
        if not folder or len(attached) == len(HOOKS):
            return
        with contextlib.suppress(OSError):  # the pod ended
            cgroup = os.open(lowest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                missing = [name for name in HOOKS if name not in attached]
                wanted = [name for name in missing if bpf.cgroup_programs(cgroup, HOOKS[name]) - self._ours]
            finally:
                os.close(cgroup)
            if wanted:
                self._trace()
                self._note(self._attach(folder, wanted))

    def _attach(self, folder: str, names: Iterable[str]) -> str:
        """Attach these hooks to one cgroup; why not, where it cannot be."""
        assert self._loaded is not None
        cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                program = self._loaded.program(name)
                try:
                    self._hooks[folder][name] = bpf.attach_cgroup(program, cgroup, HOOKS[name], ORDERS)
                finally:
                    os.close(program)
        except OSError as error:
            return why(error, "NET_ADMIN")
        finally:
            os.close(cgroup)
        return ""

    def collect(self) -> None:
        """Take what the kernel noted, so that its map does not fill, and look at one more pod; call each second."""
        if self._pairs < 0:
            return
        if self._pods:
            uid = next(iter(self._pods))
            self._pods[uid] = place = self._pods.pop(uid)  # it is the last one now
            self._follow(*place)
        for keys, values in bpf.batches(self._pairs, PAIR, TIMES, 1, take=True):
            rows = np.zeros(len(keys), _ROW)
            rows["pair"], rows["times"] = keys, values[:, 0]
            self._rows.append(rows)

    def read(self, namespaces: Mapping[int, str | None]) -> Heard:
        """What was asked in these namespaces (inode → pod UID, None for the node) since the last call."""
        if self._pairs < 0:
            return NOTHING
        self.collect()
        read, self._rows = self._rows, []
        rows = np.concatenate([np.zeros(0, _ROW), *read])
        rows = rows[np.isin(rows["pair"]["netns"], np.fromiter(namespaces, np.uint32, len(namespaces)))]
        given = rows["pair"]["dport"] != 0
        utc = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
        told = self._told(rows[given], utc, namespaces)
        asked = rows[~given]
        at = asked["times"]["at"].astype(np.int64) + utc
        return Heard(told, asks(asked["pair"], at, namespaces), self._losses())

    def _told(self, rows: Table, utc: int, namespaces: Mapping[int, str | None]) -> Table:
        """What is new, and each minute what is still open."""
        fresh = translations(rows["pair"], rows["times"]["at"].astype(np.int64) + utc)
        tcp = rows[rows["pair"]["protocol"] == 6]
        gone = np.isin(_names(self._open), _names(tcp))
        before = self._open[~gone & np.isin(self._open["pair"]["netns"], list(namespaces))]
        self._open = np.concatenate([before, tcp[tcp["times"]["closed"] == 0]])[-MOST:]
        if time.monotonic() < self._next_telling:
            return fresh
        self._next_telling = time.monotonic() + AGAIN
        now = np.full(len(before), time.clock_gettime_ns(time.CLOCK_REALTIME), np.int64)
        return np.concatenate([fresh, translations(before["pair"], now)])

    def _losses(self) -> tuple[Loss, ...]:
        text = bpf.lookup(self._missed, bytes(4), 8) or bytes(8)
        lost = int.from_bytes(text, "little")
        missed, self._lost = lost - self._lost, lost
        return (Loss(ASKS_LOST, events=missed),) if missed else ()

    def stop(self) -> None:
        """Detach; the kernel frees programs and maps."""
        for links in self._hooks.values():
            _close(links.values())
        _close([fd for fd in (*self._tracepoints, self._pairs, self._missed) if fd >= 0])
        if self._loaded is not None:
            self._loaded.close()
        self._hooks, self._tracepoints, self._loaded = {}, [], None
        self._pairs = self._missed = -1


def _names(rows: Table) -> np.ndarray:
    """Each pair as octets that compare. Joining tables turns numbers into the order of this machine; this turns them back."""
    return np.ascontiguousarray(rows["pair"].astype(PAIR)).view(f"S{PAIR.itemsize}")


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
