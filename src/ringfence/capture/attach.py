"""Which tap id is which interface: attaches to what is chosen, detaches from the rest, and knows its own again.

How an agent with no memory recognises its own: by what the hook left in the kernel (`hooks.py`), and by the `taps`
map, which says for each tap id the interface it was given to, how it was attached, and whether a qdisc was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ringfence.capture import bpf
from ringfence.capture.counters import Counters
from ringfence.capture.decode.links import Choice
from ringfence.capture.hooks import Hook, Place
from ringfence.capture.layout import MAX_TAP_ID, TAP_RECORD
from ringfence.model.batches import TapInfo
from ringfence.model.columns import Table

_KEY = np.dtype("<u4")
_LINGER = 2
"""Commits after which the id of a tap that went is free: its last counts have been drained by then."""

Key = tuple[int, int]
"""Inode of the pod's namespace an interface is in (0: the node's), and its number there."""


class Attached:
    """The taps of one capture. Ids are dense and used again, so that they fit in the 14 bits there are."""

    def __init__(self, counters: Counters, hooks: Mapping[str, Hook], path: str, netns: str | None) -> None:
        """`hooks` are the paths this kernel allows, `path` the one to use; `netns` is the node's namespace."""
        self._counters = counters
        self._hooks = hooks
        self._path = path
        self._netns = netns
        self._records: dict[int, Table] = {}
        self._live: dict[Key, int] = {}
        self._gone: dict[int, int] = {}  # tap id → commits left before it is free
        self._within: dict[int, str] = {}  # inode of a pod's namespace → a path to it

    def adopt(self) -> None:
        """Learn from the kernel which taps a process before this one made and which still count."""
        for hook in self._hooks.values():
            hook.open(fresh=not self._counters.adopted)
        for keys, values in bpf.batches(self._counters.fd("taps"), _KEY, TAP_RECORD, 1):
            for tap, record in zip(keys.tolist(), values[:, 0].copy(), strict=True):
                self._records[tap] = record
        for tap, record in self._records.items():
            key = _key(record)
            # A pod's namespace has no path yet: the first `apply` will see whether the tap is there.
            if key[0] or self._hook(tap).holds(self._place(key), tap):
                self._live[key] = tap
            else:
                self._gone[tap] = _LINGER

    def apply(self, choices: Sequence[Choice]) -> list[str]:
        """Attach to what is chosen and not attached, detach from the rest. Returns notes on what failed."""
        self._within |= {choice.netns: choice.within for choice in choices if choice.netns}
        wanted = {(choice.netns, choice.ifindex) for choice in choices}
        for key in [key for key in self._live if key not in wanted]:
            self._detach(key)
        notes = []
        for choice in choices:
            key = (choice.netns, choice.ifindex)
            try:
                tap = self._live.get(key)
                if tap is not None and self._in_place(key, tap):
                    self._describe(tap, choice, bool(self._records[tap]["made_qdisc"]))
                    continue
                self._attach(choice, tap)
            except OSError as error:
                notes.append(f"interface {choice.name} is not tapped: {error.strerror}")
        return notes

    def committed(self) -> None:
        """A drain was committed: ids of taps that went before it come closer to being free."""
        for tap in list(self._gone):
            self._gone[tap] -= 1
            if self._gone[tap] <= 0:
                del self._gone[tap], self._records[tap]
                bpf.delete(self._counters.fd("taps"), tap.to_bytes(4, "little"))

    def programs(self) -> frozenset[int]:
        """Ids of the programs of ours on tcx chains."""
        return frozenset().union(*(hook.programs() for hook in self._hooks.values()))

    def remove_all(self) -> None:
        """Take everything of ours away, and the qdiscs we made where nobody else's filter is on them."""
        for key in list(self._live):
            self._detach(key)
        for hook in self._hooks.values():
            hook.sweep()

    def close(self) -> None:
        """Give descriptors back; what is attached goes on counting."""
        for hook in self._hooks.values():
            hook.close()

    @property
    def notes(self) -> list[str]:
        """What the counters have to say."""
        return self._counters.notes

    @property
    def taps(self) -> tuple[TapInfo, ...]:
        """Index = tap id. An id nobody holds is shown as an interface without a name."""
        top = max(self._records, default=-1) + 1
        return tuple(
            _info(self._records[i]) if i in self._records else TapInfo("", "node") for i in range(top)
        )

    def _hook(self, tap: int) -> Hook:
        """The way a tap was attached by."""
        recorded = bytes(self._records[tap]["path"]).decode() if tap in self._records else ""
        return self._hooks.get(recorded or "clsact", self._hooks[self._path])

    def _place(self, key: Key) -> Place:
        netns, ifindex = key
        return Place(self._within.get(netns) if netns else self._netns, ifindex, netns)

    def _in_place(self, key: Key, tap: int) -> bool:
        return self._hook(tap) is self._hooks[self._path] and self._hook(tap).holds(self._place(key), tap)

    def _attach(self, choice: Choice, tap: int | None) -> None:
        key = (choice.netns, choice.ifindex)
        if tap is not None and self._hook(tap) is not self._hooks[self._path]:
            self._detach(key)  # the other way to the same interface: both together would count twice
            tap = None
        if tap is None:
            tap = self._free_id()
        # Written before the program is there: a crash in between leaves a record without counts, not counts
        # without a name.
        hook, place = self._hooks[self._path], self._place(key)
        for other in self._hooks.values():
            other.clear(place)
        self._describe(tap, choice, hook.prepare(place))
        hook.attach(place, tap, choice.bare)
        self._live[key] = tap

    def _detach(self, key: Key) -> None:
        tap = self._live.pop(key)
        self._hook(tap).detach(self._place(key), tap, bool(self._records[tap]["made_qdisc"]))
        self._gone[tap] = _LINGER

    def _free_id(self) -> int:
        tap = next(i for i in range(len(self._records) + 1) if i not in self._records)
        if tap > MAX_TAP_ID:
            raise OSError(0, "too many taps")
        return tap

    def _describe(self, tap: int, choice: Choice, made_qdisc: bool) -> None:
        record = np.zeros(1, TAP_RECORD)
        record["ifindex"], record["made_qdisc"], record["at"] = choice.ifindex, made_qdisc, choice.at.encode()
        record["interface"], record["pod"] = choice.name.encode(), (choice.pod or "").encode()
        record["netns"], record["path"] = choice.netns, self._path.encode()
        known = self._records.get(tap)
        if known is None or known.tobytes() != record[0].tobytes():
            self._records[tap] = record[0]
            bpf.update(self._counters.fd("taps"), tap.to_bytes(4, "little"), record.tobytes())


def _key(record: Table) -> Key:
    return int(record["netns"]), int(record["ifindex"])


def _info(record: Table) -> TapInfo:
    pod = bytes(record["pod"]).decode()
    # Linux lets a name be almost any octets; what is shown and shipped is text.
    name = bytes(record["interface"]).decode(errors="replace")
    shown = "".join(letter if letter.isprintable() and letter != " " else "?" for letter in name)
    return TapInfo(shown, bytes(record["at"]).decode(), pod or None)
