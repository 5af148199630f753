"""A whole Ringfence over a lab: server, connector and one agent a node, as the processes they are elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.cli.client import Client
from ringfence.cli.stack import Stack
from ringfence.flows.present import rfc3339
from ringfence.lab import cluster
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import LabSettings

TOKEN = "an-admin-token-of-a-test-server-01"


class World:
    """A lab that is watched. `ask` speaks to the API only: tests assert what users would see."""

    def __init__(self, lab: Lab, stack: Stack, client: Client, url: str, folder: Path, since: int) -> None:
        self.lab, self.stack, self.client, self.url, self.folder, self.since = (
            lab,
            stack,
            client,
            url,
            folder,
            since,
        )

    def ask(self, path: str, **parameters: Any) -> Any:
        """GET, over the whole life of this world unless `since` says otherwise."""
        return self.client.get(path, {"since": rfc3339(self.since), "limit": 100_000} | parameters)

    def ask_one(self, name: str, since: str) -> dict[str, Any]:
        """The whole connection of this id, hop by hop."""
        found: dict[str, Any] = self.client.get(f"/v1/flows/{name}", {"since": since})["connection"]
        return found

    def settle(self, seconds: float = 75.0) -> None:
        """Wait until every node's windows up to now have arrived."""
        target, deadline = time.time_ns(), time.monotonic() + seconds
        wanted = {node.name for node in self.lab.nodes}
        while time.monotonic() < deadline:
            self.stack.check()
            closed = self.client.get("/v1/completeness", {"since": rfc3339(target)})["nodes"]
            if wanted <= {node["node"] for node in closed if node["windows_closed"] >= 2}:
                return
            time.sleep(0.3)
        raise AssertionError("the agents' windows did not arrive")


def start(lab: Lab, folder: Path, stack: Stack, *agent_flags: str, mode: str = "detailed") -> World:
    """Start server, connector and agents over `lab`; returns when every agent was heard."""
    data = folder / "server"
    stack.start(
        "server",
        *("server", "--listen", "127.0.0.1:0", "--data", str(data), "--agent-tokens"),
        env={"RINGFENCE_ADMIN_TOKEN": TOKEN},
    )
    stack.wait_for("server", data / "ready")
    url = (data / "ready").read_text().strip()
    client = Client(url, TOKEN)
    common = ("--server", url, "--cluster", "lab")
    token = str(data / "agent.token")
    stack.start(
        "connector", "connector", *common, "--kubeconfig", str(lab.kubeconfig), "--server-token-file", token
    )
    for node in lab.nodes:
        start_agent(lab, folder, stack, url, node.name, *agent_flags, mode=mode)
    _wait_until_heard(client, stack, {node.name for node in lab.nodes})
    # Windows belong to a time by their start, so the one that is open now is taken in.
    return World(lab, stack, client, url, folder, time.time_ns() - 1_000_000_000)


def start_agent(
    lab: Lab, folder: Path, stack: Stack, url: str, node: str, *flags: str, mode: str = "detailed"
) -> None:
    """One more agent process for `node`. It may not capture yet: see `wait_for_capture`."""
    netns = next(each.netns for each in lab.nodes if each.name == node)
    stack.start(
        f"agent-{node}",
        *(
            "agent",
            "--server",
            url,
            "--cluster",
            "lab",
            "--token-file",
            str(folder / "server" / "agent.token"),
        ),
        *("--node", node, "--data", str(folder / f"agent-{node}"), "--mode", mode),
        *("--netns", f"/run/netns/{netns}", "--pin-dir", f"/run/ringfence/bpf/{netns}", *flags),
        env={"RINGFENCE_DEBUG": "1"},  # a defect ends it, so that tests notice
    )


def wait_for_capture(stack: Stack, node: str, seconds: float = 60.0) -> None:
    """Until the agent that was started last on `node` says that it captures: what comes after is at its taps."""
    deadline = time.monotonic() + seconds
    while not (said := stack.says(f"agent-{node}", f"capturing on {node}")) and time.monotonic() < deadline:
        stack.check()
        time.sleep(0.05)
    assert said, stack.last_words(f"agent-{node}")


def _wait_until_heard(client: Client, stack: Stack, nodes: set[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stack.check()
        heard = {agent["node"] for agent in client.get("/v1/agents")["agents"]}
        known = client.get("/v1/inventory", {"kind": "Pod"})["endpoints"]
        if nodes <= heard and known:
            return
        time.sleep(0.2)
    raise AssertionError(f"not heard from {nodes}")


Watch = Callable[..., World]


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """Builds watched labs; nothing of them is left after the module."""
    made: list[tuple[Stack, str]] = []

    def build(
        prepare: Callable[[Lab], None] = lambda _: None,
        agent_flags: tuple[str, ...] = (),
        mode: str = "detailed",
        **settings: Any,
    ) -> World:
        name = f"w{os.getpid()}n{len(made)}"
        folder = tmp_path_factory.mktemp(name)
        stack = Stack(folder / "logs")
        stack.__enter__()
        made.append((stack, name))
        lab = cluster.up(LabSettings(name=name, **settings))
        prepare(lab)
        return start(lab, folder, stack, *agent_flags, mode=mode)

    yield build
    for stack, name in made:
        stack.stop()
        cluster.down(name)
