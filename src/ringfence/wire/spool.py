"""An agent's durable queue of batches: one file each, fsynced, kept until the server acknowledges.

Goals: a batch that `append` returned for survives `kill -9` and power loss; batches leave in the order they
were made, across epochs; the folder never grows past its cap, and what the cap costs is counted and told.
The trade-off: one file and two fsyncs a batch, fine for a few batches a second.

A batch dropped because of the cap leaves its header behind, with the loss written into it and no windows:
sequences keep no gap, the server learns what is missing, and the hole is seen as incomplete, not as silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ringfence.model.batches import BatchHeader, Loss
from ringfence.model.columns import SIGHTING, TRANSLATION
from ringfence.model.problems import Problem
from ringfence.wire.codec import decode, encode, peek

SUFFIX = ".batch"
EMPTIED = ".dropped"
"""Suffix of a header left behind by a dropped batch."""
STAGE = "spool-full"


class Entry(NamedTuple):
    """One queued batch: its file, who it is, its bytes."""

    path: Path
    epoch: str
    sequence: int
    body: bytes


class Spool:
    """The queue in `folder`, at most `cap` octets of batches. Used by one thread of one process.

    `damaged` counts the files that were set aside because they could not be read: whoever owns the queue says so.
    What this process made itself was checked when it was made, so only its frame is looked at; what it found is
    read whole, because a batch that the server refuses would stand in the way of all that follow.
    """

    def __init__(self, folder: Path, cap: int) -> None:
        self._folder, self._cap = folder, cap
        self.damaged = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in folder.glob("*.partial"):
                leftover.unlink()
            # In the order of sending, always: a backlog of hours is tens of thousands of files.
            self._sizes = {path: path.stat().st_size for path in sorted(self._files())}
            self._settle()
        except OSError as error:
            raise Problem(
                f"cannot use the spool ({error.strerror})", str(folder), "give a writable folder"
            ) from None
        self._octets = sum(size for path, size in self._sizes.items() if path.suffix == SUFFIX)
        self._next = self._own = 1 + max((_name(path).order for path in self._sizes), default=0)

    def append(self, body: bytes, epoch: str, sequence: int) -> None:
        """Keep one batch durably; older ones give way when the cap is reached. OSError passes through."""
        while self._octets and self._octets + len(body) > self._cap:
            self._drop(next(path for path in self._sizes if path.suffix == SUFFIX))
        self._write(self._folder / f"{self._next:016d}-{epoch}-{sequence}{SUFFIX}", body)
        self._next += 1

    def oldest(self) -> Entry | None:
        """The batch to send next; None when the queue is empty. A damaged file is set aside, not sent."""
        while path := next(iter(self._sizes), None):
            body = path.read_bytes()
            try:
                header = peek(body) if _name(path).order >= self._own else decode(body).header
            except Problem:
                self._set_aside(path)
                continue
            return Entry(path, header.epoch, header.sequence, body)
        return None

    def newest(self) -> BatchHeader | None:
        """The header of the batch kept last; None when the queue is empty or that batch is damaged."""
        if not self._sizes:
            return None
        try:
            return peek(next(reversed(self._sizes)).read_bytes())
        except Problem:
            return None

    def acknowledge(self, epoch: str, sequence: int) -> int:
        """Forget every batch of `epoch` up to and including `sequence`; how many there were."""
        done: list[Path] = []
        for path in self._sizes:
            name = _name(path)
            if name.epoch == epoch and name.sequence <= sequence:
                done.append(path)
            elif done or name.epoch == epoch:
                break  # an epoch's batches lie together, in the order of their sequences
        for path in done:
            self._forget(path, path.unlink)
        if done:
            self._sync()
        return len(done)

    def renumber(self, old: str, new: str) -> None:
        """Give every queued batch of epoch `old` the epoch `new`, sequences from 1.

        For a server that has never heard of `old` (its data is gone) while this queue no longer begins at 1.
        The new file has the old one's place in the order; after a crash between the two, `_settle` keeps one.
        """
        mine = [path for path in self._sizes if _name(path).epoch == old]
        taken = [_name(path).sequence for path in self._sizes if _name(path).epoch == new]
        for sequence, path in enumerate(mine, 1 + max(taken, default=0)):
            batch = decode(path.read_bytes())
            header = msgspec.structs.replace(batch.header, epoch=new, sequence=sequence)
            target = path.with_name(f"{_name(path).order:016d}-{new}-{sequence}{path.suffix}")
            self._write(target, encode(header, batch.sightings, batch.translations, batch.hops))
            self._forget(path, path.unlink)
        self._sort()
        self._sync()

    def octets(self) -> int:
        """Octets of whole batches queued."""
        return self._octets

    def __len__(self) -> int:
        return len(self._sizes)

    def _files(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.suffix in (SUFFIX, EMPTIED)]

    def _sort(self) -> None:
        self._sizes = dict(sorted(self._sizes.items()))

    def _settle(self) -> None:
        """Of two files in one place of the order, left by a crash in `renumber`, keep the newer."""
        newest: dict[tuple[int, str], Path] = {}
        for path in sorted(self._sizes, key=lambda path: path.stat().st_mtime_ns):
            before = newest.get(place := (_name(path).order, path.suffix))
            if before is not None:
                before.unlink()
                self._sizes.pop(before)
            newest[place] = path

    def _drop(self, path: Path) -> None:
        """Replace a batch by its header with the loss counted in."""
        try:
            body = _emptied(path.read_bytes())
        except Problem:
            self._set_aside(path)
            return
        self._write(path.with_suffix(EMPTIED), body)
        self._forget(path, path.unlink)
        self._sort()

    def _write(self, path: Path, body: bytes) -> None:
        partial = path.with_suffix(".partial")
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        self._sync()
        self._sizes[path] = len(body)
        self._octets += len(body) if path.suffix == SUFFIX else 0

    def _set_aside(self, path: Path) -> None:
        self._forget(path, lambda: path.rename(path.with_suffix(".damaged")))
        self.damaged += 1

    def _forget(self, path: Path, how: Callable[[], object]) -> None:
        how()
        size = self._sizes.pop(path)
        self._octets -= size if path.suffix == SUFFIX else 0

    def _sync(self) -> None:
        """Make renames and removals in the folder durable."""
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _Name(NamedTuple):
    order: int
    epoch: str
    sequence: int


def _name(path: Path) -> _Name:
    """What a file's name says: `ORDER-EPOCH-SEQUENCE.suffix`; epochs may hold dashes."""
    order, rest = path.stem.split("-", 1)
    epoch, sequence = rest.rsplit("-", 1)
    return _Name(int(order), epoch, int(sequence))


def _emptied(body: bytes) -> bytes:
    """The same batch without rows or windows, and with what was in it counted as lost."""
    batch = decode(body)
    rows = batch.sightings
    packets, octets = (
        int(rows[f"consumer_{unit}"].sum() + rows[f"provider_{unit}"].sum()) for unit in ("packets", "octets")
    )
    loss = Loss(STAGE, packets, octets, len(rows) + len(batch.translations))
    kept: BatchHeader = msgspec.structs.replace(
        batch.header,
        windows=(),
        taps=(),
        pods=(),
        processes=(),
        names=(),
        tls=(),
        losses=(*batch.header.losses, loss),
    )
    return encode(kept, np.zeros(0, SIGHTING), np.zeros(0, TRANSLATION))
