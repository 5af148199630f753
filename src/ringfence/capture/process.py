"""Who is at the ends of conversations: `bpf/process.bpf.c` and /proc. Optional: without it, notes say so."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ringfence.capture import bpf
from ringfence.capture.build import object_bytes
from ringfence.capture.decode.cgroups import container_id, pod_uid
from ringfence.capture.decode.openers import CONVERSATION, FOLDER, OPENER, distinct, text
from ringfence.capture.held import Held
from ringfence.flows.ends import END, MOST, OPENED
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


NOBODY = Heard(np.zeros(0, OPENED), (), np.zeros(0, END))


class Openers:
    """The raw tracepoints and their map. They see the whole machine: `read` keeps the namespaces asked for.

    Not pinned: it ends with this process, since who opened what is told by /proc only while it lives.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._map = self._folders = -1
        self._links: list[int] = []
        self._heard: list[Table] = []
        self._infos: dict[ProcessInfo, int] = {}
        self._containers: dict[int, str | None] = {}
        self._held = Held()

    def start(self) -> list[str]:
        """Attach. Returns notes: why processes are not named, if they are not."""
        if not self._wanted:
            return ["processes are not named: switched off"]
        try:
            return self._attach()
        except (OSError, Problem) as error:
            self.stop()
            return [f"processes are not named: {error}"]

    def _attach(self) -> list[str]:
        loaded = bpf.Object(object_bytes("process"), "process.bpf.o")
        try:
            loaded.load()
            self._map, self._folders = loaded.map("conversations"), loaded.map("cgroups")
            self._links.append(_attached(loaded, "process", "inet_sock_set_state"))
            try:
                self._links.append(_attached(loaded, "sends", "sock_send_length"))
            except OSError as error:
                return [f"processes that send UDP are not named: no tracepoint (Linux 6.3): {error.strerror}"]
        finally:
            loaded.close()
        return []

    def collect(self, namespaces: Mapping[int, str | None]) -> None:
        """Take what the kernel noted, while the processes may still live to be asked after; call each second.

        `namespaces` are those to listen to: inode → pod UID, None for the node.
        """
        if self._map < 0:
            return
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

    def read(self, namespaces: Mapping[int, str | None]) -> Heard:
        """What was opened in these namespaces since the last call, and what ends are held in them now."""
        if not self._wanted:
            return NOBODY
        self.collect(namespaces)
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
        self._map, self._folders, self._links = -1, -1, []

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


def alive(info: ProcessInfo, proc: Path = Path("/proc")) -> ProcessInfo | None:
    """`info` with what /proc knows beyond it; None when the process is gone or its number another's."""
    folder = proc / str(info.pid)
    with contextlib.suppress(OSError):
        # A number may have been given to another process since.
        if (folder / "comm").read_bytes().rstrip(b"\n").decode(errors="replace") == info.name:
            cgroup = (folder / "cgroup").read_text()
            return ProcessInfo(
                info.name,
                info.pid,
                _executable(folder),
                info.pod or pod_uid(cgroup),
                container_id(cgroup) or info.container,
                info.parent,
                info.parent_pid,
            )
    return None


def _executable(folder: Path) -> str | None:
    """What it runs; None for kernel threads, and where that may not be read."""
    try:
        return os.readlink(folder / "exe").removesuffix(" (deleted)")
    except OSError:
        return None


def _attached(loaded: bpf.Object, program: str, tracepoint: str) -> int:
    fd = loaded.program(program)
    try:
        return bpf.open_tracepoint(fd, tracepoint)
    finally:
        os.close(fd)


def _opened(keys: Table, index: np.ndarray) -> Table:
    table = np.zeros(len(keys), OPENED)
    for side, end in (("consumer", "src"), ("provider", "dst")):
        table[side + "_hi"], table[side + "_lo"] = keys[end][:, 0], keys[end][:, 1]
    table["consumer_port"], table["provider_port"] = keys["sport"], keys["dport"]
    table["protocol"], table["process"] = keys["protocol"], index
    return table
