"""An agent hears orders and sends captures over TLS with its certificate, and over no other's."""

from __future__ import annotations

import asyncio
import http.client
import select
import threading
import time

import pytest

from ringfence.agent.identity import Follower, caller
from ringfence.agent.orders import Listener
from ringfence.capture.stream import pcapng
from ringfence.capture.stream.pcapng import Blocks, Interface
from ringfence.model.problems import Problem
from ringfence.server.captures import Capture, Wish
from ringfence.server.orders import Mode
from ringfence.server.relay import Relay
from ringfence.wire.orders import Line
from tests.server.site import Agent, Site

NODE = ("lab", "node1")


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "data")
    yield site
    site.service.release()
    site.close()


@pytest.fixture
def line(site, tmp_path):
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    agent.send()
    line = Line(site.url, Follower(agent.identity._enrol, agent.said.append, time.time_ns), 30)
    yield line
    line.close()


def relayed(site, node=NODE) -> Relay:
    relay = Relay((node,), 0, 0, "", lambda: None)
    site.service.captures._running["c1"] = Capture("c1", "a test", 0, ("x",), Wish(nodes=("node1",)), relay)
    return relay


def test_orders_come_over_the_certificate_of_the_node_alone(site, line):
    first = line.ask(*NODE, 0)
    threading.Timer(0.1, lambda: site.service.orders.set_mode(Mode(*NODE, mode="detailed"))).start()
    assert line.ask(*NODE, first.generation).mode == "detailed"
    with pytest.raises(Problem, match="403"):
        line.ask("lab", "node2", 0)


def test_a_revoked_agent_hears_nothing(site, line):
    line.ask(*NODE, 0)
    site.service.enrolment.revoke(*NODE)
    with pytest.raises(Problem, match="403"):
        line.ask(*NODE, 0)


def test_packets_go_over_tls_and_tickets_are_no_end(site, line):
    relay = relayed(site)
    line.stream("c1", *NODE)
    line.send(pcapng.interface(Interface("shop/carts")))
    for _ in range(3):
        select.select([line], [], [], 0.1)
        assert not line.over()
    line.send(pcapng.packet(0, 1, b"x", 1, 0))

    async def read():
        return b"".join([piece async for piece in relay.read()])

    threading.Timer(0.2, line.end).start()
    kinds = [pcapng.kind_of(each) for each in Blocks().feed(asyncio.run(read()))]
    assert kinds == [pcapng.SECTION, pcapng.INTERFACE, pcapng.PACKET]


def test_the_end_of_a_capture_is_noticed_without_packets(site, line):
    relay = relayed(site, ("lab", "node2"))
    relay.begin(("lab", "node2"))
    line.stream("c1", *NODE)
    assert select.select([line], [], [], 10)[0]
    deadline = time.monotonic() + 10
    while not line.over():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_listener_keeps_the_last_word_and_stops_at_once(site, tmp_path):
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    agent.send()
    said: list[str] = []
    call = caller(site.url, None, agent.identity._enrol, said.append)
    listener = Listener(*NODE, None, call, said.append)
    listener.start()
    site.service.orders.set_mode(Mode(*NODE, mode="detailed"))
    deadline = time.monotonic() + 10
    while listener.desired.mode != "detailed":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    listener.stop()
    assert not listener._thread.is_alive()
    assert said == []


def test_a_closed_line_says_so(line):
    line.close()
    with pytest.raises((OSError, http.client.HTTPException)):
        line.ask(*NODE, 0)
