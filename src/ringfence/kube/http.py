"""HTTP/1.1 GET on kept-open connections, made for watches: bodies come as large blocks, not as one piece a chunk.

Why not a library: a busy watch is one chunk an event, and the usual clients spend more on each chunk than decoding
its event costs (bench/kube_decode.py). Only what an API server does is understood: a status line, headers, and a
body that is chunked, counted, or ends with the connection. Redirects, proxies and compression are not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple
from urllib.parse import urlsplit

BLOCK = 1 << 20
"""Octets read at once."""

LARGEST_HEAD = 1 << 16
LARGEST_BODY = 1 << 30
"""Octets of a body that is read whole: a page of 500 of the largest objects that etcd takes."""

BODILESS = (204, 304)
"""Answers that end with their head (RFC 9112 section 6.3)."""

IDLE = 8
"""Idle connections kept."""


class Broken(Exception):
    """The connection failed, or what came over it is not HTTP/1.1 as we know it."""


class Head(NamedTuple):
    """Status and headers of an answer, names in lower case."""

    status: int
    headers: dict[str, str]


class Target(NamedTuple):
    """Where a server is: from its URL, whose path is put before every path asked for."""

    host: str
    port: int
    secure: bool
    prefix: str
    authority: str


def target_of(url: str) -> Target:
    """Raises ValueError for a URL without a host or with a bad port."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not a URL")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    return Target(parts.hostname, port, secure, parts.path.rstrip("/"), parts.netloc.rpartition("@")[2])


class Connection:
    """One connection, one request at a time. `release` says whether it may serve another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.whole = True
        """Whether the last body was read to its end and the server keeps the connection."""

    @property
    def closed(self) -> bool:
        """Whether the other side has gone."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        """Let go at once; a watch has nothing to say good-bye with."""
        self._writer.transport.abort()

    async def ask(self, request: bytes) -> Head:
        """Send a request and wait for the head of its answer."""
        self.whole = False
        self._writer.write(request)
        await self._writer.drain()
        text = await self._reader.readuntil(b"\r\n\r\n")
        lines = text.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise Broken(f"not HTTP ({lines[0][:40]!r})")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("content-encoding", "identity") != "identity":
            raise Broken("a compressed answer, though none was asked for")
        return Head(int(rest[:3]), headers)

    async def body(self, head: Head, seconds: float) -> AsyncGenerator[bytes, None]:
        """The body in blocks as they come. TimeoutError when nothing comes for `seconds`."""
        keeps = head.headers.get("connection", "").lower() != "close"
        if head.status in BODILESS:
            self.whole = keeps
            return
        if "chunked" in head.headers.get("transfer-encoding", "").lower():
            async with aclosing(self._chunked(seconds)) as blocks:
                async for block in blocks:
                    yield block
        elif "content-length" in head.headers:
            left = _length(head.headers["content-length"])
            while left:
                block = await self._some(seconds, left)
                left -= len(block)
                yield block
        else:
            keeps = False
            while block := await self._some(seconds, ended=True):
                yield block
        self.whole = keeps

    async def _some(self, seconds: float, most: int = BLOCK, ended: bool = False) -> bytes:
        """What has come, at least an octet; nothing at the connection's end where that may be."""
        async with asyncio.timeout(seconds):
            block = await self._reader.read(min(most, BLOCK))
        if not block and not ended:
            raise Broken("the connection was cut")
        return block

    async def _chunked(self, seconds: float) -> AsyncGenerator[bytes, None]:
        """Without the framing (RFC 9112 section 7.1). Whole chunks are joined; a chunk is passed on as it comes."""
        held, left = b"", 0
        while True:
            block = held + await self._some(seconds)
            parts: list[bytes] = []
            position, left, ended = unframed(block, left, parts)
            held = block[position:]
            if parts:
                yield b"".join(parts)
            if ended:
                await self._trailers(held, seconds)
                return

    async def _trailers(self, held: bytes, seconds: float) -> None:
        """The blank line, after trailer fields that nobody needs."""
        while held != b"\r\n" and not held.endswith(b"\r\n\r\n"):
            held += await self._some(seconds)
            if len(held) > LARGEST_HEAD:
                raise Broken("endless trailers")


def _length(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise Broken("a length that is no number")
    return int(text)


def unframed(block: bytes, left: int, parts: list[bytes]) -> tuple[int, int, bool]:
    """Put the data of `block` into `parts`; (octets used, octets of the open chunk still to come, end seen).

    `left` is what the open chunk lacked, its line end included. Raises Broken for what is no chunk.
    """
    position = 0
    while True:
        if left:
            end = min(position + left, len(block))
            data_end = min(end, position + left - 2)
            if data_end > position:
                parts.append(block[position:data_end])
            left -= end - position
            position = end
            if left:
                return position, left, False
        stop = block.find(b"\r\n", position)
        if stop < 0:
            if len(block) - position > LARGEST_HEAD:
                raise Broken("not a chunk")
            return position, 0, False
        try:
            size = int(block[position:stop].partition(b";")[0], 16)
        except ValueError:
            raise Broken("not a chunk") from None
        if size < 0:
            raise Broken("not a chunk")
        position = stop + 2
        if size == 0:
            return position, 0, True
        left = size + 2


class Client:
    """GETs from one server. Inert: connections are opened by requests. One event loop, any number of tasks.

    `secure` is the TLS context where the server has one; `name` the host name that its certificate must bear.
    """

    def __init__(
        self,
        target: Target,
        headers: dict[str, str],
        secure: ssl.SSLContext | None,
        name: str | None,
        seconds: float,
    ) -> None:
        self._target, self._secure, self._name, self._seconds = target, secure, name, seconds
        fields = {"Host": target.authority, "Accept": "application/json", **headers}
        self._fields = fields
        self._idle: list[Connection] = []
        self._closed = False

    def close(self) -> None:
        """Let go of idle connections; those in use end with their requests."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def get(self, path: str, fields: dict[str, str] | None = None) -> tuple[Head, bytes]:
        """A whole answer. Raises Broken, OSError (TimeoutError too)."""
        parts: list[bytes] = []
        size = 0
        head, blocks = await self.stream(path, self._seconds, fields)
        async with aclosing(blocks):
            async for block in blocks:
                parts.append(block)
                size += len(block)
                if size > LARGEST_BODY:
                    raise Broken(f"an answer of more than {LARGEST_BODY >> 20} MiB")
        return head, b"".join(parts)

    async def stream(
        self, path: str, silence: float, fields: dict[str, str] | None = None
    ) -> tuple[Head, AsyncGenerator[bytes, None]]:
        """The head of an answer and its body's blocks, which must be read to the end or closed."""
        request = self._request(path, fields or {})
        while True:
            connection, used = await self._connection()
            try:
                async with asyncio.timeout(self._seconds):
                    head = await connection.ask(request)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                connection.close()
                # The server may close an idle connection at the moment we use it: once more on a fresh one.
                if used:
                    continue
                raise Broken("the connection was cut") from error
            except asyncio.LimitOverrunError:
                connection.close()
                raise Broken("a head of more than 1 MiB") from None
            except BaseException:
                connection.close()
                raise
            return head, self._blocks(connection, head, silence)

    async def _blocks(
        self, connection: Connection, head: Head, silence: float
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(connection.body(head, silence)) as blocks:
                async for block in blocks:
                    yield block
        finally:
            if connection.whole and not self._closed and len(self._idle) < IDLE:
                self._idle.append(connection)
            else:
                connection.close()

    def _request(self, path: str, fields: dict[str, str]) -> bytes:
        lines = [f"GET {self._target.prefix}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in {**self._fields, **fields}.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def _connection(self) -> tuple[Connection, bool]:
        """A connection, and whether it was used before."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection, True
            connection.close()
        async with asyncio.timeout(self._seconds):
            reader, writer = await asyncio.open_connection(
                self._target.host,
                self._target.port,
                ssl=self._secure,
                server_hostname=(self._name or self._target.host) if self._secure else None,
                limit=BLOCK,
            )
        return Connection(reader, writer), False
