"""A server process with a small inventory, and verbs run against it in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from ringfence.cli import build
from ringfence.cli.client import Client
from ringfence.model.objects import Change, Object
from ringfence.model.problems import Problem
from tests.server.catalog import SHOP

TOKEN = "an-admin-token-of-this-test"


class Done(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str


def verb(*arguments: str, stdin: str | None = None) -> Done:
    """Run a verb as `ringfence` does; a Problem is its line on stderr and exit code 2."""
    result = CliRunner().invoke(build(arguments[0]), [*arguments], input=stdin)
    if isinstance(result.exception, Problem):
        return Done(2, result.stdout, f"{result.stderr}error: {result.exception}\n")
    if result.exception and not isinstance(result.exception, SystemExit | typer.Exit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


class Online:
    """A server that runs, and verbs that ask it."""

    def __init__(self, data: Path, url: str) -> None:
        self.data, self.url = data, url
        self.client = Client(url, TOKEN)
        self.agent = Client(url, (data / "connector.token").read_text().strip())

    def __call__(self, *arguments: str, stdin: str | None = None) -> Done:
        return verb(*arguments, "--server", self.url, "--token", TOKEN, stdin=stdin)

    def tell(self, *values: Object, at: int, gone: bool = False, cluster: str = "lab") -> None:
        """Say what objects are, or that they are gone."""
        changes = [
            Change(
                cluster,
                type(value).__name__,
                value.uid,
                at,
                at,
                msgspec.Raw(b"null" if gone else msgspec.json.encode(value)),
            )
            for value in values
        ]
        self.agent.post("/v1/ingest/changes", {"cluster": cluster, "changes": changes})


@pytest.fixture
def online(tmp_path: Path) -> Iterator[Online]:
    """A fresh server that knows the shop since an hour."""
    data = tmp_path / "data"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ringfence",
            "server",
            "--listen",
            "127.0.0.1:0",
            "--data",
            str(data),
            "--agent-tokens",
        ],
        env=os.environ | {"RINGFENCE_ADMIN_TOKEN": TOKEN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (data / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        server = Online(data, (data / "ready").read_text().strip())
        server.tell(*SHOP, at=time.time_ns() - 3600 * 10**9)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def now() -> int:
    """The time, UTC ns."""
    return time.time_ns()


@pytest.fixture
def golden(repo: Path):
    """Compare an output with the file kept of it; what differs is written beside it."""

    def compare(name: str, text: str) -> None:
        kept = repo / "tests" / "golden" / "inventory" / f"{name}.txt"
        actual = kept.with_suffix(".actual")
        if not kept.exists() or kept.read_text() != text:
            actual.parent.mkdir(exist_ok=True)
            actual.write_text(text)
        assert kept.exists(), f"look at {actual} and keep it as {kept}"
        assert text == kept.read_text()
        actual.unlink(missing_ok=True)

    return compare
