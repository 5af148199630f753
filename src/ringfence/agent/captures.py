"""Captures on one node: from the taps of what was asked for, over a connection each, to the server.

Goals: packets never wait in this process. A capture reads a ring only when what it read before is sent, so a slow
reader fills the ring, and the kernel drops and counts. Each capture ends when it is no longer desired, at its limits,
when the server goes, and with the agent; then its sockets are closed, and nothing else was made.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ringfence.capture import netlink, privilege, taps
from ringfence.capture.decode.links import Choice
from ringfence.capture.entering import inside
from ringfence.capture.stream import pcapng
from ringfence.capture.stream.compile import compiled
from ringfence.capture.stream.pcapng import ETHERNET, INBOUND, OUTBOUND, RAW_IP, Interface, Statistics
from ringfence.capture.stream.ring import Packet
from ringfence.capture.stream.tap import Tap
from ringfence.model.problems import Problem
from ringfence.wire.orders import Caller, CaptureOrder, Target

MOST = 4
"""Captures at once."""
MOST_TAPS = 32
"""Taps of one capture: each has a ring."""
GRACE = 5.0
"""Seconds a capture that is to end may take to send what it has, before its connection is cut."""
LOOK = 1.0
"""Seconds between two looks at the clock."""


class Place(NamedTuple):
    """Where to open a socket, and how its packets are described."""

    path: str | None
    ifindex: int
    interface: Interface
    outgoing: int
    """Direction (pcapng) of what is sent through that interface."""


class Captures:
    """What is running. `follow` and `stop` are called by one thread. `netns` is the path of the node's namespace."""

    def __init__(
        self,
        cluster: str,
        node: str,
        netns: str | None,
        call: Caller,
        log: Callable[[str], None],
        clock: Callable[[], int] = time.time_ns,  # noqa: TID251  the agent owns a clock
    ) -> None:
        self._cluster, self._node, self._netns = cluster, node, netns
        self._call, self._log, self._clock = call, log, clock
        self._running: dict[str, Running] = {}
        self._over: set[str] = set()

    def follow(self, wanted: Iterable[CaptureOrder]) -> None:
        """Run exactly these: begin what is new, end what is no longer wanted. One that ended is not begun again."""
        orders = {order.id: order for order in wanted}
        for id_, one in list(self._running.items()):
            if not one.alive():
                self._over.add(id_)
                del self._running[id_]
            elif id_ not in orders:
                one.stop()
        self._over &= orders.keys()
        for id_ in orders.keys() - self._running.keys() - self._over:
            one = Running(
                orders[id_], self._cluster, self._node, self._netns, self._call, self._log, self._clock
            )
            self._running[id_] = one
            one.start(len(self._running) > MOST)

    def stop(self) -> None:
        """End all, and wait for them."""
        for one in self._running.values():
            one.stop()
        for one in self._running.values():
            one.join()
        self._running.clear()


class Running:
    """One capture, in a thread of its own."""

    def __init__(
        self,
        order: CaptureOrder,
        cluster: str,
        node: str,
        netns: str | None,
        call: Caller,
        log: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self._order, self._cluster, self._node, self._netns = order, cluster, node, netns
        self._line, self._log, self._clock = call(None), log, clock
        self._wake, self._poke = os.pipe()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._too_many = False
        self._thread = threading.Thread(target=self._run, name=f"capture-{order.id}", daemon=True)
        self._cut: threading.Timer | None = None
        self._sent = 0

    def start(self, too_many: bool) -> None:
        """Begin; `too_many`: only to say that it cannot."""
        self._too_many = too_many
        if self._order.seconds:
            self._cut_in(self._order.seconds + GRACE)
        self._thread.start()

    def stop(self) -> None:
        """End soon, with what was taken and the counts of it."""
        with self._lock:
            if not self._stopping.is_set():
                self._stopping.set()
                os.write(self._poke, b"x")
                self._cut_in(GRACE)

    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join(2 * GRACE)

    def _cut_in(self, seconds: float) -> None:
        if self._cut is not None:
            self._cut.cancel()
        self._cut = threading.Timer(seconds, self._line.close)
        self._cut.daemon = True
        self._cut.start()

    def _run(self) -> None:
        opened: list[tuple[Tap, Place]] = []
        try:
            opened += self._opened()
            self._line.stream(self._order.id, self._cluster, self._node)
            self._stream(opened)
        except Problem as problem:
            self._tell(str(problem))
        except (OSError, http.client.HTTPException) as error:
            self._log(f"capture {self._order.id} was cut off: {error}")
        finally:
            for tap, _ in opened:
                tap.close()
            if self._cut is not None:
                self._cut.cancel()
            self._line.close()
            with self._lock:
                self._stopping.set()
                os.close(self._wake)
                os.close(self._poke)

    def _opened(self) -> list[tuple[Tap, Place]]:
        """Sockets on everything asked for, or none. Raises Problem."""
        order = self._order
        if self._too_many:
            raise Problem(f"{MOST} captures run on this node already", self._node, "end one of them")
        return opened(order.targets, order.snaplen, order.filter, self._netns, self._node)

    def _tell(self, failure: str) -> None:
        self._log(f"capture {self._order.id}: {failure}")
        with contextlib.suppress(OSError, http.client.HTTPException, Problem):
            self._line.stream(self._order.id, self._cluster, self._node, failure)
            self._line.end()

    def _stream(self, opened: list[tuple[Tap, Place]]) -> None:
        line, started = self._line, self._clock()
        names = ", ".join(place.interface.name for _, place in opened)
        self._log(f"capture {self._order.id} of {names} began")
        line.send(b"".join(pcapng.interface(place.interface) for _, place in opened))
        delivered = [0] * len(opened)
        self._until_end(opened, delivered, started)
        for number, (tap, place) in enumerate(opened):
            self._pass(number, place, tap.finish(), delivered)
        line.send(counted([tap for tap, _ in opened], delivered, started, self._clock()))
        line.end()
        self._log(f"capture {self._order.id} of {names} ended: {self._sent} packets")

    def _until_end(self, opened: list[tuple[Tap, Place]], delivered: list[int], started: int) -> None:
        poll = select.poll()
        by_number = {tap.fileno(): (number, tap, place) for number, (tap, place) in enumerate(opened)}
        answers = self._line.fileno()
        for number in (*by_number, self._wake, answers):
            poll.register(number, select.POLLIN)
        ends = started + int(self._order.seconds * 1e9) if self._order.seconds else 0
        while not self._stopping.is_set() and not (ends and self._clock() >= ends):
            for number, _ in poll.poll(1000 * LOOK):
                if number == answers and self._line.over():
                    raise OSError("the server ended it")
                if number in by_number:
                    at, tap, place = by_number[number]
                    self._pass(at, place, tap.take(), delivered)
            if self._order.packets and self._sent >= self._order.packets:
                return

    def _pass(self, number: int, place: Place, found: list[Packet], delivered: list[int]) -> None:
        self._line.send(blocks(number, place, found))
        delivered[number] += len(found)
        self._sent += len(found)


def opened(
    targets: Iterable[Target], snaplen: int, filter_: str, netns: str | None, node: str
) -> list[tuple[Tap, Place]]:
    """A socket at each place of what is asked for, or none at all. Raises Problem."""
    places = find(targets, snaplen, filter_, netns, node)
    links = {place.interface.link for place in places} if filter_ else set()
    filters = {link: compiled(filter_, link) for link in links}
    made: list[tuple[Tap, Place]] = []
    for place in places:
        try:
            instructions = filters.get(place.interface.link, b"")
            made.append((Tap(place.path, place.ifindex, instructions, snaplen), place))
        except OSError as error:
            for tap, _ in made:
                tap.close()
            fix = "give CAP_NET_RAW (inside pods CAP_SYS_ADMIN too); the pod must still be there"
            reason = privilege.why(error, "NET_RAW")
            raise Problem(f"cannot capture ({reason})", place.interface.name, fix) from None
    return made


def blocks(number: int, place: Place, found: list[Packet]) -> bytes:
    """Packet blocks of what a tap took."""
    out, back = place.outgoing, INBOUND if place.outgoing == OUTBOUND else OUTBOUND
    return b"".join(
        pcapng.packet(number, one.time, one.data, one.length, out if one.outgoing else back) for one in found
    )


def counted(taps_: list[Tap], delivered: list[int], started: int, now: int) -> bytes:
    """The statistics block of each tap, once it takes no more. Times in UTC ns."""
    told = [Statistics(started, now, *tap.counts(), delivered[number]) for number, tap in enumerate(taps_)]
    return b"".join(pcapng.statistics(number, each) for number, each in enumerate(told))


def find(targets: Iterable[Target], snaplen: int, filter_: str, netns: str | None, node: str) -> list[Place]:
    """Where each target's packets are met: host ends of veths, else inside pods; a node's uplinks. Raises Problem."""
    route = inside(netns, netlink.Netlink)
    try:
        own = os.stat(netns or "/proc/self/ns/net").st_ino
        view = taps.look(route, own, insides=taps.Insides(netns), netns=netns)
    finally:
        route.close()
    places: list[Place] = []
    for target in targets:
        choices = [one for one in view.choices if _is(one, target)]
        if not choices:
            what = "no interface of this pod" if target.uid else "no interface that leads to other machines"
            raise Problem(f"{what} on node {node}", target.name, "see that it runs there")
        several = len(choices) > 1
        places += [_place(one, target, several, snaplen, filter_, netns, node) for one in choices]
    if len(places) > MOST_TAPS:
        raise Problem(f"{len(places)} taps on one node", node, f"capture {MOST_TAPS} at most at once")
    return places


def _is(choice: Choice, target: Target) -> bool:
    return choice.pod == target.uid if target.uid else choice.at == "node"


def _place(
    one: Choice, target: Target, several: bool, snaplen: int, filter_: str, netns: str | None, node: str
) -> Place:
    # A pod's own interface, and a node's, send what leaves; a host end sends what comes to the pod.
    outgoing = OUTBOUND if one.within or not target.uid else INBOUND
    where = f"{one.name} on node {node}" + (", inside the pod" if one.within else "")
    interface = Interface(
        name=f"{target.name}@{one.name}" if several else target.name,
        description=where,
        comment=target.note,
        link=RAW_IP if one.bare else ETHERNET,
        snaplen=snaplen,
        filter=filter_,
    )
    return Place(one.within or netns, one.ifindex, interface, outgoing)
