"""Problems: what went wrong, where, and how to fix it. One flat kind, shown as one line."""

from __future__ import annotations


class Problem(Exception):
    """Bad input or a missing precondition. Printed as `error: WHAT: WHERE: how to fix`, exit code 2.

    Raised by edge rooms only; translated once, in `cli` (a line on stderr) and `server` (an HTTP body).
    """

    def __init__(self, what: str, where: str, fix: str) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: {self.fix}"
