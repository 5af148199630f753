"""Where the kernel calls our program: tcx (a link, since 6.6) or clsact (a filter). Each puts it first, and gives
it the tap id of that place.

The id is the place's own and never read from the packet's interface: in pods every eth0 is interface 2. A clsact
filter carries it as its classid. A tcx link has no room for a number, so each link holds a program of eight
instructions of its own that writes the number where a filter would have put it and goes on in the shared program:
a tail call to a place known beforehand, which the kernel turns into a jump.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from ringfence.capture import bpf, doors, netlink
from ringfence.capture.doors import opened
from ringfence.capture.entering import inside
from ringfence.capture.layout import CLASS_BARE, CLASS_INGRESS, CLASS_SHIFT

WAYS = ("egress", "ingress")
_PARENTS = {"egress": netlink.EGRESS, "ingress": netlink.INGRESS}
_KINDS = {"egress": bpf.TCX_EGRESS, "ingress": bpf.TCX_INGRESS}
NAME = "ringfence_tap"
"""Name of the small programs, as bpftool shows it."""
_JUMP = "jump"
_LINK = "link-{tap}-{way}"
_TC_CLASSID = 72
"""Offset of `tc_classid` in struct __sk_buff (linux/bpf.h)."""


class Place(NamedTuple):
    """An interface. `path` is of its namespace, None for the agent's own; `inside` is the inode of a pod's, else 0."""

    path: str | None
    ifindex: int
    inside: int = 0


class Hook(Protocol):
    """One way to be called at an interface, in both directions."""

    def open(self, fresh: bool) -> None:
        """Get ready; `fresh`: the program is a new one, and what a process before this one left is not of it."""

    def holds(self, place: Place, tap: int) -> bool:
        """Whether both directions are there with this id and this program."""

    def prepare(self, place: Place) -> bool:
        """Make what `attach` needs. True when a qdisc was made for it. Raises OSError."""

    def attach(self, place: Place, tap: int, bare: bool) -> None:
        """Put both directions there, replacing our own. Raises OSError."""

    def detach(self, place: Place, tap: int, made: bool) -> None:
        """Take both directions away; the interface may be gone. `made`: what `prepare` returned."""

    def clear(self, place: Place) -> None:
        """Take away what a life whose pins are lost left at a place that is about to be attached to another way."""

    def programs(self) -> frozenset[int]:
        """Ids of the programs that it put on tcx chains."""

    def sweep(self) -> None:
        """Take away what can still be found of ours without knowing its place."""

    def close(self) -> None:
        """Give descriptors back; what is attached stays."""


def class_of(tap: int, way: str, bare: bool, inside: bool) -> int:
    """The number a packet's place is known by. In a pod, what leaves it is what would come in at its host end."""
    coming = (way == "ingress") != inside
    return (tap + 1) << CLASS_SHIFT | (CLASS_BARE if bare else 0) | (CLASS_INGRESS if coming else 0)


class Clsact:
    """Filters on a clsact qdisc: `tc filter show dev X ingress` lists them as `ringfence`."""

    def __init__(self, route: netlink.Netlink, program: int, chosen: bool = True) -> None:
        """`chosen`: this is the path to use; else it only takes away what an earlier life left."""
        self._route = route
        self._program = program
        self._chosen = chosen

    def open(self, fresh: bool) -> None:
        """Filters of an older program are replaced one by one: they have the same handle."""

    def holds(self, place: Place, tap: int) -> bool:
        number, _ = bpf.program_tag(self._program)
        with self._socket(place) as route:
            for parent in _PARENTS.values():
                here = netlink.our_filter(route, place.ifindex, parent)
                if here is None or here[0] != number or (here[1] & 0xFFFF) >> CLASS_SHIFT != tap + 1:
                    return False
        return True

    def prepare(self, place: Place) -> bool:
        with self._socket(place) as route:
            # A filter of ours from a life whose pins are lost: its qdisc was then ours too, as far as one can know.
            left_over = netlink.our_filter(route, place.ifindex, netlink.INGRESS) is not None
            return netlink.add_clsact(route, place.ifindex) or left_over

    def attach(self, place: Place, tap: int, bare: bool) -> None:
        with self._socket(place) as route:
            for way, parent in _PARENTS.items():
                number = class_of(tap, way, bare, bool(place.inside))
                netlink.add_filter(route, place.ifindex, parent, self._program, number)

    def detach(self, place: Place, tap: int, made: bool) -> None:
        with contextlib.suppress(OSError), self._socket(place) as route:
            for parent in _PARENTS.values():
                netlink.delete_filter(route, place.ifindex, parent)
            if made:
                netlink.delete_clsact(route, place.ifindex)

    def clear(self, place: Place) -> None:
        if self._chosen:
            return  # replaced in one step by `attach`
        with self._socket(place) as route:
            left = netlink.our_filter(route, place.ifindex, netlink.INGRESS) is not None
        if left:
            self.detach(place, 0, made=True)

    def programs(self) -> frozenset[int]:
        return frozenset()

    def sweep(self) -> None:
        """Filters are found by their place only."""

    def close(self) -> None:
        """It holds nothing of its own."""

    @contextlib.contextmanager
    def _socket(self, place: Place) -> Iterator[netlink.Netlink]:
        if not place.inside:
            yield self._route
            return
        if place.path is None:
            raise OSError(errno.ESTALE, "its pod is gone")
        # Closed at once: a socket that stays open would keep the namespace of a pod that ended.
        route = opened(place.path, place.inside)
        try:
            yield route
        finally:
            route.close()


class Tcx:
    """Links at the head of the tcx chain, pinned so that they outlive this process; they never end the chain.

    Their pins name the tap, so an heir needs to ask nobody: `link-3-ingress` is tap 3's.
    """

    def __init__(self, folder: Path, program: int, chosen: bool = True) -> None:
        """`chosen`: this is the path to use; else it only takes away what an earlier life left."""
        self._folder = folder
        self._program = program
        self._chosen = chosen
        self._jump = -1

    def open(self, fresh: bool) -> None:
        if fresh:
            self.sweep()
        if not self._chosen:
            return
        path = self._folder / _JUMP
        if path.exists():
            self._jump = bpf.pinned(path)
            return
        self._jump = bpf.create_map(bpf.PROG_ARRAY, 4, 4, 1)
        bpf.update(self._jump, bytes(4), self._program.to_bytes(4, "little"))
        bpf.pin(self._jump, path)

    def holds(self, place: Place, tap: int) -> bool:
        for way in WAYS:
            target = self._target(tap, way)
            if target is None or target[1:] != (place.ifindex, _KINDS[way]):
                return False
        return True

    def prepare(self, place: Place) -> bool:
        return False

    def attach(self, place: Place, tap: int, bare: bool) -> None:
        for way in WAYS:
            self._remove(tap, way)
            number = class_of(tap, way, bare, bool(place.inside))
            self._attach(place, number, way, self._folder / _LINK.format(tap=tap, way=way))

    def detach(self, place: Place, tap: int, made: bool) -> None:
        for way in WAYS:
            self._remove(tap, way)

    def clear(self, place: Place) -> None:
        """A link without a pin is gone with the process that held it."""

    def programs(self) -> frozenset[int]:
        pinned = [path.name.split("-") for path in self._folder.glob("link-*")]
        found = (self.program_at(int(tap), way) for _, tap, way in pinned)
        return frozenset(number for number in found if number is not None)

    def program_at(self, tap: int, way: str) -> int | None:
        """Id of the small program of one tap, None when it is not attached."""
        target = self._target(tap, way)
        return target[0] if target and target[1] else None

    def sweep(self) -> None:
        """Take away everything pinned here that is ours."""
        for path in self._folder.glob("link-*"):
            _, tap, way = path.name.split("-")
            self._remove(int(tap), way)
        (self._folder / _JUMP).unlink(missing_ok=True)

    def close(self) -> None:
        if self._jump >= 0:
            os.close(self._jump)
        self._jump = -1

    def _attach(self, place: Place, number: int, way: str, path: Path) -> None:
        program = bpf.load_program(_stub(number, self._jump), NAME)
        try:
            link = doors.link_first(place.path, place.inside, program, place.ifindex, _KINDS[way])
            try:
                bpf.pin(link, path)
            finally:
                os.close(link)
        finally:
            os.close(program)

    def _target(self, tap: int, way: str) -> tuple[int, int, int] | None:
        try:
            fd = bpf.pinned(self._folder / _LINK.format(tap=tap, way=way))
        except OSError:
            return None
        try:
            return bpf.link_target(fd)
        finally:
            os.close(fd)

    def _remove(self, tap: int, way: str) -> None:
        path = self._folder / _LINK.format(tap=tap, way=way)
        try:
            fd = bpf.pinned(path)
        except OSError:
            return
        bpf.detach_link(fd)
        os.close(fd)
        path.unlink(missing_ok=True)


def has_tcx(netns: str | None) -> bool:
    """Whether the kernel has tcx: 6.6 and later, unless built without CONFIG_NET_XGRESS."""
    return inside(netns, lambda: bpf.chain(1, bpf.TCX_INGRESS)) is not None


def _stub(number: int, jump: int) -> bytes:
    """`skb->tc_classid = number; tail_call(skb, jump, 0); return TCX_NEXT` (struct bpf_insn, linux/bpf.h)."""
    return b"".join(
        struct.pack("=BBhi", code, destination | source << 4, offset, value)
        for code, destination, source, offset, value in (
            (0xB7, 2, 0, 0, number),  # r2 = number
            (0x63, 1, 2, _TC_CLASSID, 0),  # *(u32 *)(r1 + tc_classid) = r2
            (0x18, 2, 1, 0, jump),  # r2 = map by descriptor, in two halves
            (0x00, 0, 0, 0, 0),
            (0xB7, 3, 0, 0, 0),  # r3 = 0
            (0x85, 0, 0, 0, 12),  # bpf_tail_call
            (0xB7, 0, 0, 0, -1),  # only if the jump is empty: r0 = TCX_NEXT
            (0x95, 0, 0, 0, 0),
        )
    )
