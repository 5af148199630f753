"""One interface's packets: an AF_PACKET socket with a ring that the kernel fills (packet(7), packet_mmap.rst).

Goals: bounded memory (`RING` octets a tap, made once), exact counts (what does not fit is dropped by the kernel, which
counts it), and nothing left behind: the socket is the only kernel state. A packet before the filter is there is not
taken, because the socket is bound to its interface last.
"""

from __future__ import annotations

import ctypes
import mmap
import select
import socket
import struct

from ringfence.capture import doors
from ringfence.capture.stream.compile import INSTRUCTION, NOTHING
from ringfence.capture.stream.ring import STATUS, USER, Packet, packets

ETH_P_ALL = 3
BLOCK, BLOCKS = 1 << 19, 8
"""Octets of a block (a super-packet fits) and how many there are."""
RING = BLOCK * BLOCKS
FRAME = 1 << 11
RETIRE = 20
"""Milliseconds after which a block that is not full is handed over."""
SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 263, 5, 6, 10
TPACKET_V3 = 2
SO_ATTACH_FILTER = 26
_LAST = 5
"""How often the last block is waited for, each `RETIRE` ms."""


class Tap:
    """Takes packets of one interface until `close`. Raises OSError from the start where the kernel refuses."""

    def __init__(self, netns: str | None, ifindex: int, instructions: bytes, snaplen: int) -> None:
        """`netns` is the path of the interface's namespace, None for this process' own; no `instructions`: all."""
        self._snaplen = snaplen
        self._next = 0
        self._counts = [0, 0]
        # Protocol 0 takes nothing until `bind` names one.
        self._socket = doors.open_socket(netns, 0, socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            if instructions:
                _filter(self._socket, instructions)
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            # struct tpacket_req3
            frames = RING // FRAME
            wish = struct.pack("=IIIIIII", BLOCK, BLOCKS, FRAME, frames, RETIRE, 0, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, wish)
            self._ring = mmap.mmap(self._socket.fileno(), RING)
            _bind(self._socket, ifindex)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when a block waits."""
        return self._socket.fileno()

    def take(self) -> list[Packet]:
        """The packets of the block that waits longest; none when none waits."""
        start = self._next * BLOCK
        (status,) = struct.unpack_from("=I", self._ring, start + STATUS)
        if not status & USER:
            return []
        with memoryview(self._ring) as view, view[start : start + BLOCK] as block:
            found = packets(block, self._snaplen)
        struct.pack_into("=I", self._ring, start + STATUS, 0)
        self._next = (self._next + 1) % BLOCKS
        return found

    def finish(self) -> list[Packet]:
        """Take no more, and hand out everything that was taken: then `counts` are final."""
        _filter(self._socket, NOTHING)
        found = []
        for _ in range(_LAST):
            while block := self.take():
                found += block
            select.select([], [], [], RETIRE / 1000)
        return found

    def counts(self) -> tuple[int, int]:
        """Packets since the start that passed the filter, and how many of them the kernel dropped."""
        # struct tpacket_stats_v3; reading it sets it to zero.
        told = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        accepted, dropped, _ = struct.unpack("=III", told)
        self._counts[0] += accepted
        self._counts[1] += dropped
        return self._counts[0], self._counts[1]

    def close(self) -> None:
        """Give socket and ring back."""
        self._ring.close()
        self._socket.close()


def _filter(made: socket.socket, instructions: bytes) -> None:
    """Attach classic BPF (struct sock_fprog)."""
    store = ctypes.create_string_buffer(instructions, len(instructions))
    count = len(instructions) // INSTRUCTION.size
    made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(store)))


_libc = ctypes.CDLL(None, use_errno=True)


def _bind(made: socket.socket, ifindex: int) -> None:
    """bind(2) by number: the standard library knows interfaces by name in this process' namespace only."""
    # struct sockaddr_ll: family, protocol (network order), ifindex, hatype, pkttype, halen, addr
    address = struct.pack("=H2siHBB8s", socket.AF_PACKET, struct.pack(">H", ETH_P_ALL), ifindex, 0, 0, 0, b"")
    if _libc.bind(made.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, "cannot bind to the interface")
