"""Outcomes are values, whatever a server does: a real HTTP server on loopback answers as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ringfence.model.problems import Problem
from ringfence.wire.client import Acknowledged, Expected, Outcome, Refused, Sender, Unreachable

ANSWERS: dict[bytes, tuple[int, bytes]] = {
    b"ok": (200, b'{"acknowledged": 7}'),
    b"gap": (409, b'{"expected": 3}'),
    b"bad": (400, b'{"error": {"what": "not a batch", "where": "x", "fix": "y"}}'),
    b"auth": (401, b"{}"),
    b"busy": (503, b"{}"),
    b"slow": (429, b"{}"),
    b"proxy": (200, b"<html>"),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"cut":
            self.close_connection = True
            return
        status, answer = ANSWERS[body]
        self.send_response(status if self.headers["Authorization"] == "Bearer t" else 500)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_answer_is_a_value(url: str) -> None:
    sender = Sender(url, "t", timeout=5)
    answers: list[tuple[bytes, type[Outcome]]] = [
        (b"ok", Acknowledged),
        (b"gap", Expected),
        (b"bad", Refused),
        (b"auth", Refused),
        (b"busy", Unreachable),
        (b"slow", Unreachable),
        (b"proxy", Unreachable),
        (b"cut", Unreachable),
        (b"ok", Acknowledged),
    ]
    for body, kind in answers:
        assert isinstance(sender.send(body), kind), body
    assert sender.send(b"ok") == Acknowledged(7)
    assert sender.send(b"gap") == Expected(3)
    assert sender.send(b"bad") == Refused(400, "not a batch: x: y")
    sender.close()


def test_nobody_there_is_a_value() -> None:
    assert isinstance(Sender("http://127.0.0.1:1", "t").send(b"ok"), Unreachable)


@pytest.mark.parametrize(
    "address", ["", "ftp://x", "http://", "127.0.0.1:80", "http://x:99999", "http://[::1"]
)
def test_bad_addresses_are_problems(address: str) -> None:
    with pytest.raises(Problem, match="bad server address"):
        Sender(address, "t")
