"""Flows of exporters that send to a socket of ours: `flows read udp://HOST:PORT`."""

from __future__ import annotations

import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from ringfence.cli.offline import flows_of, naming_of
from ringfence.cli.output import Output, emit_lines
from ringfence.imports.live import Live
from ringfence.model.problems import Problem

WINDOW = 15.0
"""Seconds after which the flows of what came are printed."""
_WAIT, _LARGEST, _BUFFER = 0.2, 1 << 16, 8 << 20
_SO_MEMINFO, _DROPS = 55, 8
"""Of the socket's own counters (linux/sock_diag.h), the datagrams that the kernel dropped because we were late."""


def is_socket(name: str) -> bool:
    """Whether a FILE names a socket to listen on."""
    return "://" in name


def listen(names: list[str], seconds: float | None, manifests: str | None, output: Output) -> list[Problem]:
    """Print flows window by window until `seconds` passed, or Ctrl-C or SIGTERM came; what was wrong with the manifests. Raises Problem."""
    if len(names) != 1 or output is not Output.jsonl:
        fix = "name one socket and nothing else, and add -o jsonl: flows are printed as windows end"
        raise Problem("a socket is read alone, by lines", " ".join(names)[:200], fix)
    naming, problems, notes = naming_of(manifests)
    live = Live()

    def show() -> None:
        for reading in live.window():
            emit_lines(flows_of(reading, naming, "start"))
        sys.stdout.flush()

    with _bound(names[0]) as heard:
        _hear(heard, live, seconds, show)
        show()
        _say(names[0], live, _dropped(heard), notes)
    return problems


def _hear(heard: socket.socket, live: Live, seconds: float | None, show: Callable[[], None]) -> None:
    """Receive until the time is over, or somebody asks to end: between datagrams, so that none is lost."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    now = time.monotonic()
    end, turn = (now + seconds if seconds else float("inf")), now + WINDOW
    while (now := time.monotonic()) < end and not asked:
        room = True
        try:
            datagram, sender = heard.recvfrom(_LARGEST)
            room = live.take(datagram, sender[0])
        except TimeoutError:
            pass
        if not room or now >= turn:
            show()
            turn = now + WINDOW


def _bound(name: str) -> socket.socket:
    """A socket that receives at `udp://HOST:PORT`. Raises Problem."""
    fix = "name it as udp://127.0.0.1:2055, with an address of this machine and a port that is free"
    try:
        url = urlsplit(name)
        if url.scheme != "udp" or not url.hostname or not url.port:
            raise Problem("names no socket that can be read", name, fix)
        family, _, _, _, where = socket.getaddrinfo(url.hostname, url.port, type=socket.SOCK_DGRAM)[0]
        heard = socket.socket(family, socket.SOCK_DGRAM)
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        heard.settimeout(_WAIT)
        heard.bind(where)
    except (OSError, ValueError) as error:
        raise Problem(f"cannot listen ({error})", name, fix) from None
    print(f"note: listening on {name}", file=sys.stderr, flush=True)
    return heard


def _dropped(heard: socket.socket) -> int:
    """Datagrams that the kernel dropped; 0 where it does not say (before Linux 4.12)."""
    try:
        counters = heard.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
    except OSError:
        return 0
    return int(struct.unpack_from("=I", counters, 4 * _DROPS)[0]) if len(counters) > 4 * _DROPS else 0


def _say(name: str, live: Live, dropped: int, notes: Iterable[str]) -> None:
    said = [*notes, *live.close(name)]
    if dropped:
        said.append(f"{name}: {dropped} datagrams were dropped by the kernel before they were read")
    said.append(f"{name}: {live.datagrams} datagrams, {live.tally.lines} records")
    for text in said:
        print(f"note: {text}", file=sys.stderr)
