"""A server on loopback for a test: when it ends, so do its connections, before the loop they belong to is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ROUNDS = 5
"""Turns of the loop until a connection that was being accepted has its task, and a closed one has let go."""


class Serving:
    """Each connection is given to `handle`. `port` is known once entered."""

    def __init__(self, handle: Handle, port: int = 0) -> None:
        self._handle = handle
        self.port = port
        self._writers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Serving:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for _round in range(ROUNDS):
            await asyncio.sleep(0)
            for task in self._writers:
                task.cancel()
            await asyncio.gather(*self._writers, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut every connection; new ones are taken."""
        for writer in list(self._writers.values()):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._writers[task] = writer
        try:
            await self._handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            del self._writers[task]
