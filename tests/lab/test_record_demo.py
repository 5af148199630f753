"""The recorder's forwarder passes on whatever agents and connector ask, and keeps the posts that were accepted."""

from __future__ import annotations

import importlib.util
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked; 404 where the path says so."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        text = f"{self.command} {self.path} {self.headers['Authorization']} ".encode() + body
        self.send_response(404 if "absent" in self.path else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forwarder(repo: Path) -> Any:
    spec = importlib.util.spec_from_file_location("record_demo", repo / "scripts" / "record_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.forwarder


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PUT", b"a checkpoint"), ("POST", b"a batch")])
def test_every_method_goes_through_and_posts_are_kept(repo: Path, method: str, body: bytes | None) -> None:
    posts: list[tuple[str, bytes]] = []
    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as target,
        serving(forwarder(repo)(target, posts)) as url,
    ):
        asked = urllib.request.Request(url + "/v1/a?b=1", body, {"Authorization": "Bearer t"}, method=method)
        with urllib.request.urlopen(asked) as answer:
            assert answer.read() == f"{method} /v1/a?b=1 Bearer t ".encode() + (body or b"")
        refused = urllib.request.Request(url + "/v1/absent", body, method=method)
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(refused)
        caught.value.close()
    assert posts == ([("/v1/a?b=1", b"a batch")] if method == "POST" else [])
