"""A whole server on a real port, without a process of its own unless a test wants to kill it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient

from ringfence.model.batches import BatchHeader
from ringfence.model.columns import Table
from ringfence.server.app import Server, ServerSettings, make_app
from ringfence.testing.batches import SECOND, header, no_translations
from ringfence.wire.codec import NO_HOPS, encode

# The engine of one process serves one folder at a time; each test gets its own folder and its own engine.


class Api:
    """A started server and a client of its API."""

    def __init__(self, data: Path, clock: Callable[[], int]) -> None:
        self.server = Server(ServerSettings(data=str(data), agent_tokens=True), clock)
        self.server.start()
        self.agent = (data / "agent.token").read_text().strip()
        self.admin = self.server.shown or ""
        self.client = TestClient(make_app(self.server.service, self.server.tokens))
        self.client.__enter__()
        self.sequences: dict[tuple[str, str], itertools.count[int]] = {}

    def close(self) -> None:
        self.client.__exit__(None, None, None)
        self.server.stop()

    def post(self, body: bytes, token: str | None = None) -> tuple[int, Any]:
        response = self.client.post(
            "/v1/ingest/batches", content=body, headers={"Authorization": f"Bearer {token or self.agent}"}
        )
        return response.status_code, response.json()

    def send(
        self,
        rows: Table,
        windows: tuple[int, ...],
        node: str = "node1",
        translations: Table | None = None,
        hops: Table = NO_HOPS,
        **facts: Any,
    ) -> BatchHeader:
        """Send one batch as the next of its node; it must be acknowledged."""
        epoch = facts.pop("epoch", "e1")
        number = next(self.sequences.setdefault((node, epoch), itertools.count(1)))
        head = header(number, windows, node=node, epoch=epoch, **{"sent": self.server._clock(), **facts})
        status, answer = self.post(
            encode(head, rows, no_translations() if translations is None else translations, hops)
        )
        assert (status, answer) == (200, {"acknowledged": number})
        return head

    def get(self, path: str, token: str | None = None, **parameters: Any) -> Any:
        response = self.client.get(
            path, params=parameters, headers={"Authorization": f"Bearer {token or self.admin}"}
        )
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def now() -> int:
    """A recent aligned second: rows older than the retention would be refused."""
    return time.time_ns() // SECOND * SECOND


@pytest.fixture
def api(tmp_path: Path, now: int) -> Iterator[Api]:
    api = Api(tmp_path / "data", lambda: now)
    yield api
    api.close()
