"""A recorded demo: what agents and connector posted, kept in one file and told again as if it were now.

One file is zstd over msgpack: a list of (path, body) in the order they were acknowledged. Told again, every time in
them is moved by the same whole number of seconds, so that the recording ends now and nothing of it is too old to keep.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from ringfence.model.problems import Problem
from ringfence.wire.codec import decode, encode

SECOND = 1_000_000_000
BATCHES, CHANGES = "/v1/ingest/batches", "/v1/ingest/changes"
TIMES = ("window", "first_window", "first", "last")
MOST = 64 << 20
"""Octets a recording may unpack to."""

Posts = list[tuple[str, bytes]]


def shipped() -> Path:
    """The recording that comes with Ringfence: the Sock Shop on two nodes joined by VXLAN."""
    return Path(str(files("ringfence.lab") / "recorded-demo.zst"))


def write(file: Path, posts: Posts) -> None:
    """Keep `posts` in `file`."""
    file.write_bytes(zstandard.ZstdCompressor(level=19).compress(msgspec.msgpack.encode(posts)))


def read(file: Path) -> Posts:
    """The posts of a recording. Raises Problem when it cannot be read."""
    try:
        packed = zstandard.ZstdDecompressor().decompress(file.read_bytes(), max_output_size=MOST)
        return msgspec.msgpack.decode(packed, type=Posts)
    except OSError as error:
        raise Problem(
            f"cannot read the recording ({error.strerror})", str(file), "install Ringfence whole"
        ) from None
    except (zstandard.ZstdError, msgspec.DecodeError):
        raise Problem("not a recording", str(file), "make one with scripts/record_demo.py") from None


def span(posts: Posts) -> tuple[int, int]:
    """(start of the first window, end of the last) of the recording, UTC nanoseconds."""
    headers = [decode(body).header for path, body in posts if path == BATCHES]
    length = headers[0].window_length
    windows = [window for header in headers for window in header.windows]
    return min(windows), max(windows) + length


def moved(posts: Posts, delta: int, sent: int) -> Posts:
    """The same posts, every time moved by `delta` nanoseconds, and sent at `sent`."""
    return [
        (path, _move_batch(body, delta, sent) if path == BATCHES else _move_changes(body, delta))
        for path, body in posts
    ]


def _move_batch(body: bytes, delta: int, sent: int) -> bytes:
    header, sightings, translations, hops = decode(body)
    sightings, translations = sightings.copy(), translations.copy()
    for name in TIMES:
        sightings[name] += delta
    translations["seen"] += delta
    windows = tuple(window + delta for window in header.windows)
    return encode(msgspec.structs.replace(header, sent=sent, windows=windows), sightings, translations, hops)


def _move_changes(body: bytes, delta: int) -> bytes:
    told: dict[str, Any] = msgspec.json.decode(body)
    for change in told["changes"]:
        for name in ("at", "known"):
            change[name] += delta
    return msgspec.json.encode(told)
