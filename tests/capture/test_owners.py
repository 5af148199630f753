"""Sockets' holders and processes' parents, asked of the real /proc, and of one made here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.capture.owners import alive, owners, process, still_holds
from ringfence.capture.taps import namespace_inode
from ringfence.model.batches import ProcessInfo

HERE = namespace_inode(Path("/proc/self/ns/net"))
CONTAINER = "c0ffee00" * 8


def inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


def test_a_sockets_holder_is_found_and_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        number = inode(one)
        pid, path = owners({HERE}, {number}).found[number]
        assert pid == os.getpid()
        assert still_holds(path, number)
    assert not still_holds(path, number)
    assert owners({HERE}, {number}).found == {}


def test_other_namespaces_are_not_searched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert owners({HERE + 1}, {inode(one)}).found == {}


def test_of_a_server_and_its_workers_the_server_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        os.set_inheritable(one.fileno(), True)
        program = "print('ready', flush=True); input()"
        worker = subprocess.Popen(
            [sys.executable, "-c", program],
            close_fds=False,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            held = owners({HERE}, {inode(one)}).found[inode(one)][0]
            worker.kill()
        assert held == min(os.getpid(), worker.pid)


def test_processes_that_may_not_be_looked_at_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "7"
    (folder / "ns").mkdir(parents=True)
    (folder / "ns" / "net").write_text("")

    def refuse(path: object) -> list[str]:
        if str(path).endswith("/fd"):
            raise PermissionError(13, "Permission denied")
        return ["7", "self"]

    monkeypatch.setattr(os, "listdir", refuse)
    assert owners({namespace_inode(folder / "ns" / "net")}, {1}, tmp_path) == ({}, 1)


def test_a_process_and_its_parent() -> None:
    found = process(os.getpid())
    assert found is not None
    assert (found.pid, found.parent_pid) == (os.getpid(), os.getppid())
    assert found.name == Path("/proc/self/comm").read_text().strip()
    assert found.parent == Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert process(ended.pid) is None


@pytest.mark.parametrize("name", ["a) b (c", "9 S 1 2", "", "x\ny"])
def test_names_may_hold_anything(tmp_path: Path, name: str) -> None:
    for pid, comm, parent in ((7, name, 3), (3, "init", 0)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "comm").write_text(comm + "\n")
        (folder / "stat").write_text(f"{pid} ({comm}) S {parent} 1 1 0 -1 4194304\n")
    assert process(7, tmp_path) == ProcessInfo(name, 7, parent="init", parent_pid=3)
    assert process(3, tmp_path) == ProcessInfo("init", 3)


def test_a_living_process_tells_its_executable_and_container(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "comm").write_text("nginx\n")
    (folder / "cgroup").write_text(f"0::/kubepods/burstable/pod{'7' * 32}/{CONTAINER}\n")
    (folder / "exe").symlink_to("/usr/sbin/nginx (deleted)")
    noted = ProcessInfo("nginx", 7, parent="sh", parent_pid=3)
    assert alive(noted, tmp_path) == ProcessInfo("nginx", 7, "/usr/sbin/nginx", "7" * 32, CONTAINER, "sh", 3)
    assert alive(ProcessInfo("other", 7), tmp_path) is None
    assert alive(ProcessInfo("nginx", 8), tmp_path) is None
