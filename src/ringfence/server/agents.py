"""The agents' listener: TLS 1.3 with client certificates, apart from people's API, in a thread of its own.

Neither the web framework nor the HTTP server passes a client certificate on, so a small protocol class puts the serial
number of the one that the handshake verified into the scope. Whether it is still good is checked at every request: a
revoked agent is refused from its next request on, over a connection that is open too.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from uvicorn.protocols.http.h11_impl import H11Protocol

from ringfence.server.access import AGENT, Forbidden, Needs
from ringfence.server.enrolment import Enrolment, Who
from ringfence.wire.enrolment import MACHINE_HEADER

SERIAL, CONNECTION, WHO = "ringfence.serial", "ringfence.connection", "ringfence.who"
"""Keys of the scope: the verified certificate's serial number or None, the connection's number, for whom it speaks."""
KEEP_ALIVE = 75
"""Seconds an idle connection stays open: longer than the windows of an agent, because a handshake costs."""

_numbers = itertools.count(1)


class Protocol(H11Protocol):
    """HTTP over a TLS connection whose certificate the application learns."""

    def connection_made(self, transport: Any) -> None:
        """Read the certificate once; the handshake is over by now."""
        super().connection_made(transport)
        held = transport.get_extra_info("ssl_object")
        certificate = held.getpeercert() if held is not None else None
        serial = f"{int(certificate['serialNumber'], 16):040x}" if certificate else None
        inner, number = self.app, next(_numbers)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, SERIAL: serial, CONNECTION: number}, receive, send)

        self.app = app

    def shutdown(self) -> None:
        """End an idle connection at once: agents do not listen between batches, so a TLS goodbye would wait."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()


def agent_guard(enrolment: Enrolment) -> Callable[[ASGIConnection, BaseRouteHandler], None]:  # type: ignore[type-arg]
    """The one check of every route here. `FREE` is for those who have no certificate yet."""

    def check(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        needs: Needs = handler.opt.get("needs", Needs())
        if needs.free:
            return
        scope: Any = connection.scope
        machine = connection.headers.get(MACHINE_HEADER)
        scope[WHO] = enrolment.admit(scope.get(SERIAL), machine, scope.get(CONNECTION, 0))
        if AGENT not in needs.machines:
            raise Forbidden

    return check


def speaker(scope: Any) -> Who | None:
    """For whom a request's certificate speaks; None on people's API, where none is shown."""
    found = scope.get(WHO)
    return found if isinstance(found, Who) else None


class AgentsListener:
    """Serves `app` to agents on `listener`. `start` returns when requests are answered."""

    def __init__(self, app: Litestar, enrolment: Enrolment, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            log_level="critical",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=5,
            ssl_context_factory=lambda *_: enrolment.authority.secure(agents=True),
        )
        self._server, self._listener = uvicorn.Server(config), listener
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._up.wait(0.01)

    def stop(self) -> None:
        """Answer what was asked, and end."""
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        self._server.run([self._listener])


def names_of(listen: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """What the server's certificate is for: this machine by loopback and host name, where it listens, and `more`."""
    found = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    found += [host for host in listen if host and host not in ("0.0.0.0", "::")]
    return tuple(dict.fromkeys([*found, *more]))
