"""A TCP proxy before a server that can cut connections, hold them, and let octets through a few at a time."""

from __future__ import annotations

import asyncio

from tests.kube.serving import Serving


class Proxy:
    """Forwards 127.0.0.1:`port` to another port. `held` forwards nothing; `slow` is octets forwarded every 10 ms."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.slow: int | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await Serving(self._serve).__aenter__()
        self.port = self._server.port
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._server.__aexit__(*details)

    @property
    def held(self) -> bool:
        return not self._open.is_set()

    def hold(self) -> None:
        """Connections stay open, and nothing comes through either way."""
        self._open.clear()

    def let(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Cut every connection; new ones are taken."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, back)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, back))
                group.create_task(self._forward(there, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in pair:
                each.transport.abort()
            self._pairs.discard(pair)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(1 << 16):
            await self._open.wait()
            while self.slow is not None and block:
                writer.write(block[: self.slow])
                await writer.drain()
                block = block[self.slow :]
                await asyncio.sleep(0.01)
            writer.write(block)
            await writer.drain()
        raise ConnectionError("ended")
