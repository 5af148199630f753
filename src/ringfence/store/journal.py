"""Segments on disk before they reach the engine, so that a half-written one can be finished with the same bytes.

One file a segment, written aside, fsynced and renamed: a file that exists is whole. It goes away only once the
facts say that the segment is in every table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa

from ringfence.model.problems import Problem
from ringfence.store.facts import Mark, Report


class Segment(msgspec.Struct):
    """Batches resolved into rows. `tables` holds Arrow IPC streams by table name; `agents` is JSON per agent."""

    number: int
    tables: dict[str, bytes]
    marks: tuple[Mark, ...]
    agents: tuple[tuple[str, str, bytes], ...] = ()
    reports: tuple[Report, ...] = ()


def to_bytes(table: pa.Table) -> bytes:
    """An Arrow table as an IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """The Arrow table of an IPC stream."""
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


class Journal:
    """The segments in `folder` that may not be whole in the engine yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Make the folder; forget files that were never finished."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in self._folder.glob("*.partial"):
                leftover.unlink()
        except OSError as error:
            raise Problem(
                f"cannot use the journal ({error.strerror})",
                str(self._folder),
                "give --data a writable folder",
            ) from None

    def write(self, segment: Segment) -> None:
        """Keep a segment durably. Raises OSError (disk full, say); then nothing was kept."""
        partial = self._path(segment.number).with_suffix(".partial")
        with open(partial, "wb") as file:
            file.write(msgspec.msgpack.encode(segment))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path(segment.number))
        self._sync()

    def pending(self) -> Iterator[Segment]:
        """Every kept segment, oldest first."""
        for path in sorted(self._folder.glob("*.segment")):
            yield msgspec.msgpack.decode(path.read_bytes(), type=Segment)

    def forget(self, number: int) -> None:
        """Remove a segment that is whole everywhere."""
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020d}.segment"

    def _sync(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
