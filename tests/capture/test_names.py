"""The ring's records become segments, and segments columns within limits: with octets made here, whole and damaged."""

from __future__ import annotations

import random
import struct

import numpy as np

from ringfence.capture.decode.heard import Limits, Listener, Segment
from ringfence.capture.layout import MESSAGE
from ringfence.capture.names import segments
from ringfence.flows.heard import ANSWER
from ringfence.flows.heard import MESSAGE as ASKED
from ringfence.model.addresses import pack, unpack
from ringfence.model.batches import TlsInfo

from .test_kernel_names import answer, question
from .test_tls import hello

NEAR, FAR = pack("10.0.0.1"), pack("2001:db8::1")


def record(payload: bytes, sport: int = 1000, dport: int = 53, protocol: int = 17, length: int = -1) -> bytes:
    """As the kernel lays it out, by NumPy."""
    row = np.zeros(1, MESSAGE)
    row["time"], row["length"], row["sequence"] = 77, len(payload) if length < 0 else length, 0xFFFF_FFFE
    row["key"]["src"], row["key"]["dst"] = NEAR, FAR
    row["key"]["sport"], row["key"]["dport"] = sport, dport
    row["key"]["tap"], row["key"]["protocol"] = (5 + 1) << 2 | 1, protocol
    return row.tobytes() + payload.ljust(512, b"\0")


def test_a_record_becomes_a_segment() -> None:
    (found,) = segments([record(b"hello")])
    assert found == Segment(77, NEAR, FAR, 1000, 53, 17, 5, 0xFFFF_FFFE, b"hello")
    assert unpack(*found.src) == "10.0.0.1"


def test_what_the_kernel_could_not_read_or_cut_short() -> None:
    assert list(segments([record(b"", length=0), b"", bytes(10)])) == []
    (found,) = segments([record(b"x" * 512, length=4000)])
    assert len(found.payload) == 512


def test_strangers_octets_never_raise() -> None:
    """A fixed number of cases over DNS by UDP and TCP and hellos: octets changed, lengths that lie, anything cut."""
    dice = random.Random(11)
    asked = question(1, "shop.example.org")
    tcp = struct.pack(">H", len(asked)) + asked
    good = [(asked, 9, 53, 17), (answer(asked, "192.0.2.1", "192.0.2.2"), 53, 9, 17), (tcp, 9, 53, 6)]
    good.append((hello("shop.example.org", ["h2"]), 9, 443, 6))
    listener = Listener(Limits(rows=300, terms=200, octets=20_000))
    for _ in range(3_000):
        payload, sport, dport, protocol = dice.choice(good)
        damaged = bytearray(payload[:512])
        for _ in range(dice.randrange(5)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        damaged = damaged[: dice.randrange(len(damaged) + 1)] if dice.random() < 0.3 else damaged
        length = dice.choice((-1, -1, -1, 0, 1, 4000, 0xFFFF_FFFF))
        raw = record(bytes(damaged), sport, dport, protocol, length)
        for segment in segments([raw[: dice.randrange(len(raw))] if dice.random() < 0.1 else raw]):
            listener.hear(segment)
    assert listener.crowded > 0
    heard = listener.take()
    assert len(heard.messages) <= 300
    assert len(heard.answers) <= 300
    assert len(heard.names) + len(heard.tls) <= 401
    assert (heard.answers["message"] < len(heard.messages)).all()
    assert (heard.answers["name"] < len(heard.names)).all()
    for name in heard.names:
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name


def segment(payload: bytes, sport: int, dport: int, protocol: int = 17) -> Segment:
    return Segment(1, NEAR, FAR, sport, dport, protocol, 0, 0, payload)


def test_limits_are_counted_and_begin_anew_with_each_take() -> None:
    said = answer(question(1, "shop.example.org"), "192.0.2.1", "192.0.2.2")
    for limits, kept in (
        (Limits(rows=5), 2),  # two answers each
        (Limits(terms=4), 4),  # one name, and room for two
        (Limits(octets=16), 1),
        (Limits(), 4),
    ):
        listener = Listener(limits)
        for _ in range(2):
            for _ in range(4):
                listener.hear(segment(said, 53, 1000))
            heard = listener.take()
            assert (len(heard.messages), len(heard.answers)) == (kept, 2 * kept)
        assert listener.crowded == 2 * (4 - kept)


def test_hellos_have_limits_too() -> None:
    listener = Listener(Limits(terms=2))
    for name in ("a.example", "b.example", "c.example"):
        listener.hear(segment(hello(name, []), 1000, 443, 6))
    assert listener.take().tls == (TlsInfo("a.example"), TlsInfo("b.example"))
    assert listener.crowded == 1


def test_the_packed_rows_are_the_tables_rows() -> None:
    listener = Listener()
    listener.hear(segment(answer(question(0xFFFF, "x.y"), "255.1.2.3", ttl=0x7FFF_FFFF), 53, 1000))
    heard = listener.take()
    (message,), (told,) = heard.messages, heard.answers
    assert (heard.messages.dtype, heard.answers.dtype) == (ASKED, ANSWER)
    assert [int(message[part]) for part in ("consumer_hi", "consumer_lo")] == list(FAR)
    assert [int(message[part]) for part in ("provider_hi", "provider_lo")] == list(NEAR)
    assert (message["consumer_port"], message["provider_port"], message["number"]) == (1000, 53, 0xFFFF)
    assert (message["response"], message["rcode"], told["ttl"], told["message"]) == (1, 0, 0x7FFF_FFFF, 0)
    assert unpack(int(told["address_hi"]), int(told["address_lo"])) == "255.1.2.3"
