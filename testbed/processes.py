"""Processes that outlive the command that started them: recorded by pid and start time, ended by that record alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from testbed.places import Failed, Home

_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""What this very process started, so that it can take their exits."""

PATIENCE = 10.0
"""Seconds a process may take to end by itself."""


def start(home: Home, name: str, argv: list[str], environment: dict[str, str] | None = None) -> None:
    """Start a process in a session of its own, its words in logs/NAME.log; nothing when it runs already."""
    if alive(home, name):
        return
    for folder in ("run", "logs"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    with (home / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    _CHILDREN[process.pid] = process
    record = {"pid": process.pid, "started": _started(process.pid)}
    (home / "run" / f"{name}.json").write_text(json.dumps(record))


def pid_of(home: Home, name: str) -> int | None:
    """The process's pid, if it is still that process: numbers are used again, start times are not."""
    try:
        record = json.loads((home / "run" / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    pid = int(record["pid"])
    return pid if record["started"] is not None and _started(pid) == record["started"] else None


def alive(home: Home, name: str) -> bool:
    """Whether it runs."""
    return pid_of(home, name) is not None


def names(home: Home) -> list[str]:
    """Everything recorded, whether it runs or not."""
    return sorted(file.stem for file in (home / "run").glob("*.json"))


def send(home: Home, name: str, number: int) -> None:
    """Send a signal. Raises Failed when it does not run."""
    pid = pid_of(home, name)
    if pid is None:
        raise Failed(f"{name} does not run", str(home.path), "see `python3 -m testbed status`")
    os.kill(pid, number)


def stop(home: Home, name: str, first: int = signal.SIGTERM) -> None:
    """End it, kindly and then by force, and forget it."""
    pid = pid_of(home, name)
    if pid is not None:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, first)
        if not _ended(home, name, PATIENCE):
            os.kill(pid, signal.SIGKILL)
            if not _ended(home, name, PATIENCE):
                raise Failed(f"{name} does not end", f"pid {pid}", "look at it with ps")
    (home / "run" / f"{name}.json").unlink(missing_ok=True)


def check(home: Home, name: str) -> None:
    """Raises Failed with the process's last words when it has ended."""
    if not alive(home, name):
        raise Failed(
            f"{name} ended ({last_words(home, name)})", str(home / "logs" / f"{name}.log"), "read its log"
        )


def last_words(home: Home, name: str) -> str:
    """The last line of a log."""
    try:
        lines = (home / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1][:300] if lines else "an empty log"


def _ended(home: Home, name: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid = pid_of(home, name)
        if pid is None:
            break
        time.sleep(0.05)
    _reap()
    return pid_of(home, name) is None


def _reap() -> None:
    """Take the exits of our own children; those of an earlier command have another parent to do so."""
    for pid, child in list(_CHILDREN.items()):
        if child.poll() is not None:
            del _CHILDREN[pid]


def _started(pid: int) -> int | None:
    """Start time in ticks since boot (proc(5), field 22); None for no process and for one that has exited."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
