"""Counts without eBPF: one AF_PACKET ring (TPACKET_V3) over all taps of a namespace, read by a thread of its own.

Goal: the same columns as the kernel's maps, where a machine allows packet sockets and nothing more. The price: every
packet's first octets are copied to this process, and what is not yet committed dies with it. So nothing is pinned,
nobody inherits, and generations of two lives are never equal.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence

import numpy as np

from ringfence.capture.counters import Options
from ringfence.capture.decode.ear import Ear
from ringfence.capture.decode.filters import interface_filter
from ringfence.capture.decode.links import Choice
from ringfence.capture.decode.ring import BLOCK, Counter, Lost, Ports, Taps, add_up, walk
from ringfence.capture.entering import entered
from ringfence.capture.layout import STAGE_NAMES, Stage
from ringfence.flows.facts import FACT
from ringfence.model.batches import Loss, TapInfo
from ringfence.model.columns import TAP_COUNT, Table
from ringfence.model.problems import Problem

SNAP = 256
"""Octets of each frame that are copied: every header of a tunnelled packet."""
BLOCK_OCTETS, BLOCKS = 1 << 20, 32
RETIRE_MS = 20
"""A block that is not full is handed over after this long."""
MERGE = 200_000
"""Rows that wait before they are added up."""
_LINGER = 2
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_VNET_HDR = 5, 6, 10, 15
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_ETH_P_ALL = 3


class Ring:
    """The ring of one namespace. Stands in for `Counters` and `Attached` at once. Not safe for several users."""

    adopted = False
    program = -1
    utc_offset = 0
    """Frames come dated in UTC."""

    def __init__(self, netns: str | None, options: Options, lock: threading.Lock, ear: Ear | None) -> None:
        """`ear` hears names, if they are wanted; this ring's thread does so under `lock`."""
        self._netns = netns
        self._names = ear is not None
        self._counter = Counter(Ports(options.tunnel_ports, options.geneve_ports), ear, SNAP)
        self._infos: dict[int, TapInfo] = {}
        self._live: dict[int, tuple[int, bool]] = {}  # ifindex → tap id, bare
        self._gone: dict[int, int] = {}
        self._taps = _table(self._live)
        self._waiting: list[Table] = []
        self._facts: list[Table] = []
        self._lost = Lost()
        self._held: tuple[Table, tuple[Loss, ...]] | None = None
        self._generation = time.clock_gettime_ns(time.CLOCK_REALTIME)
        self._lock = lock
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._next = 0
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.notes: list[str] = []

    def open(self) -> None:
        """Make the ring; nothing is received before the first `apply`. Raises Problem."""
        try:
            self._socket = entered(
                self._netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            )
            self._socket.setsockopt(263, _PACKET_VERSION, _TPACKET_V3)  # SOL_PACKET
            self._socket.setsockopt(263, _PACKET_VNET_HDR, 1)
            frames = BLOCKS * BLOCK_OCTETS // 2048
            request = struct.pack("=7I", BLOCK_OCTETS, BLOCKS, 2048, frames, RETIRE_MS, 0, 0)
            self._socket.setsockopt(263, _PACKET_RX_RING, request)
        except OSError as error:
            fix = "run as root, or with CAP_NET_RAW and CAP_NET_ADMIN"
            raise Problem("cannot make a packet ring", str(error.strerror), fix) from None
        self._memory = mmap.mmap(self._socket.fileno(), BLOCKS * BLOCK_OCTETS)
        self._view = memoryview(self._memory)
        self._buffer = np.frombuffer(self._memory, np.uint8)

    def adopt(self) -> None:
        """Nothing outlives a process that read a ring."""

    def apply(self, choices: Sequence[Choice]) -> list[str]:
        """Listen to what is chosen and no more to the rest. Returns notes on what cannot be."""
        assert self._socket is not None, "open() first"
        here = {choice.ifindex: choice for choice in choices if not choice.netns}
        with self._lock:
            for ifindex in [ifindex for ifindex in self._live if ifindex not in here]:
                tap, _ = self._live.pop(ifindex)
                self._gone[tap] = _LINGER
            for ifindex, choice in here.items():
                tap = self._live[ifindex][0] if ifindex in self._live else self._free_id()
                self._live[ifindex] = tap, choice.bare
                self._infos[tap] = TapInfo(shown(choice.name), choice.at, choice.pod)
            before, self._taps = self._taps, _table(self._live)
        if self._thread is None or before.ifindex.tolist() != self._taps.ifindex.tolist():
            self._listen()
        return []

    def programs(self) -> frozenset[int]:
        """Ids of programs of ours on tcx chains: none."""
        return frozenset()

    def committed(self) -> None:
        """A drain was committed: ids of taps that went before it come closer to being free."""
        for tap in list(self._gone):
            self._gone[tap] -= 1
            if self._gone[tap] <= 0:
                del self._gone[tap], self._infos[tap]

    def drain(self) -> tuple[Table, tuple[Loss, ...], int]:
        """`(TAP_COUNT, losses, generation)` since the last commit; again the same until then."""
        if self._held is None:
            # What came before now is in a block that is handed over within this time.
            time.sleep(2 * RETIRE_MS / 1000)
            with self._lock:
                self._take()
                table = add_up(np.concatenate(self._waiting)) if self._waiting else np.zeros(0, TAP_COUNT)
                self._held = table, self._losses()
                self._facts.append(self._counter.again(table))
                self._waiting, self._lost = [], Lost()
            self._generation += 1
        if self._failure is not None:
            raise self._failure
        return (*self._held, self._generation)

    def detail(self, wanted: bool) -> None:
        """Whether segments sent again are told apart from now on."""
        with self._lock:
            self._counter.detail(wanted)

    def facts(self) -> Table:
        """What was sent again of what was drained since the last call (`flows.facts.FACT`)."""
        facts, self._facts = self._facts, []
        return np.concatenate([np.zeros(0, FACT), *facts])

    def commit(self) -> None:
        """The last drained counts are durable elsewhere."""
        self._held = None

    @property
    def filled(self) -> float:
        """Never: what the ring has handed over waits in this process."""
        return 0.0

    def remove_all(self) -> None:
        """Nothing is left in the kernel once the socket is closed."""

    def close(self) -> None:
        """Stop listening; what was not committed is lost."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._socket is not None:
            del self._buffer
            self._view.release()
            with contextlib.suppress(BufferError):  # a failure's traceback still looks at it
                self._memory.close()
            self._socket.close()
            self._socket = None

    @property
    def taps(self) -> tuple[TapInfo, ...]:
        """Index = tap id. An id nobody holds is shown as an interface without a name."""
        top = max(self._infos, default=-1) + 1
        return tuple(self._infos.get(tap, TapInfo("", "node")) for tap in range(top))

    def _free_id(self) -> int:
        return next(tap for tap in range(len(self._infos) + 1) if tap not in self._infos)

    def _listen(self) -> None:
        assert self._socket is not None
        code = interface_filter(sorted(self._live), SNAP, self._names)
        instructions = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        if self._thread is None:
            # Now that the filter is there, every interface of the namespace may speak.
            _bind_all(self._socket)
            self._thread = threading.Thread(target=self._run, name="ring", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLERR)
        try:
            while not self._stop.is_set():
                if poll.poll(100):
                    with self._lock:
                        self._take()
        except BaseException as error:  # told by the next drain
            self._failure = error

    def _take(self) -> None:
        """Count every block that the kernel has handed over, and hand it back."""
        for _ in range(BLOCKS):
            base = self._next * BLOCK_OCTETS
            _, _, status, packets, first, _ = BLOCK.unpack_from(self._view, base)
            if not status & 1:  # TP_STATUS_USER
                break
            starts = np.array(walk(self._view[base : base + BLOCK_OCTETS], packets, first), np.int64) + base
            table, lost = self._counter.count(self._buffer, starts, self._taps)
            struct.pack_into("=I", self._view, base + 8, 0)
            self._next = (self._next + 1) % BLOCKS
            self._waiting.append(table)
            self._lost += lost
        if sum(map(len, self._waiting)) > MERGE:
            self._waiting = [add_up(np.concatenate(self._waiting))]

    def _losses(self) -> tuple[Loss, ...]:
        assert self._socket is not None
        _, dropped, _ = struct.unpack("=III", self._socket.getsockopt(263, _PACKET_STATISTICS, 12))
        lost = self._lost
        found = (
            Loss("packet-ring-lost", packets=dropped),
            Loss(STAGE_NAMES[Stage.FRAGMENT], events=lost.fragments),
            Loss(STAGE_NAMES[Stage.UNREADABLE], lost.unreadable, lost.octets),
        )
        return tuple(loss for loss in found if loss.packets or loss.events)


def shown(name: str) -> str:
    """A name that is text: Linux lets it be almost any octets."""
    return "".join(letter if letter.isprintable() and letter != " " else "?" for letter in name)


def _table(live: dict[int, tuple[int, bool]]) -> Taps:
    order = sorted(live)
    return Taps(
        np.array(order, np.int64),
        np.array([live[ifindex][0] for ifindex in order], np.int64),
        np.array([live[ifindex][1] for ifindex in order], np.bool_),
    )


def _bind_all(one: socket.socket) -> None:
    """Receive from every interface: bind(2) with interface 0, which Python's own `bind` has no name for."""
    libc = ctypes.CDLL(None, use_errno=True)
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0, b"")
    buffer = ctypes.create_string_buffer(address, len(address))
    if libc.bind(one.fileno(), buffer, len(address)):
        raise OSError(ctypes.get_errno(), "cannot listen")
