"""An address given to another pod while the conversation goes on: a flow for each pod, its own packets and no others,
whatever node tells first, and whatever time is asked about."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from ringfence.model.columns import Direction, Role
from ringfence.server.app import Server, ServerSettings
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.codec import Batch

PODS = ("client", "old", "new", "newer")
NODES = {"client": "node1", "old": "node2", "new": "node2", "newer": "node3"}
SECONDS = 8


class Packet(NamedTuple):
    """One packet of a conversation: nanoseconds after its start, and the pod it reached."""

    at: int
    holder: str
    answered: bool


def life(rng: random.Random) -> list[Packet]:
    """Pods hold one address in turn, in any order, for fractions of a second or for seconds."""
    packets: list[Packet] = []
    at = 0
    for holder in rng.sample(PODS[1:], rng.choice([1, 2, 2, 3])):
        for _ in range(rng.randint(1, 5)):
            at += rng.randint(1_000_000, 700_000_000)
            packets.append(Packet(at, holder, rng.random() < 0.8))
        at += rng.randint(40_000_000, 900_000_000)
    return [packet for packet in packets if packet.at < (SECONDS - 1) * SECOND]


def row(
    packets: list[Packet], window: int, claimed: int, begin: int, port: int, turned: bool, role: int, pod: str
):
    """What a node counts of these packets. `turned`: the address that changes hands sorts first."""
    client, shared = ("10.244.9.9", "10.244.1.1") if turned else ("10.244.1.1", "10.244.9.9")
    made = sighting(
        window,
        client,
        shared,
        (port, 8080),
        role=role,
        first_window=claimed,
        direction=Direction.GUESSED,
        protocol=17,
        packets=(len(packets), sum(packet.answered for packet in packets)),
    )
    made["first"], made["last"] = begin + packets[0].at, begin + packets[-1].at
    made["consumer_pod" if role == Role.CONSUMER else "provider_pod"] = PODS.index(pod) + 1
    return made


def told(lives: list[list[Packet]], begin: int, rng: random.Random) -> dict[tuple[str, int], list]:
    """Rows by (node, window): mixed ones at the client's node, one for each pod at the pods' own."""
    rows: dict[tuple[str, int], list] = {}
    for number, packets in enumerate(lives):
        turned, forgetful = rng.random() < 0.5, rng.random() < 0.2
        seen: dict[str, int] = {}
        for window in range(begin, begin + SECONDS * SECOND, SECOND):
            inside = [p for p in packets if 0 <= begin + p.at - window < SECOND]
            if not inside:
                continue
            claimed = seen.setdefault("client", window)
            common = (begin, 1000 + number, turned)
            mixed = row(inside, window, claimed, *common, Role.CONSUMER, "client")
            rows.setdefault(("node1", window), []).append(mixed)
            for holder in dict.fromkeys(p.holder for p in inside):
                mine = [p for p in inside if p.holder == holder]
                # An agent that started again, or never noticed, claims another window.
                claimed = window if forgetful else seen.setdefault(holder, window)
                made = row(mine, window, claimed, *common, Role.PROVIDER, holder)
                rows.setdefault((NODES[holder], window), []).append(made)
    return rows


def send(api, rows, begin, rng, nodes=("node1", "node2", "node3")) -> None:
    """Every node's windows in its own order, the nodes' batches in any."""
    left = {node: list(range(begin, begin + SECONDS * SECOND, SECOND)) for node in nodes}
    while any(left.values()):
        node = rng.choice([node for node, windows in left.items() if windows])
        batch = [left[node].pop(0) for _ in range(min(len(left[node]), rng.randint(1, 4)))]
        found = [each for window in batch for each in rows.get((node, window), [])]
        empty = sighting(begin)[:0]
        api.send(np.concatenate([empty, *found]), tuple(batch), node=node, pods=PODS)


def answered(api, since, until):
    """(port, provider's pod, flow id, consumer's packets, provider's packets) of every flow of a time."""
    found = api.server.service._queries.flows(since, until, "lab")
    table, pods = found.table, ["", *found.pods]
    return [
        (
            int(f["consumer_port"]) - 1000,
            pods[f["provider_pod"]],
            *(int(f[name]) for name in ("flow_id", "consumer_packets", "provider_packets")),
        )
        for f in table
    ]


def expected(lives) -> dict[tuple[int, str], tuple[int, int]]:
    counts: Counter[tuple[int, str, bool]] = Counter()
    for number, packets in enumerate(lives):
        for packet in packets:
            counts[number, packet.holder, False] += 1
            counts[number, packet.holder, True] += packet.answered
    return {(n, holder): (counts[n, holder, False], counts[n, holder, True]) for n, holder, _ in counts}


@pytest.mark.parametrize("seed", range(4))
def test_each_pod_has_exactly_its_packets(api, now, seed):
    rng, begin = random.Random(seed), now - 60 * SECOND
    lives = [life(rng) for _ in range(60)]
    send(api, told(lives, begin, rng), begin, rng)
    flows = answered(api, begin, begin + SECONDS * SECOND)
    assert {flow[:2]: flow[3:] for flow in flows} == expected(lives)
    assert len(flows) == len(expected(lives)) == len({flow[2] for flow in flows})
    # Parts of the time add up to the whole, under the same ids.
    ids = {flow[:2]: flow[2] for flow in flows}
    sums: dict[tuple[int, str], tuple[int, int]] = {}
    for window in range(begin, begin + SECONDS * SECOND, SECOND):
        for port, pod, flow, *counts in answered(api, window, window + SECOND):
            assert ids[port, pod] == flow
            before = sums.get((port, pod), (0, 0))
            sums[port, pod] = before[0] + counts[0], before[1] + counts[1]
    assert sums == expected(lives)


def test_the_evidence_names_every_node_and_the_pods_own_first(api, now):
    begin, rng = now - 60 * SECOND, random.Random(0)
    packets = [Packet(n * 300_000_000, "old" if n < 5 else "newer", True) for n in range(12)]
    send(api, told([packets], begin, rng), begin, rng)
    flows = api.get("/v1/flows", since="10m")["flows"]
    nodes = {tuple(tap["node"] for tap in flow["taps"]) for flow in flows}
    assert nodes == {("node2", "node1"), ("node3", "node1")}


def test_windows_the_pods_node_never_closed_come_from_the_other_end_by_time(api, now):
    begin, rng = now - 60 * SECOND, random.Random(0)
    packets = [Packet(n * 500_000_000, "old" if n < 6 else "new", True) for n in range(12)]
    rows = told([packets], begin, rng)
    gone = (begin + SECOND, begin + 4 * SECOND)
    for window in range(begin, begin + SECONDS * SECOND, SECOND):
        for node in ("node1", "node2"):
            if node == "node1" or window not in gone:
                found = [sighting(begin)[:0], *rows.get((node, window), [])]
                api.send(np.concatenate(found), (window,), node=node, pods=PODS)
    flows = answered(api, begin, begin + SECONDS * SECOND)
    assert {flow[:2]: flow[3:] for flow in flows} == expected([packets])


def test_where_no_node_of_the_pods_was_heard_it_is_one_flow(api, now):
    begin, rng = now - 60 * SECOND, random.Random(0)
    packets = [Packet(n * 300_000_000, "old" if n < 5 else "new", True) for n in range(12)]
    send(api, told([packets], begin, rng), begin, rng, ("node1",))
    ((_, pod, _, *counts),) = answered(api, begin, begin + SECONDS * SECOND)
    assert (pod, *counts) == ("", 12, 12)


def test_a_restart_goes_on_with_both_flows(tmp_path, now):
    settings, begin = ServerSettings(data=str(tmp_path)), now - 60 * SECOND
    ids: dict[str, set[int]] = {}
    for number, holder in enumerate(("old", "new", "new", "new"), 1):
        server = Server(settings, lambda: now)
        server.start()
        window = begin + number * SECOND
        mine = row(
            [Packet(number * SECOND, holder, True)], window, begin, begin, 1000, False, Role.PROVIDER, holder
        )
        batch = Batch(header(number, (window,), pods=PODS), mine, no_translations())
        server.service.ingest.submit(batch).result(10)
        found = server.service._queries.flows(begin, now, "lab")
        for flow in found.table:
            ids.setdefault(["", *found.pods][flow["provider_pod"]], set()).add(int(flow["flow_id"]))
        server.stop()
    assert {pod: len(each) for pod, each in ids.items()} == {"old": 1, "new": 1}
    assert ids["old"] != ids["new"]
