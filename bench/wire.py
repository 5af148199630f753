"""Two network namespaces and a veth pair between them, for benchmarks; gone when the block ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator


def run(command: str) -> str:
    """Run a shell command and return what it printed; raises RuntimeError when it fails."""
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def pair(vxlan: bool = False) -> Iterator[tuple[str, str]]:
    """Names of two namespaces, joined by interfaces `left` and `right`: 10.66.0.1 and .2, fd66::1 and ::2.

    With `vxlan`, also 10.67.0.1 and .2 through a VXLAN tunnel on top.
    """
    left, right = f"rfb{os.getpid()}a", f"rfb{os.getpid()}b"
    try:
        for name in (left, right):
            run(f"ip netns add {name}; ip -n {name} link set lo up")
        run(f"ip link add name left netns {left} type veth peer name right netns {right}")
        for number, (name, interface) in enumerate(((left, "left"), (right, "right")), 1):
            run(
                f"ip netns exec {name} sysctl -qw net.ipv6.conf.{interface}.accept_dad=0;"
                f"ip -n {name} addr add 10.66.0.{number}/24 dev {interface};"
                f"ip -n {name} addr add fd66::{number}/64 dev {interface} nodad;"
                f"ip -n {name} link set {interface} up"
            )
            if vxlan:
                run(
                    f"ip -n {name} link add name tunnel type vxlan id 7 remote 10.66.0.{3 - number} dstport 4789 dev {interface};"
                    f"ip -n {name} addr add 10.67.0.{number}/24 dev tunnel; ip -n {name} link set tunnel up"
                )
        yield left, right
    finally:
        for name in (left, right):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def listening(namespace: str, port: int = 5201) -> Iterator[None]:
    """An iperf3 server in a namespace."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", namespace, "iperf3", "-s", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            if f":{port} " in run(f"ip netns exec {namespace} ss -Hltn"):
                break
        yield
    finally:
        server.terminate()
        server.wait()
