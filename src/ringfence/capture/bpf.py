"""A thin layer over the bpf(2) system call, through ctypes.

`libbpf` loads the object; everything after that is here, on file descriptors, so that an heir of a crashed
process, which has only pins, uses the same code.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringfence.model.columns import Table

# bpf(2) commands (linux/bpf.h, enum bpf_cmd).
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY = 0, 1, 2, 3, 4
PROG_LOAD, OBJ_PIN, OBJ_GET, PROG_TEST_RUN, PROG_GET_FD, OBJ_GET_INFO = 5, 6, 7, 10, 13, 15
PROG_QUERY, RAW_TRACEPOINT_OPEN, ITER_CREATE = 16, 17, 33
LOOKUP_BATCH, LOOKUP_AND_DELETE_BATCH, DELETE_BATCH, LINK_CREATE, LINK_DETACH = 24, 25, 27, 28, 34

ARRAY, PROG_ARRAY, ARRAY_OF_MAPS = 2, 3, 12
SCHED_CLS = 3
"""Program type (enum bpf_prog_type)."""
TCX_INGRESS, TCX_EGRESS = 46, 47
"""Attach types (enum bpf_attach_type), since 6.6."""
TRACE_ITER = 28
"""Attach type of iterators, since 5.8."""
EFFECTIVE = 1
"""BPF_F_QUERY_EFFECTIVE."""
MOST_PROGRAMS = 128
"""Effective programs of one cgroup and attach type (BPF_CGROUP_MAX_PROGS is 64 for each cgroup)."""
BEFORE = 1 << 3
"""BPF_F_BEFORE: with no relative, the head of the chain."""

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361, "riscv64": 280}
_BATCH_OCTETS = 4 << 20
"""Values read in one call: more makes no difference to speed, and memory grows with the number of CPUs."""

_libc = ctypes.CDLL(None, use_errno=True)


class _ElementAttr(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _BatchAttr(ctypes.Structure):
    _fields_ = (
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _PathAttr(ctypes.Structure):
    _fields_ = (
        ("pathname", ctypes.c_uint64),
        ("bpf_fd", ctypes.c_uint32),
        ("file_flags", ctypes.c_uint32),
    )


class _MapAttr(ctypes.Structure):
    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
    )


class _InfoAttr(ctypes.Structure):
    _fields_ = (("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64))


class _ProgramAttr(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
    )


class _LinkAttr(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("relative_fd", ctypes.c_uint32),
        ("expected_revision", ctypes.c_uint64),
    )


class _IteratorAttr(ctypes.Structure):
    """BPF_LINK_CREATE of an iterator: over what, in a `union bpf_iter_link_info`."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_uint64),
        ("iter_info_len", ctypes.c_uint32),
    )


class _QueryAttr(ctypes.Structure):
    _fields_ = (
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("prog_attach_flags", ctypes.c_uint64),
        ("link_ids", ctypes.c_uint64),
        ("link_attach_flags", ctypes.c_uint64),
        ("revision", ctypes.c_uint64),
    )


class _NumberAttr(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint32), ("next", ctypes.c_uint32), ("open_flags", ctypes.c_uint32))


class _TracepointAttr(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32), ("pad", ctypes.c_uint32))


def call(command: int, attr: ctypes.Structure) -> int:
    """One bpf(2) call. Raises OSError with the kernel's errno."""
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known on {platform.machine()}")
    result: int = _libc.syscall(number, command, ctypes.byref(attr), ctypes.sizeof(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def possible_cpus() -> int:
    """CPUs this kernel may ever have: as many values does a per-CPU map hold for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace(",", "-").split("-")[-1]) + 1


def pin(fd: int, path: Path) -> None:
    """Give a map or program a name in a bpffs, so that it outlives this process."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    call(OBJ_PIN, _PathAttr(ctypes.addressof(name), fd, 0))


def pinned(path: Path) -> int:
    """A descriptor of what is pinned there."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return call(OBJ_GET, _PathAttr(ctypes.addressof(name), 0, 0))


def create_map(kind: int, key: int, value: int, entries: int, inner: int = 0) -> int:
    """A new map's descriptor."""
    return call(MAP_CREATE, _MapAttr(kind, key, value, entries, 0, inner))


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set one element. For per-CPU maps `value` is every CPU's, one after the other."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    call(MAP_UPDATE, _ElementAttr(fd, ctypes.addressof(k), ctypes.addressof(v), 0))


def lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """One element, or None. `size` is of all CPUs' values for per-CPU maps."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        call(MAP_LOOKUP, _ElementAttr(fd, ctypes.addressof(k), ctypes.addressof(v), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return v.raw


def delete(fd: int, key: bytes) -> None:
    """Remove one element; it may be gone already."""
    k = ctypes.create_string_buffer(key, len(key))
    try:
        call(MAP_DELETE, _ElementAttr(fd, ctypes.addressof(k), 0, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def program_tag(fd: int) -> tuple[int, int]:
    """`(id, tag)` of a loaded program; the tag is a hash of its instructions."""
    info = ctypes.create_string_buffer(256)
    call(OBJ_GET_INFO, _InfoAttr(fd, len(info), ctypes.addressof(info)))
    return int.from_bytes(info.raw[4:8], "little"), int.from_bytes(info.raw[8:16], "little")


def load_program(instructions: bytes, name: str) -> int:
    """Load a tc program of a few instructions (8 octets each, linux/bpf.h); its descriptor."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attr = _ProgramAttr(SCHED_CLS, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(license_))
    attr.prog_name = name.encode()
    return call(PROG_LOAD, attr)


def attach_first(program: int, ifindex: int, kind: int) -> int:
    """A tcx link at the head of an interface's chain, for as long as it is open or pinned.

    The interface is looked up in the namespace of the thread that calls this.
    """
    return call(LINK_CREATE, _LinkAttr(program, ifindex, kind, BEFORE, 0, 0))


def attach_cgroup(program: int, cgroup: int, kind: int, orders: Sequence[int]) -> int:
    """A link to a cgroup, for as long as it is open: in the first of these orders (flags) that the kernel knows."""
    for place, flags in enumerate(orders):
        try:
            return call(LINK_CREATE, _LinkAttr(program, cgroup, kind, flags, 0, 0))
        except OSError as error:
            if error.errno != errno.EINVAL or place == len(orders) - 1:
                raise
    raise OSError(errno.EINVAL, "no order to attach in")


def cgroup_programs(cgroup: int, kind: int) -> set[int]:
    """The programs (ids) of an attach type that run in a cgroup: its own, and those of the ones above."""
    numbers = np.zeros(MOST_PROGRAMS, "<u4")
    attr = _QueryAttr(cgroup, kind, EFFECTIVE, prog_ids=numbers.ctypes.data, count=len(numbers))
    call(PROG_QUERY, attr)
    return set(numbers[: attr.count].tolist())


def program_id(fd: int) -> int:
    """The kernel's number of a program."""
    info = ctypes.create_string_buffer(8)
    call(OBJ_GET_INFO, _InfoAttr(fd, len(info), ctypes.addressof(info)))
    return int.from_bytes(info.raw[4:8], "little")


def open_iterator(program: int, over: int) -> int:
    """A link of an iterator over a map, to be run by `iterate`."""
    wish = struct.pack("=I", over)
    info = ctypes.create_string_buffer(wish, len(wish))
    attr = _IteratorAttr(program, 0, TRACE_ITER, 0, ctypes.addressof(info), len(wish))
    return call(LINK_CREATE, attr)


def iterate(link: int) -> None:
    """Run an iterator's program once for each element; what it prints is dropped."""
    run = call(ITER_CREATE, _NumberAttr(link))
    try:
        while os.read(run, 4096):
            pass
    finally:
        os.close(run)


def detach_link(fd: int) -> None:
    """Take a link off its interface at once; closing or unpinning the last of it would do so some time later."""
    with contextlib.suppress(OSError):  # its interface is gone, and the link with it
        call(LINK_DETACH, _NumberAttr(fd))


def link_target(fd: int) -> tuple[int, int, int]:
    """`(program id, ifindex, attach type)` of a tcx link; ifindex is 0 once its interface is gone."""
    info = ctypes.create_string_buffer(64)
    call(OBJ_GET_INFO, _InfoAttr(fd, len(info), ctypes.addressof(info)))
    words = np.frombuffer(info.raw, "<u4")
    return int(words[2]), int(words[4]), int(words[5])


def chain(ifindex: int, kind: int) -> list[int] | None:
    """Ids of the programs on an interface's tcx chain, first first; None where the kernel has no tcx.

    The interface is looked up in the namespace of the thread that calls this.
    """
    numbers = np.zeros(64, "<u4")
    attr = _QueryAttr(ifindex, kind, prog_ids=numbers.ctypes.data, count=len(numbers))
    try:
        call(PROG_QUERY, attr)
    except OSError as error:
        return [] if error.errno in (errno.ENOENT, errno.ENODEV) else None
    return [int(number) for number in numbers[: attr.count]]


def open_tracepoint(program: int, name: str | None) -> int:
    """Attach a program to a raw tracepoint for as long as the descriptor returned is open.

    A program that reads it through BTF knows its name itself: None.
    """
    text = ctypes.create_string_buffer((name or "").encode())
    attr = _TracepointAttr(ctypes.addressof(text) if name else 0, program, 0)
    return call(RAW_TRACEPOINT_OPEN, attr)


def wait_for_programs() -> None:
    """Return when no program that was running when this was called is still running.

    Since 4.20 the kernel waits for an RCU grace period when an array of maps is updated
    (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
    """
    inner = create_map(ARRAY, 4, 4, 1)
    try:
        outer = create_map(ARRAY_OF_MAPS, 4, 4, 1, inner)
        try:
            update(outer, bytes(4), inner.to_bytes(4, "little"))
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def batches(
    fd: int, key: np.dtype[Any], value: np.dtype[Any], cpus: int, take: bool = False
) -> Iterator[tuple[Table, NDArray[Any]]]:
    """Everything in a hash map, a batch at a time: `(keys, values)` with values shaped (rows, cpus).

    The arrays are used again for the next batch. With `take`, what is read is deleted.
    Values of per-CPU maps are padded to 8 octets by the kernel, so `value` must be a multiple of that.
    """
    rows = max(4096, _BATCH_OCTETS // (value.itemsize * cpus))
    keys, values = np.empty(rows, key), np.empty((rows, cpus), value)
    position, following = ctypes.c_uint64(), ctypes.c_uint64()
    command = LOOKUP_AND_DELETE_BATCH if take else LOOKUP_BATCH
    at, more = 0, True
    while more:
        attr = _BatchAttr(
            at, ctypes.addressof(following), keys.ctypes.data, values.ctypes.data, rows, fd, 0, 0
        )
        try:
            call(command, attr)
        except OSError as error:
            # Busy: a bucket was locked by somebody else just then; what was read so far is good.
            if error.errno not in (errno.ENOENT, errno.EBUSY, errno.EAGAIN):
                raise
            more = error.errno != errno.ENOENT
        if attr.count:
            yield keys[: attr.count], values[: attr.count]
        position.value, at = following.value, ctypes.addressof(position)


def delete_batch(fd: int, keys: Table) -> None:
    """Remove these keys; one that is gone already is skipped."""
    keys = np.ascontiguousarray(keys)
    start = 0
    while start < len(keys):
        rest = keys[start:]
        attr = _BatchAttr(0, 0, rest.ctypes.data, 0, len(rest), fd, 0, 0)
        try:
            call(DELETE_BATCH, attr)
            return
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            start += attr.count + 1


def shared_memory(fd: int) -> mmap.mmap:
    """The memory of an array map (a program's global variables), shared with the kernel."""
    return mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
