from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.lab import talk

TABLE = {"a.b.svc.cluster.local": {"A": ["10.0.0.1", "10.0.0.2"], "AAAA": ["fd00::1"]}}


def test_a_question_is_answered_from_the_table() -> None:
    for kind, expected in ((talk.A, ["10.0.0.1", "10.0.0.2"]), (talk.AAAA, ["fd00::1"])):
        message = talk.reply(talk.question("A.b.svc.cluster.local.", kind, 77), TABLE)
        assert talk.answers(message) == (77, expected)


def test_an_unknown_name_does_not_exist() -> None:
    message = talk.reply(talk.question("example.org", talk.A, 1), TABLE)
    assert message[3] & 0xF == talk.NAME_ERROR
    assert talk.answers(message) == (1, [])


@given(st.binary(max_size=80))
def test_any_bytes_are_answered_or_refused(data: bytes) -> None:
    for read in (lambda: talk.reply(data, TABLE), lambda: talk.answers(data)):
        try:
            read()
        except ValueError:
            continue


def test_an_endless_name_is_refused() -> None:
    with pytest.raises(ValueError, match="cut short"):
        talk.reply(talk.question("a.b", talk.A, 1)[:15] + b"\x3f" * 10, TABLE)


def test_checksums() -> None:
    assert talk._checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert talk._crc32c(b"123456789") == 0xE3069283


def test_an_init_is_32_octets_with_its_own_checksum() -> None:
    packet = talk.sctp_init(1, 2, tag=5)
    assert len(packet) == 32
    (crc,) = struct.unpack("<I", packet[8:12])
    assert crc == talk._crc32c(packet[:8] + bytes(4) + packet[12:])
