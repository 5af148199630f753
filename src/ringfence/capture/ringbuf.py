"""The reading side of a ring buffer map, by libbpf: the kernel's stores must be waited for as each machine wants it."""

from __future__ import annotations

import ctypes
import os

from ringfence.capture.libbpf import library

_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class RingBuffer:
    """One ring, read by one thread."""

    def __init__(self, fd: int, most: int) -> None:
        """`most` records are taken in one call."""
        self._lib = library()
        self._most = most
        self._taken: list[bytes] = []
        self._callback = _SAMPLE(self._take)
        handle = self._lib.ring_buffer__new(fd, self._callback, None, None)
        if not handle:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._handle = ctypes.c_void_p(handle)

    def take(self) -> list[bytes]:
        """What is in it, oldest first; the kernel may use its place again."""
        self._taken = []
        self._lib.ring_buffer__consume(self._handle)
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> None:
        """Give memory back; what is in the ring stays there."""
        if self._handle:
            self._lib.ring_buffer__free(self._handle)
            self._handle = ctypes.c_void_p()

    def _take(self, context: int | None, data: int, size: int) -> int:
        self._taken.append(ctypes.string_at(data, size))
        # A negative number ends the call; this record counts as taken all the same.
        return 0 if len(self._taken) < self._most else -1
