"""Puts the program on taps and takes it off again; which tap id is which interface.

How an agent with no memory recognises its own: the filter's name and handle, the id of its program, and the
`taps` map, which says for each tap id the interface it was given to and whether its qdisc was ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from ringfence.capture import bpf, netlink
from ringfence.capture.counters import Counters
from ringfence.capture.decode.links import Choice
from ringfence.capture.layout import CLASS_BARE, CLASS_INGRESS, CLASS_SHIFT, MAX_TAP_ID, TAP_RECORD
from ringfence.model.batches import TapInfo
from ringfence.model.columns import Table

_KEY = np.dtype("<u4")
_LINGER = 2
"""Commits after which the id of a tap that went is free: its last counts have been drained by then."""


class Attached:
    """The taps of one capture. Ids are dense and used again, so that they fit in the 14 bits there are."""

    def __init__(self, route: netlink.Netlink, counters: Counters) -> None:
        self._route = route
        self._counters = counters
        self._records: dict[int, Table] = {}
        self._live: dict[int, int] = {}  # ifindex → tap id
        self._gone: dict[int, int] = {}  # tap id → commits left before it is free

    def adopt(self) -> None:
        """Learn from the kernel which taps a process before this one made and which still count."""
        program, _ = bpf.program_tag(self._counters.program)
        for keys, values in bpf.batches(self._counters.fd("taps"), _KEY, TAP_RECORD, 1):
            for tap, record in zip(keys.tolist(), values[:, 0].copy(), strict=True):
                self._records[tap] = record
        for tap, record in self._records.items():
            ifindex = int(record["ifindex"])
            here = netlink.our_filter(self._route, ifindex, netlink.INGRESS)
            if here and here[0] == program and (here[1] & 0xFFFF) >> CLASS_SHIFT == tap + 1:
                self._live[ifindex] = tap
            else:
                self._gone[tap] = _LINGER

    def apply(self, choices: Sequence[Choice]) -> list[str]:
        """Attach to what is chosen and not attached, detach from the rest. Returns notes on what failed."""
        wanted = {choice.ifindex: choice for choice in choices}
        for ifindex in [ifindex for ifindex in self._live if ifindex not in wanted]:
            self._detach(ifindex)
        notes = []
        for choice in choices:
            tap = self._live.get(choice.ifindex)
            if tap is not None and self._in_place(choice, tap):
                self._describe(tap, choice, bool(self._records[tap]["made_qdisc"]))
                continue
            try:
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

    def remove_all(self) -> None:
        """Take every filter of ours away, and the qdiscs we made where nobody else's filter is on them."""
        for ifindex in list(self._live):
            self._detach(ifindex)

    @property
    def taps(self) -> tuple[TapInfo, ...]:
        """Index = tap id. An id nobody holds is shown as an interface without a name."""
        top = max(self._records, default=-1) + 1
        return tuple(
            _info(self._records[i]) if i in self._records else TapInfo("", "node") for i in range(top)
        )

    def _in_place(self, choice: Choice, tap: int) -> bool:
        program, _ = bpf.program_tag(self._counters.program)
        for parent in (netlink.INGRESS, netlink.EGRESS):
            here = netlink.our_filter(self._route, choice.ifindex, parent)
            if here is None or here[0] != program or (here[1] & 0xFFFF) >> CLASS_SHIFT != tap + 1:
                return False
        return True

    def _attach(self, choice: Choice, tap: int | None) -> None:
        if tap is None:
            tap = self._free_id()
        # A filter of ours from a life whose pins are lost: its qdisc was then ours too, as far as one can know.
        left_over = netlink.our_filter(self._route, choice.ifindex, netlink.INGRESS) is not None
        made = netlink.add_clsact(self._route, choice.ifindex) or left_over
        # Written before the filter is there: a crash in between leaves a record without counts, not counts
        # without a name.
        self._describe(tap, choice, made)
        classid = (tap + 1) << CLASS_SHIFT | (CLASS_BARE if choice.bare else 0)
        program = self._counters.program
        for parent, bit in ((netlink.EGRESS, 0), (netlink.INGRESS, CLASS_INGRESS)):
            netlink.add_filter(self._route, choice.ifindex, parent, program, classid | bit)
        self._live[choice.ifindex] = tap

    def _detach(self, ifindex: int) -> None:
        tap = self._live.pop(ifindex)
        with contextlib.suppress(OSError):  # the interface may be gone, and its filters with it
            for parent in (netlink.INGRESS, netlink.EGRESS):
                netlink.delete_filter(self._route, ifindex, parent)
            if self._records[tap]["made_qdisc"]:
                netlink.delete_clsact(self._route, ifindex)
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
        known = self._records.get(tap)
        if known is None or known.tobytes() != record[0].tobytes():
            self._records[tap] = record[0]
            bpf.update(self._counters.fd("taps"), tap.to_bytes(4, "little"), record.tobytes())


def _info(record: Table) -> TapInfo:
    pod = bytes(record["pod"]).decode()
    # Linux lets a name be almost any octets; what is shown and shipped is text.
    name = bytes(record["interface"]).decode(errors="replace")
    shown = "".join(letter if letter.isprintable() and letter != " " else "?" for letter in name)
    return TapInfo(shown, bytes(record["at"]).decode(), pod or None)
