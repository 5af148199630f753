"""Packets quoted in ICMP errors: a drop reason for conversations that are there, and never a conversation."""

from __future__ import annotations

import tempfile

import pytest

from ringfence.capture.packets.read import read_capture
from ringfence.flows.handshakes import drops
from ringfence.model.columns import Drop, Table
from ringfence.testing import captures as c

A, B, ROUTER = "10.0.0.1", "10.0.0.2", "10.0.0.9"
A6, B6 = "fd00::1", "fd00::2"
ASKED = c.ip(c.udp(5000, 53, b"x" * 30), A, B, 17)
ASKED6 = c.ip(c.udp(5000, 53, b"x" * 30), A6, B6, 17)
SYN = c.ip(c.tcp(5000, 80, c.SYN), A, B, 6)
PING = c.ip(c.icmp(8), A, B, 1)
EXTENDED6 = c.ipv6(
    b"\x2c\0" + b"\1\4\0\0\0\0" + b"\x11\0\0\0\0\0\0\7" + c.udp(5000, 53, b"x" * 30), A6, B6, 0
)
LATER6 = c.ipv6(b"\x11\0\0\x08\0\0\0\7" + b"\x13\x88\0\x35" + b"x" * 30, A6, B6, 44)


def error(quoted: bytes, kind: int = 3, code: int = 1, to: str = A) -> bytes:
    return c.ether(c.ip(c.icmp(kind, code) + quoted, ROUTER, to, 1))


def error6(quoted: bytes, kind: int = 1, code: int = 4) -> bytes:
    return c.ether(c.ip(c.icmp(kind, code) + quoted, B6, A6, 58), 0x86DD)


def flows_of(*frames: bytes, snap: int = 65535) -> Table:
    with tempfile.NamedTemporaryFile(prefix="ringfence-test-") as file:
        file.write(c.pcap(frames, snap=snap))
        file.flush()
        return read_capture(file.name).captured.flows


def vxlan(frame: bytes) -> bytes:
    return c.ether(c.ip(c.udp(9, 4789, c.vxlan(frame)), "192.168.0.1", "192.168.0.2", 17))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((c.ether(ASKED), error(ASKED[:28])), Drop.UNREACHABLE),
        ((error(ASKED[:28]), c.ether(ASKED)), Drop.UNREACHABLE),
        ((c.ether(SYN), error(SYN[:28], code=13)), Drop.UNREACHABLE),
        ((c.ether(PING), error(PING)), Drop.UNREACHABLE),
        ((c.ether(c.ip(c.udp(53, 5000), B, A, 17)), error(ASKED[:28])), Drop.UNREACHABLE),
        ((c.ether(ASKED6, 0x86DD), error6(ASKED6[:48])), Drop.UNREACHABLE),
        ((c.ether(ASKED6, 0x86DD), error6(EXTENDED6)), Drop.UNREACHABLE),
        ((vxlan(c.ether(ASKED)), vxlan(error(ASKED[:28]))), Drop.UNREACHABLE),
        ((c.ether(ASKED), error(ASKED, code=4)), Drop.NONE),  # asks for smaller packets
        ((c.ether(ASKED), error(ASKED, kind=11)), Drop.NONE),
        ((c.ether(ASKED), error(ASKED[:23])), Drop.NONE),  # cut before its ports
        ((c.ether(ASKED), error(b"\x43" + ASKED[1:])), Drop.NONE),
        ((c.ether(ASKED), error(c.ip(ASKED[20:], A, B, 17, offset=800))), Drop.NONE),
        ((c.ether(ASKED6, 0x86DD), error6(ASKED6, kind=2)), Drop.NONE),
        ((c.ether(ASKED6, 0x86DD), error6(LATER6)), Drop.NONE),
        ((vxlan(c.ether(ASKED)), error(ASKED[:28])), Drop.NONE),  # what was in a tunnel was not there
    ],
)
def test_what_an_error_says(frames: tuple[bytes, ...], reason: Drop) -> None:
    flows = flows_of(*frames)
    (asked,) = flows[
        (flows["consumer_port"] == 5000)
        | (flows["provider_port"] == 5000)
        | (flows["provider_port"] == 0x0800)
    ]
    assert drops(asked.reshape(1)).tolist() == [reason]
    errors = flows[flows["provider_port"] >> 8 == (1 if asked["consumer_hi"] else 3)]
    assert not errors["drop"].any()


def test_a_quote_of_what_never_was_makes_no_conversation() -> None:
    (flow,) = flows_of(error(ASKED[:28]))
    assert (flow["protocol"], flow["drop"]) == (1, Drop.NONE)


def test_an_error_that_was_cut_says_nothing() -> None:
    for snap in range(14 + 20, 14 + 20 + 8 + 24):
        flows = flows_of(c.ether(ASKED), error(ASKED[:28]), snap=snap)
        assert not flows["drop"].any()
