"""What the kernel knows beside the packets at taps: `bpf/tcp.bpf.c` and `bpf/drops.bpf.c`. Optional: notes say so."""

from __future__ import annotations

import os
from collections.abc import Collection

import numpy as np

from ringfence.capture import bpf, libbpf
from ringfence.capture.build import object_bytes
from ringfence.capture.privilege import why
from ringfence.flows.facts import FACT
from ringfence.model.columns import UNKNOWN_U4, Table
from ringfence.model.problems import Problem

KEY = np.dtype(
    [
        ("src", ">u8", 2),
        ("dst", ">u8", 2),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("netns", "<u4"),
        ("protocol", "u1"),
        ("pad", "u1", 3),
    ]
)
"""`struct fact_key` of bpf/facts.h."""
VALUE = np.dtype([("srtt_us", "<u4"), ("retransmits", "<u4"), ("drops", "<u4"), ("pad", "<u4")])
"""`struct fact`."""

TCP = (
    "tcp",
    "retransmissions and smoothed round trips",
    {"again": "tcp_retransmit_skb", "estimate": "tcp_probe", "closing": "inet_sock_set_state"},
)
DROPS = ("drops", "packets that the kernel drops", {"drop": "kfree_skb"})


class Source:
    """One object of raw tracepoints and its map, while switched on. Nothing of it is pinned.

    It sees the whole machine: `take` keeps the namespaces asked for.
    """

    def __init__(self, program: str, what: str, tracepoints: dict[str, str], counts_repeats: bool) -> None:
        """`what` it tells, for notes; `tracepoints`: program of the object → the tracepoint it is for."""
        self._program, self._what = program, what
        self._tracepoints, self._counts_repeats = tracepoints, counts_repeats
        self._map = -1
        self._links: list[int] = []
        self.note: str | None = None
        """Why there is nothing to take, if there is not."""

    @property
    def on(self) -> bool:
        """Whether it is attached."""
        return self._map >= 0

    def switch(self, on: bool) -> None:
        """Attach or detach; costs the kernel nothing while off."""
        if on == self.on:
            return
        if not on:
            self.stop()
            return
        try:
            self._attach()
            self.note = None
        except (OSError, Problem) as error:
            self.stop()
            self.note = f"{self._what} are not known: {why(error, 'BPF', 'PERFMON')}"

    def _attach(self) -> None:
        loaded = libbpf.Object(object_bytes(self._program), f"{self._program}.bpf.o")
        try:
            loaded.load()
            self._map = loaded.map("facts")
            for name, tracepoint in self._tracepoints.items():
                program = loaded.program(name)
                try:
                    self._links.append(bpf.open_tracepoint(program, tracepoint))
                finally:
                    os.close(program)
        finally:
            loaded.close()

    def take(self, namespaces: Collection[int]) -> Table:
        """`flows.facts.FACT` of these namespaces (inodes) since the last call."""
        if self._map < 0:
            return np.zeros(0, FACT)
        read = [
            facts(keys, values[:, 0], namespaces, self._counts_repeats)
            for keys, values in bpf.batches(self._map, KEY, VALUE, 1, take=True)
        ]
        return np.concatenate([np.zeros(0, FACT), *read])

    def stop(self) -> None:
        """Detach; the kernel frees programs and map."""
        for fd in (*self._links, self._map):
            if fd >= 0:
                os.close(fd)
        self._links, self._map = [], -1


def facts(keys: Table, values: Table, namespaces: Collection[int], counts_repeats: bool) -> Table:
    """Map entries as FACT rows."""
    ours = np.isin(keys["netns"], np.fromiter(namespaces, np.uint32, len(namespaces)))
    keys, values = keys[ours], values[ours]
    table = np.zeros(len(keys), FACT)
    for side, end, port in (("consumer", "src", "sport"), ("provider", "dst", "dport")):
        table[side + "_hi"], table[side + "_lo"] = keys[end][:, 0], keys[end][:, 1]
        table[side + "_port"] = keys[port]
    table["protocol"], table["drops"] = keys["protocol"], values["drops"]
    table["retransmits"] = values["retransmits"] if counts_repeats else UNKNOWN_U4
    table["srtt_us"] = np.where(values["srtt_us"] > 0, values["srtt_us"], UNKNOWN_U4)
    return table


class Facts:
    """Drops in both modes, TCP's own estimates in detailed mode."""

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted
        self._tcp, self._drops = Source(*TCP, counts_repeats=True), Source(*DROPS, counts_repeats=False)

    def switch(self, drops: bool, tcp: bool) -> None:
        """What to take from now on."""
        self._drops.switch(drops and self._wanted)
        self._tcp.switch(tcp and self._wanted)

    @property
    def repeats(self) -> bool:
        """Whether sockets tell what they send again."""
        return self._tcp.on

    def take(self, namespaces: Collection[int]) -> Table:
        """FACT rows since the last call, of both."""
        return np.concatenate([self._tcp.take(namespaces), self._drops.take(namespaces)])

    @property
    def notes(self) -> list[str]:
        """What cannot be told, and why."""
        if not self._wanted:
            return [
                "drops by the kernel, retransmissions and smoothed round trips are not known: switched off"
            ]
        return [source.note for source in (self._tcp, self._drops) if source.note]

    def stop(self) -> None:
        """Detach everything."""
        self._tcp.stop()
        self._drops.stop()
