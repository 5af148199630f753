"""Open a capture: a file or standard input, as it is or packed by gzip or zstd."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

from ringfence.model.problems import Problem

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
UNPACK_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError)
"""What a damaged gzip or zstd stream, or a device that stops answering, raises while it is read."""


@contextmanager
def open_capture(name: str) -> Iterator[IO[bytes]]:
    """A stream of the capture's own octets. `-` is standard input. Raises Problem when it cannot be opened."""
    with ExitStack() as stack:
        raw = sys.stdin.buffer if name == "-" else stack.enter_context(_opened(Path(name)))
        try:
            yield stack.enter_context(closing(_unpacked(raw, reopen=name != "-")))
        except UNPACK_ERRORS as error:
            raise Problem(f"cannot read ({error})", name, "copy it again, or name another file") from None


def beginning(name: str, size: int) -> bytes:
    """What a capture's first `size` octets as stored unpack to; empty when it cannot be read. Nothing is used up: of standard
    input only what is waiting there is looked at."""
    try:
        if name == "-":
            head = cast("io.BufferedReader", sys.stdin.buffer).peek(size)[:size]
        else:
            with Path(name).open("rb") as file:
                head = file.read(size)
        if head.startswith(GZIP):
            return zlib.decompressobj(31).decompress(head, size)
        if head.startswith(ZSTD):
            return zstandard.ZstdDecompressor().decompressobj().decompress(head)[:size]
    except (ValueError, *UNPACK_ERRORS):
        return b""
    return head


def _unpacked(raw: IO[bytes], reopen: bool) -> IO[bytes]:
    """`raw` from its start. Standard input is wrapped, so that closing what comes back leaves it open."""
    head = _peek(raw, 4)
    whole: IO[bytes] = io.BufferedReader(_Rejoined(head, raw))
    if reopen and raw.seekable():
        raw.seek(-len(head), io.SEEK_CUR)
        whole = raw
    if head.startswith(GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=whole))
    if head.startswith(ZSTD):
        reader = zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
        return cast("IO[bytes]", reader)
    return whole


def _opened(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise Problem("is a folder", str(path), "name the capture files in it")
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise Problem("no such file", str(path), "name a capture file, or - for standard input") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problem(
            f"cannot open ({reason})", str(path), "make it readable, or name another file"
        ) from None


def _peek(raw: IO[bytes], size: int) -> bytes:
    head = b""
    while len(head) < size:
        more = raw.read(size - len(head))
        if not more:
            break
        head += more
    return head


class _Rejoined(io.RawIOBase):
    """Some octets, then the rest of a stream that cannot seek."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        super().__init__()
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        if self._head:
            data, self._head = self._head[: len(into)], self._head[len(into) :]
        else:
            data = self._rest.read(len(into))
        into[: len(data)] = data
        return len(data)
