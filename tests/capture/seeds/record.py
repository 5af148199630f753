"""Record what a real kernel says, as seeds for `tests/capture/test_mutations.py`. Run as root from the repository:

    .venv/bin/python tests/capture/seeds/record.py

Writes `kernel.npz`: messages of conntrack, socket tables, interfaces and addresses, and entries of the maps.
"""

from __future__ import annotations

import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import Lan, sh

from ringfence.capture import bpf, netlink
from ringfence.capture.conntrack import Conntrack
from ringfence.capture.counters import COUNT, KEYS, _count_map
from ringfence.capture.decode.openers import CONVERSATION, OPENER
from ringfence.capture.decode.sockdiag import SOCK_DIAG_BY_FAMILY, request
from ringfence.capture.entering import entered
from ringfence.model.protocols import TCP, UDP

HERE = Path(__file__).parent


def talk(lan: Lan) -> list[socket.socket]:
    """Traffic of every kind: both families, translated, tunnelled, echoes, connections that stay open."""
    held = []
    for family, address in ((socket.AF_INET, "10.77.0.2"), (socket.AF_INET6, "fd77::2")):
        server = lan.open(lan.far, family, socket.SOCK_STREAM)
        datagrams = lan.open(lan.far, family, socket.SOCK_DGRAM)
        for each in (server, datagrams):
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(("", 8080))
        server.listen()
        datagrams.bind(("", 5353))
        held += [server, datagrams]
        for port in (8080, 80):
            if port == 80 and family == socket.AF_INET6:
                continue
            client = lan.open(lan.near, family, socket.SOCK_STREAM)
            client.connect((address if port == 8080 else "10.96.0.1", port))
            client.sendall(b"x" * 3000)
            held.append(client)
        asker = lan.open(lan.near, family, socket.SOCK_DGRAM)
        asker.connect((address, 5353))
        asker.send(b"hello")
        held.append(asker)
    sh(f"ip netns exec {lan.near} ping -q -c 2 -i 0.2 10.77.0.2 >/dev/null")
    sh(f"ip netns exec {lan.near} ping -q -c 2 -i 0.2 10.78.0.2 >/dev/null")
    return held


def messages(lan: Lan, kind: int, number: int, bodies: list[bytes]) -> bytes:
    """The answers to dumps, each with its header again."""
    asking = entered(f"/run/netns/{lan.near}", lambda: netlink.Netlink(kind))
    answers = [answer for body in bodies for _, answer in asking.request(number, netlink.NLM_DUMP, body)]
    asking.close()
    return b"".join(
        struct.pack("=IHHII", 16 + len(body), number, 0, 1, 0) + body + bytes(-len(body) % 4)
        for body in answers
    )


def record(lan: Lan) -> dict[str, np.ndarray]:
    """Everything, by name."""
    sh(
        f"ip netns exec {lan.near} iptables -t nat -A OUTPUT -d 10.96.0.1 -p tcp --dport 80"
        f" -j DNAT --to-destination 10.77.0.2:8080;"
        f"ip netns exec {lan.near} iptables -t nat -A POSTROUTING -j MASQUERADE; ip -n {lan.near} route add default via 10.77.0.2"
    )
    tracked = entered(f"/run/netns/{lan.near}", Conntrack)
    tracked.start()
    capture = lan.capture(processes=True)
    held = talk(lan)
    time.sleep(1)
    tracked.collect()
    found: dict[str, bytes | np.ndarray] = {}
    for _, data, dumped in tracked._waiting:
        found["conntrack_dump" if dumped else "conntrack_events"] = data
    for protocol in (TCP, UDP):
        bodies = [request(family, protocol) for family in (socket.AF_INET, socket.AF_INET6)]
        found[f"sockets_{protocol}"] = messages(lan, 4, SOCK_DIAG_BY_FAMILY, bodies)
    found["links"] = messages(
        lan, netlink.NETLINK_ROUTE, netlink.GETLINK, [struct.pack("=BxHiII", 0, 0, 0, 0, 0)]
    )
    assert capture._counters is not None
    counters = capture._counters
    for family, key in KEYS.items():
        for generation in (0, 1):
            for keys, values in bpf.batches(
                counters.fd(_count_map(family, generation)), key, COUNT, counters._cpus
            ):
                found[f"{family}_keys"], found[f"{family}_values"] = keys.copy(), values.copy()
    openers = capture._openers._map
    for keys, values in bpf.batches(openers, CONVERSATION, OPENER, 1):
        found["openers_keys"], found["openers_values"] = keys.copy(), values[:, 0].copy()
    for each in held:
        each.close()
    tracked.close()
    return {
        name: np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        for name, part in found.items()
    }


def main() -> None:
    """Record and write."""
    with tempfile.TemporaryDirectory() as folder:
        lan = Lan(Path(folder))
        try:
            lan.up()
            lan.vxlan()
            found = record(lan)
        finally:
            lan.down()
            sh(f"umount {folder}/pins 2>/dev/null || true")
    np.savez_compressed(HERE / "kernel.npz", **found)
    for name, part in found.items():
        print(name, part.shape)


if __name__ == "__main__":
    main()
