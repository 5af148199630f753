"""Passwords: Argon2id (RFC 9106, by argon2-cffi), and patience with who guesses them.

A guess at a user who does not exist costs what one at a user who does costs, and is refused in the same words.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from ringfence.model.problems import Problem

LEAST, MOST = 10, 1024
"""Characters of a new password, and octets of any."""
FREE = 5
"""Wrong passwords in a row, of one name from one address, before anybody must wait."""
FREE_OF_NAME = 50
"""The same of one name from anywhere."""
LONGEST = 60
"""Seconds that must lie between two guesses at most."""
FORGOTTEN = 3600
"""Seconds after which a guess is forgotten."""
REMEMBERED = 10_000
"""Pairs of name and address that are remembered, the latest."""
SECOND = 1_000_000_000


class Patience(Problem):
    """Too many wrong passwords: 429."""

    def __init__(self, seconds: int) -> None:
        super().__init__("too many wrong passwords", "the sign-in", f"wait {seconds} s")
        self.seconds = seconds


class Passwords:
    """Makes and checks hashes: each takes 64 MiB for a while, so two at once at most."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turns = threading.BoundedSemaphore(2)

    def make(self, password: str) -> str:
        """The hash of a new password, with its salt and parameters. Raises Problem for one that is too short."""
        if len(password) < LEAST or len(password.encode(errors="replace")) > MOST:
            what = "a password of this length"
            raise Problem(what, "the password", f"use {LEAST} characters at least, {MOST} octets at most")
        with self._turns:
            return self._hasher.hash(password)

    def right(self, held: str | None, password: str) -> bool:
        """Whether a password is that of a hash; None is nobody's, and costs the same."""
        given = password.encode(errors="replace")[: MOST + 1]
        with self._turns:
            try:
                self._hasher.verify(held or self._nobody, given)
            except (Argon2Error, InvalidHashError):
                return False
        return held is not None

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash("nobody's password")


class Throttle:
    """Counts wrong passwords by (name, address) and by name. Times are arguments, UTC nanoseconds."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, name: str, address: str, now: int) -> None:
        """Raise Patience while the next guess must wait, whether there is such a user or not."""
        with self._lock:
            waits = [self._wait(key, free, now) for key, free in _keys(name, address)]
        if max(waits) > 0:
            raise Patience(-(-max(waits) // SECOND))

    def wrong(self, name: str, address: str, now: int) -> None:
        """Remember a wrong password."""
        with self._lock:
            for key, _ in _keys(name, address):
                count, last = self._wrong.pop(key, (0, now))
                self._wrong[key] = ((count if now - last < FORGOTTEN * SECOND else 0) + 1, now)
            while len(self._wrong) > REMEMBERED:
                self._wrong.popitem(last=False)

    def right(self, name: str, address: str) -> None:
        """Forget what was wrong before; what others guess at this name from elsewhere stays."""
        with self._lock:
            self._wrong.pop((name, address), None)

    def _wait(self, key: tuple[str, str], free: int, now: int) -> int:
        count, last = self._wrong.get(key, (0, now))
        if count < free or now - last >= FORGOTTEN * SECOND:
            return 0
        return last + min(LONGEST, 1 << min(count - free, 6)) * SECOND - now


def _keys(name: str, address: str) -> tuple[tuple[tuple[str, str], int], ...]:
    return ((name, address), FREE), ((name, ""), FREE_OF_NAME)
