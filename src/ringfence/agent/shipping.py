"""Sends what the spool holds, oldest first, one in flight, until the server says it is durable.

Goals: the capture loop never waits for the network; nothing leaves the disk before it is acknowledged; a server
that is away costs a growing pause, not a busy loop. The trade-off: one thread and one lock around the spool, whose
operations take milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ringfence.model.batches import BatchHeader
from ringfence.wire.client import Acknowledged, Expected, Outcome, Refused, Sender, Unreachable
from ringfence.wire.spool import Spool

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds between tries while the server does not take batches."""


class Shipper:
    """The sending half of an agent. `log` is told, once, of each change between sending and not."""

    def __init__(
        self, spool: Spool, sender: Sender, new_epoch: Callable[[], str], log: Callable[[str], None]
    ) -> None:
        self._spool, self._sender = spool, sender
        self._new_epoch, self._log = new_epoch, log
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def keep(self, body: bytes, epoch: str, sequence: int, kept: Callable[[], None] = lambda: None) -> None:
        """Put one batch on disk; it is durable when this returns. OSError passes through.

        `kept` is called once the batch is there and before it can be sent: so whoever asks after a crash finds
        the batch in the spool, or what `kept` wrote, or both.
        """
        with self._lock:
            self._spool.append(body, epoch, sequence)
            kept()
        self._work.set()

    def waiting(self) -> int:
        """Batches not yet acknowledged."""
        with self._lock:
            return len(self._spool)

    def damaged(self) -> int:
        """Batches on disk that turned out unreadable since the last call: what was in them is lost."""
        with self._lock:
            count, self._spool.damaged = self._spool.damaged, 0
        return count

    def newest(self) -> BatchHeader | None:
        """The header of the newest batch on disk; None when none waits."""
        with self._lock:
            return self._spool.newest()

    def stop(self, patience: float) -> int:
        """Give the queue up to `patience` seconds to drain; returns how many batches stay on disk."""
        self._stopping.set()
        self._work.set()
        self._thread.join(patience)
        self._ended.set()
        self._sender.close()
        return self.waiting()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            sent = self._send_oldest()
            if sent:
                pause = FIRST_PAUSE
            elif sent is None:
                if self._stopping.is_set():
                    return
                self._work.wait()
                self._work.clear()
            elif self._stopping.is_set():
                if self._ended.wait(FIRST_PAUSE):
                    return
            else:
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _send_oldest(self) -> bool | None:
        """True: one went out. None: nothing to send. False: try again later."""
        with self._lock:
            entry = self._spool.oldest()
        if entry is None:
            return None
        outcome = self._sender.send(entry.body)
        with self._lock:
            return self._settle(entry.epoch, entry.sequence, outcome)

    def _settle(self, epoch: str, sequence: int, outcome: Outcome) -> bool:
        if isinstance(outcome, Acknowledged):
            self._spool.acknowledge(epoch, outcome.sequence)
            self._say("")
            return True
        if isinstance(outcome, Expected) and outcome.sequence < sequence:
            # The server lost what it had of this epoch: what is left becomes an epoch of its own.
            self._spool.renumber(epoch, self._new_epoch())
            self._say(f"the server no longer knows epoch {epoch}: going on as a new one")
            return True
        if isinstance(outcome, Expected):
            self._spool.acknowledge(epoch, outcome.sequence - 1)
            return True
        self._say(_words(outcome))
        return False

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._log(trouble or "the server takes batches again")


def _words(outcome: Refused | Unreachable) -> str:
    if isinstance(outcome, Refused):
        return f"the server refuses our batches ({outcome.status}): {outcome.reason}"
    return f"the server does not take batches: {outcome.reason}"
