"""Who opened each TCP conversation: `bpf/process.bpf.c` and /proc. Optional: without it, notes say so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ringfence.capture import bpf
from ringfence.capture.build import object_bytes
from ringfence.capture.decode.cgroups import pod_uid
from ringfence.capture.layout import CONVERSATION, OPENER
from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import TUPLE, Table
from ringfence.model.problems import Problem
from ringfence.model.protocols import TCP

OPENED = np.dtype([*TUPLE, ("process", "<u4")])
"""A tuple as opened, and the index of its process."""

MOST = 50_000
"""Processes named in one window at most: a batch's dictionary is bounded, and a shell that loops must not fill it."""


class Openers:
    """The raw tracepoint and its map. It sees the whole machine: `read` keeps the namespaces asked for.

    Not pinned: it ends with this process, since who opened what is told by /proc only while it lives.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._map = self._link = -1
        self._heard: list[Table] = []
        self._infos: dict[ProcessInfo, int] = {}

    def start(self) -> list[str]:
        """Attach. Returns notes: why processes are not named, if they are not."""
        if not self._wanted:
            return ["processes are not named: switched off"]
        try:
            loaded = bpf.Object(object_bytes("process"), "process.bpf.o")
            try:
                loaded.load()
                self._map = loaded.map("conversations")
                program = loaded.program("process")
                self._link = bpf.open_tracepoint(program, "inet_sock_set_state")
                os.close(program)
            finally:
                loaded.close()
        except (OSError, Problem) as error:
            self.stop()
            return [f"processes are not named: {error}"]
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
        who = np.zeros(len(keys), [("pid", "<u4"), ("comm", "S16"), ("netns", "<u4")])
        who["pid"], who["comm"], who["netns"] = openers["pid"], openers["comm"], keys["netns"]
        distinct, index = np.unique(who, return_inverse=True)
        infos = [_describe(int(p), bytes(c), namespaces[int(n)]) for p, c, n in distinct.tolist()]
        places = [self._infos.setdefault(info, len(self._infos)) for info in infos]
        self._heard.append(_opened(keys, np.array(places, np.uint32)[index]))

    def read(self, namespaces: Mapping[int, str | None]) -> tuple[Table, tuple[ProcessInfo, ...]]:
        """What was opened in these namespaces since the last call: tuples, and whom they index."""
        self.collect(namespaces)
        heard, infos = self._heard, tuple(self._infos)
        self._heard, self._infos = [], {}
        table = np.concatenate([np.zeros(0, OPENED), *heard])
        return table[table["process"] < MOST], infos[:MOST]

    def stop(self) -> None:
        """Detach; the kernel frees program and maps."""
        for fd in (self._link, self._map):
            if fd >= 0:
                os.close(fd)
        self._map = self._link = -1


def _opened(keys: Table, index: np.ndarray) -> Table:
    table = np.zeros(len(keys), OPENED)
    for side, end in (("consumer", "src"), ("provider", "dst")):
        table[side + "_hi"], table[side + "_lo"] = keys[end][:, 0], keys[end][:, 1]
    table["consumer_port"], table["provider_port"] = keys["sport"], keys["dport"]
    table["protocol"], table["process"] = TCP, index
    return table


def _describe(pid: int, comm: bytes, pod: str | None) -> ProcessInfo:
    """A process by what the kernel noted, and by /proc where it is still the same one."""
    name = comm.split(b"\0", 1)[0].decode(errors="replace")
    folder, exe = Path(f"/proc/{pid}"), None
    with contextlib.suppress(OSError):
        # A number may have been given to another process since.
        if (folder / "comm").read_text().rstrip("\n") == name:
            exe = os.readlink(folder / "exe").removesuffix(" (deleted)")
            pod = pod or pod_uid((folder / "cgroup").read_text())
    return ProcessInfo(name, pid, exe, pod)
