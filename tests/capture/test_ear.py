"""Frames of a ring: each question is heard once, at the asker's own tap or where the node's own leave."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from ringfence.capture.decode.ear import MOST_GREETINGS, TOLD_LATELY, Ear
from ringfence.capture.decode.heard import Listener, Segment
from ringfence.capture.decode.ring import Counter, Taps
from ringfence.model.addresses import pack, unpack
from ringfence.model.batches import TlsInfo

from .test_kernel_names import answer, question
from .test_ring import PORTS, block, frame, ip, udp
from .test_tls import hello

TAPS = Taps(np.array([7, 9]), np.array([0, 1]), np.array([False, True]))
"""Interface 7 is a pod's, 9 the node's and without Ethernet."""
ASKED = question(1, "shop.example.org")
ASKS, ANSWERS = udp(1000, 53, ASKED), udp(53, 1000, answer(ASKED, "192.0.2.7"))


def ears(ours: str = "10.0.0.9") -> tuple[Counter, Listener, Ear]:
    listener = Listener()
    ear = Ear(listener)
    ear.on, ear.pods, ear.ours = True, frozenset({0}), frozenset({pack(ours)})
    return Counter(PORTS, ear, 256), listener, ear


@pytest.mark.parametrize(
    ("ifindex", "ours", "kept"), [(7, "10.0.0.9", True), (9, "10.0.0.9", False), (9, "10.0.0.1", True)]
)
def test_whose_questions(ifindex: int, ours: str, kept: bool) -> None:
    """A pod's come in at its tap; the node's leave by its own."""
    counter, listener, _ = ears(ours)
    coming = ifindex == 7
    back = bytearray(ip(ANSWERS, 17))
    back[12:16], back[16:20] = back[16:20], back[12:16]
    rows, _ = counter.count(
        *block(frame(ip(ASKS, 17), ifindex, coming), frame(bytes(back), ifindex, not coming)), TAPS
    )
    assert int(rows["packets"].sum()) == 2
    heard = listener.take()
    assert heard.messages["response"].tolist() == [0, 1] * kept
    if kept:
        assert heard.names == ("shop.example.org",)
        assert set(heard.messages["tap"].tolist()) == {0 if coming else 1}
        (told,) = heard.answers
        assert unpack(int(told["consumer_hi"]), int(told["consumer_lo"])) == "10.0.0.1"
        assert unpack(int(told["address_hi"]), int(told["address_lo"])) == "192.0.2.7"


def test_the_wrong_way_through_a_pods_tap() -> None:
    """Questions that go into a pod are asked of it by others, who have taps of their own."""
    counter, listener, _ = ears()
    counter.count(*block(frame(ip(ASKS, 17), coming=False), frame(ip(ANSWERS, 17), coming=True)), TAPS)
    assert len(listener.take().messages) == 0


def greeting(name: str, time: int = 5) -> bytes:
    """A ClientHello in 256 octets and more, as the filter keeps it."""
    head = struct.pack(">HHIIBBHHH", 1000, 443, 1, 1, 0x50, 0x18, 100, 0, 0)
    packet = ip(head + hello(name, ["h2"]), 6)
    data = bytes(12) + b"\x08\0" + packet
    size = (96 + len(data) + 7) & ~7
    start = struct.pack("=IIIIIIHH", size, time, 6, len(data), len(data), 1, 96, 110).ljust(48, b"\0")
    start += struct.pack("=HHiHBB", 17, 8, 7, 1, 0, 6)
    return (start.ljust(96, b"\0") + data).ljust(size, b"\0")


def test_a_hello_is_told_once_and_again_a_second_later() -> None:
    counter, listener, ear = ears()
    for time, told in ((5, 1), (5, 0), (6, 1)):
        counter.count(*block(greeting("shop.example.org", time)), TAPS)
        heard = listener.take()
        assert len(heard.hellos) == told
        assert heard.tls == (TlsInfo("shop.example.org", ("h2",)),) * told
    for port in range(MOST_GREETINGS + 9):
        assert ear._is_new(
            Segment(99 * TOLD_LATELY, pack("10.0.0.1"), pack("10.0.0.2"), port, 443, 6, 0, 0, b"")
        )
    assert len(ear._greetings) == MOST_GREETINGS


def test_switched_off() -> None:
    counter, listener, ear = ears()
    ear.on = False
    rows, _ = counter.count(*block(frame(ip(ASKS, 17))), TAPS)
    assert int(rows["packets"].sum()) == 1
    assert len(listener.take().messages) == 0


def test_damaged_frames_never_raise() -> None:
    """A fixed number of cases."""
    dice = random.Random(5)
    counter, _, _ = ears()
    good = [ip(ASKS, 17), ip(ANSWERS, 17), greeting("shop.example.org")[110:500]]
    for _ in range(600):
        frames = []
        for one in good:
            damaged = bytearray(one)
            for _ in range(dice.randrange(6)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            cut = bytes(damaged[: dice.randrange(1, len(damaged))]) if dice.random() < 0.3 else bytes(damaged)
            frames.append(frame(cut, dice.choice((7, 9)), dice.random() < 0.5))
        rows, _ = counter.count(*block(*frames), TAPS)
        assert len(rows) <= len(frames)
