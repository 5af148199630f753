"""DNS messages: those of the RFCs, those cut anywhere, and many that are damaged."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.capture.decode import dns

LABEL = st.binary(min_size=1, max_size=20)


def wire(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def header(
    flags: int, questions: int = 1, answers: int = 0, authorities: int = 0, additional: int = 0
) -> bytes:
    return struct.pack(">6H", 0xBEEF, flags, questions, answers, authorities, additional)


def record(name: bytes, kind: int, ttl: int, value: bytes) -> bytes:
    return name + struct.pack(">HHIH", kind, 1, ttl, len(value)) + value


QUESTION = wire(b"Web", b"example", b"org") + struct.pack(">HH", dns.A, 1)
ALIAS = record(b"\xc0\x0c", dns.CNAME, 60, wire(b"edge", b"cdn", b"net"))
TARGET = record(wire(b"edge", b"cdn", b"net"), dns.A, 5, bytes([192, 0, 2, 7]))
SIX = record(b"\xc0\x0c", dns.AAAA, 7, bytes(15) + b"\1")
OPT = record(b"\0", dns.OPT, 1 << 24, b"")
ANSWER = header(0x8180, answers=3, additional=1) + QUESTION + ALIAS + TARGET + SIX + OPT


def test_an_alias_its_target_and_the_extended_result() -> None:
    message = dns.decode(ANSWER)
    assert (message.number, message.response, message.operation) == (0xBEEF, True, 0)
    assert (message.question, message.kind, message.rcode) == ("Web.example.org", dns.A, 16)
    assert message.answers == (
        dns.Record("Web.example.org", dns.CNAME, 60, "edge.cdn.net"),
        dns.Record("edge.cdn.net", dns.A, 5, bytes([192, 0, 2, 7])),
        dns.Record("Web.example.org", dns.AAAA, 7, bytes(15) + b"\1"),
    )
    assert not message.cut
    assert not message.truncated


def test_what_comes_before_a_cut_is_kept() -> None:
    whole = len(header(0) + QUESTION)
    for length in range(len(ANSWER)):
        if length < whole:
            with pytest.raises(dns.Unreadable):
                dns.decode(ANSWER[:length])
        else:
            message = dns.decode(ANSWER[:length])
            assert message.cut
            assert message.answers == dns.decode(ANSWER).answers[: len(message.answers)]
    assert len(dns.decode(ANSWER[:-11]).answers) == 3


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # points to itself
        b"\xc0\x20",  # points forward
        b"\1a\xc0\x0c",  # a loop with a label in it
        b"\x80",  # a label of an unknown kind
        (b"\x3f" + b"x" * 63) * 4 + b"\0",  # 257 octets
    ],
)
def test_names_that_no_message_may_hold(name: bytes) -> None:
    with pytest.raises(dns.Unreadable):
        dns.decode(header(0) + name + struct.pack(">HH", dns.A, 1) + bytes(40))


def test_a_long_chain_of_pointers_is_followed_to_its_end() -> None:
    # The text record holds 1,000 pointers, each to the one before it; the first leads to the question's name.
    question = wire(b"deep") + struct.pack(">HH", dns.A, 1)
    at = 12 + len(question) + 11
    links = [struct.pack(">H", 0xC000 | (12 if i == 0 else at + 2 * (i - 1))) for i in range(1000)]
    text = record(b"\0", 16, 1, b"".join(links))
    last = record(struct.pack(">H", 0xC000 | at + 2 * 999), dns.A, 1, bytes(4))
    message = dns.decode(header(0x8000, answers=2) + question + text + last)
    assert message.answers == (dns.Record("deep", dns.A, 1, bytes(4)),)


def test_a_service_names_its_host() -> None:
    value = struct.pack(">HHH", 0, 100, 8080) + wire(b"pod-0", b"web")
    message = dns.decode(header(0x8000, answers=1) + QUESTION + record(b"\xc0\x0c", dns.SRV, 30, value))
    assert message.answers == (dns.Record("Web.example.org", dns.SRV, 30, "pod-0.web"),)


def test_a_ttl_with_its_first_bit_set_is_none() -> None:
    data = header(0x8000, answers=1) + QUESTION + record(b"\xc0\x0c", dns.A, 1 << 31, bytes(4))
    assert dns.decode(data).answers[0].ttl == 0


@given(st.lists(LABEL, min_size=1, max_size=8))
def test_a_name_is_one_word_of_printable_ascii(labels: list[bytes]) -> None:
    message = dns.decode(header(0) + wire(*labels) + struct.pack(">HH", dns.A, 1))
    assert message.question.isprintable()
    assert message.question.isascii()
    assert " " not in message.question


@given(st.lists(st.binary(max_size=600), max_size=5), st.binary(max_size=1))
def test_frames_of_a_stream(messages: list[bytes], rest: bytes) -> None:
    stream = b"".join(struct.pack(">H", len(message)) + message for message in messages) + rest
    assert dns.framed(stream) == (messages, rest)
    for length in range(0, len(stream), 7):
        found, left = dns.framed(stream[:length])
        assert found == messages[: len(found)]
        assert stream[:length].endswith(left)


def test_damage_raises_nothing_else() -> None:
    chance = random.Random(4)
    seeds = [ANSWER, header(0x0100) + QUESTION, ANSWER[:50], bytes(12)]
    for _ in range(20_000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.choice((0, 0xC0, 0xFF, 0x3F, chance.randrange(256)))
        try:
            message = dns.decode(bytes(data[: chance.randint(0, len(data))]))
        except dns.Unreadable:
            continue
        assert message.question.isprintable()
        assert len(message.answers) + len(message.additional) <= dns.MOST
