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
from ringfence.server.access import Refusal
from ringfence.server.captures import Capture, Wish
from ringfence.server.orders import Mode
from ringfence.server.relay import Relay
from ringfence.server.routes import capture as capture_routes
from ringfence.server.routes import orders as routes
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


def told(line: Line, after: int) -> list[object]:
    """What a question that is kept waiting is answered."""
    found: list[object] = []
    try:
        found.append(line.ask(*NODE, after))
    except (Problem, OSError, http.client.HTTPException) as error:
        found.append(error)
    return found


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("state", ["revoked", "copied", "expired"])
def test_who_waits_is_told_nothing_once_its_certificate_is_no_longer_good(
    site, line, monkeypatch, ordered, state
):
    """Also while its question is open; and where nothing is ordered, the question ends without an answer."""
    monkeypatch.setattr(routes, "CHECK", 0.2)
    first = line.ask(*NODE, 0)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.extend(told(line, first.generation)))
    waiting.start()
    until(lambda: site.service.orders._bell._waiting)
    end(site, state)
    if ordered:
        site.service.orders.set_mode(Mode(*NODE, mode="detailed"))
    waiting.join(20)
    assert [type(answer) for answer in answers] == [Problem]
    assert "403" in str(answers[0])


def end(site, state: str) -> None:
    """Let every certificate of node1 be no longer good."""
    enrolment = site.service.enrolment
    if state == "revoked":
        enrolment.revoke(*NODE)
    elif state == "copied":
        with pytest.raises(Refusal):
            enrolment.admit(next(iter(enrolment._known)), "another machine")
    else:
        site.later = 40 * 86_400


def until(holds, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def reading(relay: Relay) -> tuple[threading.Thread, list[bytes]]:
    """Somebody who reads a capture; its blocks."""
    blocks: list[bytes] = []
    whole = Blocks()

    async def read() -> None:
        async for piece in relay.read():
            blocks.extend(whole.feed(piece))

    made = threading.Thread(target=lambda: asyncio.run(read()))
    made.start()
    return made, blocks


@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.parametrize("state", ["revoked", "copied", "expired"])
def test_who_sends_packets_gives_none_once_its_certificate_is_no_longer_good(
    site, line, monkeypatch, sends, state
):
    monkeypatch.setattr(capture_routes, "CHECK", 0.2)
    relay = relayed(site)
    reader, blocks = reading(relay)
    line.stream("c1", *NODE)
    line.send(pcapng.interface(Interface("shop/carts")) + pcapng.packet(0, 1, b"before", 6, 0))
    until(lambda: len(blocks) == 3)
    end(site, state)
    if sends:
        line.send(pcapng.packet(0, 2, b"after", 5, 0))
    reader.join(20)
    assert not reader.is_alive()
    kinds = [pcapng.kind_of(each) for each in blocks]
    assert kinds == [pcapng.SECTION, pcapng.INTERFACE, pcapng.PACKET]
    assert state in " ".join(relay.notes)
    until(line.over)


def test_packets_go_on_over_a_renewal(site, line):
    relay = relayed(site)
    reader, blocks = reading(relay)
    line.stream("c1", *NODE)
    line.send(pcapng.interface(Interface("shop/carts")))
    before, agent = len(site.listed()), site.agents[0]
    agent.later = site.later = 20 * 3600.0
    agent.send()
    agent.send()
    assert len(site.service.enrolment._known) == before + 1
    line.send(pcapng.packet(0, 1, b"x", 1, 0))
    until(lambda: len(blocks) == 3)
    line.end()
    reader.join(20)
    assert relay.notes == []


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
