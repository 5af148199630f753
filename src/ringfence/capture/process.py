"""Who is at the ends of conversations: `bpf/process.bpf.c` and /proc. Optional: without it, notes say so."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ringfence.capture import bpf, libbpf
from ringfence.capture.build import object_bytes
from ringfence.capture.decode.asked import cgroup_mounts
from ringfence.capture.decode.cgroups import container_id
from ringfence.capture.decode.openers import CONVERSATION, FOLDER, OPENER, distinct, text
from ringfence.capture.decode.sockdiag import speaks_to_anybody
from ringfence.capture.held import Held
from ringfence.capture.owners import alive, owners, process, still_holds
from ringfence.capture.privilege import held as may
from ringfence.capture.privilege import why
from ringfence.flows.ends import END, MOST, OPENED
from ringfence.flows.memory import IDLE_TCP
from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import Table
from ringfence.model.problems import Problem


class Heard(NamedTuple):
    """Processes since the last call. `process` of both tables indexes `infos`."""

    opened: Table
    """`flows.ends.OPENED`."""
    infos: tuple[ProcessInfo, ...]
    ends: Table
    """`flows.ends.END`: all that are held now."""


LOOK_AGAIN = 30.0
"""Seconds between looks whether sockets of tables are still held: nobody tells of their end."""

NOBODY = Heard(np.zeros(0, OPENED), (), np.zeros(0, END))


HOOKS = {
    "rf_udp_create": 2,
    "rf_udp_connect4": 10,
    "rf_udp_connect6": 11,
    "rf_udp_release": 34,
}
"""Program → attach type (linux/bpf.h, enum bpf_attach_type)."""
LIVING, SENDS = "rf_udp_living", "sends"
UDP = ((*HOOKS, LIVING), (SENDS,), ())
"""How the processes of UDP sockets are told, the first that can be: by hooks, which cost sends nothing;
by a tracepoint of every send; not at all."""


class Openers:
    """The programs and their map. They see the whole machine: `read` keeps the namespaces asked for.

    Not pinned: it ends with this process, since who opened what is told by /proc only while it lives.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._map = self._folders = -1
        self._links: list[int] = []
        self._living = -1
        self.programs: frozenset[int] = frozenset()
        self._heard: list[Table] = []
        self._infos: dict[ProcessInfo, int] = {}
        self._containers: dict[int, str | None] = {}
        self._held = Held()
        self._descriptors: dict[int, str] = {}
        self._look_again = 0.0
        self.notes: tuple[str, ...] = ()

    def start(self) -> list[str]:
        """Attach. Returns notes: why processes are not named, if they are not."""
        if not self._wanted:
            return ["processes are not named: switched off"]
        try:
            return self._attach()
        except (OSError, Problem) as error:
            self.stop()
            return [f"processes are not named: {why(error, 'BPF', 'PERFMON')}"]

    def _attach(self) -> list[str]:
        for way in UDP:
            try:
                self._attach_by(way)
                break
            except OSError as error:
                self.stop()
                reason = error
        else:
            raise reason
        notes = []
        if way is not UDP[0]:
            said = "are not named" if not way else "are asked for at every send, which costs each some 100 ns"
            notes.append(f"processes that send UDP {said}: {why(reason, 'BPF', 'PERFMON', 'NET_ADMIN')}")
        if not may("SYS_PTRACE"):
            notes.append(
                "programs of processes with other rights than this one's have no path: CAP_SYS_PTRACE is missing"
            )
        return notes

    def _attach_by(self, way: tuple[str, ...]) -> None:
        """Load what this way takes, and attach it. Raises OSError."""
        loaded = libbpf.Object(object_bytes("process"), "process.bpf.o")
        try:
            for program in {name for each in UDP for name in each} - set(way):
                loaded.skip(program)
            loaded.load()
            self._map, self._folders = loaded.map("conversations"), loaded.map("cgroups")
            self._links.append(_traced(loaded, "process", "inet_sock_set_state"))
            if SENDS in way:
                self._links.append(_traced(loaded, SENDS, None))
            elif way:
                self._hook(loaded)
        finally:
            loaded.close()

    def _hook(self, loaded: libbpf.Object) -> None:
        folder = _root()
        senders = loaded.map("senders")
        cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, kind in HOOKS.items():
                with _program(loaded, name) as program:
                    self._links.append(bpf.attach_cgroup(program, cgroup, kind, (0,)))
                    self.programs |= {bpf.program_id(program)}
            with _program(loaded, LIVING) as program:
                self._living = bpf.open_iterator(program, senders)
                self._links.append(self._living)
        finally:
            os.close(cgroup)
            os.close(senders)

    def collect(self, namespaces: Mapping[int, str | None]) -> None:
        """Take what the kernel noted, while the processes may still live to be asked after; call each second.

        `namespaces` are those to listen to: inode → pod UID, None for the node.
        """
        if self._map < 0:
            return
        if self._living >= 0:
            bpf.iterate(self._living)
        read = [
            (keys.copy(), values[:, 0].copy())
            for keys, values in bpf.batches(self._map, CONVERSATION, OPENER, 1, take=True)
        ]
        if not read:
            return
        keys, openers = np.concatenate([k for k, _ in read]), np.concatenate([v for _, v in read])
        ours = np.isin(keys["netns"], np.fromiter(namespaces, np.uint32, len(namespaces)))
        keys, openers = keys[ours], openers[ours]
        first, index = distinct(keys, openers)
        infos = [
            self._describe(who, namespaces[int(netns)])
            for who, netns in zip(openers[first], keys["netns"][first], strict=True)
        ]
        places = [self._infos.setdefault(info, len(self._infos)) for info in infos]
        whole = keys["dport"] != 0
        self._heard.append(_opened(keys[whole], np.array(places, np.uint32)[index][whole]))
        self._held.hear(keys[~whole], openers[~whole], infos, index[~whole])

    def began(self, tables: Mapping[int, Table], namespaces: Mapping[int, str | None]) -> None:
        """Sockets that were there before: those of each namespace (by inode), as `decode.sockdiag.SOCKET`."""
        known = {netns: table for netns, table in tables.items() if len(table) and netns in namespaces}
        if not self._wanted or not known:
            return
        inodes = {int(inode) for table in known.values() for inode in table["inode"]} - {0}
        held, refused = owners(known.keys(), inodes)
        if refused:
            self.notes = (
                f"of {refused} processes or more the older sockets are not named: CAP_SYS_PTRACE is missing",
            )
        told = {pid: process(pid) for pid, _ in held.values()}
        for netns, table in known.items():
            mine = [held.get(int(inode), (0, ""))[0] for inode in table["inode"]]
            self._began(netns, table, {pid: told.get(pid) for pid in mine}, np.array(mine), namespaces[netns])
        self._descriptors |= {
            int(inode): held[int(inode)][1]
            for table in known.values()
            for inode in table["inode"][speaks_to_anybody(table)]
            if int(inode) in held
        }

    def _began(
        self,
        netns: int,
        table: Table,
        told: Mapping[int, ProcessInfo | None],
        pids: np.ndarray,
        pod: str | None,
    ) -> None:
        living = {
            pid: alive(msgspec.structs.replace(info, pod=pod)) or info for pid, info in told.items() if info
        }
        order = {pid: place for place, pid in enumerate(living)}
        named = np.isin(pids, list(living))
        table, index = table[named], np.array([order[pid] for pid in pids[named].tolist()], np.uint32)
        anybody, infos = speaks_to_anybody(table), list(living.values())
        self._held.found(netns, table[anybody], infos, index[anybody], time.monotonic_ns())
        places = np.array([self._infos.setdefault(info, len(self._infos)) for info in infos], np.uint32)
        self._heard.append(_lasting(table[~anybody], places[index[~anybody]]))

    def _let_go(self) -> None:
        if time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + LOOK_AGAIN
        gone = [inode for inode, path in self._descriptors.items() if not still_holds(path, inode)]
        for inode in gone:
            del self._descriptors[inode]
        if gone:
            self._held.let_go(gone, time.monotonic_ns())

    def read(self, namespaces: Mapping[int, str | None]) -> Heard:
        """What was opened in these namespaces since the last call, and what ends are held in them now."""
        if not self._wanted:
            return NOBODY
        self.collect(namespaces)
        self._let_go()
        heard, opened_by = self._heard, tuple(self._infos)
        self._heard, self._infos = [], {}
        opened = np.concatenate([np.zeros(0, OPENED), *heard])
        opened = opened[opened["process"] < MOST]
        ends, holders = self._held.ends(namespaces, time.monotonic_ns())
        ends["process"] += len(opened_by)
        return Heard(opened, (*opened_by, *holders), ends)

    def stop(self) -> None:
        """Detach; the kernel frees programs and maps."""
        for fd in (*self._links, self._map, self._folders):
            if fd >= 0:
                os.close(fd)
        self._map, self._folders, self._living, self._links = -1, -1, -1, []
        self.programs = frozenset()

    def _describe(self, who: np.void, pod: str | None) -> ProcessInfo:
        """A process by what the kernel noted, and by /proc where it is still the same one."""
        info = ProcessInfo(
            name=text(bytes(who["comm"])),
            pid=int(who["pid"]),
            pod=pod,
            container=self._container(int(who["cgroup"])),
            parent=text(bytes(who["parent_comm"])) or None,
            parent_pid=int(who["parent"]) or None,
        )
        return alive(info) or info

    def _container(self, cgroup: int) -> str | None:
        """The container whose cgroup in the v2 tree has this inode, by the name the kernel noted."""
        if cgroup not in self._containers:
            if len(self._containers) >= MOST:
                self._containers.clear()
            name = bpf.lookup(self._folders, cgroup.to_bytes(8, "little"), FOLDER)
            self._containers[cgroup] = container_id(text(name)) if name else None
        return self._containers[cgroup]


def _root() -> str:
    """The folder of the root of the cgroup v2 tree. Raises OSError where it is not mounted here.

    What a container sees as root may be its own cgroup, which has a type; the root has none (cgroup-v2.rst).
    """
    for _, point in cgroup_mounts(Path("/proc/self/mountinfo").read_text()):
        if os.path.exists(f"{point}/cgroup.procs") and not os.path.exists(f"{point}/cgroup.type"):
            return point
    raise FileNotFoundError(errno.ENOENT, "the root of the cgroup v2 tree is not mounted here")


@contextlib.contextmanager
def _program(loaded: libbpf.Object, name: str) -> Iterator[int]:
    """A descriptor of one program, for as long as the block."""
    fd = loaded.program(name)
    try:
        yield fd
    finally:
        os.close(fd)


def _traced(loaded: libbpf.Object, name: str, tracepoint: str | None) -> int:
    with _program(loaded, name) as program:
        return bpf.open_tracepoint(program, tracepoint)


def _opened(keys: Table, index: np.ndarray) -> Table:
    table = np.zeros(len(keys), OPENED)
    for side, end in (("consumer", "src"), ("provider", "dst")):
        table[side + "_hi"], table[side + "_lo"] = keys[end][:, 0], keys[end][:, 1]
    table["consumer_port"], table["provider_port"] = keys["sport"], keys["dport"]
    table["protocol"], table["process"] = keys["protocol"], index
    return table


def _lasting(table: Table, index: np.ndarray) -> Table:
    """Sockets with a peer (SOCKET), which may be silent for long before a packet of theirs is seen."""
    rows = np.zeros(len(table), OPENED)
    for side, end in (("consumer", "local"), ("provider", "remote")):
        for part in ("hi", "lo", "port"):
            rows[f"{side}_{part}"] = table[f"{end}_{part}"]
    rows["protocol"], rows["process"] = table["protocol"], index
    rows["until"] = time.clock_gettime_ns(time.CLOCK_REALTIME) + IDLE_TCP
    return rows
