"""`ringfence capture --local`: packets of this node's own pods, with neither server nor agent."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ringfence import __version__
from ringfence.agent.captures import Place, blocks, counted, opened
from ringfence.capture.namespaces import node_tables, tables_of
from ringfence.capture.stream import pcapng
from ringfence.capture.stream.joined import Joined
from ringfence.capture.stream.pcapng import Blocks
from ringfence.capture.stream.tap import Tap
from ringfence.capture.taps import pod_processes
from ringfence.cli.capturing import Sink, Summary, say
from ringfence.cli.output import Output
from ringfence.model.problems import Problem
from ringfence.wire.orders import FULL, LEAST, SHARED, Target

PODS = Path("/var/log/pods")
"""Where a kubelet keeps the logs of its pods, in folders called NAMESPACE_NAME_UID."""
LOOK = 1000
"""Milliseconds between two looks at the clock."""


class Local:
    """One capture, in this thread."""

    def __init__(self, wish: dict[str, Any], netns: str | None, sink: Sink, folder: Path = PODS) -> None:
        node = socket.gethostname()
        targets = list(targets_of(wish["pods"], wish["nodes"], netns, node, folder))
        self._wish, self._sink = wish, sink
        self._summary, self._joined, self._blocks = (
            Summary(),
            Joined(wish["packets"], wish["octets"]),
            Blocks(),
        )
        self._comment = f"capture of {', '.join(sorted(each.name for each in targets))} on node {node}"
        self._opened = opened(targets, wish["snaplen"], wish["filter"], netns, node)
        self._delivered = [0] * len(self._opened)

    def run(self, output: Output) -> None:
        """Until a signal, a limit or the reader's end; then say what became of it. Raises Problem."""
        wake = _by_signal()
        try:
            self._write(pcapng.section(f"Ringfence {__version__}", self._comment))
            self._feed(b"".join(pcapng.interface(place.interface) for _, place in self._opened))
            started = time.time_ns()  # noqa: TID251  packets carry the same clock
            self._until_end(wake)
            for number, (tap, place) in enumerate(self._opened):
                self._pass(number, place, tap.finish())
            now = time.time_ns()  # noqa: TID251
            self._feed(counted([tap for tap, _ in self._opened], self._delivered, started, now))
        except BrokenPipeError:
            # What is left in the buffer must not be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        finally:
            self._sink.close()
            for tap, _ in self._opened:
                tap.close()
        say(self._summary.rows(), [], self._sink.names, output)

    def _until_end(self, wake: int) -> None:
        poll = select.poll()
        by_number: dict[int, tuple[int, Tap, Place]] = {
            tap.fileno(): (number, tap, place) for number, (tap, place) in enumerate(self._opened)
        }
        for descriptor in (*by_number, wake):
            poll.register(descriptor, select.POLLIN)
        if self._sink.pipe is not None:
            poll.register(self._sink.pipe, 0)  # only that its reader is gone
        ends = time.monotonic() + self._wish["seconds"] if self._wish["seconds"] else None
        while not self._joined.full and (ends is None or time.monotonic() < ends):
            left = LOOK if ends is None else min(LOOK, 1000 * (ends - time.monotonic()))
            for descriptor, _ in poll.poll(max(0, left)):
                if descriptor == wake:
                    return
                if descriptor not in by_number:
                    raise BrokenPipeError
                number, tap, place = by_number[descriptor]
                self._pass(number, place, tap.take())

    def _pass(self, number: int, place: Place, found: list[Any]) -> None:
        self._delivered[number] += len(found)
        self._feed(blocks(number, place, found))

    def _feed(self, data: bytes) -> None:
        """Through the limits, as a server would."""
        whole = self._joined.feed("local", data)
        for block in whole:
            self._summary.see(block)
        self._sink.write(whole)

    def _write(self, block: bytes) -> None:
        self._summary.see(block)
        self._sink.write([block])


def run(wish: dict[str, Any], netns: str | None, sink: Sink, output: Output) -> None:
    """Capture on this node until the end. Raises Problem."""
    sink.check()
    if not LEAST <= wish["snaplen"] <= FULL:
        raise Problem(f"{wish['snaplen']} octets of a packet", "--snaplen", f"use {LEAST} to {FULL}")
    if wish["packets"] < 0:
        raise Problem("a limit below zero", "--limit-packets", "0 is no limit")
    Local(wish, netns, sink).run(output)


def targets_of(
    pods: Iterable[str], nodes: Iterable[str], netns: str | None, node: str, folder: Path
) -> Iterable[Target]:
    """What to capture, by NAMESPACE/POD, POD or UID as this machine's kubelet has them. Raises Problem."""
    for name in nodes:
        if name not in ("", node):
            fix = f"write node/{node}, or leave out --local"
            raise Problem("another node than this one", f"node/{name[:100]}", fix)
        yield Target(node, note="the node")
    known = known_pods(folder)
    running: dict[str, int] = {}
    for pid, uid in pod_processes():
        running.setdefault(uid, pid)
    for name in pods:
        uid = _uid(name, known, running)
        shown = known.get(uid, name)
        if tables_of(running[uid]) == node_tables(netns):
            yield Target(shown, note=SHARED)
        else:
            yield Target(shown, uid, f"pod {uid}")


def known_pods(folder: Path) -> dict[str, str]:
    """UID → NAMESPACE/NAME of the pods that the kubelet keeps logs of."""
    found = {}
    if folder.is_dir():
        for entry in folder.iterdir():
            # Names of namespaces and pods hold no underscore (RFC 1123).
            parts = entry.name.split("_")
            if len(parts) == 3:
                found[parts[2]] = f"{parts[0]}/{parts[1]}"
    return found


def _uid(name: str, known: dict[str, str], running: dict[str, int]) -> str:
    found = sorted(
        uid
        for uid in running
        if uid == name or known.get(uid) == name or known.get(uid, "").partition("/")[2] == name
    )
    if not found:
        here = sorted(known.get(uid, uid) for uid in running)
        fix = f"of pods there are: {', '.join(here[:10]) or 'none'}" + (", ..." if len(here) > 10 else "")
        raise Problem("no such pod runs on this node", name[:100], fix)
    if len(found) > 1:
        names = ", ".join(known.get(uid, uid) for uid in found[:5])
        raise Problem(f"more than one pod is called so: {names}", name[:100], "write NAMESPACE/POD")
    return found[0]


def _by_signal() -> int:
    """Readable once Ctrl-C or SIGTERM came; a second Ctrl-C leaves at once."""
    wake, poke = os.pipe()

    def heard(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.write(poke, b"x")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, heard)
    return wake
