"""One batch as bytes: a fixed prefix, then zstd over the header's JSON and the packed columns, and back.

    prefix (24 octets, little-endian)
      magic "RFBATCH" + format 1 | layout u16 | reserved u16 | header octets u32 | sightings u32 | translations u32
    zstd frame, with its content size and checksum (RFC 8878)
      header JSON | each column of SIGHTING in order, contiguous | each column of TRANSLATION in order

Columns are stored one after the other because they compress better apart than as rows. The prefix says how
large the frame may become, and the frame must agree before a single octet is decompressed. Pure: bytes in,
values out; every defect is a `Problem`.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

from ringfence.model.batches import BatchHeader
from ringfence.model.columns import LAYOUT, SIGHTING, TRANSLATION, Table
from ringfence.model.problems import Problem
from ringfence.wire.checks import check_batch

MAGIC = b"RFBATCH\x01"
PREFIX = struct.Struct("<8sHHIII")

MAX_BODY = 64 << 20
"""Largest batch a server reads, in octets."""
MAX_HEADER = 16 << 20
MAX_ROWS = 1 << 20
"""Most rows of either table; an agent with more sends several batches."""

LEVEL = 3
"""zstd level: higher ones cost an agent more than they save on the wire."""

FIX = "send batches of the same Ringfence version; see the agent's log"


class Batch(NamedTuple):
    """One decoded batch; `sightings` is a SIGHTING table, `translations` a TRANSLATION table."""

    header: BatchHeader
    sightings: Table
    translations: Table


def encode(header: BatchHeader, sightings: Table, translations: Table) -> bytes:
    """The bytes of one batch. Raises Problem where `decode` would refuse it: a defect is found where it was made."""
    if max(len(sightings), len(translations)) > MAX_ROWS:
        raise Problem("batch too large", f"{len(sightings)} rows", f"send at most {MAX_ROWS} rows at once")
    check_batch(header, sightings, translations)
    head = msgspec.json.encode(header)
    prefix = PREFIX.pack(MAGIC, LAYOUT, 0, len(head), len(sightings), len(translations))
    content = b"".join([head, *_columns(sightings, SIGHTING), *_columns(translations, TRANSLATION)])
    packed: bytes = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(content)
    return prefix + packed


def decode(body: bytes) -> Batch:
    """The batch in `body`, checked in full. Raises Problem naming what is wrong; never anything else."""
    head_octets, rows, others = _prefix(body)
    content = _content(body, head_octets + rows * SIGHTING.itemsize + others * TRANSLATION.itemsize)
    header = _header(content[:head_octets])
    offset = head_octets
    sightings, offset = _table(content, offset, SIGHTING, rows)
    translations, _ = _table(content, offset, TRANSLATION, others)
    batch = Batch(header, sightings, translations)
    check_batch(header, sightings, translations)
    return batch


def peek(body: bytes) -> BatchHeader:
    """The header alone, as far as a spool needs it. Raises Problem."""
    return decode(body).header


def _columns(table: Table, dtype: np.dtype[Any]) -> list[bytes]:
    if table.dtype != dtype:
        raise Problem("wrong columns", "batch", "build tables with ringfence.model.columns")
    return [np.ascontiguousarray(table[name]).tobytes() for name in dtype.names or ()]


def _prefix(body: bytes) -> tuple[int, int, int]:
    """(header octets, sightings, translations), each within its limit."""
    if len(body) < PREFIX.size or len(body) > MAX_BODY:
        raise Problem("not a batch", f"{len(body)} octets", f"send {PREFIX.size} to {MAX_BODY} octets")
    magic, layout, reserved, head, rows, others = PREFIX.unpack_from(body)
    if magic != MAGIC or reserved:
        raise Problem("not a batch", "its first octets", "send what ringfence.wire.codec.encode returns")
    if layout != LAYOUT:
        raise Problem(f"batch has column layout {layout}, not {LAYOUT}", "batch", "upgrade the older side")
    if head > MAX_HEADER or max(rows, others) > MAX_ROWS:
        raise Problem("batch too large", f"{rows} rows", f"send at most {MAX_ROWS} rows at once")
    return head, rows, others


def _content(body: bytes, expected: int) -> bytes:
    """The decompressed frame, refused before decompression unless it says it has the expected size."""
    frame = body[PREFIX.size :]
    try:
        if zstandard.get_frame_parameters(frame).content_size != expected:
            raise Problem("batch has another size than it says", "its frame", FIX)
        content: bytes = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=expected, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Problem(f"damaged batch ({error})", "its frame", "send it again") from None
    if len(content) != expected:
        raise Problem("batch has another size than it says", "its frame", FIX)
    return content


def _header(text: bytes) -> BatchHeader:
    try:
        return msgspec.json.decode(text, type=BatchHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"damaged batch header ({error})", "header", FIX) from None


def _table(content: bytes, offset: int, dtype: np.dtype[Any], rows: int) -> tuple[Table, int]:
    """The table whose columns start at `offset`, and where the next one starts."""
    table = np.zeros(rows, dtype)
    for name in dtype.names or ():
        field = dtype[name]
        size = rows * field.itemsize
        flat = np.frombuffer(content, field.base, rows * int(np.prod(field.shape, dtype=int)), offset)
        table[name] = flat.reshape(rows, *field.shape)
        offset += size
    return table, offset
