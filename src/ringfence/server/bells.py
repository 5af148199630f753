"""Wakes coroutines of several event loops: agents are heard in one, people in another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Bell:
    """`ring` may come from any thread, `until` waits in any loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def ring(self) -> None:
        """Let everybody look again at what they wait for."""
        with self._lock:
            for event, loop in self._waiting.items():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    async def until(self, holds: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until something holds; what it held in the end."""
        event = asyncio.Event()
        with self._lock:
            # Before the first look, so that no ring between look and wait is missed.
            self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await event.wait()
                    event.clear()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                del self._waiting[event]
        return holds()
