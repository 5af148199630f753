"""The demo's keeper: one live demo at a time on a machine, and nothing of it left, also when it is killed.

The keeper is a process of its own that waits on two pipes. The demo holds the writing end of the first and writes to
it once it has tidied up by itself; a demo that was killed closes it without a word. Its children hold the second,
so that the keeper starts only after the agents have detached. The claim is an abstract socket that the
keeper holds too: it is free again when the last of both has ended, and there is no file that could be left over.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ringfence.model.problems import Problem

LAB = "demo"
"""The demo's lab is always called so: that is how what a crash left is found."""
PINS = Path("/run/ringfence/bpf")
CLAIM = "\0ringfence-demo"
"""Name of the claim's socket; the zero makes it abstract (unix(7)). It is per network namespace, as the lab is."""
PATIENCE = 20.0
"""Seconds that children may take to end, and that a demo waits for the keeper of one that was killed."""


class Keeper:
    """Claims the machine (`live`) and starts the keeper. Leaving it tidies up; raises Problem when claimed."""

    def __init__(self, folder: Path | None, live: bool, say: Callable[[str], None]) -> None:
        self._folder, self._live, self._say = folder, live, say
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.child_end = -1
        """To be inherited by every child of the demo."""

    def __enter__(self) -> Keeper:
        if self._live:
            self._take()
            if tidy():
                self._say("removed what an earlier demo had left")
        theirs, self._own_end = os.pipe()
        children, self.child_end = os.pipe()
        inherited = (theirs, children, self._claim.fileno())
        order = {"own": theirs, "children": children, "live": self._live, "folder": str(self._folder or "")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ringfence.cli.keeper", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(children)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            tidy()
        with contextlib.suppress(BrokenPipeError):
            # Somebody killed the keeper; there is nothing left for it to do anyway.
            os.write(self._own_end, b".")
        for end in (self._own_end, self.child_end):
            os.close(end)
        self._process.wait()
        self._claim.close()

    def _take(self) -> None:
        """Bind the claim; waits while the keeper of a killed demo is still at work."""
        deadline = time.monotonic() + PATIENCE + 5
        told = False
        while True:
            try:
                self._claim.bind(CLAIM)
                self._claim.listen(1)
                return
            except OSError:
                owner = _owner()
            if owner is not None and _lives(owner):
                fix = "end it with Ctrl-C, or look at it from here with the address and token it printed"
                raise Problem("a demo runs already", f"process {owner}", fix)
            if time.monotonic() > deadline:
                fix = "run `ringfence lab down --name demo`, then try again"
                raise Problem("an earlier demo is not cleaned up yet", f"after {PATIENCE:.0f} s", fix)
            if not told:
                self._say("waiting until an earlier demo is cleaned up")
            told = True
            time.sleep(0.2)


def tidy() -> bool:
    """Remove the demo's lab and pins, whoever left them. False when there was nothing."""
    from ringfence.capture import pins
    from ringfence.lab import cluster

    found = cluster.down(LAB)
    for folder in sorted(PINS.glob(f"rf-{LAB}-*")):
        found = True
        with contextlib.suppress(OSError):
            pins.remove(folder)
    for folder in (PINS, PINS.parent):
        # Other labs and agents keep things here too; only an empty folder goes.
        with contextlib.suppress(OSError):
            folder.rmdir()
    return found


def _owner() -> int | None:
    """The process that listens at the claim (SO_PEERCRED, unix(7)); None when it is just going."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(CLAIM)
            pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
    return int(pid)


def _lives(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def keep(own: int, children: int, live: bool, folder: str) -> None:
    """Wait for the demo's word; without one, wait for its children and tidy up for it."""
    if os.read(own, 1):
        return
    select.select([children], [], [], PATIENCE)
    if live:
        tidy()
        # A lab that was being built when the demo was killed may have gone on for a moment.
        time.sleep(1)
        tidy()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """The keeper's process; ends by itself, so no signal that ends the demo ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(sys.argv[1])
    with contextlib.suppress(Problem):
        keep(order["own"], order["children"], order["live"], order["folder"])


if __name__ == "__main__":
    main()
