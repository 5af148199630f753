"""What a TLS client asks for in the clear: server name and protocols of its ClientHello.

RFC 8446 section 4.1.2 and RFC 5246 section 7.4.1.2 (the message), RFC 6066 section 3 (server name), RFC 7301 (ALPN).
The first octets of a connection suffice: a hello that goes on in segments not seen gives what came before the cut.
Where the client encrypts its hello (ECH), the outer name is what is on the wire and what is given.
"""

from __future__ import annotations

from ringfence.model.batches import TlsInfo

HANDSHAKE, CLIENT_HELLO = 22, 1
SERVER_NAME, ALPN = 0, 16
MAX_NAME = 253
MAX_ALPN = 64
"""Protocols taken of one hello; clients offer two or three."""


class Unreadable(Exception):
    """These octets do not begin with a ClientHello."""


def is_hello(data: bytes) -> bool:
    """Whether a segment may begin a ClientHello: what the kernel's program looks for too."""
    return len(data) >= 6 and data[0] == HANDSHAKE and data[1] == 3 and data[5] == CLIENT_HELLO


def decode(data: bytes) -> tuple[TlsInfo, bool]:
    """`(what is asked for, whole)` of a connection's first octets; not whole when more might follow. Raises Unreadable."""
    if not is_hello(data):
        raise Unreadable("no handshake record with a ClientHello")
    hello, ended = _message(data)
    try:
        extensions, size = _extensions(hello)
    except IndexError:
        return TlsInfo(), ended
    name: str | None = None
    protocols: tuple[str, ...] = ()
    at, end = 0, min(size, len(extensions))
    while at + 4 <= end:
        kind, length = _u16(extensions, at), _u16(extensions, at + 2)
        body = extensions[at + 4 : min(at + 4 + length, end)]
        if kind == SERVER_NAME and len(body) == length:
            name = _server_name(body)
        elif kind == ALPN and len(body) == length:
            protocols = _protocols(body)
        at += 4 + length
    return TlsInfo(name, protocols), ended or 0 < size <= len(extensions)


def _message(data: bytes) -> tuple[bytes, bool]:
    """Body of the first handshake message, its records joined, and whether that is all of it."""
    joined, at = bytearray(), 0
    while at + 5 <= len(data) and data[at] == HANDSHAKE and data[at + 1] == 3:
        length = _u16(data, at + 3)
        joined += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(joined) >= 4 and len(joined) >= 4 + _u24(joined, 1):
            break
    length = _u24(joined, 1) if len(joined) >= 4 else 0
    # Another record in between ends the hello, whatever it said: nothing more of it can come.
    broken = at + 5 <= len(data)
    return bytes(joined[4 : 4 + length]), broken or (len(joined) >= 4 and len(joined) - 4 >= length)


def _extensions(hello: bytes) -> tuple[bytes, int]:
    """The extensions there are, and the octets they should be. Raises IndexError when the hello ends before them."""
    at = 2 + 32
    at += 1 + hello[at]  # session id
    at += 2 + _u16(hello, at)  # cipher suites
    at += 1 + hello[at]  # compression methods
    if at == len(hello):
        return b"", 0  # extensions may be absent before TLS 1.3
    return hello[at + 2 :], _u16(hello, at)


def _server_name(body: bytes) -> str | None:
    """The first name of type 0 (host name); None for anything that is no name."""
    at, end = 2, min(len(body), 2 + _u16(body, 0)) if len(body) >= 2 else 0
    while at + 3 <= end:
        length = _u16(body, at + 1)
        name = body[at + 3 : at + 3 + length]
        if body[at] == 0 and at + 3 + length <= end:
            return _text(name)
        at += 3 + length
    return None


def _protocols(body: bytes) -> tuple[str, ...]:
    """Names in the client's order, without those that only keep servers honest (GREASE, RFC 8701)."""
    found: list[str] = []
    at, end = 2, min(len(body), 2 + _u16(body, 0)) if len(body) >= 2 else 0
    while at < end and len(found) < MAX_ALPN:
        name = body[at + 1 : at + 1 + body[at]]
        text = None if _is_grease(name) or at + 1 + body[at] > end else _text(name)
        found += [text] if text else []
        at += 1 + body[at]
    return tuple(found)


def _is_grease(name: bytes) -> bool:
    return len(name) == 2 and name[0] == name[1] and name[0] & 0x0F == 0x0A


def _text(name: bytes) -> str | None:
    """Printable ASCII as it is, other octets as `\\xNN`; None when empty or longer than any name."""
    text = "".join(chr(octet) if 0x21 <= octet <= 0x7E else f"\\x{octet:02x}" for octet in name)
    return text if 0 < len(text) <= MAX_NAME else None


def _u16(data: bytes | bytearray, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _u24(data: bytes | bytearray, at: int) -> int:
    return data[at] << 16 | data[at + 1] << 8 | data[at + 2]
