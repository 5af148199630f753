"""Which process holds which end: sockets that listen, or speak to anybody, for as long as they are known to.

Goals: bounded, and a window's rows at once. A listener is held until it closes; a socket that sends is told again after
7.5 to 75 s by the kernel's program and believed for three minutes, the time after which conntrack forgets a UDP stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.decode.openers import Kind
from ringfence.flows.ends import END, holder_of
from ringfence.flows.keys import hash_words
from ringfence.model.addresses import MAPPED
from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import Table

MOST_ENDS = 65_536
"""Ends remembered; of more, those heard of longest ago are forgotten."""
SPEAKS = 180_000_000_000
FOREVER = np.iinfo(np.int64).max

_ROW = np.dtype(
    [
        ("key", "<u8"),
        ("netns", "<u4"),
        ("hi", "<u8"),
        ("lo", "<u8"),
        ("port", "<u2"),
        ("protocol", "u1"),
        ("process", "<u4"),
        ("socket", "<u8"),
        ("at", "<i8"),  # CLOCK_MONOTONIC, ns
        ("until", "<i8"),
    ]
)


class Held:
    """Ends by network namespace. Not for several threads."""

    def __init__(self) -> None:
        self._rows = np.zeros(0, _ROW)
        self._infos: list[ProcessInfo] = []

    def hear(self, keys: Table, values: Table, infos: Sequence[ProcessInfo], index: NDArray[np.intp]) -> None:
        """What the kernel's program noted (CONVERSATION, OPENER) of sockets without a peer, by whom."""
        if not len(keys):
            return
        rows = np.zeros(len(keys), _ROW)
        for name in ("netns", "protocol"):
            rows[name] = keys[name]
        rows["port"], rows["hi"], rows["lo"] = keys["sport"], keys["src"][:, 0], keys["src"][:, 1]
        rows["socket"], rows["at"] = values["socket"], values["at"]
        rows["until"] = np.where(keys["kind"] == Kind.LISTENS, FOREVER, rows["at"] + SPEAKS)
        rows["process"] = index
        closed = keys["kind"] == Kind.CLOSED
        self.add(rows[~closed], infos)
        self._close(rows[closed])

    def found(
        self, netns: int, table: Table, infos: Sequence[ProcessInfo], index: NDArray[np.uint32], at: int
    ) -> None:
        """Sockets without a peer in a namespace's tables (`decode.sockdiag.SOCKET`): held until `let_go`."""
        rows = np.zeros(len(table), _ROW)
        rows["netns"], rows["at"], rows["until"] = netns, at, FOREVER
        rows["hi"], rows["lo"], rows["port"] = table["local_hi"], table["local_lo"], table["local_port"]
        rows["protocol"], rows["socket"], rows["process"] = table["protocol"], table["inode"], index
        self.add(rows, infos)

    def let_go(self, sockets: Sequence[int], at: int) -> None:
        """These sockets, of tables, are gone: they are told once more, and then forgotten."""
        gone = np.isin(self._rows["socket"], np.array(sockets, np.uint64)) & (self._rows["until"] == FOREVER)
        self._rows["until"][gone] = at

    def add(self, rows: Table, infos: Sequence[ProcessInfo]) -> None:
        """Ends held by `infos` (index `process`)."""
        rows = rows[rows["port"] != 0]
        any_address = (rows["hi"] == 0) & (rows["lo"] == MAPPED)
        rows["lo"] = np.where(any_address, 0, rows["lo"])
        rows["key"] = hash_words(
            rows["netns"].astype(np.uint64) << np.uint64(32)
            | rows["port"].astype(np.uint64) << np.uint64(8)
            | rows["protocol"],
            rows["hi"],
            rows["lo"],
        )
        rows["process"] += len(self._infos)
        self._infos += infos
        both = np.concatenate([self._rows, rows])
        both = both[np.lexsort((both["at"], both["key"]))]
        newest = both[np.r_[both["key"][1:] != both["key"][:-1], np.ones(min(1, len(both)), np.bool_)]]
        if len(newest) > MOST_ENDS:
            newest = newest[np.sort(np.argpartition(newest["at"], -MOST_ENDS)[-MOST_ENDS:])]
        self._keep(newest)

    def _close(self, closed: Table) -> None:
        """Listeners that closed: they are told once more, and then forgotten."""
        for each in closed:
            same = (self._rows["socket"] == each["socket"]) & (self._rows["at"] <= each["at"])
            self._rows["until"][same & (self._rows["until"] == FOREVER)] = each["at"]

    def ends(self, namespaces: Mapping[int, str | None], now: int) -> tuple[Table, tuple[ProcessInfo, ...]]:
        """`flows.ends.END` rows of these namespaces and whom they index; what ended before `now` is told for the last
        time. Namespaces that are not among them are forgotten: their pods are gone."""
        inodes = np.fromiter(namespaces, np.uint32, len(namespaces))
        order = np.argsort(inodes)
        rows = self._rows[np.isin(self._rows["netns"], inodes)]
        who = np.fromiter(map(holder_of, namespaces.values()), np.uint32, len(namespaces))
        table = np.zeros(len(rows), END)
        for name in ("hi", "lo", "port", "protocol"):
            table[name] = rows[name]
        table["who"] = who[order][np.searchsorted(inodes[order], rows["netns"])] if len(rows) else 0
        told, table["process"] = self._numbered(rows)
        self._keep(rows[rows["until"] >= now])
        return table, told

    def _keep(self, rows: Table) -> None:
        """Hold these rows, and only the processes they name."""
        infos, numbers = self._numbered(rows)
        self._rows = rows.copy()
        self._rows["process"], self._infos = numbers, list(infos)

    def _numbered(self, rows: Table) -> tuple[tuple[ProcessInfo, ...], NDArray[np.intp]]:
        used, index = np.unique(rows["process"], return_inverse=True)
        return tuple(self._infos[number] for number in used.tolist()), index
