"""Orders are what is desired now: waited for, told at once, the same when asked again, and kept over restarts."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ringfence.capture.stream import pcapng
from ringfence.capture.stream.pcapng import Blocks, Interface, Statistics
from ringfence.model.problems import Problem
from ringfence.server.orders import Book, Mode
from ringfence.server.relay import MOST_WAITING, Relay
from ringfence.store.facts import Facts
from ringfence.wire.orders import CaptureOrder, Target

NODE = ("lab", "node1")
ORDER = CaptureOrder(id="c1", targets=(Target("shop/carts", "uid"),))


@pytest.fixture
def facts(tmp_path):
    facts = Facts(tmp_path)
    facts.open()
    yield facts
    facts.close()


@pytest.fixture
def book(facts):
    book = Book(facts, lambda: 1_000)
    book.start()
    return book


def test_a_new_generation_is_told_at_once_and_again_when_asked_again(book):
    first = asyncio.run(book.wait(*NODE, after=0))
    assert (first.mode, first.captures) == (None, ())
    teller = threading.Timer(0.05, lambda: book.begin(NODE, ORDER))
    teller.start()
    told = asyncio.run(book.wait(*NODE, after=first.generation))
    assert told.captures == (ORDER,)
    assert asyncio.run(book.wait(*NODE, after=first.generation)) == told
    assert asyncio.run(book.wait(*NODE, after=told.generation, seconds=0.01)) == told
    book.end(NODE, "c1")
    assert asyncio.run(book.wait(*NODE, after=told.generation)).captures == ()


def test_other_nodes_are_not_disturbed(book):
    before = book.of("lab", "node2")
    book.begin(NODE, ORDER)
    assert book.of("lab", "node2") == before


def test_modes_outlive_the_server_and_generations_are_never_used_twice(facts, book):
    assert book.set_mode(Mode(*NODE, mode="detailed")) == ("node1",)
    said = book.of(*NODE)
    later = Book(facts, lambda: 2_000)
    later.start()
    assert later.of(*NODE).mode == "detailed"
    assert later.of(*NODE).generation != said.generation
    with pytest.raises(Problem, match="unknown mode"):
        book.set_mode(Mode(*NODE, mode="loud"))


def test_who_asks_hears(facts):
    now = [10**12]
    book = Book(facts, lambda: now[0])
    assert not book.hears(*NODE)
    asyncio.run(book.wait(*NODE, after=0))
    assert book.hears(*NODE)
    now[0] += 61 * 10**9
    assert not book.hears(*NODE)


def test_nobody_is_kept_waiting_when_the_server_ends(book):
    threading.Timer(0.05, book.close).start()
    assert asyncio.run(book.wait(*NODE, after=book.of(*NODE).generation)).captures == ()


def test_people_change_modes_and_agents_may_not(api):
    header = {"Authorization": f"Bearer {api.admin}"}
    wish = {"cluster": "lab", "node": "node1", "mode": "detailed"}
    assert api.client.put("/v1/orders", json=wish, headers=header).json()["mode"] == "detailed"
    assert [each["mode"] for each in api.get("/v1/orders")["orders"]] == ["detailed"]
    asked = {"cluster": "lab", "node": "node1", "after": 0}
    assert api.get("/v1/agents/orders", api.agent, **asked)["mode"] == "detailed"
    agents = {"Authorization": f"Bearer {api.agent}"}
    assert api.client.put("/v1/orders", json=wish, headers=agents).status_code == 403


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        ({}, "nothing to capture"),
        ({"pods": ["shop/carts"]}, "no pod"),
        ({"nodes": ["n"]}, "no node"),
        ({"pods": ["a"], "filter": "tcp prt 80"}, "bad filter"),
        ({"pods": ["a"], "snaplen": 3}, "3 octets"),
        ({"pods": ["a"], "seconds": -1}, "-1 s"),
        ({"pods": ["a"], "packets": -1}, "below zero"),
        ({"where": "1 +"}, ""),
    ],
)
def test_captures_that_cannot_be_are_refused(api, wish, what):
    answer = api.client.post("/v1/captures", json=wish, headers={"Authorization": f"Bearer {api.admin}"})
    assert answer.status_code == 400
    assert what in answer.json()["error"]["what"]


def stream(name: str, count: int, size: int = 10) -> list[bytes]:
    told = Statistics(0, 1, count, 0, count)
    packets = [pcapng.packet(0, 1, bytes(size), size, 0) for _ in range(count)]
    return [pcapng.interface(Interface(name)), *packets, pcapng.statistics(0, told)]


class Piecewise:
    """An agent that says how far it was read."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.given = pieces, 0

    async def __aiter__(self):
        for piece in self.pieces:
            self.given += 1
            yield piece


def kinds(octets: bytes) -> list[int]:
    return [pcapng.kind_of(each) for each in Blocks().feed(octets)]


def relay_of(*nodes: str, packets: int = 0):
    ended: list[int] = []
    return Relay(tuple(("lab", node) for node in nodes), packets, 0, "", lambda: ended.append(1)), ended


async def together(relay, agents, delay: float = 0.0):
    async def bring(node, agent):
        assert relay.begin(("lab", node))
        await relay.take(("lab", node), agent)

    octets = b""
    async with asyncio.TaskGroup() as tasks:
        for node, agent in agents.items():
            tasks.create_task(bring(node, agent))
        async for piece in relay.read():
            octets += piece
            await asyncio.sleep(delay)
    return octets


def test_agents_in_another_loop_are_joined():
    """Agents are heard in a thread of their own, as on the server."""
    relay, ended = relay_of("a", "b")

    def bring(node):
        async def run():
            assert relay.begin(("lab", node))
            await relay.take(("lab", node), Piecewise(stream(node, 50)))

        asyncio.run(run())

    threads = [threading.Thread(target=bring, args=(node,)) for node in "ab"]
    for each in threads:
        each.start()
    octets = asyncio.run(together(relay, {}))
    for each in threads:
        each.join()
    assert sorted(kinds(octets)) == [1, 1, 5, 5, *[6] * 100, 0x0A0D0D0A]
    assert ended == [1]


def test_a_limit_ends_it_and_counts_still_come():
    relay, ended = relay_of("a", packets=7)
    octets = asyncio.run(together(relay, {"a": Piecewise(stream("a", 50))}))
    assert kinds(octets) == [0x0A0D0D0A, 1, *[6] * 7, 5]
    assert ended == [1]


def test_what_the_reader_does_not_take_is_not_taken_from_the_agent():
    relay, _ = relay_of("a")
    agent = Piecewise(stream("a", 100, 100_000))

    async def run():
        assert relay.begin(("lab", "a"))
        task = asyncio.ensure_future(relay.take(("lab", "a"), agent))
        await asyncio.sleep(0.05)
        held, given = relay._size, agent.given
        relay.drop()
        await task
        return held, given

    held, given = asyncio.run(run())
    assert held < MOST_WAITING + 101_000
    assert given < 15


def test_an_agent_that_cannot_is_noted_and_the_others_go_on():
    relay, _ = relay_of("a", "b")
    relay.finish(("lab", "b"), "no interface of this pod")
    octets = asyncio.run(together(relay, {"a": Piecewise(stream("a", 3))}))
    assert kinds(octets) == [0x0A0D0D0A, 1, 6, 6, 6, 5]
    assert relay.notes == ["b: no interface of this pod"]


def test_an_end_before_an_agent_began_waits_for_it():
    relay, _ = relay_of("a")
    relay.stop()
    octets = asyncio.run(together(relay, {"a": Piecewise(stream("a", 0))}))
    assert kinds(octets) == [0x0A0D0D0A, 1, 5]
    assert relay.notes == []


def test_nobody_else_may_bring_packets():
    relay, _ = relay_of("a")
    assert not relay.begin(("lab", "z"))
    relay.finish(("lab", "z"), "a word of a stranger")
    assert relay.notes == []
    assert relay.begin(("lab", "a"))
    assert not relay.begin(("lab", "a"))


def test_a_reader_that_leaves_ends_it():
    relay, ended = relay_of("a")
    agent = Piecewise(stream("a", 100, 100_000))

    async def run():
        assert relay.begin(("lab", "a"))
        task = asyncio.ensure_future(relay.take(("lab", "a"), agent))
        reading = relay.read()
        await anext(reading)
        await reading.aclose()
        await task

    asyncio.run(run())
    assert ended == [1]
    assert agent.given < 100
