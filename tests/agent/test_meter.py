"""Limits come from the cgroups a process is in, whatever their version."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.agent.budget import Budget
from ringfence.agent.meter import Meter, allowed


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/kubepods/pod1/c1\n", {"kubepods/pod1/c1/cpu.max": "20000 100000\n"}, Budget(0.18, 0)),
        (
            "0::/kubepods/pod1/c1\n",
            {
                "kubepods/pod1/c1/cpu.max": "max 100000\n",
                "kubepods/pod1/cpu.max": "50000 100000\n",
                "kubepods/pod1/c1/memory.max": "max\n",
                "kubepods/memory.max": "100000000\n",
            },
            Budget(0.45, 90_000_000),
        ),
        (
            "4:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n2:pids:/x\n",
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "10000\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
                "memory/docker/abc/memory.limit_in_bytes": "67108864\n",
            },
            Budget(0.09, 60397977),
        ),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, Budget()),
        ("0::/\n", {}, Budget()),
    ],
)
def test_the_smallest_limit_on_the_way_up_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: Budget
) -> None:
    proc = made(tmp_path / "proc", {"cgroup": groups})
    assert allowed(proc, made(tmp_path / "cgroup", files)) == expected


def test_what_cannot_be_read_limits_nothing(tmp_path: Path) -> None:
    assert allowed(tmp_path / "absent", tmp_path) == Budget()


def test_use_is_that_of_this_process() -> None:
    meter = Meter()
    sum(range(2_000_000))
    use = meter.read()
    assert use.cpu > 0
    assert use.memory > 1 << 20
