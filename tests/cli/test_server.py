"""The online verbs against nobody, and the server's settings: one line each, exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ringfence.cli.map import dot
from ringfence.model.edges import Edge, Party


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ringfence", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("map", "--server", "http://127.0.0.1:1"), "no answer from the server"),
        (("flows", "list", "--server", "nonsense"), "bad server address"),
        (("flows", "show", "00", "--server", "http://127.0.0.1:1"), "no answer from the server"),
        (("map", "--token", "two\nlines"), "not a token"),
        (("server", "--listen", "nonsense"), "bad listen address"),
        (("server", "--listen", "127.0.0.1:99999"), "bad listen address"),
        (("server", "--listen", "192.0.2.1:8443"), "cannot listen"),
        (("server", "--config", "/does/not/exist"), "cannot read the settings"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, arguments, words):
    if arguments[0] == "server":
        arguments = (*arguments, "--data", str(tmp_path / "data"))
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_an_unknown_setting_is_named(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("lisen: 127.0.0.1:1\n")
    result = run("server", "--config", str(file))
    assert result.returncode == 2
    assert f"unknown setting `lisen`: {file}: use one of:" in result.stderr


def test_names_in_the_graph_are_quoted():
    evil = Party("workload", "c", "a", 'Pod/x" -> "y\\')
    edge = Edge(
        evil, Party("external", address="192.0.2.1"), "TCP", 443, None, "x", 1, 1, 1, 0, 0, 1, 0, 0, 0
    )
    line = list(dot([edge]))[2]
    assert line == '  "a/Pod/x\\" -> \\"y\\\\" -> "external 192.0.2.1" [label="TCP 443"];'
