"""ClientHellos: as OpenSSL writes them, cut anywhere, and damaged."""

from __future__ import annotations

import random
import ssl
import struct

import pytest

from ringfence.capture.decode import tls
from ringfence.model.batches import TlsInfo


def hello(name: str | None, protocols: list[str]) -> bytes:
    """The first flight of Python's own TLS: an implementation that is not ours."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(protocols)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(into, out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


WHOLE = hello("shop.example.org", ["h2", "http/1.1"])


def test_what_openssl_asks_for() -> None:
    assert tls.decode(WHOLE) == (TlsInfo("shop.example.org", ("h2", "http/1.1")), True)


def test_nothing_asked_for() -> None:
    assert tls.decode(hello(None, [])) == (TlsInfo(None, ()), True)


def test_a_cut_gives_what_came_before_it() -> None:
    for length in range(6, len(WHOLE)):
        info, whole = tls.decode(WHOLE[:length])
        assert not whole
        assert info.server_name in (None, "shop.example.org")
        assert info.alpn in ((), ("h2", "http/1.1"))


def test_a_message_over_many_records() -> None:
    body = WHOLE[5:]
    pieces = [body[at : at + 40] for at in range(0, len(body), 40)]
    records = b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)
    assert tls.decode(records) == (TlsInfo("shop.example.org", ("h2", "http/1.1")), True)


def test_an_alert_in_between_ends_it() -> None:
    first = b"\x16\x03\x01" + struct.pack(">H", 40) + WHOLE[5:45]
    assert tls.decode(first + b"\x15\x03\x01\0\x02\2\x28" + WHOLE) == (TlsInfo(), True)


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def made(*extensions: bytes) -> bytes:
    """The smallest hello with these extensions."""
    joined = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack(">H", len(joined)) + joined
    return b"\x16\x03\x01" + struct.pack(">H", len(body) + 4) + b"\1\0" + struct.pack(">H", len(body)) + body


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"a.b", "a.b"), (b"a\nb", "a\\x0ab"), (b"", None), (b"x" * 254, None), ("é".encode(), "\\xc3\\xa9")],
)
def test_names_become_one_printable_word(name: bytes, shown: str | None) -> None:
    entry = b"\0" + struct.pack(">H", len(name)) + name
    data = made(extension(0, struct.pack(">H", len(entry)) + entry))
    assert tls.decode(data)[0].server_name == shown


def test_grease_is_no_protocol() -> None:
    protocols = b"\2\x8a\x8a" + b"\2h2" + b"\0"
    data = made(extension(16, struct.pack(">H", len(protocols)) + protocols))
    assert tls.decode(data)[0].alpn == ("h2",)
    assert tls.decode(made(extension(16, struct.pack(">H", 3) + b"\2\x8a\x8a")))[0].alpn == ()


def test_no_extensions_at_all() -> None:
    data = made()
    body = data[5:-2]
    body = body[:1] + struct.pack(">I", len(body) - 4)[1:] + body[4:]
    assert tls.decode(b"\x16\x03\x00" + struct.pack(">H", len(body)) + body) == (TlsInfo(), True)


@pytest.mark.parametrize(
    "data", [b"", b"\x16\x03\x01\0\x05", b"GET / HTTP/1.1", b"\x16\x03\x01\0\x05\x02" * 3]
)
def test_other_things_are_refused(data: bytes) -> None:
    with pytest.raises(tls.Unreadable):
        tls.decode(data)


def test_damage_raises_nothing_else() -> None:
    chance = random.Random(4)
    seeds = [WHOLE, made(extension(0, b"\0\5\0\0\2ab"), extension(16, b"\0\3\2h2"))]
    for _ in range(20_000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x16, 0xFF, chance.randrange(256)))
        try:
            info, _ = tls.decode(bytes(data[: chance.randint(0, len(data))]))
        except tls.Unreadable:
            continue
        assert len(info.alpn) <= tls.MAX_ALPN
        for text in (info.server_name, *info.alpn):
            assert text is None or (0 < len(text) <= tls.MAX_NAME and text.isprintable() and " " not in text)
