"""Pods come and go, agents and the server are killed: every conversation is there once, and names who really spoke."""

from __future__ import annotations

import signal
import time

import pytest

from ringfence.flows.present import rfc3339

from .conftest import TOKEN, start_agent, wait_for_capture

pytestmark = [pytest.mark.real, pytest.mark.slow]

PORT, ROUNDS = 8080, 12


def prepare(lab):
    for node in ("node1", "node2"):
        lab.add_pod("churn", f"client-{node}", node=node)
        lab.add_pod("churn", f"stays-{node}", ports=[PORT], node=node)
    lab.add_service("churn", "web", {"app": "web"}, [{"port": 80, "targetPort": PORT}])


def restart_server(world):
    """Killed without warning, and started again at the address the agents know."""
    world.stack.kill("server", signal.SIGKILL)
    data = world.folder / "server"
    (data / "ready").unlink(missing_ok=True)
    listen = world.url.removeprefix("http://")
    world.stack.start(
        "server",
        *("server", "--listen", listen, "--data", str(data), "--agent-tokens"),
        env={"RINGFENCE_ADMIN_TOKEN": TOKEN},
    )
    world.stack.wait_for("server", data / "ready")


def test_every_conversation_once_with_its_right_names(watch):
    world = watch(prepare, overlay="routed", traffic=False, probes=False, apps=False)
    lab, address = world.lab, None
    vip = lab.service("web", "churn").addresses[0]
    made: dict[tuple[str, int], str] = {}
    port = 24_000
    for number in range(ROUNDS):
        name = f"comes-{number}"
        # Every second pod gets the address of the one before it, which has just gone.
        pod = lab.add_pod(
            "churn",
            name,
            labels={"app": "web"},
            ports=[PORT],
            node="node2",
            address=address if number % 2 else None,
        )
        address = pod.addresses[0]
        for client in ("client-node1", "client-node2"):
            for target, at in ((address, PORT), (vip, 80)):
                lab.call(lab.pod(client, "churn"), "tcp", target, at, "--local-port", str(port))
                made[client, port] = name
                port += 1
        if number == 3:
            restart_server(world)
        if number in (5, 6, 9):
            node = "node1" if number == 6 else "node2"
            world.stack.kill(f"agent-{node}", signal.SIGKILL)
            start_agent(lab, world.folder, world.stack, world.url, node)
            # A pod that comes while no agent is there has no taps, and by service alone nobody could name it.
            wait_for_capture(world.stack, node)
        lab.delete_pod("churn", name)
    world.settle(90)
    time.sleep(1)
    found: dict[tuple[str, int], list[str | None]] = {key: [] for key in made}
    for each in world.ask("/v1/connections", since=rfc3339(world.since))["connections"]:
        key = each["consumer"]["name"], each["consumer"]["port"]
        if key in found:
            found[key].append(each["provider"]["name"])
            legs = {leg["leg"] for leg in each["legs"]}
            assert legs in ({"direct"}, {"pre-dnat", "post-dnat"}), (key, legs)
    assert found == {key: [name] for key, name in made.items()}
