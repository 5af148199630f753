"""A server whose agents' listener is a real socket, with a clock that a test may move; and agents that talk to it."""

from __future__ import annotations

import itertools
import ssl
import time
from pathlib import Path
from typing import Any

from litestar.testing import TestClient

from ringfence.agent.identity import Enrol, Identity
from ringfence.server import listeners
from ringfence.server.agents import AgentsListener
from ringfence.server.app import Server, ServerSettings, make_agents_app, make_app
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.client import Outcome, Sender
from ringfence.wire.codec import encode


class Site:
    """One server. `later` moves its clock, in seconds; agents keep theirs."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.data, self.later = data, 0.0
        self.server = Server(ServerSettings(data=str(data), **settings), self.now)
        self.server.start()
        self.service = self.server.service
        socket = listeners.listener("127.0.0.1:0")
        self.url = listeners.url(socket, True)
        self.listener = AgentsListener(make_agents_app(self.service), self.service.enrolment, socket)
        self.listener.start()
        self.client = TestClient(make_app(self.service, self.server.tokens))
        self.client.__enter__()
        self.agents: list[Agent] = []
        self.closed = False

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for agent in self.agents:
            agent.sender.close()
        self.client.__exit__(None, None, None)
        self.listener.stop()
        self.server.stop()

    def now(self) -> int:
        return time.time_ns() + int(self.later * SECOND)

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """(status, answer) of people's API."""
        headers = {"Authorization": f"Bearer {token or self.server.shown}"}
        answer = self.client.request(method, path, json=body, headers=headers)
        return answer.status_code, answer.json()

    def token(self, node: str = "", **wish: Any) -> str:
        """A one-time token."""
        status, made = self.ask("POST", "/v1/enrol/tokens", {"cluster": "lab", "node": node, **wish})
        assert status == 200, made
        return str(made["token"])

    def listed(self) -> dict[str, dict[str, Any]]:
        """State by serial."""
        return {row["serial"]: row for row in self.ask("GET", "/v1/enrol/agents")[1]["agents"]}

    def stored(self) -> int:
        """Batches that were acknowledged."""
        return sum(mark.sequence for mark in self.service._facts.marks())


class Agent:
    """What an agent does about its identity, and batches of one epoch at a time."""

    def __init__(
        self, site: Site, folder: Path, node: str = "node1", token: str | None = None, **enrol: Any
    ) -> None:
        self.site, self.node, self.folder = site, node, folder
        self.said: list[str] = []
        self.later = 0.0
        if token is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "token").write_text(token)
            enrol["enrol_token_file"] = str(folder / "token")
        given = {
            "server": site.url,
            "cluster": "lab",
            "node": node,
            "folder": str(folder / "identity"),
            **enrol,
        }
        self.identity = Identity(Enrol(**given), self.said.append, self.now)
        self.sender = Sender(given["server"], self.identity, timeout=5)
        self.sequences: dict[str, itertools.count[int]] = {}
        site.agents.append(self)

    def now(self) -> int:
        return time.time_ns() + int(self.later * SECOND)

    def send(self, epoch: str = "e1", sequence: int | None = None, node: str | None = None) -> Outcome:
        """One batch, the next of its epoch."""
        number = sequence or next(self.sequences.setdefault(epoch, itertools.count(1)))
        window = self.site.now() // SECOND * SECOND
        head = header(number, (window,), node=node or self.node, epoch=epoch, sent=self.site.now())
        return self.sender.send(encode(head, sighting(window), no_translations()))

    def send_over(self, sender: Sender) -> None:
        """From now on by another way."""
        self.sender.close()
        self.sender = sender

    @property
    def pem(self) -> Path:
        return self.folder / "identity" / "identity.pem"

    @property
    def serial(self) -> str:
        held = self.identity._held()
        assert held is not None
        return held.serial

    def context(self) -> ssl.SSLContext:
        return self.identity.show()[0]  # type: ignore[return-value]
