"""The kernel's counters: load or adopt the maps, swap sides, read, clear. Nothing about interfaces here.

Goals: a packet is counted in exactly one drain, whatever dies in between. Two sets of maps ("sides") take
turns; `state.generation & 1` says which is counted into. The other is read until `commit`, which clears it
and only then notes it as committed. All of it is pinned, so an heir goes on where a crash stopped:

- crash before the swap: nothing happened;
- crash after the swap, before the counts were durable: the heir reads the same generation, whole;
- crash after they were durable: the heir's caller knows the generation and drops it;
- crash while clearing: as before, and the heir clears the rest.
"""

from __future__ import annotations

import errno
import os
import struct
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ringfence.capture import bpf, libbpf
from ringfence.capture.build import object_bytes
from ringfence.capture.decode.counts import tap_counts
from ringfence.capture.layout import (
    COUNT,
    FAMILIES,
    KEYS,
    LAYOUT_TABLE,
    LOSS,
    SIDES,
    STAGE_NAMES,
    STATE,
    Stage,
)
from ringfence.capture.privilege import missing
from ringfence.model.batches import Loss
from ringfence.model.columns import TAP_COUNT, Table
from ringfence.model.problems import Problem

COUNT_MAPS = tuple(f"{family}_{side}" for family in FAMILIES for side in SIDES)
HEARD_MAPS = ("heard", "unheard", "listening", "ours", "greetings")
"""What `names.py` reads and writes."""
MAPS = (*COUNT_MAPS, "losses", "fragments", "taps", *HEARD_MAPS, ".bss")
PROGRAM = "tap"
NAMES_LOST = "names-ring-full"
"""Name of the loss of messages (DNS, ClientHellos) for which the ring had no room."""
_UNHEARD, _UNHEARD_DRAINED, _UNHEARD_COMMITTED = 0, 1, 2
"""Places in the `unheard` map (bpf/names.h)."""
_VXLAN_PLACES, _GENEVE_PLACES = 4, 2
_COARSE = 6
"""CLOCK_MONOTONIC_COARSE (linux/time.h)."""
_LATEST = 1 << 62


class Options(NamedTuple):
    """What is fixed when the program is loaded."""

    map_entries: int
    tunnel_ports: tuple[int, ...]
    geneve_ports: tuple[int, ...]
    sample: int = 1
    """One packet in so many is counted."""
    names_ring: int = 1 << 20
    """Octets of the ring that names are told by: a power of two, whole pages."""


class Counters:
    """The maps of one capture, pinned under `folder`."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._cpus = bpf.possible_cpus()
        self._fds: dict[str, int] = {}
        self.program = -1
        self.adopted = False
        self.notes: list[str] = []
        self._state: Table = np.zeros(1, STATE)
        self._memory: object = None
        self.utc_offset = 0
        """UTC minus CLOCK_MONOTONIC as of the last drain, ns: what was drained is dated by it."""

    def open(self) -> None:
        """Adopt what is pinned, when it is of this build and these options; load afresh otherwise."""
        content = object_bytes(PROGRAM)
        build = zlib.crc32(content + repr(self._options).encode()) or 1
        if (self._folder / PROGRAM).exists():
            self._adopt()
            if int(self._state["build"][0]) == build:
                self.adopted = True
                return
            self.close()
            unpin(self._folder)
            self.notes.append(
                "counts that an older version or other settings had left undrained were dropped"
            )
        self._load(content, build)

    def close(self) -> None:
        """Give the descriptors back; pins and attached programs stay."""
        self._state, self._memory = np.zeros(1, STATE), None
        for fd in (*self._fds.values(), self.program):
            if fd >= 0:
                os.close(fd)
        self._fds, self.program = {}, -1

    def fd(self, name: str) -> int:
        """The descriptor of one map."""
        return self._fds[name]

    @property
    def filled(self) -> float:
        """The share that is used of the fullest map being counted into, 0 to 1."""
        side = int(self._state["generation"][0]) & 1
        used = self._state["dirty"][0, side * len(FAMILIES) : (side + 1) * len(FAMILIES)]
        return max(
            int(each) / entries_of(family, self._options.map_entries)
            for family, each in zip(FAMILIES, used, strict=True)
        )

    def drain(self) -> tuple[Table, tuple[Loss, ...], int]:
        """`(TAP_COUNT, losses, generation)` of the side not being counted into, swapping first when it is clear."""
        if self._state["committed"][0] + 1 == self._state["generation"][0]:
            # A crash before the swap: the heir notes it again. After it: what is noted stands.
            self._note(_UNHEARD_DRAINED, self._unheard(_UNHEARD))
            self._state["generation"][0] += 1
            bpf.wait_for_programs()
        generation = int(self._state["generation"][0]) - 1
        self.utc_offset = offset = _utc_offset()
        tables = [
            tap_counts(keys, values, offset)
            for family in self._dirty(generation)
            for keys, values in bpf.batches(
                self._fds[_count_map(family, generation)], KEYS[family], COUNT, self._cpus
            )
        ]
        counts = np.concatenate(tables) if tables else np.zeros(0, TAP_COUNT)
        return counts, self._losses(generation), generation

    def commit(self) -> None:
        """Clear the drained side. Without a drain before it, nothing happens."""
        generation = int(self._state["generation"][0]) - 1
        if int(self._state["committed"][0]) == generation:
            return
        for family in self._dirty(generation):
            self._clear(self._fds[_count_map(family, generation)], family)
        side = generation & 1
        nothing = bytes(LOSS.itemsize * self._cpus)
        for stage in Stage:
            index = side * len(Stage) + stage
            bpf.update(self._fds["losses"], struct.pack("=I", index), nothing)
        self._note(_UNHEARD_COMMITTED, self._unheard(_UNHEARD_DRAINED))
        self._state["dirty"][0, side * len(FAMILIES) : (side + 1) * len(FAMILIES)] = 0
        self._state["committed"][0] = generation

    def _clear(self, fd: int, family: str) -> None:
        # Keys are gathered before any is deleted: a walk over a map that shrinks under it may skip some.
        keys = [keys.copy() for keys, _ in bpf.batches(fd, KEYS[family], COUNT, self._cpus)]
        for batch in keys:
            bpf.delete_batch(fd, batch)

    def _dirty(self, generation: int) -> list[str]:
        side = generation & 1
        dirty = self._state["dirty"][0]
        return [name for i, name in enumerate(FAMILIES) if dirty[side * len(FAMILIES) + i]]

    def _losses(self, generation: int) -> tuple[Loss, ...]:
        found = []
        for stage in Stage:
            index = (generation & 1) * len(Stage) + stage
            raw = bpf.lookup(self._fds["losses"], struct.pack("=I", index), LOSS.itemsize * self._cpus)
            each = np.frombuffer(raw or b"", LOSS)
            if each["packets"].any():
                packets, octets = int(each["packets"].sum()), int(each["octets"].sum())
                if stage is Stage.FRAGMENT:  # counted in a flow, only without its ports: nothing is missing
                    found.append(Loss(STAGE_NAMES[stage], events=packets))
                else:
                    found.append(Loss(STAGE_NAMES[stage], packets, octets))
        missed = self._unheard(_UNHEARD_DRAINED) - self._unheard(_UNHEARD_COMMITTED)
        if missed:  # packets that are counted; only what they said is not known
            found.append(Loss(NAMES_LOST, events=missed))
        return tuple(found)

    def _unheard(self, place: int) -> int:
        """Messages the ring had no room for: all CPUs added up."""
        raw = bpf.lookup(self._fds["unheard"], struct.pack("=I", place), 8 * self._cpus)
        return int(np.frombuffer(raw or b"", "<u8").sum())

    def _note(self, place: int, count: int) -> None:
        value = struct.pack("=Q", count).ljust(8 * self._cpus, b"\0")
        bpf.update(self._fds["unheard"], struct.pack("=I", place), value)

    def _load(self, content: bytes, build: int) -> None:
        loaded = libbpf.Object(content, "tap.bpf.o")
        try:
            _configure(loaded, self._options, build)
            _load_or_explain(loaded)
            self._fds = {name: loaded.map(name) for name in MAPS}
            self.program = loaded.program(PROGRAM)
        finally:
            loaded.close()
        try:
            for name, fd in self._fds.items():
                bpf.pin(fd, self._folder / _pin_name(name))
            # The program goes last: its pin says that all the others are there.
            bpf.pin(self.program, self._folder / PROGRAM)
        except OSError as error:
            unpin(self._folder)
            raise Problem("cannot pin", f"{self._folder}: {error.strerror}", "give a bpffs folder") from None
        self._share()

    def _adopt(self) -> None:
        self._fds = {name: bpf.pinned(self._folder / _pin_name(name)) for name in MAPS}
        self.program = bpf.pinned(self._folder / PROGRAM)
        self._share()

    def _share(self) -> None:
        self._memory = bpf.shared_memory(self._fds[".bss"])
        self._state = np.frombuffer(self._memory, STATE, 1)


def unpin(folder: Path) -> None:
    """Remove every pin of a capture."""
    for name in (PROGRAM, *(_pin_name(name) for name in MAPS)):
        (folder / name).unlink(missing_ok=True)


def entries_of(family: str, entries: int) -> int:
    """How many entries the maps of a family are given, of what is asked for each."""
    # A tunnelled packet is seen at an uplink only, where the packet inside it is seen at two taps.
    return max(1, entries // 2 if family == "tunnel" else entries)


def _count_map(family: str, generation: int) -> str:
    return f"{family}_{SIDES[generation & 1]}"


def _pin_name(name: str) -> str:
    # A name in a bpffs must not hold a dot.
    return name.replace(".", "section_")


def _utc_offset() -> int:
    """UTC minus CLOCK_MONOTONIC, ns: the best of three, as this process may be put aside between two clocks."""
    best, found = 1 << 62, 0
    for _ in range(3):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        utc = time.clock_gettime_ns(time.CLOCK_REALTIME)
        took = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - before
        if took < best:
            best, found = took, utc - before - took // 2
    return found


def _configure(loaded: libbpf.Object, options: Options, build: int) -> None:
    """Set map sizes and variables, and refuse an object whose structs are not the ones Python reads."""
    for name in COUNT_MAPS:
        loaded.set_entries(name, entries_of(name.partition("_")[0], options.map_entries))
    loaded.set_entries("heard", options.names_ring)
    constants = loaded.variables(".rodata")
    sample = 2 * (_VXLAN_PLACES + _GENEVE_PLACES)
    start = sample + 4  # the compiler may put constants of its own behind
    table = constants[start : start + 4 * len(LAYOUT_TABLE)].view("<u4")
    if tuple(table.tolist()) != LAYOUT_TABLE:
        raise Problem("kernel program does not fit this version", "tap.bpf.o", "rebuild it: make bpf")
    _set_ports(constants, 0, options.tunnel_ports, _VXLAN_PLACES, "tunnel_ports")
    _set_ports(constants, 2 * _VXLAN_PLACES, options.geneve_ports, _GENEVE_PLACES, "geneve_ports")
    constants[sample:start].view("<u4")[0] = options.sample if options.sample > 1 else 0
    state = loaded.variables(".bss")[: STATE.itemsize].view(STATE)
    # Generations of different loads must never be equal, so they start at the time, made even.
    start = time.clock_gettime_ns(time.CLOCK_REALTIME) & ~1
    state["generation"], state["committed"], state["build"] = start, start - 1, build
    # The coarse clock's resolution is the kernel's tick. The program finds the epoch itself, from above.
    state["tick"] = round(time.clock_getres(_COARSE) * 1e9)
    state["epoch"] = _LATEST


def _set_ports(constants: np.ndarray, at: int, ports: tuple[int, ...], places: int, name: str) -> None:
    if len(ports) > places or any(not 0 < port < 65536 for port in ports):
        raise Problem("bad tunnel ports", f"{name}={ports}", f"give at most {places} ports, 1 to 65535")
    packed = np.array(ports, ">u2").view(np.uint8)
    constants[at : at + len(packed)] = packed


def _load_or_explain(loaded: libbpf.Object) -> None:
    try:
        loaded.load()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            lacking = missing("BPF", "NET_ADMIN", "PERFMON")
            fix = f"run as root, or with CAP_BPF, CAP_NET_ADMIN and, on some kernels, CAP_PERFMON ({lacking})"
        elif _release() < (5, 8):
            fix = f"this kernel is {os.uname().release}; 5.8 or later is needed"
        elif error.errno in (errno.ENOMEM, errno.E2BIG):
            fix = "lower map_entries, or raise the memory (or RLIMIT_MEMLOCK) limit"
        else:
            fix = (
                "see the kernel log; the kernel may be built without CONFIG_BPF_SYSCALL or CONFIG_NET_CLS_ACT"
            )
        raise Problem("kernel program cannot be loaded", str(error), fix) from None


def _release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
