"""Open a file of somebody else's flows, find out whose, and read it to its end."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec
import zstandard

from ringfence.imports import calico, hubble, ipfix, netobserv, own, sflow, vpc, zeek
from ringfence.imports.pair import Imported, flows
from ringfence.imports.records import Record, Tally
from ringfence.model.flows import Flow
from ringfence.model.problems import Problem

Reader = Callable[[Iterable[bytes], str, Tally], list[Record]]
READERS: dict[str, Reader] = {
    "zeek": zeek.read,
    "hubble": hubble.read,
    "calico": calico.read,
    "netobserv": netobserv.read,
    "vpc": vpc.read,
    "ipfix": ipfix.read,
    "sflow": sflow.read,
}
HEAD = 1 << 16
"""Octets of a file's beginning that say what it is."""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Reading(NamedTuple):
    """What a file held."""

    origin: str
    imported: Imported
    lines: int
    notes: tuple[str, ...]
    broken: int


def origin_of(name: str) -> str | None:
    """The format of a file (`-`: standard input, which is not used up); None when it is none of READERS, or cannot be
    read."""
    if name == "-":
        return guess(_plain(cast("io.BufferedReader[Any]", sys.stdin.buffer).peek(HEAD)[:HEAD]))
    try:
        with Path(name).open("rb") as file:
            return guess(_plain(file.read(HEAD)))
    except (OSError, ValueError):
        return None


def read_import(name: str, origin: str) -> Reading:
    """Read a file (`-`: standard input) of the format `origin`, gzip, zstd or plain.

    Raises Problem when it cannot be opened, or is not what it should be.
    """
    tally = Tally()
    with _opened(name) as stream:
        records = READERS[origin](stream, name, tally)
    if not records and tally.broken:
        fix = f"give a file of {origin}, or say what it is with --format"
        raise Problem("no line of it can be used", f"{name}: {tally.shown[0]}", fix)
    return Reading(origin, flows(records, origin), tally.lines, tuple(tally.notes(name)), tally.broken)


def read_own(name: str) -> tuple[list[Flow], int, tuple[str, ...]]:
    """Flows that Ringfence printed, the lines there were, and notes. Raises Problem as `read_import` does."""
    tally = Tally()
    with _opened(name) as stream:
        found = own.read(stream, name, tally)
    if not found and tally.broken:
        fix = "give what `ringfence flows ... -o json` or `-o jsonl` printed"
        raise Problem("no line of it can be used", f"{name}: {tally.shown[0]}", fix)
    return found, tally.lines, tuple(tally.notes(name))


def _plain(head: bytes) -> bytes:
    """The beginning of what a file's beginning unpacks to."""
    try:
        if head.startswith(GZIP):
            return zlib.decompressobj(31).decompress(head, HEAD)
        if head.startswith(ZSTD):
            return zstandard.ZstdDecompressor().decompressobj().decompress(head)[:HEAD]
    except (zlib.error, zstandard.ZstdError):
        return b""
    return head


def guess(head: bytes) -> str | None:
    """The format of a file by its beginning; None for what is none of them (a capture, most likely)."""
    if head[:2] in (b"\0\5", b"\0\x09", b"\0\x0a"):
        return "ipfix"
    if head[:7] == b"\0\0\0\5\0\0\0" and head[7:8] in (b"\1", b"\2"):
        return "sflow"
    text = head.lstrip()
    if text.startswith((b"#separator", b"### BTest", b"#fields", b"#set_separator", b"#path")):
        return "zeek"
    if text.startswith((b"{", b"[")):
        return _of_json(text)
    words = text.split(b"\n", 1)[0].split()
    if (
        b"srcaddr" in words
        or b"pkt-srcaddr" in words
        or (len(words) == len(vpc.DEFAULT) and words[0] == b"2")
    ):
        return "vpc"
    return None


OWN = "ringfence"
_SIGNS = {
    OWN: (b'"flow_id"',),
    "zeek": (b'"id.orig_h"',),
    "hubble": (b'"flow":', b'"verdict"', b'"lost_events"', b'"node_status"', b'"agent_event"'),
    "calico": (b'"source_name_aggr"', b'"dest_name_aggr"', b'"dest_name"', b'"dest_type"'),
    "vpc": (b'"flowTuples"', b'"flowRecords"', b'"src_ip"', b'"dest_ip"'),
    "netobserv": (b"SrcAddr", b"TimeFlowStartMs", b"resultType"),
}


def _of_json(text: bytes) -> str | None:
    """By names that no other format has, in its first line, or in its beginning where that is no whole value."""
    line = text.split(b"\n", 1)[0]
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        line = text
    return next((name for name, signs in _SIGNS.items() if any(sign in line for sign in signs)), None)


@contextmanager
def _opened(name: str) -> Iterator[io.BufferedReader[Any]]:
    """A stream of the file's own octets."""
    with ExitStack() as stack:
        whole: Any = sys.stdin.buffer
        if name != "-":
            whole = io.BufferedReader(cast("io.RawIOBase", stack.enter_context(_file(Path(name)))), HEAD)
        try:
            yield _unpacked(whole)
        except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
            raise Problem(f"cannot read ({error})", name, "copy it again, or name another file") from None


def _file(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise Problem("is a folder", str(path), "name the files in it")
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise Problem("no such file", str(path), "name a file of flows, or - for standard input") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problem(
            f"cannot open ({reason})", str(path), "make it readable, or name another file"
        ) from None


def _unpacked(whole: io.BufferedReader[Any]) -> io.BufferedReader[Any]:
    head = whole.peek(4)[:4]
    if head.startswith(GZIP):
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=whole)), HEAD)
    if head.startswith(ZSTD):
        reader = zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
        return io.BufferedReader(cast("io.RawIOBase", reader), HEAD)
    return whole
