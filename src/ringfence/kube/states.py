"""How following one cluster goes, in words and numbers: what a connector reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ringfence.kube.decode import KINDS
from ringfence.kube.support import unsupported
from ringfence.model.problems import Problem

Clock = Callable[[], int]
"""UTC nanoseconds."""

MOST_PROBLEMS = 1000
"""Different problems remembered; more of them would say nothing new."""


class State(NamedTuple):
    """How following one kind goes: `starting`, `current`, `behind` (trying), `forbidden`, `absent`.

    `since` is when this state began, UTC ns; the detail may be younger.
    """

    name: str
    detail: str = ""
    since: int = 0


class Standing:
    """The state of every kind, what could not be read, and how much was asked of the server."""

    def __init__(self, clock: Clock) -> None:
        now = clock()
        self.states: dict[str, State] = {kind: State("starting", "", now) for kind in KINDS}
        self.problems: dict[str, int] = {}
        """What could not be read of objects, by text, with how often."""
        self.lists = 0
        """Complete lists begun so far, streamed ones included, to show that a relist is rare."""
        self.server_version: str | None = None
        self._clock = clock

    @property
    def supported(self) -> bool | None:
        """Whether the server's version is in the compatibility matrix; None while it is not known."""
        return None if self.server_version is None else unsupported(self.server_version) is None

    def set(self, kind: str, name: str, detail: str = "") -> None:
        """A state lasts from when it was first entered, also when its detail changes."""
        before = self.states[kind]
        if before[:2] != (name, detail):
            self.states[kind] = State(name, detail, before.since if before.name == name else self._clock())

    def add(self, problems: Iterable[Problem]) -> None:
        """Count what could not be read; never fatal."""
        for problem in problems:
            text = str(problem)
            if text in self.problems or len(self.problems) < MOST_PROBLEMS:
                self.problems[text] = self.problems.get(text, 0) + 1

    def server(self, version: str) -> None:
        """The server told its version; one outside the matrix is a problem that is said once."""
        if version == self.server_version:
            return
        self.server_version = version
        problem = unsupported(version)
        if problem is not None:
            self.add([problem])

    def report(self) -> dict[str, Any]:
        """All of it in plain values."""
        states = {k: {"state": s.name, "detail": s.detail, "since": s.since} for k, s in self.states.items()}
        return {
            "server_version": self.server_version,
            "supported": self.supported,
            "states": states,
            "problems": dict(self.problems),
            "lists": self.lists,
        }
