"""One batch as bytes: a fixed prefix, then zstd over the header's JSON and the packed columns, and back.

    prefix (28 octets, little-endian)
      magic "RFBATCH" + format 1 | layout u16 | reserved u16 | header octets u32 | sightings u32 | translations u32
      | hops u32
    zstd frame, with its content size and checksum (RFC 8878)
      header JSON | each column of SIGHTING in order, contiguous | of TRANSLATION | of HOP

Layout 2, of agents of before and of recordings, has no hops (nor their number in its prefix) and no `link` of a
translation. It is read as a batch of today that does not know them.

Columns are stored one after the other because they compress better apart than as rows. The prefix says how
large the frame may become, and the frame must agree before a single octet is decompressed. Pure: bytes in,
values out; every defect is a `Problem`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from ringfence.model.batches import BatchHeader
from ringfence.model.columns import HOP, LAYOUT, MAX_TAPS, SIGHTING, TRANSLATION, Table
from ringfence.model.problems import Problem
from ringfence.wire.checks import check_batch

MAGIC = b"RFBATCH\x01"
PREFIX = struct.Struct("<8sHHIIII")

MAX_BODY = 64 << 20
"""Largest batch a server reads, in octets."""
MAX_HEADER = 16 << 20
MAX_ROWS = 1 << 20
"""Most sightings or translations; an agent with more sends several batches."""

OLD = 2
OLD_PREFIX = struct.Struct("<8sHHIII")
OLD_TRANSLATION = np.dtype(
    [(name, TRANSLATION[name].str) for name in (TRANSLATION.names or ()) if name != "link"]
)

LEVEL = 3
"""zstd level: higher ones cost an agent more than they save on the wire."""

_PIECE = 1 << 14
"""Octets of a frame that `peek` unpacks at once."""
FIX = "send batches of the same Ringfence version; see the agent's log"

NO_HOPS: Table = np.zeros(0, HOP)


class Batch(NamedTuple):
    """One decoded batch: SIGHTING, TRANSLATION and HOP tables; no hops where they are not known."""

    header: BatchHeader
    sightings: Table
    translations: Table
    hops: Table = NO_HOPS


def encode(header: BatchHeader, sightings: Table, translations: Table, hops: Table = NO_HOPS) -> bytes:
    """The bytes of one batch. Raises Problem where `decode` would refuse it: a defect is found where it was made."""
    if max(len(sightings), len(translations)) > MAX_ROWS:
        raise Problem("batch too large", f"{len(sightings)} rows", f"send at most {MAX_ROWS} rows at once")
    check_batch(header, sightings, translations, hops)
    head = msgspec.json.encode(header)
    prefix = PREFIX.pack(MAGIC, LAYOUT, 0, len(head), len(sightings), len(translations), len(hops))
    tables = ((sightings, SIGHTING), (translations, TRANSLATION), (hops, HOP))
    size = len(head) + sum(table.nbytes for table, _ in tables)
    # A column at a time: joined, they would be as much memory again as the tables.
    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj(size=size)
    packed = [prefix, packer.compress(head)]
    for table in tables:
        packed += [packer.compress(column.data) for column in _columns(*table)]
    return b"".join([*packed, packer.flush()])


def decode(body: bytes) -> Batch:
    """The batch in `body`, checked in full. Raises Problem naming what is wrong; never anything else."""
    form = _form(body)
    content = _content(body[form.prefix :], form.header + form.size)
    header, offset = _header(content[: form.header], form.layout), form.header
    found = []
    for (stored, wanted), count in zip(form.tables, form.rows, strict=True):
        table, offset = _table(content, offset, stored, wanted, count)
        found.append(table)
    batch = Batch(header, *found)
    check_batch(*batch)
    return batch


def peek(body: bytes) -> BatchHeader:
    """The header alone, of a batch that is whole (its frame's checksum says so), in little memory. Raises Problem."""
    form = _form(body)
    frame = memoryview(body)[form.prefix :]
    _check_size(frame, form.header + form.size)
    head, size, packed = bytearray(), 0, zstandard.ZstdDecompressor().decompressobj()
    try:
        for start in range(0, len(frame), _PIECE):
            piece = packed.decompress(frame[start : start + _PIECE])
            head += piece[: max(form.header - size, 0)]
            size += len(piece)
            if packed.eof:
                break
    except zstandard.ZstdError as error:
        raise _damaged(error) from None
    if not packed.eof or size != form.header + form.size or start + _PIECE < len(frame) or packed.unused_data:
        raise Problem("batch has another size than it says", "its frame", FIX)
    return _header(bytes(head), form.layout)


def _columns(table: Table, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Each column in one piece, made when it is asked for."""
    if table.dtype != dtype:
        raise Problem("wrong columns", "batch", "build tables with ringfence.model.columns")
    return (np.ascontiguousarray(table[name]) for name in dtype.names or ())


class _Form(NamedTuple):
    """What a prefix says: how long things are, each within its limit, and how they are laid out."""

    layout: int
    prefix: int
    header: int
    sightings: int
    translations: int
    hops: int
    translation: np.dtype[Any]

    @property
    def tables(self) -> tuple[tuple[np.dtype[Any], np.dtype[Any]], ...]:
        """(as it is stored, as it is today) of each table."""
        return (SIGHTING, SIGHTING), (self.translation, TRANSLATION), (HOP, HOP)

    @property
    def rows(self) -> tuple[int, ...]:
        """Of each table."""
        return self.sightings, self.translations, self.hops

    @property
    def size(self) -> int:
        """Octets of all columns."""
        return sum(stored.itemsize * count for (stored, _), count in zip(self.tables, self.rows, strict=True))


def _form(body: bytes) -> _Form:
    if len(body) < PREFIX.size or len(body) > MAX_BODY:
        raise Problem("not a batch", f"{len(body)} octets", f"send {PREFIX.size} to {MAX_BODY} octets")
    magic, layout, reserved, head, rows, others, hops = PREFIX.unpack_from(body)
    if magic != MAGIC or reserved:
        raise Problem("not a batch", "its first octets", "send what ringfence.wire.codec.encode returns")
    if layout not in (LAYOUT, OLD):
        raise Problem(f"batch has column layout {layout}, not {LAYOUT}", "batch", "upgrade the older side")
    form = _Form(layout, PREFIX.size, head, rows, others, hops, TRANSLATION)
    if layout == OLD:
        form = form._replace(prefix=OLD_PREFIX.size, hops=0, translation=OLD_TRANSLATION)
    if head > MAX_HEADER or max(rows, others) > MAX_ROWS or form.hops > rows * MAX_TAPS:
        raise Problem("batch too large", f"{rows} rows", f"send at most {MAX_ROWS} rows at once")
    return form


def _content(frame: bytes, expected: int) -> bytes:
    """The decompressed frame, refused before decompression unless it says it has the expected size."""
    _check_size(frame, expected)
    try:
        content: bytes = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=expected, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise _damaged(error) from None
    if len(content) != expected:
        raise Problem("batch has another size than it says", "its frame", FIX)
    return content


def _check_size(frame: bytes | memoryview, expected: int) -> None:
    """Raise Problem unless a frame says that it has so many octets."""
    try:
        told = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise _damaged(error) from None
    if told != expected:
        raise Problem("batch has another size than it says", "its frame", FIX)


def _damaged(error: Exception) -> Problem:
    return Problem(f"damaged batch ({error})", "its frame", "send it again")


def _header(text: bytes, layout: int) -> BatchHeader:
    """The header of a batch in `layout`, as one of today's."""
    try:
        header = msgspec.json.decode(text, type=BatchHeader)
        return msgspec.structs.replace(header, layout=LAYOUT) if header.layout == layout else header
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"damaged batch header ({error})", "header", FIX) from None


def _table(
    content: bytes, offset: int, stored: np.dtype[Any], wanted: np.dtype[Any], rows: int
) -> tuple[Table, int]:
    """The table whose columns (`stored`) start at `offset`, and where the next one starts."""
    table = np.zeros(rows, wanted)
    for name in stored.names or ():
        field = stored[name]
        size = rows * field.itemsize
        flat = np.frombuffer(content, field.base, rows * int(np.prod(field.shape, dtype=int)), offset)
        table[name] = flat.reshape(rows, *field.shape)
        offset += size
    return table, offset
