"""The network under the nodes: a bridge in a namespace of its own, a link to this machine, one to each node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from testbed.places import Failed, Home, run

FIX = "run `python3 -m testbed down` and try again"


def netns(home: Home, name: str) -> Path:
    """The file that holds a network namespace open."""
    return home / "netns" / name


def choose(home: Home) -> int:
    """The third octet of a network 10.88.N.0/24 that no route of this machine uses. Raises Failed when all are."""
    held = home.facts().get("net")
    if held is not None:
        return int(held)
    routes = json.loads(run(["ip", "-j", "route", "show"], "ip route", FIX) or "[]")
    used = {route.get("dst", "") for route in routes}
    for number in range(16):
        if not any(each.startswith(f"10.88.{number}.") for each in used):
            return number
    raise Failed("no free network for nodes", "10.88.0.0/20", "take another testbed down first")


def link(home: Home) -> str:
    """The name of this machine's interface on the nodes' network."""
    return f"{home.tag}-up"


def fabric(home: Home) -> None:
    """The bridge and this machine's link to it."""
    if not _make(home, "fabric"):
        return
    _in(home, "fabric", "ip link add br0 type bridge")
    _in(home, "fabric", f"ip addr add {home.at(2)}/24 dev br0")
    _in(home, "fabric", "ip link set br0 up")
    _write(home, "fabric", "net/bridge/bridge-nf-call-iptables", "0")
    run(
        [
            "ip",
            "link",
            "add",
            link(home),
            "type",
            "veth",
            "peer",
            "name",
            "root0",
            "netns",
            str(netns(home, "fabric")),
        ],
        link(home),
        FIX,
    )
    _in(home, "fabric", "ip link set root0 master br0 up")
    run(["ip", "addr", "add", f"{home.at(1)}/24", "dev", link(home)], link(home), FIX)
    run(["ip", "link", "set", link(home), "up"], link(home), FIX)


def node(home: Home, number: int, count: int) -> None:
    """A node's namespace with its link to the bridge and its routes to the other nodes' pods."""
    name = f"node{number}"
    if not _make(home, name):
        return
    _in(home, "fabric", f"ip link add {name} type veth peer name eth0 netns {netns(home, name)}")
    _in(home, "fabric", f"ip link set {name} master br0 up")
    _in(home, name, f"ip addr add {home.at(10 + number)}/24 dev eth0")
    _in(home, name, "ip link set eth0 up")
    _in(home, name, f"ip route add default via {home.at(1)}")
    for other in range(1, count + 1):
        if other != number:
            _in(home, name, f"ip route add 10.244.{other}.0/24 via {home.at(10 + other)}")
    away = "-s 10.244.0.0/16 ! -d 10.244.0.0/16 -o eth0"
    _in(home, name, f"iptables -w -t nat -A POSTROUTING {away} -j MASQUERADE")


def remove(home: Home) -> None:
    """Everything above; what is not there is no error."""
    folder = home / "netns"
    for file in sorted(folder.glob("*")) if folder.exists() else ():
        subprocess.run(["umount", "-l", str(file)], capture_output=True, check=False)
        file.unlink(missing_ok=True)
    subprocess.run(["ip", "link", "del", link(home)], capture_output=True, check=False)


def _make(home: Home, name: str) -> bool:
    """Make a network namespace; False when it is there already."""
    file = netns(home, name)
    if file.is_mount():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    run(["unshare", f"--net={file}", "true"], str(file), FIX)
    _in(home, name, "ip link set lo up")
    return True


def _in(home: Home, name: str, command: str) -> None:
    run(["nsenter", f"--net={netns(home, name)}", *command.split()], f"{name}: {command}", FIX)


def _write(home: Home, name: str, key: str, value: str) -> None:
    """A sysctl of a namespace; left alone where the kernel has no such one."""
    script = f"[ ! -e /proc/sys/{key} ] || echo {value} > /proc/sys/{key}"
    run(["nsenter", f"--net={netns(home, name)}", "sh", "-c", script], key, FIX)
