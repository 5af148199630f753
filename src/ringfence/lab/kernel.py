"""The lab's only hands on the machine: namespaces, links, rules, sysctls, cgroups, processes.

Everything made here carries the lab's name (namespaces `rf-<name>-…`, cgroups `ringfence-<name>`), so that
`sweep` recognises and removes it with no memory of having made it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ringfence.lab.network import Sysctls
from ringfence.model.problems import Problem

NETNS = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
TOOLS = ("ip", "bridge", "iptables-restore", "ip6tables-restore", "nsenter")


def require() -> None:
    """Refuse early where a lab cannot be made."""
    if os.geteuid() != 0:
        raise Problem("not root", "ringfence lab up", "run as root (it makes network namespaces)")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise Problem("missing command", tool, "install iproute2, iptables and util-linux")
    if not cgroup_roots():
        raise Problem("no cgroup file system", str(CGROUPS), "mount cgroup2 there")


def run(argv: Sequence[str], text: str = "") -> None:
    """Run a command with `text` as its input; a failure is a Problem with the command's own words."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split()) or f"exit {done.returncode}"
        raise Problem("could not build the lab", " ".join(argv), words[:400])


def ip_batch(netns: str | None, lines: Sequence[str]) -> None:
    """Run `ip` lines in a namespace (None: here) in one process."""
    if lines:
        where = ["-n", netns] if netns else []
        run(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def bridge_batch(netns: str, lines: Sequence[str]) -> None:
    """Run `bridge` lines in a namespace in one process."""
    if lines:
        run(["bridge", "-n", netns, "-batch", "-"], "\n".join(lines) + "\n")


def inside(netns: str, argv: Sequence[str], text: str = "") -> None:
    """Run a command in a namespace, in this mount namespace (unlike `ip netns exec`)."""
    run(["nsenter", f"--net={NETNS / netns}", *argv], text)


def set_sysctls(netns: str, values: Sysctls) -> None:
    """Write sysctls of a namespace; `/proc/sys/net` shows the writer's own."""
    script = "\n".join(f"echo {value} > /proc/sys/{key.replace('.', '/')}" for key, value in values)
    inside(netns, ["sh", "-e", "-s"], script + "\n")


def restore(netns: str, family: int, rules: str) -> None:
    """Give `iptables-restore --noflush` (or its IPv6 twin) a rule set in a namespace."""
    tool = "iptables-restore" if family == 4 else "ip6tables-restore"
    inside(netns, [tool, "--noflush", "-w"], rules)


def namespaces(prefix: str) -> list[str]:
    """Named network namespaces that start with `prefix`."""
    return sorted(path.name for path in NETNS.glob(f"{prefix}*")) if NETNS.is_dir() else []


def cgroup_roots() -> list[Path]:
    """Where pods' cgroups go: the v2 tree, and in a hybrid layout one v1 controller as well."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return [root for root in (CGROUPS / "unified", CGROUPS / "pids") if (root / "cgroup.procs").exists()]


def make_cgroup(path: str) -> list[str]:
    """Make `path` under every root; returns the folders, to be joined by writing to `cgroup.procs`."""
    folders = [root / path for root in cgroup_roots()]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return [str(folder) for folder in folders]


def join_cgroup(folders: Sequence[str]) -> None:
    """Move the calling process into these cgroups."""
    for folder in folders:
        Path(folder, "cgroup.procs").write_text("0")


def cgroup_processes(top: str) -> set[int]:
    """Every process in the cgroups named `top` and below."""
    found: set[int] = set()
    for root in cgroup_roots():
        for procs in (root / top).rglob("cgroup.procs") if (root / top).is_dir() else ():
            try:
                found.update(int(line) for line in procs.read_text().split())
            except OSError:
                # The cgroup went away while we looked.
                continue
    return found


def remove_cgroups(top: str) -> None:
    """Remove the cgroups named `top` and all below, the deepest first. They must hold no process."""
    for root in cgroup_roots():
        folders = [root / top, *(p for p in (root / top).rglob("*") if p.is_dir())]
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            if folder.is_dir():
                _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    """A cgroup may stay busy for an instant after its last process is reaped."""
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5) `stat` field 22); None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended; that nobody asked for its status yet is its parent's affair.
    return None if fields[0] in "ZX" else int(fields[19])


def end(processes: set[int], patience: float = 3.0) -> None:
    """Kill processes and wait until they have ended."""
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for _ in range(int(patience / 0.02)):
        if all(start_time(pid) is None for pid in processes):
            return
        time.sleep(0.02)


def sweep(name: str) -> None:
    """Remove every process, cgroup and namespace of lab `name`, recognised by name alone. Idempotent."""
    top = f"ringfence-{name}"
    for _ in range(5):
        processes = cgroup_processes(top) - {os.getpid()}
        if not processes:
            break
        end(processes)
    remove_cgroups(top)
    found = namespaces(f"rf-{name}-")
    if found:
        ip_batch(None, [f"netns del {netns}" for netns in found])
