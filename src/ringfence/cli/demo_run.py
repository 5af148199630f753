"""Runs the demo: lab, server, agents and connector as the processes they are elsewhere, then asks the API."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ringfence.cli.client import Client
from ringfence.cli.demo_report import Report, categories, connections_of, write_policies
from ringfence.cli.keeper import LAB, Keeper
from ringfence.cli.stack import Stack
from ringfence.flows.present import rfc3339
from ringfence.model.problems import Problem

CLUSTER = "lab"
SETTLE = 3.0
"""Seconds for the last window to close, be sent and be stored."""
ARRIVAL = 10.0
"""Seconds more that late windows are waited for; from then on the server itself counts them as missing."""
SECOND = 1_000_000_000


class Progress(Protocol):
    """Told what is happening; `passing` lines may be rewritten."""

    def __call__(self, text: str, passing: bool = False) -> None: ...


class DemoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `ringfence demo` was asked."""

    seconds: int
    listen: str
    data: Path
    policies: Path
    overlay: str
    intruder: bool
    manifests: Path | None
    replay: bool
    temporary: bool
    """Whether `data` goes at the end."""


class Demo:
    """A running demo: `learn` waits and reports, `serve` keeps the API up. A replay's time is already over: its
    `span` has an end."""

    def __init__(
        self,
        settings: DemoSettings,
        stack: Stack,
        client: Client,
        api: tuple[str, str],
        say: Progress,
        span: tuple[int, int | None],
    ) -> None:
        self._settings, self._stack, self._client, self._say = settings, stack, client, say
        self._since, self._until = span
        self.url, self.token = api

    def learn(self) -> Report:
        """Wait for the asked time, then ask the API for everything."""
        window = {"since": rfc3339(self._since), "until": rfc3339(self._until or self._wait())}
        ask = self._client.get
        found, others = categories(connections_of(ask, window), self._settings.overlay)
        discovered = self._client.post("/v1/policies/discover", window)
        edges = ask("/v1/edges", window)
        return Report(
            mode="live" if self._until is None else "replay",
            server=self.url,
            since=window["since"],
            until=window["until"],
            categories=found,
            other_categories=others,
            edges=edges["edges"],
            policies=write_policies(self._settings.policies, discovered["policies"]),
            unresolved=discovered["unresolved"],
            completeness=edges["completeness"],
            agents=ask("/v1/agents", {})["agents"],
        )

    def serve(self) -> None:
        """Stay until a child ends or Ctrl-C."""
        while True:
            self._check()
            time.sleep(0.5)

    def _wait(self) -> int:
        """Show progress until the time is over; returns the moment the window ends (UTC nanoseconds)."""
        end = time.monotonic() + self._settings.seconds
        while (left := end - time.monotonic()) > 0:
            self._check()
            self._say(self._state(left), passing=True)
            time.sleep(min(2.0, left))
        until = time.time_ns()  # noqa: TID251 - the demo is a user of the API, with a clock of its own
        time.sleep(SETTLE)
        late = time.monotonic() + ARRIVAL
        while time.monotonic() < late and not self._arrived(until):
            self._say("waiting for the last windows", passing=True)
            time.sleep(0.5)
        return until

    def _arrived(self, until: int) -> bool:
        """Whether every node's windows (of a second, as agents here are told) that began before `until` are in."""
        wanted = -(-until // SECOND) - -(-self._since // SECOND)
        window = {"since": rfc3339(self._since), "until": rfc3339(until)}
        nodes = self._client.get("/v1/completeness", window)["nodes"]
        return all(node["windows_closed"] >= wanted for node in nodes)

    def _check(self) -> None:
        """Raise Problem when something that should run has ended."""
        self._stack.check()
        if self._until is None:
            from ringfence.lab import cluster

            if not cluster.status(LAB).running:
                raise Problem(
                    "the lab ended", f"lab {LAB}", "start the demo again; nothing is left of this one"
                )

    def _state(self, left: float) -> str:
        edges = self._client.get("/v1/edges", {"since": rfc3339(self._since)})
        seen = sum(edge["connections"] for edge in edges["edges"])
        return f"learning: {left:3.0f} s left, {seen} connections, {len(edges['edges'])} edges"


@contextmanager
def running(settings: DemoSettings, say: Progress) -> Iterator[Demo]:
    """Start everything; on leaving, end everything and leave nothing behind."""
    why_not = "asked to" if settings.replay else why_not_live()
    with ExitStack() as undo:
        undo.enter_context(_writable(settings.policies))
        keeper = Keeper(settings.data if settings.temporary else None, not why_not, say)
        undo.enter_context(keeper)
        stack = undo.enter_context(Stack(settings.data / "logs", (keeper.child_end,)))
        token = secrets.token_urlsafe(24)
        url = _start_server(settings, stack, token, say)
        client = Client(url, token)
        if why_not:
            from ringfence.cli.demo_replay import replay

            say(f"replaying a recorded capture: {why_not}")
            span = replay(settings.data / "server", url, say)
            yield Demo(settings, stack, client, (url, token), say, span)
        else:
            since = _start_live(settings, stack, undo, (url, client), say)
            yield Demo(settings, stack, client, (url, token), say, (since, None))


@contextmanager
def _writable(policies: Path) -> Iterator[None]:
    """Make the folder, to refuse before the learning what could not be written after it; gone again if unused."""
    made = [folder for folder in (policies, *policies.parents) if not folder.exists()]
    try:
        policies.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(policies, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    try:
        if reason:
            raise Problem(f"cannot write policies ({reason})", str(policies), "name another --policies")
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def why_not_live() -> str | None:
    """Why no lab can be built here, in words; None where it can."""
    if os.geteuid() != 0:
        return "not root, and only root may make network namespaces and load eBPF"
    for tool in ("ip", "iptables"):
        if shutil.which(tool) is None:
            return f"the command `{tool}` is missing; `make setup` installs it"
    return None


def _start_server(settings: DemoSettings, stack: Stack, token: str, say: Callable[[str], None]) -> str:
    say("starting the server on its embedded store")
    data = settings.data / "server"
    stack.start(
        "server",
        "server",
        "--listen",
        settings.listen,
        "--data",
        str(data),
        # A demo lives on loopback for a minute: its agents are let in by a token, not enrolled.
        *("--agents", "none", "--agent-tokens"),
        env={"RINGFENCE_ADMIN_TOKEN": token},
    )
    stack.wait_for("server", data / "ready")
    return (data / "ready").read_text().strip()


def _start_live(
    settings: DemoSettings, stack: Stack, undo: ExitStack, api: tuple[str, Client], say: Callable[[str], None]
) -> int:
    from ringfence.lab import cluster
    from ringfence.lab.settings import LabSettings

    say(f"building the lab: two nodes joined by {settings.overlay}, the Sock Shop")
    manifests = str(settings.manifests) if settings.manifests else None
    lab = cluster.up(
        LabSettings(name=LAB, overlay=settings.overlay, intruder=settings.intruder, manifests=manifests)
    )
    undo.callback(lab.down)
    # Children end before the lab does: the stack is closed first, so that agents detach from live interfaces.
    undo.callback(stack.stop)
    say(f"{len(lab.pods)} pods run on {len(lab.nodes)} nodes; starting the connector and the agents")
    token_file = settings.data / "server" / "agent.token"
    common = ("--server", api[0], "--cluster", CLUSTER)
    stack.start(
        "connector",
        "connector",
        *common,
        "--kubeconfig",
        str(lab.kubeconfig),
        "--server-token-file",
        str(settings.data / "server" / "connector.token"),
    )
    for node in lab.nodes:
        where = settings.data / f"agent-{node.name}"
        stack.start(
            f"agent-{node.name}",
            "agent",
            *common,
            *("--token-file", str(token_file), "--node", node.name, "--data", str(where)),
            *("--mode", "detailed", "--netns", f"/run/netns/{node.netns}"),
            *("--pin-dir", f"/run/ringfence/bpf/{node.netns}"),
        )
    return _wait_for_agents(api[1], stack, [node.name for node in lab.nodes])


def _wait_for_agents(client: Client, stack: Stack, nodes: list[str], seconds: float = 60.0) -> int:
    """The moment from which every node is seen (UTC nanoseconds)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stack.check()
        agents: list[dict[str, Any]] = client.get("/v1/agents", {})["agents"]
        if set(nodes) <= {agent["node"] for agent in agents}:
            return time.time_ns()  # noqa: TID251 - the demo is a user of the API, with a clock of its own
        time.sleep(0.25)
    said = stack.last_words(f"agent-{nodes[0]}")
    raise Problem(f"no batch from every agent within {seconds:.0f} s", ", ".join(nodes), f"it says: {said}")
