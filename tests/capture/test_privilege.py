"""What is said of capabilities, from what the kernel writes in /proc/PID/status."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ringfence.capture import privilege

STATUS = "Name:\tagent\nCapPrm:\t{0:016x}\nCapEff:\t{0:016x}\n"


def bits(*names: str) -> int:
    return sum(1 << number for number in {privilege.NUMBERS[name] for name in names})


@pytest.fixture
def status(tmp_path: Path) -> Path:
    return tmp_path / "status"


@pytest.mark.parametrize("name", privilege.NUMBERS)
def test_each_is_held_by_its_own_bit(status: Path, name: str) -> None:
    status.write_text(STATUS.format(bits(name)))
    assert privilege.held(name, status)
    status.write_text(STATUS.format(~bits(name, "SYS_ADMIN") & (1 << 41) - 1))
    assert not privilege.held(name, status)


def test_sys_admin_stands_for_bpf_and_perfmon_and_for_no_other(status: Path) -> None:
    status.write_text(STATUS.format(bits("SYS_ADMIN")))
    held = {name for name in privilege.NUMBERS if privilege.held(name, status)}
    assert held == {"SYS_ADMIN", "BPF", "PERFMON"}


def test_the_numbers_are_the_kernels(repo: Path) -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define CAP_")]
    known = {line[1].removeprefix("CAP_"): line[2] for line in lines if len(line) > 2}
    assert {name: known[name] for name in privilege.NUMBERS} == {
        name: str(number) for name, number in privilege.NUMBERS.items()
    }


def test_a_refusal_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "held", lambda name: name == "BPF")
    refused = OSError(errno.EPERM, "Operation not permitted")
    assert privilege.why(refused, "BPF", "PERFMON") == "CAP_PERFMON is missing"
    assert privilege.missing("NET_RAW", "NET_ADMIN") == "CAP_NET_RAW and CAP_NET_ADMIN are missing"
    # What is not for want of them keeps its own words.
    assert "Operation not permitted" in privilege.why(refused, "BPF")
    assert "No space" in privilege.why(OSError(errno.ENOSPC, "No space left"), "PERFMON")
