"""Carries one batch to the server and brings back what became of it, as a value.

Standard library only: this runs on every node. One `Sender` is one connection, kept open between batches
and used by one thread.
"""

from __future__ import annotations

import http.client
import ssl
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from ringfence.model.problems import Problem

PATH = "/v1/ingest/batches"
MAX_ANSWER = 1 << 20
_CLOSED = (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected, ssl.SSLEOFError)
"""How it looks when the other end closed a connection: also what a refused client certificate looks like."""


class Acknowledged(msgspec.Struct, frozen=True):
    """Everything up to `sequence` is durable; the agent may forget it."""

    sequence: int


class Expected(msgspec.Struct, frozen=True):
    """The server wants `sequence` of this epoch next; this batch was not kept."""

    sequence: int


class Refused(msgspec.Struct, frozen=True):
    """The server will never take this batch as it is (bad token, bad bytes): do not send it again as it is."""

    status: int
    reason: str


class Unreachable(msgspec.Struct, frozen=True):
    """No answer, or the server is busy or stopping: keep the batch and send it again later."""

    reason: str


Outcome = Acknowledged | Expected | Refused | Unreachable


class Credentials(Protocol):
    """How an agent shows who it is. Both methods raise Problem or OSError where it cannot now: try again later."""

    def renewed(self) -> bool:
        """Whether what `show` gave last is no longer what it would give; may take seconds."""

    def show(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        """The TLS context of a new connection, and headers of every request."""

    def refused(self, status: int) -> None:
        """The server refused what we showed, with an HTTP status, or 0: perhaps, in the handshake."""


class Bearer:
    """A token of the development switch. `context` is for https; None verifies against the system's authorities."""

    def __init__(self, token: str, context: ssl.SSLContext | None = None) -> None:
        self._shown = context, {"Authorization": f"Bearer {token}"}

    def renewed(self) -> bool:
        """Never."""
        return False

    def show(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        """Always the same."""
        return self._shown

    def refused(self, status: int) -> None:
        """Nothing helps."""


class _Answer(msgspec.Struct):
    acknowledged: int | None = None
    expected: int | None = None
    error: dict[str, str] | None = None


class Sender:
    """Posts batches to one server. `url` is its root, `credentials` (or a bearer token) say who we are, `timeout` in
    seconds."""

    def __init__(
        self,
        url: str,
        credentials: Credentials | str,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._secure, self._host, self._port, path = split(url)
        self._path = path + PATH
        self._credentials = Bearer(credentials, context) if isinstance(credentials, str) else credentials
        self._timeout = timeout
        self._headers: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None

    def send(self, body: bytes) -> Outcome:
        """Post one batch. Never raises for what the network or the server does."""
        try:
            if self._credentials.renewed():
                self.close()
            status, answer = self._post(body)
        except (OSError, http.client.HTTPException, Problem) as error:
            self.close()
            if isinstance(error, _CLOSED) or (
                isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
            ):
                self._credentials.refused(0)
            return Unreachable(str(error) or type(error).__name__)
        if status in (401, 403):
            self.close()
            self._credentials.refused(status)
        return _outcome(status, answer)

    def close(self) -> None:
        """Drop the connection; the next `send` opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes) -> tuple[int, bytes]:
        kept = self._connection is not None
        try:
            return self._exchange(body)
        except _CLOSED:
            # A server closes connections that were idle; a batch twice does no harm.
            if not kept:
                raise
            self.close()
            return self._exchange(body)

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        connection = self._open()
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        connection.request("POST", self._path, body, headers)
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER)
        if response.will_close:
            self.close()
        return response.status, answer

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is None:
            context, self._headers = self._credentials.show()
            if self._secure:
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout, context=context
                )
            else:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return self._connection


def split(url: str) -> tuple[bool, str, int | None, str]:
    """(https, host, port, path) of a server's address. Raises Problem."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise Problem("bad server address", url, "write it as http://HOST:PORT or https://HOST:PORT")
    return parts.scheme == "https", parts.hostname or "", parts.port, parts.path.rstrip("/")


def _outcome(status: int, body: bytes) -> Outcome:
    """What a status and a body mean: 2xx and 409 decide, other 4xx are final, the rest is for later."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError:
        answer = _Answer()
    if status == 200 and answer.acknowledged is not None:
        return Acknowledged(answer.acknowledged)
    if status == 409 and answer.expected is not None:
        return Expected(answer.expected)
    reason = ": ".join((answer.error or {}).values()) or f"HTTP status {status}"
    if 400 <= status < 500 and status not in (408, 425, 429):
        return Refused(status, reason)
    return Unreachable(reason)
