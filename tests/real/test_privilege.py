"""An agent with exactly the capabilities of its features works, and with any one less that feature does not.

As in a container: in the node's network namespace, uid 0, a bounding set instead of all of root's rights, no new
privileges, a bpffs that is mounted already. And the same once more under the shipped seccomp profile.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ringfence.cli.deployment import CAPABILITIES, Wanted, capabilities, features
from ringfence.cli.seccomp import allowed
from ringfence.lab import cluster
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import LabSettings
from ringfence.wire.codec import Batch, decode

pytestmark = [pytest.mark.real, pytest.mark.slow]

CALLS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

CONFINED = """
import ctypes, os, struct, sys
# A filter of seccomp(2): the architecture, then one comparison a call; what is not listed is refused with EPERM.
numbers = [int(each) for each in sys.argv[1].split(",")]
program = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
for number in numbers:
    program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x7FFF0000)]
program.append((0x06, 0, 0, 0x00050001))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, head, 0, 0):
    raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Run(NamedTuple):
    """How an agent ended, what it said, what it saw."""

    code: int
    said: str
    batches: list[Batch]

    @property
    def pods(self) -> set[str]:
        """Pods whose taps were known to be theirs."""
        return {tap.pod for batch in self.batches for tap in batch.header.taps if tap.pod}

    @property
    def packets(self) -> int:
        """Everything that was counted."""
        return sum(int(b.sightings["consumer_packets"].sum()) for b in self.batches)

    @property
    def notes(self) -> str:
        """What it said it cannot see."""
        return "\n".join(note for batch in self.batches for note in batch.header.notes)

    @property
    def programs(self) -> set[str]:
        """Executables of processes that were named."""
        return {each.exe for batch in self.batches for each in batch.header.processes if each.exe}


class Node:
    """A node of a busy lab, on which an agent is run for a while."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.netns = lab, folder, lab.nodes[0].netns
        self.bpffs = folder / "bpffs"
        self.bpffs.mkdir()
        subprocess.run(["mount", "-t", "bpf", "bpf", str(self.bpffs)], check=True)
        (folder / "token").write_text("nobody listens\n")

    def close(self) -> None:
        subprocess.run(["umount", str(self.bpffs)], check=True)

    def run(self, given: list[str], *flags: str, confine: bool = False, seconds: float = 8.0) -> Run:
        """Run an agent with these capabilities and no others; its batches are read from its spool."""
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        bounding = "-all" + "".join(f",+{name.lower()}" for name in given)
        argv = [
            "nsenter",
            f"--net=/run/netns/{self.netns}",
            "setpriv",
            f"--bounding-set={bounding}",
            "--no-new-privs",
        ]
        if confine:
            argv += [sys.executable, "-c", CONFINED, ",".join(map(str, numbers()))]
        argv += [
            sys.executable,
            "-m",
            "ringfence",
            "agent",
            "--server",
            "http://127.0.0.1:9",
            "--cluster",
            "lab",
        ]
        argv += ["--token-file", str(self.folder / "token"), "--node", "node1", "--mode", "detailed"]
        argv += ["--data", str(data), "--pin-dir", str(self.bpffs / "agent"), *flags]
        running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGTERM)
            said, _ = running.communicate(timeout=60)
        spooled = sorted(data.glob("spool/*.batch"))
        return Run(running.returncode, said, [decode(file.read_bytes()) for file in spooled])


def numbers() -> list[int]:
    """Of the system calls that the profile lets through, on this architecture."""
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", CALLS.read_text()))
    return [int(known[name]) for name in allowed() if name in known]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    lab = cluster.up(LabSettings(name=f"p{os.getpid()}", overlay="routed"))
    made = Node(lab, tmp_path_factory.mktemp("privilege"))
    try:
        yield made
    finally:
        made.close()
        lab.down()


COUNTS = ("--no-facts", "--no-processes", "--no-socket-links")
"""Switches off all that is not counting."""
PATHS = {"tcx": "counts", "clsact": "counts", "packet": "ring"}
"""Path → the feature that it is."""


def test_with_what_the_manifests_give_it_sees_pods_and_processes(node: Node) -> None:
    run = node.run(capabilities(Wanted()))
    assert run.code == 0, run.said
    assert run.packets > 0
    assert len(run.pods) >= 3
    assert run.programs
    # By default no pod's namespace is entered.
    assert set(re.findall(r"CAP_\w+", run.notes)) == {"CAP_SYS_ADMIN"}
    # Nothing of it is left in the kernel.
    assert not (node.bpffs / "agent").exists()


@pytest.mark.parametrize("path", PATHS)
def test_each_path_counts_with_its_own_and_knows_whose_taps_they_are(node: Node, path: str) -> None:
    """Without CAP_SYS_PTRACE no other process' namespace may be read: pods are told by ids all the same."""
    run = node.run(list(CAPABILITIES[PATHS[path]]), *COUNTS, "--path", path)
    assert run.code == 0, run.said
    assert run.packets > 0
    assert run.pods == node.run(capabilities(Wanted(inside=True))).pods
    # What it costs to be without CAP_PERFMON is said.
    assert ("CAP_PERFMON is missing" in run.notes) is (path != "packet")


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, feature in PATHS.items() for name in CAPABILITIES[feature]]
)
def test_without_any_one_of_a_path_s_it_says_which_and_ends(node: Node, path: str, name: str) -> None:
    less = [each for each in CAPABILITIES[PATHS[path]] if each != name]
    run = node.run(less, *COUNTS, "--path", path)
    assert run.code == 2, run.said
    last = run.said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert f"CAP_{name}" in last
    assert not run.batches
    assert not (node.bpffs / "agent").exists()


def test_the_kernel_s_own_facts_need_theirs(node: Node) -> None:
    only = ("--no-processes", "--no-socket-links")
    whole = capabilities(Wanted(processes=False, socket_links=False))
    assert set(whole) == {*CAPABILITIES["counts"], *CAPABILITIES["facts"]}
    run = node.run(whole, *only)
    assert run.code == 0, run.said
    assert "are not known" not in run.notes
    less = node.run(list(CAPABILITIES["counts"]), *only)
    assert less.code == 0, less.said
    assert less.packets > 0
    assert "packets that the kernel drops are not known: CAP_PERFMON is missing" in less.notes
    assert "retransmissions and smoothed round trips are not known: CAP_PERFMON is missing" in less.notes


def test_processes_need_theirs(node: Node) -> None:
    whole = capabilities(Wanted())
    named = node.run(whole)
    refused = node.run([each for each in whole if each != "SYS_PTRACE"])
    assert refused.code == 0, refused.said
    assert refused.packets > 0
    assert len(refused.programs) < len(named.programs)
    assert "have no path: CAP_SYS_PTRACE is missing" in refused.notes
    blind = node.run([each for each in whole if each != "PERFMON"])
    assert blind.code == 0, blind.said
    assert "processes are not named: CAP_PERFMON is missing" in blind.notes
    assert not node.run(whole, "--no-processes").programs


def test_hooks_at_sockets_need_theirs(node: Node) -> None:
    only = ("--no-processes", "--no-facts")
    whole = capabilities(Wanted(processes=False, facts=False))
    assert set(whole) == {*CAPABILITIES["counts"], *CAPABILITIES["socket_links"]}
    run = node.run(whole, *only)
    assert run.code == 0, run.said
    assert "not followed" not in run.notes
    less = node.run([each for each in whole if each != "PERFMON"], *only)
    assert less.code == 0, less.said
    assert "load balancing at sockets is not followed: CAP_PERFMON is missing" in less.notes
    # The others are those of counting; without eBPF they are this feature's alone.
    ring = {*CAPABILITIES["ring"], *CAPABILITIES["socket_links"]}
    without = node.run([each for each in ring if each != "BPF"], *only, "--path", "packet")
    assert without.code == 0, without.said
    assert "load balancing at sockets is not followed: CAP_BPF is missing" in without.notes


def test_pods_namespaces_are_entered_with_sys_admin_alone(node: Node) -> None:
    """By the files below /run/netns, so without a right over anybody's processes."""
    outside = node.run(list(CAPABILITIES["counts"]), *COUNTS)
    inside = node.run([*CAPABILITIES["counts"], *CAPABILITIES["inside"]], *COUNTS)
    assert inside.code == outside.code == 0
    assert "socket tables are not read" in outside.notes
    assert (
        "without a host end (macvlan, ipvlan, hardware) are not seen: CAP_SYS_ADMIN is missing"
        in outside.notes
    )
    assert "not read" not in inside.notes
    assert "not seen: CAP" not in inside.notes
    assert inside.pods == outside.pods


@pytest.mark.skipif(
    not CALLS.exists(), reason="needs the numbers of system calls of linux-libc-dev on x86-64"
)
@pytest.mark.parametrize("path", PATHS)
def test_under_the_shipped_seccomp_profile_it_sees_the_same(node: Node, path: str) -> None:
    """Everything switched on."""
    wanted = Wanted(path=path, inside=True, packets=True)
    run = node.run(capabilities(wanted), "--path", path, confine=True)
    assert run.code == 0, run.said
    assert run.packets > 0
    assert len(run.pods) >= 3
    assert run.programs
    assert "missing" not in run.notes
    assert "not read" not in run.notes


def packets(node: Node, given: list[str], file: Path, confine: bool = False) -> tuple[int, str]:
    """How a capture of one pod ended that held these capabilities, and what it said."""
    pod = next(one for one in node.lab.pods if one.node == "node1" and not one.host_network)
    bounding = "-all" + "".join(f",+{name.lower()}" for name in given)
    argv = [
        "nsenter",
        f"--net=/run/netns/{node.netns}",
        "setpriv",
        f"--bounding-set={bounding}",
        "--no-new-privs",
    ]
    if confine:
        argv += [sys.executable, "-c", CONFINED, ",".join(map(str, numbers()))]
    argv += [sys.executable, "-m", "ringfence", "capture", "--local", pod.uid, "-w", str(file)]
    argv += ["--filter", "ip or ip6 or arp", "--limit-packets", "3", "--duration", "30s"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_capture_of_packets_needs_net_raw_alone(node: Node, tmp_path: Path) -> None:
    code, said = packets(node, list(CAPABILITIES["packets"]), tmp_path / "x.pcapng")
    assert code == 0, said
    assert ": 3 packets, " in said
    code, said = packets(node, [], tmp_path / "y.pcapng")
    assert code == 2
    assert "CAP_NET_RAW is missing" in said
    assert not (tmp_path / "y.pcapng").exists()


@pytest.mark.skipif(
    not CALLS.exists(), reason="needs the numbers of system calls of linux-libc-dev on x86-64"
)
def test_a_capture_of_packets_under_the_shipped_seccomp_profile(node: Node, tmp_path: Path) -> None:
    code, said = packets(node, list(CAPABILITIES["packets"]), tmp_path / "x.pcapng", confine=True)
    assert code == 0, said
    assert ": 3 packets, " in said


@pytest.mark.skipif(
    not CALLS.exists(), reason="needs the numbers of system calls of linux-libc-dev on x86-64"
)
def test_the_profile_does_refuse() -> None:
    """Mounting is not among what an agent may do, with any capability."""
    mount = ["/bin/mount", "-t", "tmpfs", "x", "/mnt"]
    argv = [sys.executable, "-c", CONFINED, ",".join(map(str, numbers())), *mount]
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0


def test_what_is_rendered_is_the_union_of_what_is_switched_on() -> None:
    """The sets that are shown minimal above are all there is."""
    for number in range(1 << 6):
        path, facts, processes, sockets, inside, packets = (bool(number >> bit & 1) for bit in range(6))
        wanted = Wanted(
            path="packet" if path else "auto",
            facts=facts,
            processes=processes,
            socket_links=sockets,
            inside=inside,
            packets=packets,
        )
        names = features(wanted)
        assert ("ring" in names, "counts" in names) == (path, not path)
        asked = {"facts": facts, "processes": processes, "socket_links": sockets}
        asked |= {"inside": inside, "packets": packets}
        assert {name for name, on in asked.items() if on} == set(names) - {"ring", "counts"}
        assert set(capabilities(wanted)) == {each for name in names for each in CAPABILITIES[name]}
