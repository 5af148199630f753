"""Which capabilities this process holds (capabilities(7)), by the names people know them by."""

from __future__ import annotations

import errno
from pathlib import Path

NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}
"""linux/capability.h."""


def held(name: str, status: Path = Path("/proc/self/status")) -> bool:
    """Whether the effective set holds it; or SYS_ADMIN, which the kernel takes in place of BPF and PERFMON."""
    return owned(name, status) or (name in ("BPF", "PERFMON") and owned("SYS_ADMIN", status))


def owned(name: str, status: Path = Path("/proc/self/status")) -> bool:
    """Whether the effective set holds it itself."""
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> NUMBERS[name] & 1)
    return False


def missing(*names: str) -> str:
    """`CAP_X is missing`, of those of these that are; empty when none is."""
    lacking = [f"CAP_{name}" for name in names if not held(name)]
    if not lacking:
        return ""
    return f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"


def why(error: BaseException, *names: str) -> str:
    """A refusal in words: the capabilities that are missing where the kernel says no more than that it refuses."""
    refused = isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES)
    return (missing(*names) if refused else "") or str(error)
