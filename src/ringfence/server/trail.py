"""The audit log of a running server: one place that writes an entry for what people do, after each request.

Written: everything that changes something, sign-ins good and bad, exports of data, and every request that is refused.
Not written: what agents and connectors send (there is too much of it, and it has its own marks), and plain reading.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ringfence.server.access import AGENT, CONNECTOR, NOTES, PRINCIPAL, Needs
from ringfence.server.accounts import Principal
from ringfence.store.audit import AuditStore

LONGEST = 300
"""Characters of a target that are kept."""
STRANGERS = 60
"""Refusals a minute of requests without a good token that are written one by one; more are counted."""
MINUTE = 60_000_000_000
REFUSED = (401, 403, 429)
NOBODY = "nobody"


class Trail:
    """Writes what happened. `clock` gives UTC nanoseconds."""

    def __init__(self, store: AuditStore, clock: Callable[[], int]) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._minute, self._written, self._unwritten = 0, 0, 0

    def add(self, by: str, what: str, target: str, outcome: str, **details: Any) -> None:
        """Append an entry."""
        self._store.add(self._clock(), by, what, target, outcome, details)

    def request(self, scope: Any, status: int) -> None:
        """Append an entry for a request that was answered, and for which one is `due`."""
        handler = scope.get("route_handler")
        who = scope.get(PRINCIPAL)
        details = {"status": status, **scope.get(NOTES, {})}
        if who is None and status in REFUSED and not self._room(details):
            return
        name = who.name if isinstance(who, Principal) else NOBODY
        # Of what was refused not even the parameters are kept: somebody may have put a secret there.
        query = scope.get("query_string", b"").decode("latin-1") if status < 400 else ""
        target = (scope["path"] + (f"?{query}" if query else ""))[:LONGEST]
        what = f"{scope['method']} {next(iter(sorted(handler.paths)), '')}" if handler is not None else ""
        self.add(name, what, target, _outcome(status), **details)

    def _room(self, details: dict[str, Any]) -> bool:
        """Whether one more stranger is written this minute; says how many were not."""
        with self._lock:
            minute = self._clock() // MINUTE
            if minute != self._minute:
                self._minute, self._written = minute, 0
            self._written += 1
            if self._written > STRANGERS:
                self._unwritten += 1
                return False
            if self._unwritten:
                details["refused before, not written"], self._unwritten = self._unwritten, 0
            return True


def trailing(trail: Trail) -> Callable[[Any], Any]:
    """The middleware that tells a trail of every answer, before it goes out."""

    def wrap(app: Any) -> Any:
        async def run(scope: Any, receive: Any, send: Any) -> None:
            async def told(message: Any) -> None:
                if message["type"] == "http.response.start" and due(scope, message["status"]):
                    await asyncio.to_thread(trail.request, scope, message["status"])
                await send(message)

            await app(scope, receive, told if scope["type"] == "http" else send)

        return run

    return wrap


def due(scope: Any, status: int) -> bool:
    """Whether an answer is one that the log tells of."""
    handler, who = scope.get("route_handler"), scope.get(PRINCIPAL)
    needs: Needs = handler.opt.get("needs", Needs()) if handler is not None else Needs()
    role = who.role if isinstance(who, Principal) else None
    if role in (AGENT, CONNECTOR) and status not in REFUSED:
        return False
    changes = scope["method"] != "GET" if needs.changes is None else needs.changes
    return status in REFUSED or needs.export or changes


def _outcome(status: int) -> str:
    if status < 400:
        return "done"
    return "refused" if status in REFUSED else "failed"
