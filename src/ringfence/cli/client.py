"""The HTTP client of every online verb: `--server`, `--token`, and what they default to."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import typer

from ringfence.model.problems import Problem

SERVER_VARIABLE, TOKEN_VARIABLE, TOKEN_FILE_VARIABLE, CA_VARIABLE = (
    "RINGFENCE_SERVER",
    "RINGFENCE_TOKEN",
    "RINGFENCE_TOKEN_FILE",
    "RINGFENCE_CA_FILE",
)
DEFAULT_SERVER = "http://127.0.0.1:8443"
TIMEOUT = 120.0

ServerOption = Annotated[
    str | None,
    typer.Option("--server", help=f"The server's address [default: ${SERVER_VARIABLE} or {DEFAULT_SERVER}]."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        help=f"A token [default: ${TOKEN_VARIABLE}, the file ${TOKEN_FILE_VARIABLE}, or `ringfence login`].",
    ),
]


class Client:
    """Asks one server. Every failure is a Problem that says what to do."""

    def __init__(self, server: str | None = None, token: str | None = None) -> None:
        self._server = (server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER).rstrip("/")
        if not self._server.startswith(("http://", "https://")):
            raise Problem(
                "bad server address", self._server, "write it as http://HOST:PORT or https://HOST:PORT"
            )
        self._token = (token or _token(self._server)) if token != "" else None
        self._context = _trusting(os.environ.get(CA_VARIABLE)) if self._server.startswith("https:") else None

    def get(self, path: str, parameters: dict[str, Any] | None = None) -> Any:
        """The JSON answer of a GET; parameters that are None are left out."""
        return self._ask(path + _query(parameters), None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer of a POST of `body` as JSON."""
        return self._ask(path, msgspec.json.encode(body))

    def send(self, path: str, parameters: dict[str, Any], file: IO[bytes]) -> Any:
        """The JSON answer of a POST of a file's octets, as they are."""
        return self._ask(path + _query(parameters), file)

    def put(self, path: str, body: Any) -> Any:
        """The JSON answer of a PUT of `body` as JSON."""
        return self._ask(path, msgspec.json.encode(body), "PUT")

    def delete(self, path: str, parameters: dict[str, Any] | None = None) -> Any:
        """The JSON answer of a DELETE."""
        return self._ask(path + _query(parameters), None, "DELETE")

    def stream(self, path: str, body: Any) -> http.client.HTTPResponse:
        """The answer of a POST of `body` as JSON, to be read as it comes; reading waits for as long as it takes."""
        answer = self._opened(path, msgspec.json.encode(body), None)
        # urllib gives no other way to the connection; a server that vanishes is noticed by keep-alive.
        made: socket.socket = answer.fp.raw._sock  # type: ignore[attr-defined]
        made.settimeout(None)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
            made.setsockopt(socket.IPPROTO_TCP, option, value)
        return answer

    def receive(self, path: str, parameters: dict[str, Any]) -> http.client.HTTPResponse:
        """The answer of a GET, to be read as it comes."""
        return self._opened(path + _query(parameters), None, None)

    def _ask(self, path: str, body: bytes | IO[bytes] | None, method: str | None = None) -> Any:
        try:
            with self._opened(path, body, method) as answer:
                return msgspec.json.decode(answer.read())
        except msgspec.DecodeError:
            raise Problem("not an answer of a Ringfence server", self._server, "check --server") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None

    def _opened(
        self, path: str, body: bytes | IO[bytes] | None, method: str | None
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json"}
        if self._token:
            # Whatever is wrong with a token, it is not printed: it would stay in logs.
            if not self._token.isascii() or not self._token.isprintable():
                raise Problem("not a token", "--token", "give the token alone, without quotes or line ends")
            headers["Authorization"] = f"Bearer {self._token}"
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        elif body is not None:
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(_size(body))}
        try:
            request = urllib.request.Request(self._server + path, body, headers, method=method)
            answer: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=TIMEOUT, context=self._context
            )
            return answer
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code, error.read(), self._server + path, bool(self._token)) from None
        except urllib.error.URLError as error:
            raise self._unreachable(str(error.reason)) from None
        except (OSError, http.client.HTTPException, ssl.SSLError, ValueError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None

    def _unreachable(self, reason: str) -> Problem:
        return Problem(
            f"no answer from the server ({reason})",
            self._server,
            "start `ringfence server`, or check --server",
        )


class Conflict(Problem):
    """The server refused because of how things stand: somebody was faster, or endpoints would stand in two scopes."""


def part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _query(parameters: dict[str, Any] | None) -> str:
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _trusting(authority: str | None) -> ssl.SSLContext:
    """Trusts the authority in a file (DATA/authority/ca.crt of the server), or the system's."""
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise Problem(
            f"cannot read the authority ({error})", authority or "", f"check {CA_VARIABLE}"
        ) from None


def _token(server: str) -> str | None:
    """The token that is meant where none is given: of the environment, else of `ringfence login`."""
    from ringfence.cli.sessions import kept

    if token := os.environ.get(TOKEN_VARIABLE):
        return token
    if file := os.environ.get(TOKEN_FILE_VARIABLE):
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise Problem(
                f"cannot read the token ({error.strerror})", file, f"check {TOKEN_FILE_VARIABLE}"
            ) from None
    return kept(server)


class _Error(msgspec.Struct):
    what: str
    where: str
    fix: str


class _ErrorBody(msgspec.Struct):
    error: _Error


def _refused(status: int, body: bytes, where: str, token: bool) -> Problem:
    """The server's own words where it said any."""
    if status == 401 and token and b"wrong name or password" not in body:
        return Problem("the server does not know this token", where, f"check --token or {TOKEN_VARIABLE}")
    if status == 401 and b"wrong name or password" not in body:
        return Problem(
            "the server wants a token", where, f"`ringfence login`, or give --token or set {TOKEN_VARIABLE}"
        )
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.DecodeError:
        return Problem(f"the server answered with status {status}", where, "look at its log")
    return (Conflict if status == 409 else Problem)(error.what, error.where, error.fix)
