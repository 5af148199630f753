"""`ringfence lab` as a person types it: answers on stdout, one line of error, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.lab import cluster, kernel

NAME = f"c{os.getpid()}"


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ringfence", "lab", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.real
def test_up_status_down() -> None:
    try:
        done = _run("up", "--name", NAME, "--no-traffic", "-o", "json")
        assert done.returncode == 0, done.stderr
        state = json.loads(done.stdout)
        assert len(state["nodes"]) == 2
        assert {pod["namespace"] for pod in state["pods"]} >= {"sock-shop", "kube-system"}
        table = _run("status", "--name", NAME)
        assert table.returncode == 0
        assert "sock-shop/front-end" in table.stdout
        assert "80:30001/TCP" in table.stdout
        again = _run("up", "--name", NAME)
        assert again.returncode == 2
        assert again.stderr == f"error: a lab of that name is up: {NAME}: ringfence lab down --name {NAME}\n"
        os.kill(state["pid"], 9)
        assert _run("status", "--name", NAME).returncode == 1
        assert _run("down", "--name", NAME).stdout == f"lab {NAME} is down\n"
        assert _run("down", "--name", NAME).stdout == f"there was no lab {NAME}\n"
        gone = _run("status", "--name", NAME)
        assert gone.returncode == 2
        assert gone.stderr.startswith(f"error: no such lab: {NAME}: ")
    finally:
        cluster.down(NAME)


@pytest.mark.real
def test_bad_usage_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Pod\n---\nkind: [")
    for words, start in (
        (("--overlay", "geneve"), "error: unknown overlay: 'geneve': use one of: routed, vxlan"),
        (("--nodes", "0"), "error: bad number of nodes: 0: "),
        (("--manifests", str(tmp_path / "none")), "error: no such manifests: "),
        (("--manifests", str(tmp_path)), f"error: Pod without a name: {tmp_path / 'a.yaml'} document 1: "),
    ):
        done = _run("up", "--name", NAME, *words)
        assert done.returncode == 2
        assert done.stderr.startswith(start), done.stderr
        assert done.stderr.count("\n") == 1
        assert kernel.namespaces(f"rf-{NAME}-") == []
        assert not (cluster.STATE / NAME).exists()


@pytest.mark.real
def test_without_root() -> None:
    # The interpreter may live where others cannot read, so everything is imported before root is given up.
    code = (
        "import os, ringfence.lab.cluster as c, ringfence.lab.kernel; os.setuid(65534)\n"
        "for verb in (c.up, c.down):\n"
        "    try: verb()\n"
        "    except Exception as e: print(f'error: {e}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "error: not root: ringfence lab up: run as root (it makes network namespaces)",
        "error: not root: ringfence lab down: run as root (it removes network namespaces)",
    ]


def test_every_verb_has_an_example() -> None:
    from typer.testing import CliRunner

    from ringfence.cli.lab import app

    for verb in ("up", "down", "status"):
        assert f"ringfence lab {verb}" in CliRunner().invoke(app, [verb, "--help"]).output
