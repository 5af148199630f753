"""What is said in tests of exactness, by programs that count themselves: in pods of a lab or of a real Kubernetes.

Clients say who spoke first and how much; their sockets say how many packets (TCP_INFO).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

TCP_PORT, UDP_PORT, SILENT = 7000, 7001, 7009
SHORT = 120
"""Short TCP connections of each family."""
FIRST = {4: 20_000, 6: 21_000}
"""Local port of the first of them; of UDP: 2,000 more."""
SERVER = f"""
import json, socket, sys, threading
counts = {{}}
def note(protocol, peer, octets):
    # By address too: where sources are translated, ports are drawn by lot and may be another's.
    key = f"{{protocol}} {{peer[0].removeprefix('::ffff:')}} {{peer[1]}}"
    counts[key] = counts.get(key, 0) + octets
def answer(one, peer):
    got = 0
    while piece := one.recv(1 << 16):
        got += len(piece)
    note("tcp", peer, got)
    one.sendall(b"r" * (got % 1000 + 1))
    one.close()
def accept():
    listener = socket.create_server(("::", {TCP_PORT}), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        one, peer = listener.accept()
        threading.Thread(target=answer, args=(one, peer), daemon=True).start()
def take():
    sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    sink.bind(("::", {UDP_PORT}))
    while True:
        data, peer = sink.recvfrom(1 << 16)
        note("udp", peer, len(data))
threading.Thread(target=take, daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
sys.stdin.readline()
print(json.dumps(counts))
"""
SHORTS = """
import json, socket, struct, sys
said = {}
address, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", first + number))
    sock.connect((address, int(sys.argv[4])))
    data = b"x" * (number * 37 + 1)
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    got = 0
    while piece := sock.recv(1 << 16):
        got += len(piece)
    # struct tcp_info (linux/tcp.h): tcpi_segs_out and tcpi_segs_in, of a connection that both ends have closed by now.
    segments = struct.unpack_from("=II", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 136)
    sock.close()
    said[first + number] = [len(data), got, *segments]
print(json.dumps(said))
"""
DATAGRAMS = f"""
import socket, sys, time
address, first = sys.argv[1], int(sys.argv[2])
def made(port):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    sock.connect((address, {UDP_PORT}))
    return sock
plain, large, cut = made(first), made(first + 1), made(first + 2)
for _ in range(200):
    plain.send(b"u" * 100)
for _ in range(20):
    large.send(b"f" * 5000)
    time.sleep(0.002)
cut.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
for _ in range(10):
    cut.send(b"g" * 10500)
    time.sleep(0.002)
"""


def run(lab: Any, where: Any, program: str, *words: object) -> str:
    done = lab.exec(where, [sys.executable, "-c", program, *map(str, words)], timeout=120)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


class Server:
    """The program above in a pod."""

    def __init__(self, lab: Any, name: str) -> None:
        pod = lab.pod(name, "exact")
        argv = lab.command(pod, [sys.executable, "-c", SERVER])
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def counts(self) -> dict[str, int]:
        """Octets by protocol, the client's address and its port; it ends."""
        said, _ = self._process.communicate("\n", timeout=30)
        counted: dict[str, int] = json.loads(said)
        return counted


def kernel_counts(lab: Any, pod: Any) -> int:
    """IPv4 packets this pod's kernel received, of super-packets each segment."""
    lines = lab.exec(pod, ["cat", "/proc/net/netstat"]).stdout.splitlines()
    names, values = [line.split() for line in lines if line.startswith("IpExt:")]
    found = dict(zip(names[1:], map(int, values[1:]), strict=True))
    return sum(found[f"In{mark}"] for mark in ("NoECTPkts", "ECT1Pkts", "ECT0Pkts", "CEPkts"))


def workload(lab: Any) -> dict[int, dict[int, list[int]]]:
    """Short connections, datagrams and echoes from a to c, by both families; what the clients counted."""
    a, sent = lab.pod("a", "exact"), {}
    for family, address in zip((4, 6), lab.pod("c", "exact").addresses, strict=True):
        said = json.loads(run(lab, a, SHORTS, address, FIRST[family], SHORT, TCP_PORT))
        sent[family] = {int(port): counted for port, counted in said.items()}
        run(lab, a, DATAGRAMS, address, FIRST[family] + 2000)
        assert lab.exec(a, ["ping", "-c", "9", "-i", "0.05", "-s", "333", address]).returncode == 0
    return sent


def fragments(octets: int, mtu: int, header: int) -> int:
    """Packets of a datagram, by RFC 791 and RFC 8200: all parts but the last are a multiple of 8."""
    return -(-octets // ((mtu - header) // 8 * 8))


DIALOGUES = """
import json, socket, struct, sys, threading, time
# argv: own address, then lines of a plan on stdin: [verb, ...]; each is answered when it is done.
held = []
def reuse(kind):
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock
def listen(port, end):
    one = reuse(socket.SOCK_STREAM)
    one.bind(("", port))
    one.listen(8)
    held.append(one)
    def serve():
        peer, _ = one.accept()
        try:
            while peer.recv(4096) and end != "reset":
                pass
        except ConnectionResetError:
            pass
        if end == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    threading.Thread(target=serve, daemon=True).start()
def take(port):
    # So that no ICMP error answers a datagram.
    one = reuse(socket.SOCK_DGRAM)
    one.bind(("", port))
    held.append(one)
def connect(port, address, to, end):
    one = reuse(socket.SOCK_STREAM)
    one.bind(("", port))
    one.settimeout(1.0)
    try:
        one.connect((address, to))
        one.sendall(b"hello")
        if end == "reset":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end == "wait":
            one.recv(1)
    except OSError:
        pass
    one.close()
def datagram(port, address, to):
    one = reuse(socket.SOCK_DGRAM)
    one.bind(("", port))
    one.sendto(b"hello", (address, to))
    held.append(one)
def both(port, address, to):
    # A connection that both open: stays in SYN_SENT until the filters are gone.
    one = reuse(socket.SOCK_STREAM)
    one.bind(("", port))
    one.setblocking(False)
    try:
        one.connect((address, to))
    except BlockingIOError:
        pass
    held.append(one)
def talk():
    held[-1].settimeout(8)
    held[-1].sendall(b"hello")
    assert held[-1].recv(5) == b"hello"
    held[-1].close()
for line in sys.stdin:
    verb, *words = json.loads(line)
    globals()[verb](*words)
    print("done", flush=True)
"""


class Talker:
    """The program above in a pod, told what to do line by line."""

    def __init__(self, lab: Any, name: str) -> None:
        self.address = lab.pod(name, "exact").addresses[0]
        argv = lab.command(lab.pod(name, "exact"), [sys.executable, "-c", DIALOGUES])
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *words: object, wait: bool = True) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        if wait:
            self.told()

    def told(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.communicate(timeout=20)


def filters(lab: Any, verb: str, *names: str) -> None:
    """Drop (-I) or no longer drop (-D) what comes to the port that both open."""
    for name in names:
        lab.exec(
            lab.pod(name, "exact"), ["iptables", verb, "INPUT", "-p", "tcp", "--dport", "6883", "-j", "DROP"]
        )


def opened_by_both(lab: Any, first: Talker, second: Talker) -> None:
    """Both send a SYN before either hears the other's: the first SYN says who opened."""
    filters(lab, "-I", "a", "c")
    first.tell("both", 6883, second.address, 6883)
    second.tell("both", 6883, first.address, 6883)
    filters(lab, "-D", "a", "c")
    first.tell("talk", wait=False)
    second.tell("talk")
    first.told()


def dialogues(lab: Any) -> set[tuple[str, str, int, str, int]]:
    """Makes them; (protocol, consumer, its port, provider, its port) of each, by who spoke first."""
    a, c = Talker(lab, "a"), Talker(lab, "c")
    truth: set[tuple[str, str, int, str, int]] = set()

    def tcp(one: Talker, port: int, other: Talker, to: int, end: str = "close", taken: str = "close") -> None:
        if taken:
            other.tell("listen", to, taken)
        one.tell("connect", port, other.address, to, end)
        truth.add(("TCP", one.address, port, other.address, to))

    try:
        tcp(a, 1024, c, 60_999)  # the provider's port is the higher one
        tcp(a, 40_000, c, 2121)  # FTP: control,
        tcp(c, 20, a, 40_001)  # active data,
        tcp(a, 40_002, c, 61_000)  # and passive data
        tcp(a, 6881, c, 6881)  # from the port it listens on itself
        tcp(c, 6882, a, 6882)
        tcp(a, 40_010, c, SILENT, taken="")  # half open
        tcp(a, 40_011, c, 59_999, taken="")  # refused
        tcp(a, 40_012, c, 50_001, end="reset")
        tcp(a, 40_013, c, 50_002, end="wait", taken="reset")
        for one, port, other, to in ((a, 60_000, c, 60_000), (c, 50_003, a, 40_003)):
            other.tell("take", to)
            one.tell("datagram", port, other.address, to)
            truth.add(("UDP", one.address, port, other.address, to))
        opened_by_both(lab, a, c)
        truth.add(("TCP", a.address, 6883, c.address, 6883))
    finally:
        a.end()
        c.end()
    return truth


TRANSLATED = 20
"""Connections of each kind."""


class Kind(NamedTuple):
    """One kind of translated connection: who calls which address, and both flows that must come of it."""

    where: Any
    address: str
    port: int
    first: int
    flows: set[tuple[str, str, int, str]]
    """(consumer, provider, port, leg); the consumer of the second is whom the provider sees."""


def kinds(lab: Any, overlay: str) -> dict[str, Kind]:
    def four(addresses: Any) -> str:
        return str(next(address for address in addresses if ":" not in address))

    a, b, c = (four(lab.pod(name, "exact").addresses) for name in "abc")
    vip = {one.name: four(one.addresses) for one in lab.services if one.namespace == "exact"}
    one, two = lab.nodes
    bridge, n1, n2 = one.bridge4, one.uplink4, two.uplink4
    seen = one.tunnel4 if overlay == "vxlan" else n1
    pod, to = lab.pod("a", "exact"), TCP_PORT
    return {
        "service, same node": Kind(
            pod, vip["b"], 80, 23_000, {(a, vip["b"], 80, "pre-dnat"), (a, b, to, "post-dnat")}
        ),
        "service, other node": Kind(
            pod, vip["c"], 80, 23_100, {(a, vip["c"], 80, "pre-dnat"), (a, c, to, "post-dnat")}
        ),
        "its own service": Kind(
            lab.pod("b", "exact"),
            vip["b"],
            80,
            23_200,
            {(b, vip["b"], 80, "pre-dnat"), (bridge, b, to, "post-dnat + snat")},
        ),
        "NodePort of its own node": Kind(
            pod, n1, 30080, 23_300, {(a, n1, 30080, "pre-dnat"), (bridge, b, to, "post-dnat + snat")}
        ),
        "NodePort of the other node": Kind(
            pod, n2, 30081, 23_400, {(a, n2, 30081, "pre-dnat"), (two.bridge4, c, to, "post-dnat + snat")}
        ),
        "NodePort from outside": Kind(
            lab.outside,
            n1,
            30081,
            23_500,
            {("203.0.113.10", n1, 30081, "pre-dnat"), (seen, c, to, "post-dnat + snat")},
        ),
        "node to service": Kind(
            one, vip["b"], 80, 23_600, {(n1, vip["b"], 80, "pre-dnat"), (bridge, b, to, "post-dnat + snat")}
        ),
    }
