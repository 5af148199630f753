"""Hears what the server desires of this node, beside the shipper: asks, waits for news, and keeps it for others.

Goals: an order is heard at once; a server that is away costs a growing pause; what was desired last goes on to be true
while it is away, but captures do not, for whoever asked for them is gone too.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

from ringfence.agent.captures import Captures
from ringfence.model.problems import Problem
from ringfence.wire.orders import PATIENCE, WAIT, Caller, Line, Orders

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds between tries while there is no answer."""
AWAY = 60.0
"""Seconds without an answer after which captures end."""
SHORTEST = 0.05
"""Seconds between two answers: a server that never waits is not asked faster."""


class Desired:
    """What the server desires now, for every thread. `orders` is a frozen value that is replaced as a whole."""

    def __init__(self) -> None:
        self._orders = Orders(generation=0)
        self._lock = threading.Lock()

    @property
    def orders(self) -> Orders:
        """The last word; generation 0 before the first."""
        with self._lock:
            return self._orders

    @property
    def mode(self) -> str | None:
        """`conversation` or `detailed`, None where the agent's own settings hold."""
        return self.orders.mode

    def replace(self, orders: Orders) -> None:
        """A new word."""
        with self._lock:
            self._orders = orders


class Listener:
    """The thread that asks. `desired` is what it heard."""

    def __init__(
        self, cluster: str, node: str, netns: str | None, call: Caller, log: Callable[[str], None]
    ) -> None:
        self.desired = Desired()
        self._cluster, self._node, self._log = cluster, node, log
        self._line: Line = call(WAIT + PATIENCE)
        self._captures = Captures(cluster, node, netns, call, log)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End captures and ask no more."""
        self._stopping.set()
        self._line.close()
        if self._thread.is_alive():
            self._thread.join(3 * PATIENCE)

    def _run(self) -> None:
        pause, heard = FIRST_PAUSE, time.monotonic()
        while not self._stopping.is_set():
            try:
                orders = self._line.ask(self._cluster, self._node, self.desired.orders.generation)
            except (OSError, http.client.HTTPException, Problem) as error:
                self._missed(error, time.monotonic() - heard)
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause, heard = FIRST_PAUSE, time.monotonic()
            self._say("")
            self.desired.replace(orders)
            self._captures.follow(orders.captures)
            self._stopping.wait(SHORTEST)
        self._captures.stop()

    def _missed(self, error: Exception, seconds: float) -> None:
        if self._stopping.is_set():
            return
        self._say(f"no orders from the server: {error or type(error).__name__}")
        if seconds > AWAY:
            self._captures.follow(())

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._log(trouble or "the server gives orders again")
