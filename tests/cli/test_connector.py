"""`ringfence connector` with settings that cannot work: one line, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERVER = ("--server", "http://127.0.0.1:9")
CASES = [
    (("--cluster", "c"), "no server"),
    ((*SERVER,), "no cluster"),
    ((*SERVER, "--cluster", "c", "--api", "nonsense"), "not a URL"),
    (
        (*SERVER, "--cluster", "c", "--kubeconfig", "/absent"),
        "cannot read (No such file or directory): /absent",
    ),
    ((*SERVER, "--cluster", "c", "--kubeconfig", "{broken}"), "not a kubeconfig"),
    ((*SERVER, "--cluster", "c", "--api", "http://127.0.0.1:9", "--token-file", "/absent"), "cannot read"),
    (("--server", "nonsense", "--cluster", "c", "--api", "http://127.0.0.1:9"), "not a URL"),
    ((*SERVER, "--config", "{unknown}"), "unknown field `colour`"),
    ((*SERVER, "--config", "{twice}"), "cluster `a` twice"),
]
FILES = {
    "broken": "clusters: {",
    "unknown": "clusters: [{cluster: a, colour: red}]",
    "twice": "clusters: [{cluster: a, api: 'http://127.0.0.1:9'}, {cluster: a, api: 'http://127.0.0.1:9'}]",
}


@pytest.mark.parametrize(("arguments", "words"), CASES)
def test_what_cannot_work_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    files = {name: str(tmp_path / name) for name in FILES}
    argv = [argument.format(**files) for argument in arguments]
    argv = [sys.executable, "-m", "ringfence", "connector", *argv]
    result = subprocess.run(argv, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
