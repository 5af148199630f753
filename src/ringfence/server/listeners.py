"""Sockets to listen on, bound before any work so that a port in use costs nothing."""

from __future__ import annotations

import ipaddress
import socket

from ringfence.model.problems import Problem

NONE = "none"


def listener(listen: str) -> socket.socket:
    """A bound, listening socket for HOST:PORT. Raises Problem."""
    host, port = split(listen)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        made = socket.socket(found[0][0], socket.SOCK_STREAM)
    except OSError as error:
        raise Problem(
            f"cannot listen ({error.strerror})", listen, "give an address of this machine"
        ) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(1024)
    except OSError as error:
        made.close()
        raise Problem(
            f"cannot listen ({error.strerror})", listen, "stop what uses the port, or give another address"
        ) from None
    return made


def split(listen: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises Problem."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise Problem("bad listen address", listen, "write HOST:PORT, e.g. 127.0.0.1:8443")
    return host.strip("[]"), int(port)


def agents_address(agents: str, listen: str) -> str | None:
    """Where agents are heard: as told, or beside people's API on the next port; None for nowhere."""
    if agents:
        return None if agents == NONE else agents
    host, port = split(listen)
    following = 0 if port == 0 else port + 1 if port < 65535 else port - 1
    return f"[{host}]:{following}" if ":" in host else f"{host}:{following}"


def url(made: socket.socket, secure: bool) -> str:
    """The address of a listener as a URL."""
    host, port = made.getsockname()[:2]
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def is_local(made: socket.socket) -> bool:
    """Whether only this machine can reach a listener."""
    return ipaddress.ip_address(made.getsockname()[0].partition("%")[0]).is_loopback
