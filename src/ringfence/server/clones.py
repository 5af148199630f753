"""Notices that one certificate is used by two agents at once. Pure: what it is told comes in, a reason comes out.

An agent sends its batches in order, over one connection at a time, and never goes back: an epoch that was followed
by another brings nothing new, and a connection that was left is not used again. Two agents that live at the same
time with one certificate break this as soon as both have sent twice. What cannot be noticed here is a copy that
speaks only after the original has fallen silent for good.
"""

from __future__ import annotations

REMEMBERED = 64
"""Epochs and connections remembered of each agent."""
RETURNS = 2
"""Times a connection may not be returned to. Once happens by itself: a server that stood still reads what an agent
has given up waiting for after what it sent next."""


class Life:
    """What one identity (a certificate and those that renew it) sent so far."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}
        self._epoch: str | None = None
        self._connections: dict[int, int] = {}
        self._connection: int | None = None

    def suspect(self, connection: int, epoch: str, sequence: int) -> str | None:
        """Why this batch shows a copy; None where it does not. Nothing is remembered: see `took`."""
        if epoch != self._epoch and sequence > self._epochs.get(epoch, sequence):
            return f"epochs {self._epoch} and {epoch} come by turns"
        returned = connection != self._connection and connection in self._connections
        if returned and self._connections[connection] + 1 >= RETURNS:
            return "two connections send batches by turns"
        return None

    def took(self, connection: int, epoch: str, sequence: int) -> None:
        """A batch was acknowledged."""
        if connection != self._connection:
            self._connections[connection] = self._connections.get(connection, -1) + 1
            self._connection = connection
        if epoch not in self._epochs or sequence > self._epochs[epoch]:
            # An old batch that comes again does not make its epoch the present one.
            self._epochs[epoch], self._epoch = sequence, epoch
        if len(self._epochs) > REMEMBERED:
            self._epochs.pop(next(iter(self._epochs)))
        if len(self._connections) > REMEMBERED:
            self._connections.pop(next(iter(self._connections)))
