"""Tells a server the recorded demo, where no lab can be built."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ringfence.cli.recording import BATCHES, SECOND, moved, read, shipped, span
from ringfence.model.problems import Problem


def replay(server_data: Path, url: str, say: Callable[[str], None]) -> tuple[int, int]:
    """Post the shipped recording as if it ended now; returns its (since, until), UTC nanoseconds."""
    posts = read(shipped())
    since, until = span(posts)
    now = time.time_ns()  # noqa: TID251 - the demo has a clock of its own
    delta = (now - until) // SECOND * SECOND
    say(
        f"telling the server {len(posts)} recorded posts, {(until - since) // SECOND} s of traffic, as if they were now"
    )
    token = (server_data / "agent.token").read_text().strip()
    for path, body in moved(posts, delta, now):
        _post(url + path, body, token, "application/octet-stream" if path == BATCHES else "application/json")
    return since + delta, until + delta


def _post(url: str, body: bytes, token: str, kind: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            answer.read()
    except OSError as error:
        raise Problem(f"the server did not take the recording ({error})", url, "try again") from None
