"""What a server tells an agent while it runs, and the connection over which the agent asks for it.

Orders are what is desired now, under a generation, and never a queue of commands: asking again after a lost answer or
a restart of either side gives the same. The agent waits for another generation (a long poll), so it hears at once.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlencode

import msgspec

from ringfence.model.problems import Problem
from ringfence.wire.client import Credentials, split

ORDERS_PATH, STREAM_PATH = "/v1/agents/orders", "/v1/agents/captures/{id}"
WAIT = 25.0
"""Seconds for which the server keeps a question that has no new answer."""
PATIENCE = 10.0
"""Seconds beyond, after which an agent takes the connection for dead."""
MAX_ANSWER = 4 << 20
FULL = 262_144
"""Octets of a packet that are kept when nothing else is asked for."""
LEAST = 14
"""The same, at least: an Ethernet header."""
SHARED = "host network: everything of its node that crosses an uplink, of whichever process"
"""What the file says of a pod that has no network of its own."""
STREAM_TYPE = "application/x-pcapng"


class Target(msgspec.Struct, frozen=True):
    """What to capture. `name` is NAMESPACE/POD or a node's name; without `uid` it is the node's own network."""

    name: str
    uid: str | None = None
    note: str = ""


class CaptureOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One capture as one agent is to make it."""

    id: str
    targets: tuple[Target, ...]
    filter: str = ""
    snaplen: int = FULL
    seconds: float = 0
    """After these the agent ends by itself, whatever it hears; 0 is never."""
    packets: int = 0
    """Packets after which it ends; 0 is never. The server counts again over all agents."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What is desired of one node now. `mode` None: as its own settings say."""

    generation: int
    mode: str | None = None
    captures: tuple[CaptureOrder, ...] = ()


class Line:
    """One connection to the server with the agent's credentials. One thread uses it; `close` may come from any."""

    def __init__(self, url: str, credentials: Credentials, timeout: float | None) -> None:
        self._secure, self._host, self._port, self._root = split(url)
        self._credentials, self._timeout = credentials, timeout
        self._headers: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None
        self._closed = False

    def ask(self, cluster: str, node: str, after: int) -> Orders:
        """The node's orders, as soon as their generation is not `after`. Raises OSError, HTTPException or Problem."""
        if self._credentials.renewed():
            self._drop()
        connection = self._open()
        query = urlencode({"cluster": cluster, "node": node, "after": after})
        try:
            connection.request("GET", f"{self._root}{ORDERS_PATH}?{query}", headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException):
            self._drop()
            raise
        if answer.status != 200 or answer.will_close:
            self._drop()
        if answer.status != 200:
            raise Problem(f"HTTP status {answer.status}", ORDERS_PATH, "look at the server's log")
        try:
            return msgspec.json.decode(body, type=Orders)
        except msgspec.DecodeError as error:
            fix = "server and agents must be of the same version"
            raise Problem(f"orders that cannot be read ({error})", ORDERS_PATH, fix) from None

    def stream(self, id_: str, cluster: str, node: str, failure: str = "") -> None:
        """Begin to send a capture; `send` and `end` follow. Raises OSError, HTTPException or Problem."""
        self._credentials.renewed()
        connection = self._open()
        query = urlencode({"cluster": cluster, "node": node, "failure": failure[:1000]})
        connection.putrequest("POST", f"{self._root}{STREAM_PATH.format(id=id_)}?{query}")
        headers = {**self._headers, "Content-Type": STREAM_TYPE, "Transfer-Encoding": "chunked"}
        for header in headers.items():
            connection.putheader(*header)
        connection.endheaders()
        made = connection.sock
        made.settimeout(None)
        # An idle capture must notice that the server's machine is gone.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
            made.setsockopt(socket.IPPROTO_TCP, option, value)

    def send(self, data: bytes) -> None:
        """One chunk; waits for as long as the reader is slow. Raises OSError."""
        if data:
            self._sock().sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Everything is sent; returns when the server has it. Raises OSError or HTTPException."""
        sock = self._sock()
        sock.sendall(b"0\r\n\r\n")
        sock.settimeout(PATIENCE)
        sock.recv(4096)

    def over(self) -> bool:
        """Whether the other end has had enough: it closed, or answers before everything was sent."""
        sock = self._sock()
        sock.settimeout(0)
        try:
            # Over TLS there may be something to read that is no answer: tickets, key updates.
            sock.recv(1)
            return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            sock.settimeout(None)

    def fileno(self) -> int:
        """Readable when `over` is worth asking."""
        return self._sock().fileno()

    def close(self) -> None:
        """End it for good, also under a thread that waits in it."""
        self._closed = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _sock(self) -> socket.socket:
        if self._connection is None or self._connection.sock is None:
            raise OSError("the connection was closed")
        made: socket.socket = self._connection.sock
        return made

    def _open(self) -> http.client.HTTPConnection:
        if self._closed:
            raise OSError("the connection was closed")
        if self._connection is None:
            context, self._headers = self._credentials.show()
            if self._secure:
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout, context=context
                )
            else:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return self._connection


Caller = Callable[[float | None], Line]
"""Makes a connection with a timeout in seconds, None for none."""
