"""Several roles started in one go, as the processes they are elsewhere: the children of `demo` and `all-in-one`.

Goals: every child ends with its parent, also when the parent is killed; a child that dies early is reported with
the last lines it wrote; nothing started is forgotten. Each child writes its own log file.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from ringfence.model.problems import Problem

PR_SET_PDEATHSIG = 1
PATIENCE = 15.0
"""Seconds a child may take to stop before it is killed."""
LIBC = ctypes.CDLL(None, use_errno=True)


class Stack:
    """Children by name, logs in `logs`. Use as a context manager: leaving it stops all, newest first."""

    def __init__(self, logs: Path, inherited: tuple[int, ...] = ()) -> None:
        """`inherited` are file descriptors that every child keeps open."""
        self._logs, self._inherited = logs, inherited
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Stack:
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(
                f"cannot make the folder ({error.strerror})", str(self._logs), "name another --data"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Start `ringfence ARGUMENTS` as child `name`."""
        try:
            log = (self._logs / f"{name}.log").open("wb")
        except OSError as error:
            raise Problem(
                f"cannot write ({error.strerror})", str(self._logs), "name another --data"
            ) from None
        self._files.append(log)
        self._children[name] = subprocess.Popen(
            [sys.executable, "-m", "ringfence", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | (env or {}),
            pass_fds=self._inherited,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    def check(self) -> None:
        """Raise Problem when a child has ended: its last words are the reason."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise self._ended(name, child.returncode)

    def _ended(self, name: str, code: int) -> Problem:
        """What ended a child, in its own words where it said `error: WHAT: WHERE: FIX`."""
        words = self.last_words(name)
        what, colon, rest = words.removeprefix("error: ").partition(": ")
        where, second, fix = rest.rpartition(": ")
        if words.startswith("error: ") and colon and second:
            return Problem(f"{name}: {what}", where, fix)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return Problem(f"{name} {how}", f"its last words: {words}", "try again; --data DIR keeps its log")

    def wait_for(self, name: str, sign: Path, seconds: float = 60.0) -> None:
        """Wait until child `name` has written `sign`."""
        deadline = time.monotonic() + seconds
        while not sign.exists():
            self.check()
            if time.monotonic() > deadline:
                raise Problem(
                    f"{name} is not ready after {seconds:.0f} s", self.last_words(name), "try again"
                )
            time.sleep(0.05)

    def kill(self, name: str, number: int) -> None:
        """Send signal `number` to child `name`, wait for its end, and forget it."""
        child = self._children.pop(name)
        child.send_signal(number)
        child.wait(PATIENCE)

    def stop(self) -> None:
        """Stop every child, the newest first, and wait for each."""
        for child in reversed(self._children.values()):
            _end(child)
        for file in self._files:
            file.close()
        self._children.clear()
        self._files.clear()

    def says(self, name: str, words: str) -> bool:
        """Whether child `name`, as it was started last, has written `words`."""
        return words in (self._logs / f"{name}.log").read_text(errors="replace")

    def last_words(self, name: str) -> str:
        """The last line in a child's log."""
        lines = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "none"


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
