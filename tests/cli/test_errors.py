"""Bad input: one line that says what, where and how to fix it; exit code 2; nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ringfence.cli import build


def run(
    *arguments: str, without_root: bool = False, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    prefix = ["unshare", "--user"] if without_root and os.geteuid() == 0 else []
    return subprocess.run(
        [*prefix, sys.executable, "-m", "ringfence", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("RINGFENCE_")} | env,
    )


def one_line(done: subprocess.CompletedProcess) -> str:
    """The error of `done`, which must be one line with what, where and fix."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(errors[0].split(": ")) >= 4, errors[0]
    return errors[0]


def capture(folder: Path) -> Path:
    """A capture of two UDP packets."""
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    ethernet = bytes(12) + b"\x08\x00"
    ip = bytes.fromhex("4500001c00010000401100000a0000010a000002") + bytes.fromhex(
        "303900350008 0000".replace(" ", "")
    )
    frame = ethernet + ip
    record = (1).to_bytes(4, "little") * 2 + len(frame).to_bytes(4, "little") * 2 + frame
    file = folder / "two.pcap"
    file.write_bytes(header + record * 2)
    return file


def test_not_a_capture(tmp_path):
    (tmp_path / "notes.txt").write_text("not packets\n")
    assert "notes.txt" in one_line(run("flows", "read", str(tmp_path / "notes.txt")))


def test_a_capture_that_is_not_there(tmp_path):
    done = run("flows", "read", str(tmp_path / "gone.pcap"))
    assert "gone.pcap" in one_line(done)
    assert done.stdout == ""


def test_a_truncated_capture_gives_what_it_has(tmp_path):
    file = capture(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    done = run("flows", "read", str(file), "-o", "jsonl")
    error = one_line(done)
    assert "two.pcap" in error
    assert len(done.stdout.splitlines()) == 1
    assert '"consumer_packets":1' in done.stdout


def test_one_bad_file_does_not_cost_the_others(tmp_path):
    (tmp_path / "bad.pcap").write_bytes(b"nothing")
    done = run("flows", "read", str(tmp_path / "bad.pcap"), str(capture(tmp_path)), "-o", "jsonl")
    one_line(done)
    assert len(done.stdout.splitlines()) == 1


def test_an_unknown_format(tmp_path):
    assert "nonsense" in one_line(run("flows", "read", "--format", "nonsense", str(capture(tmp_path))))


def test_a_file_of_another_format_than_told(tmp_path):
    assert "zeek" not in one_line(run("flows", "read", "--format", "vpc", str(capture(tmp_path))))
    assert "conn.log" in one_line(run("flows", "read", "--format", "zeek", str(capture(tmp_path))))


def test_a_manifest_with_a_broken_document(tmp_path):
    manifests = tmp_path / "k8s"
    manifests.mkdir()
    (manifests / "shop.yaml").write_text("kind: Service\napiVersion: v1\n---\nkind: [unclosed\n")
    error = one_line(run("inventory", "list", "--manifests", str(manifests)))
    assert "shop.yaml" in error
    assert "2" in error


def test_a_port_already_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("server", "--listen", f"127.0.0.1:{port}", "--data", str(tmp_path / "data"))
        assert str(port) in one_line(done)
        assert not (tmp_path / "data").exists()
        done = run(
            *("demo", "--headless", "--for", "5", "--listen", f"127.0.0.1:{port}"),
            *("--policies", str(tmp_path / "policies")),
            cwd=tmp_path,
        )
        assert str(port) in one_line(done)
    assert not (tmp_path / "policies").exists()


needs_unshare = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("unshare") is None, reason="needs `unshare` to stop being root"
)


@needs_unshare
def test_no_root_for_a_lab():
    assert "root" in one_line(run("lab", "up", without_root=True))


@needs_unshare
def test_no_root_for_an_agent(tmp_path):
    done = run("agent", "--data", str(tmp_path / "agent"), without_root=True, RINGFENCE_AGENT_TOKEN="x")
    assert "root" in one_line(done)


@needs_unshare
@pytest.mark.slow
def test_without_root_the_demo_replays_and_says_so(tmp_path):
    done = run("demo", "--headless", "-o", "json", "--listen", "127.0.0.1:0", without_root=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "replaying a recorded capture: not root" in done.stderr
    assert '"mode": "replay"' in done.stdout


def test_settings_are_checked_by_name(tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("mood: detailed\n")
    assert "mood" in one_line(run("agent", "--config", str(config)))
    config.write_text("window: soon\n")
    assert "window" in one_line(run("agent", "--config", str(config)))
    assert "nowhere.yaml" in one_line(run("agent", "--config", "nowhere.yaml"))


def test_a_setting_that_is_missing_names_its_flag():
    assert "give --server" in one_line(run("connector"))
    assert "give --cluster" in one_line(run("connector", "--server", "http://127.0.0.1:1"))


def test_an_unknown_verb_and_a_missing_argument():
    assert "frobnicate" in one_line(run("frobnicate"))
    assert "FILE" in one_line(run("flows", "read"))


def test_no_server(tmp_path):
    error = one_line(run("map", "--server", "http://127.0.0.1:1", "--token", "x"))
    assert "127.0.0.1:1" in error


def test_policies_that_cannot_be_written_are_refused_before_the_learning(tmp_path):
    (tmp_path / "file").write_text("")
    asked = ("--policies", str(tmp_path / "file" / "policies"), "--listen", "127.0.0.1:0")
    assert "--policies" in one_line(run("demo", "--replay", *asked, cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_verb_teaches_by_example():
    todo = list(typer.main.get_command(build()).commands.values())
    for command in todo:
        assert "Example" in f"{command.help} {command.epilog}", command.name
        todo += getattr(command, "commands", {}).values()


def test_help_is_not_an_error():
    done = run("flows", "read", "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert run("--version").stdout.startswith("ringfence ")
