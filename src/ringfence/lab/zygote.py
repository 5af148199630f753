"""Forks the lab's processes: Python starts once, and every pod is a fork of it, made in milliseconds.

Reads one JSON line a process on stdin: {"id", "comm", "netns", "cgroups", "spec"}. Writes JSON lines on
stdout: {"ready": id, "pid"} when it listens, {"failed": id, "why"} or {"exit": id, "status"}.
Dies with its parent, and its children die with it, whatever kills them. Stdlib only.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import select
import signal
import sys
import traceback
from typing import Any, NoReturn

from ringfence.lab.pod import Process

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
_libc = ctypes.CDLL(None, use_errno=True)


def _say(message: dict[str, Any]) -> None:
    # One write below PIPE_BUF is atomic, so lines of different children never mix (pipe(7)).
    os.write(1, json.dumps(message).encode()[:4000] + b"\n")


def _enter(netns: str) -> None:
    handle = os.open(netns, os.O_RDONLY)
    try:
        if _libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    finally:
        os.close(handle)


def _child(order: dict[str, Any], parent: int) -> NoReturn:
    """Become the ordered process: its cgroups, its namespace, its name, then its work. Never returns."""
    ident = order["id"]
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for folder in order["cgroups"]:
            with open(f"{folder}/cgroup.procs", "w") as procs:
                procs.write("0")
        if order["netns"]:
            _enter(order["netns"])
        _libc.prctl(PR_SET_NAME, order["comm"].encode()[:15], 0, 0, 0)
        asyncio.run(_run(order["spec"], ident))
    except BaseException as error:
        traceback.print_exc()
        _say({"failed": ident, "why": f"{type(error).__name__}: {error}"})
    os._exit(1)


async def _run(spec: dict[str, Any], ident: str) -> None:
    await Process(spec).run(lambda: _say({"ready": ident, "pid": os.getpid()}))


def _reap(children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say({"exit": children.pop(pid, ""), "status": os.waitstatus_to_exitcode(status)})


def main() -> None:
    """Serve orders until stdin closes or the parent dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What is loaded now is shared by all children; a collection would copy every page of it.
    gc.collect()
    gc.freeze()
    children: dict[int, str] = {}
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.5)
        if readable:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                sys.exit(0)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                order = json.loads(line)
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    _child(order, parent)
                children[pid] = order["id"]
        _reap(children)


if __name__ == "__main__":
    main()
