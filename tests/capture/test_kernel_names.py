"""Names and TLS facts of a real kernel: real DNS messages and ClientHellos, told by the tap program."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringfence.capture.counters import NAMES_LOST
from ringfence.capture.decode.heard import Limits
from ringfence.capture.names import CROWDED, OFF, ON
from ringfence.capture.paths import PATHS
from ringfence.capture.ringbuf import RingBuffer
from ringfence.flows.heard import Heard
from ringfence.model.addresses import unpack
from ringfence.model.batches import TlsInfo

pytestmark = pytest.mark.real

NEAR, FAR = "10.77.0.1", "10.77.0.2"
ADDRESSES = {4: (FAR, NEAR), 6: ("fd77::2", "fd77::1")}


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def question(number: int, name: str) -> bytes:
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + encoded(name) + struct.pack(">2H", 1, 1)


def answer(asked: bytes, *addresses: str, ttl: int = 30) -> bytes:
    """A server's answer to a question for A records, written here and not by the decoder's author's code."""
    head = asked[:2] + struct.pack(">5H", 0x8180, 1, len(addresses), 0, 0)
    records = (struct.pack(">3HIH", 0xC00C, 1, 1, ttl, 4) + socket.inet_aton(each) for each in addresses)
    return head + asked[12:] + b"".join(records)


class Responder:
    """A DNS server in the far namespace: every name has these addresses."""

    def __init__(self, lan: Any, family: int, *addresses: str) -> None:
        self.socket = lan.open(lan.far, socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((ADDRESSES[family][0], 53))
        self.addresses, self.over = addresses, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        self.socket.settimeout(0.1)
        while not self.over.is_set():
            try:
                asked, who = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            self.socket.sendto(answer(asked, *self.addresses), who)

    def __enter__(self) -> Responder:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(5)
        self.socket.close()


def ask(lan: Any, family: int, name: str, number: int = 7) -> int:
    """Ask from the near namespace and wait for the answer; the port asked from."""
    with lan.open(lan.near, socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(5)
        one.connect((ADDRESSES[family][0], 53))
        one.send(question(number, name))
        assert one.recv(2048)[:2] == struct.pack(">H", number)
        return int(one.getsockname()[1])


def heard_of(capture: Any) -> Heard:
    capture.drain()
    heard, _ = capture.names()
    capture.commit()
    return heard


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", [4, 6])
def test_questions_and_answers(lan: Any, path: str, family: int) -> None:
    capture = lan.capture(path=path)
    assert ON in capture.notes
    with Responder(lan, family, "192.0.2.7", "192.0.2.8"):
        port = ask(lan, family, "Shop.example.org")
    drained = capture.drain()
    heard, losses = capture.names()
    assert losses == drained.losses == ()
    asked, told = heard.messages[np.argsort(heard.messages["response"])]
    far, near = ADDRESSES[family]
    for row in (asked, told):
        assert unpack(int(row["consumer_hi"]), int(row["consumer_lo"])) == near
        assert unpack(int(row["provider_hi"]), int(row["provider_lo"])) == far
        assert (row["consumer_port"], row["provider_port"], row["protocol"]) == (port, 53, 17)
        assert (row["number"], heard.names[row["name"]]) == (7, "shop.example.org")
    flow = drained.counts[(drained.counts["protocol"] == 17) & (drained.counts["src_port"] == port)][0]
    assert 0 < told["time"] - asked["time"] < 5_000_000_000
    # The same packet by the two clocks of counting and telling.
    assert abs(int(asked["time"]) - int(flow["first"])) < 5_000_000
    found = [(unpack(int(a["address_hi"]), int(a["address_lo"])), int(a["ttl"])) for a in heard.answers]
    assert found == [("192.0.2.7", 30), ("192.0.2.8", 30)]


def greet(lan: Any, family: int, name: str, protocols: list[str]) -> int:
    """A TLS handshake's beginning, by Python's ssl, towards a socket that only takes it; the port it came from."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    context = ssl.create_default_context()
    context.set_alpn_protocols(protocols)
    with lan.open(lan.far, kind, socket.SOCK_STREAM) as listener:
        listener.bind((ADDRESSES[family][0], 443))
        listener.listen()
        with lan.open(lan.near, kind, socket.SOCK_STREAM) as one:
            one.settimeout(5)
            one.connect(listener.getsockname()[:2])
            accepted, _ = listener.accept()
            port = int(one.getsockname()[1])
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            with pytest.raises(ssl.SSLWantReadError):
                context.wrap_bio(into, out, server_hostname=name).do_handshake()
            hello = out.read()
            one.sendall(hello)
            left = len(hello)
            while left:
                left -= len(accepted.recv(left))
            accepted.close()
    return port


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", [4, 6])
def test_what_tls_clients_ask_for(lan: Any, path: str, family: int) -> None:
    capture = lan.capture(path=path)
    port = greet(lan, family, "shop.example.org", ["h2", "http/1.1"])
    heard = heard_of(capture)
    (row,) = heard.hellos
    assert (row["consumer_port"], row["provider_port"]) == (port, 443)
    assert heard.tls == (TlsInfo("shop.example.org", ("h2", "http/1.1")),)


def test_a_hello_over_several_segments(lan: Any, shell: Callable[[str], str]) -> None:
    """As post-quantum key shares make them: what is asked for stands behind the first segment's end."""
    shell(f"ip -n {lan.near} link set near mtu 1280 gso_max_segs 1")
    protocols = [f"protocol-{number:03d}" + "x" * 60 for number in range(40)]
    capture = lan.capture()
    greet(lan, 4, "a-long-hello.example.org", protocols)
    heard = heard_of(capture)
    assert heard.tls[-1] == TlsInfo("a-long-hello.example.org", tuple(protocols))


def test_dns_over_tcp_both_questions(lan: Any) -> None:
    """The second answer of a connection comes behind the first one's PSH."""
    capture = lan.capture()
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((FAR, 53))
        listener.listen()
        with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
            one.connect((FAR, 53))
            server, _ = listener.accept()
            for number, name in ((1, "one.example"), (2, "two.example")):
                asked = question(number, name)
                one.sendall(struct.pack(">H", len(asked)) + asked)
                got = server.recv(2048)[2:]
                said = answer(got, "192.0.2.9")
                server.sendall(struct.pack(">H", len(said)) + said)
                assert one.recv(2048)[2:] == said
            server.close()
    heard = heard_of(capture)
    assert sorted(heard.messages["number"].tolist()) == [1, 1, 2, 2]
    assert {heard.names[row["name"]] for row in heard.answers} == {"one.example", "two.example"}


def test_switched_off_nothing_is_told(lan: Any) -> None:
    capture = lan.capture(names=False, path="clsact")
    assert OFF in capture.notes
    with Responder(lan, 4, "192.0.2.7"):
        ask(lan, 4, "shop.example.org")
    heard = heard_of(capture)
    assert len(heard.messages) == 0
    assert len(RingBuffer(capture._counters.fd("heard"), 9).take()) == 0, "nothing waits for an heir either"


@pytest.mark.parametrize("path", ["auto", "packet"])
def test_over_budget_and_within_it_again(lan: Any, path: str) -> None:
    capture = lan.capture(path=path)
    with Responder(lan, 4, "192.0.2.7"):
        for wanted, name in ((False, "unheard.example"), (True, "heard.example")):
            capture.look_up(wanted)
            ask(lan, 4, name)
            time.sleep(0.1)  # a ring's block is read some milliseconds later
    assert heard_of(capture).names == ("heard.example",)


def test_a_ring_that_is_full_is_counted_exactly(lan: Any) -> None:
    """7 messages of 576 octets fit 4096; what a crash leaves is reported by the heir, once."""
    capture = lan.capture(names_ring=4096)
    with Responder(lan, 4, "192.0.2.7"):
        for number in range(20):
            ask(lan, 4, "shop.example.org", number)
        drained = capture.drain()
        heard, _ = capture.names()
        (loss,) = drained.losses
        assert (loss.stage, loss.packets, loss.events) == (NAMES_LOST, 0, 40 - len(heard.messages))
        assert loss.events > 0
        assert capture.drain().losses == drained.losses, "again the same until it is committed"
        ask(lan, 4, "shop.example.org")
        capture.commit()
        assert capture.drain().losses == ()
        capture.commit()
        capture.stop(keep=True)
        for number in range(20):
            ask(lan, 4, "later.example.org", number)
        heir = lan.capture(names_ring=4096)
        assert heir.adopted
        drained = heir.drain()
        heard, _ = heir.names()
        assert drained.losses[0].events + len(heard.messages) == 40 + 2
        assert "later.example.org" in heard.names


def test_an_heir_that_is_not_to_hear_switches_off(lan: Any) -> None:
    lan.capture().stop(keep=True)
    heir = lan.capture(names=False)
    assert heir.adopted
    with Responder(lan, 4, "192.0.2.7"):
        ask(lan, 4, "shop.example.org")
    assert len(RingBuffer(heir._counters.fd("heard"), 9).take()) == 0


def test_what_finds_no_room_in_a_window_is_counted(lan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringfence.capture.names.LIMITS", Limits(rows=6, terms=100, octets=10_000))
    capture = lan.capture()
    with Responder(lan, 4, "192.0.2.7"):
        for number in range(5):
            ask(lan, 4, "shop.example.org", number)
    capture.drain()
    heard, losses = capture.names()
    assert len(heard.messages) == 6
    assert [(loss.stage, loss.events) for loss in losses] == [(CROWDED, 4)]


def test_nonsense_on_port_53_is_no_name_and_no_loss(lan: Any, tmp_path: Path) -> None:
    capture = lan.capture()
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        for size in (1, 11, 12, 40, 600, 1400):
            one.sendto(bytes(range(256))[:size] * (1 + size // 256), (FAR, 53))
    drained = capture.drain()
    heard, losses = capture.names()
    assert drained.losses == losses == ()
    assert len(heard.answers) == 0


@pytest.mark.parametrize("path", PATHS)
def test_every_path_counts_the_same_beside_names(lan: Any, path: str) -> None:
    """Frames that come with their payload are counted as others are."""
    capture = lan.capture(path=path)
    with Responder(lan, 4, "192.0.2.7"):
        for _ in range(5):
            ask(lan, 4, "shop.example.org")
    port = greet(lan, 4, "shop.example.org", ["h2"])
    drained = capture.drain()
    counts = drained.counts
    asked = counts[(counts["protocol"] == 17) & (counts["dst_port"] == 53)]
    assert (asked["packets"].sum(), asked["octets"].sum()) == (
        5,
        5 * (28 + len(question(7, "shop.example.org"))),
    )
    answered = counts[(counts["protocol"] == 17) & (counts["src_port"] == 53)]
    size = len(answer(question(7, "shop.example.org"), "192.0.2.7"))
    assert (answered["packets"].sum(), answered["octets"].sum()) == (5, 5 * (28 + size))
    sent, received = lan.transmitted(), lan.transmitted(way="rx")
    assert (sent[0], received[0]) == tuple(
        int(counts[counts["ingress"] == way]["packets"].sum()) for way in (0, 1)
    )
    assert (sent[1], received[1]) == tuple(
        int(counts[counts["ingress"] == way]["octets"].sum()) for way in (0, 1)
    )
    assert port in counts["src_port"]
