"""What `flows show` says of each tap against what tcpdump counted at that interface, with packets dropped between two.

Datagrams of different sizes go from a pod through a service to a pod on the other node; one size is dropped before it
reaches the tunnel, another behind it, and one of the answers on its way back.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.flows.present import rfc3339
from ringfence.lab import kernel

pytestmark = [pytest.mark.real, pytest.mark.slow]

PORT, FROM = 8080, 20900
SENT = {300: 7, 310: 3, 320: 2}
"""Octets of payload, and how many datagrams."""
DROPPED_BEFORE, DROPPED_BEHIND = 310, 320
HEADER = 28

CLIENT = f"""
import json, socket, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("", {FROM}))
one.connect((sys.argv[1], 80))
for octets, times in {SENT!r}.items():
    for _ in range(times):
        one.send(b"x" * (octets - 1) + b"\\n")
        time.sleep(0.01)
one.settimeout(1)
answers = 0
try:
    while one.recv(2000):
        answers += 1
except TimeoutError:
    pass
print(json.dumps(answers))
"""


class Made(NamedTuple):
    legs: list[dict[str, Any]]
    captured: dict[tuple[str, str], Path]
    """By node and interface."""
    answers: int
    names: dict[str, str]


def prepare(lab):
    lab.add_pod("hops", "a", labels={"app": "a"}, node="node1")
    lab.add_pod("hops", "c", labels={"app": "c"}, udp_ports=[PORT], node="node2")
    lab.add_service("hops", "c", {"app": "c"}, [{"port": 80, "targetPort": PORT, "protocol": "UDP"}])


@contextlib.contextmanager
def capturing(netns: str, interface: str, file: Path) -> Iterator[None]:
    """tcpdump on an interface of a namespace, from the moment it says that it listens."""
    argv = ["nsenter", f"--net={kernel.NETNS / netns}", "tcpdump", "-i", interface, "-w", str(file), "-U"]
    process = subprocess.Popen([*argv, "--immediate-mode", "-Z", "root", "udp"], stderr=subprocess.PIPE)
    assert process.stderr
    try:
        assert any(b"listening" in line for line in process.stderr)  # reads no further
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def made(watch, tmp_path_factory) -> Made:
    if not shutil.which("tcpdump") or not shutil.which("tshark"):
        pytest.skip("tcpdump and tshark are the oracle")
    world = watch(prepare, overlay="vxlan", traffic=False, probes=False, apps=False)
    lab, folder = world.lab, tmp_path_factory.mktemp("captured")
    one, two = lab.nodes
    for node, octets in ((one, DROPPED_BEFORE), (two, DROPPED_BEHIND)):
        rule = ("-I", "FORWARD", "-p", "udp", "-m", "length", "--length", str(octets + HEADER), "-j", "DROP")
        kernel.inside(node.netns, ["iptables", *rule])
    captured, answers = {}, 0
    vip = lab.service("c", "hops").addresses[0]
    with contextlib.ExitStack() as running:
        for node in (one, two):
            shown = subprocess.run(["ip", "-n", node.netns, "-j", "link"], capture_output=True, check=True)
            for name in [each["ifname"] for each in json.loads(shown.stdout) if each["ifname"] != "lo"]:
                captured[node.name, name] = folder / f"{node.name}-{name}.pcap"
                running.enter_context(capturing(node.netns, name, captured[node.name, name]))
        done = lab.exec(lab.pod("a", "hops"), [sys.executable, "-c", CLIENT, vip])
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        world.settle()
    since = rfc3339(world.since)
    (mine,) = [
        each
        for each in world.ask("/v1/connections")["connections"]
        if each["legs"][0]["consumer"]["port"] == FROM and each["protocol"] == "UDP"
    ]
    names = {"a": lab.pod("a", "hops").addresses[0], "c": lab.pod("c", "hops").addresses[0], "vip": vip}
    return Made(world.ask_one(mine["connection_id"], since)["legs"], captured, answers, names)


def counted(made: Made, tap: dict[str, Any], leg: dict[str, Any]) -> tuple[int, ...]:
    """Packets and octets of both sides of a leg at the tap's interface, as tshark reads them."""
    file = made.captured[tap["node"], tap["interface"]]
    # -d: the tunnel's port of Linux is not the one that tshark knows.
    argv = ["tshark", "-r", str(file), "-d", "udp.port==8472,vxlan", "-T", "fields", "-E", "occurrence=a"]
    argv += [part for field in ("ip.src", "ip.dst", "ip.len") for part in ("-e", field)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = {"consumer": [0, 0], "provider": [0, 0]}
    for line in done.stdout.splitlines():
        sources, targets, sizes = (part.split(",") for part in line.split("\t"))
        # Only packets of this conversation, whatever carries them.
        if {sources[-1], targets[-1]} not in (
            {made.names["a"], made.names["c"]},
            {made.names["a"], made.names["vip"]},
        ):
            continue
        for side, other in (("consumer", "provider"), ("provider", "consumer")):
            layer = 0 if leg["leg"] == "outer" else -1
            if len(sources) > (leg["leg"] == "outer") and (sources[layer], targets[layer]) == (
                leg[side]["ip"],
                leg[other]["ip"],
            ):
                found[side][0] += 1
                found[side][1] += int(sizes[layer])
    return (*found["consumer"], *found["provider"])


def test_each_tap_says_what_was_captured_there(made):
    taps = 0
    for leg in made.legs:
        for tap in leg["taps"]:
            told = tuple(
                tap[f"{side}_{unit}"] for side in ("consumer", "provider") for unit in ("packets", "octets")
            )
            assert told == counted(made, tap, leg), (leg["leg"], tap)
            taps += 1
    # The service's address at the pod; the pods' at two tunnel devices and a pod; and two uplinks.
    assert taps == 6, made.legs


def test_what_was_dropped_is_missing_behind_it(made):
    """By arithmetic, without any tool: 12 are sent; 3 end on the first node and 2 on the second."""
    before, after, outer = made.legs
    assert [leg["leg"] for leg in made.legs] == ["pre-dnat", "post-dnat", "outer"]
    sent = sum(SENT.values())
    assert [tap["consumer_packets"] for tap in before["taps"]] == [sent]
    assert [(tap["node"], tap["at"], tap["consumer_packets"]) for tap in after["taps"]] == [
        ("node1", "tunnel", sent - SENT[DROPPED_BEFORE]),
        ("node2", "tunnel", sent - SENT[DROPPED_BEFORE]),
        ("node2", "pod", sent - SENT[DROPPED_BEFORE] - SENT[DROPPED_BEHIND]),
    ]
    assert {tap["consumer_packets"] for tap in outer["taps"]} == {sent - SENT[DROPPED_BEFORE]}
    assert {tap["provider_packets"] for leg in made.legs for tap in leg["taps"]} == {made.answers}
    assert made.answers == SENT[300]
