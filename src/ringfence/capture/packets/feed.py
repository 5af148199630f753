"""A stream read into one reused buffer: memory stays the same however long the capture is."""

from __future__ import annotations

import io
import os
import stat
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.frames import CHUNK, PAD
from ringfence.capture.packets.sources import UNPACK_ERRORS


class Feed:
    """Holds the octets from `origin` on; `more` moves what is left to the front and reads behind it.

    Goal: record readers see one flat buffer and never a seam. The price is one copy of each octet and that
    offsets into `buffer` mean nothing after `more`.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.store = bytearray(_room(stream) + PAD)
        """The same octets as `buffer`, for `find` and `struct`."""
        self.buffer: NDArray[np.uint8] = np.frombuffer(self.store, np.uint8)
        self.filled = 0
        self.origin = 0
        """Offset in the file of the buffer's first octet."""
        self.ended = False
        self.damage: str | None = None
        """Why the stream broke, when it did not simply end."""

    def more(self, used: int, wanted: int = 0) -> int:
        """Drop `used` octets and read on, growing to hold `wanted`. Returns the octets newly read."""
        left = self.filled - used
        if wanted + PAD > len(self.store) and not self.ended:
            # Twice at most: a damaged length must not take memory for octets that are not in the file.
            grown = bytearray(min(wanted + PAD, 2 * len(self.store)))
            grown[:left] = self.store[used : self.filled]
            self.store = grown
            self.buffer = np.frombuffer(grown, np.uint8)
        elif used and left:
            self.store[:left] = self.store[used : self.filled]
        self.origin += used
        self.filled = left
        return self._fill()

    def _fill(self) -> int:
        """Read until the buffer is full or the stream ends."""
        before, room = self.filled, len(self.store) - PAD
        # One read of what lies under a packed stream at a time: when it breaks, what came before is kept.
        take = getattr(self._stream, "readinto1", None) or self._stream.readinto  # type: ignore[attr-defined]
        view = memoryview(self.store)
        while self.filled < room and not self.ended:
            try:
                got = take(view[self.filled : room])
            except UNPACK_ERRORS as error:
                self.damage, got = str(error) or "it ends early", 0
            self.ended = not got
            self.filled += got or 0
        return self.filled - before


def _room(stream: IO[bytes]) -> int:
    """Octets to hold: of a plain file no more than it has, and one to see its end, since a buffer is filled with 0."""
    if isinstance(stream, io.FileIO):
        status = os.fstat(stream.fileno())
        if stat.S_ISREG(status.st_mode):
            return min(CHUNK, status.st_size + 1)
    return CHUNK
