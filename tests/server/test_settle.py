"""Settled flows: the exact answer of each minute, once; replaced when something new is known; whole or not at all."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ringfence.model.columns import TRANSLATION
from ringfence.model.endpoints import labels_of
from ringfence.model.objects import Change, External, Node, Pod, Service, ServicePort
from ringfence.server.settle import differs_from, ranges_of
from ringfence.store.engine import DATABASE
from ringfence.store.settled import HOUR, MINUTE, Settled
from ringfence.store.settlements import Settlements
from ringfence.testing.batches import SECOND, sighting


class Moved:
    """A server's clock that a test moves; nothing settles by itself within a test's time."""

    def __init__(self, api, now):
        self.api, self.at = api, now // HOUR * HOUR - HOUR
        api.server._clock = api.server.service._clock = self
        service = api.server.service
        service.ingest._clock = service.settler._clock = self
        service.settler._stop.set()
        service.settler._thread.join()
        service.settler._stop.clear()
        self.settler, self.settled, self.engine = (
            service.settler,
            service.settler.settled,
            service._queries._engine,
        )

    def __call__(self):
        return self.at

    def rows(self, what="*", since=0, until=1 << 62, more=""):
        source = self.settled.source(since, until)
        return self.engine.query(f"SELECT {what} FROM {source.sql} {more}", source.values).to_pylist()

    def rolled(self, what, since=0, until=1 << 62, more=""):
        source = self.settled.rollups(since, until)
        return self.engine.query(f"SELECT {what} FROM {source.sql} {more}", source.values).to_pylist()

    def learn(self, *values, at):
        self.api.server.service.learn(
            [
                Change("lab", type(one).__name__, one.uid, at, self.at, msgspec.Raw(msgspec.json.encode(one)))
                for one in values
            ]
        )


@pytest.fixture
def moved(api, now):
    return Moved(api, now)


def pod(name, address, app):
    return Pod(f"uid-{name}", "shop", name, "node1", (address,), labels=labels_of({"app": app}), workload=f"Deployment/{app}")  # fmt: skip


def send(moved, at, **facts):
    window = at // SECOND * SECOND
    moved.api.send(sighting(window, **facts), (window, at // MINUTE * MINUTE + 59 * SECOND))


def test_a_minute_is_settled_once_and_reads_as_the_exact_answer(moved):
    minute = moved.at
    moved.learn(
        pod("front-1", "10.244.1.5", "front"), pod("carts-1", "10.244.2.7", "carts"), at=minute - HOUR
    )
    send(moved, minute + 5 * SECOND)
    send(moved, minute + 20 * SECOND, ports=(41023, 80), packets=(7, 0))
    moved.at = minute + MINUTE + 70 * SECOND
    assert moved.settler.round() == 0
    moved.at = minute + MINUTE + 76 * SECOND
    assert moved.settler.round() == 1
    assert moved.settler.round() == 0
    assert moved.settled.until == minute + MINUTE
    rows = moved.rows(more="ORDER BY consumer_port")
    exact = {flow["flow_id"]: flow for flow in moved.api.get("/v1/flows", since="1h")["flows"]}
    assert len(rows) == len(exact) == 2
    for row in rows:
        flow = exact[f"{row['flow_id']:016x}"]
        for name in (
            "consumer_packets",
            "provider_packets",
            "consumer_octets",
            "provider_octets",
            "category",
        ):
            assert row[name] == flow[name]
        assert f"{row['connection_id']:016x}" == flow["connection_id"]
        assert (row["opener"], row["counted"], row["opened"], row["leg"]) == (1, 1, 1, 0)
    assert [row["answered"] for row in rows] == [1, 0]
    named = {row["version"]: row for row in moved.settled.endpoints().to_pylist()}
    assert named[rows[0]["consumer_version"]]["name"] == "front-1"
    assert named[rows[0]["served_by"]]["workload"] == "Deployment/carts"
    (rolled,) = moved.rolled(
        "sum(connections) AS connections, sum(answered) AS answered, sum(consumer_packets) AS packets"
    )
    assert rolled == {"connections": 2, "answered": 1, "packets": 13}


def test_a_silent_node_delays_a_minute_and_what_it_sends_late_settles_it_again(moved):
    minute = moved.at
    earlier = minute - 30 * SECOND
    moved.api.send(sighting(earlier)[:0], (earlier,), node="node2")
    send(moved, minute + 5 * SECOND)
    moved.at = minute + MINUTE + 100 * SECOND
    assert moved.settler.round() == 0
    moved.at = minute + MINUTE + 181 * SECOND
    assert moved.settler.round() == 1
    window = minute + 7 * SECOND
    moved.api.send(sighting(window, consumer="10.244.9.9", packets=(4, 4)), (window,), node="node2")
    assert moved.settler.round() == 1
    assert sorted(row["consumer_packets"] for row in moved.rows()) == [4, 6]
    assert moved.settled.stale == {}
    kept = moved.engine.query(f"SELECT count() AS rows FROM {DATABASE}.flows").to_pylist()
    assert kept == [{"rows": 2}]


def test_late_inventory_names_what_came_before_and_nothing_else(moved):
    minute = moved.at
    moved.learn(pod("carts-1", "10.244.2.7", "carts"), at=minute - HOUR)
    for shift in range(3):
        send(moved, minute + shift * MINUTE + 5 * SECOND, ports=(41000 + shift, 80))
    moved.at = minute + 3 * MINUTE + 76 * SECOND
    assert moved.settler.round() == 3
    moved.learn(pod("front-1", "10.244.1.5", "front"), at=minute + MINUTE)
    assert moved.settler.round() == 2
    named = {row["version"]: row["name"] for row in moved.settled.endpoints().to_pylist()}
    rows = moved.rows(more="ORDER BY minute")
    assert [named[row["consumer_version"]] for row in rows] == ["", "front-1", "front-1"]
    (each,) = moved.rolled(f"countIf(opened_by = {rows[1]['opened_by']}) AS named")
    assert each == {"named": 2}


def test_hours_are_rolled_up_and_made_again(moved):
    hour = moved.at
    moved.at = hour + HOUR + 200 * SECOND
    for shift in (1, 30, 59):
        send(moved, hour + shift * MINUTE + 5 * SECOND, ports=(41000 + shift, 80))
    assert moved.settler.round() == 3
    assert list(moved.settled.hours_to_roll()) == []
    (rolled,) = moved.rolled("length, sum(connections) AS connections", hour, hour + HOUR, "GROUP BY length")
    assert rolled == {"length": HOUR, "connections": 3}
    window = hour + 30 * MINUTE + 9 * SECOND
    moved.api.send(sighting(window, ports=(42000, 80)), (window,), node="node2")
    moved.settler.round()
    (rolled,) = moved.rolled("length, sum(connections) AS connections", hour, hour + HOUR, "GROUP BY length")
    assert rolled == {"length": HOUR, "connections": 4}
    part = moved.rolled(
        "length, sum(connections) AS connections", hour + MINUTE, hour + HOUR, "GROUP BY length"
    )
    assert part == [{"length": MINUTE, "connections": 4}]


def test_what_is_not_settled_yet_is_there_when_asked(moved):
    minute = moved.at
    send(moved, minute + 5 * SECOND)
    moved.at = minute + 30 * SECOND
    assert moved.rows() == []
    assert moved.settler.refresh() == moved.at
    assert [row["consumer_packets"] for row in moved.rows()] == [6]
    assert moved.rolled("sum(connections) AS n") == [{"n": 1}]
    moved.at = minute + MINUTE + 100 * SECOND
    send(moved, minute + 50 * SECOND, ports=(41555, 80))
    moved.settler.round()
    moved.settler.refresh()
    assert len(moved.rows()) == 2
    assert moved.rolled("sum(connections) AS n") == [{"n": 2}]


def test_a_settlement_cut_off_half_way_is_never_seen_and_removed(moved):
    minute = moved.at
    send(moved, minute + 5 * SECOND)
    moved.at = minute + MINUTE + 100 * SECOND
    facts = moved.settled._facts
    commit, facts.commit = facts.commit, lambda *_: (_ for _ in ()).throw(OSError("cut off"))
    with pytest.raises(OSError, match="cut off"):
        moved.settler.round()
    facts.commit = commit
    assert moved.rows() == []
    again = Settled(moved.engine, Settlements(moved.api.server.service._facts.engine))
    again.start()
    source = again.source(0, 1 << 62)
    assert moved.engine.query(f"SELECT * FROM {source.sql}", source.values).num_rows == 0
    moved.settler.settled = again
    assert moved.settler.round() == 1
    source = again.source(0, 1 << 62)
    assert moved.engine.query(f"SELECT * FROM {source.sql}", source.values).num_rows == 1
    assert moved.engine.query(f"SELECT count() AS n FROM {DATABASE}.flows").to_pylist() == [{"n": 1}]


def test_other_peoples_flows_are_kept_once_and_stay_when_a_minute_is_settled_again(moved):
    minute = moved.at
    send(moved, minute + 5 * SECOND)
    moved.at = minute + MINUTE + 100 * SECOND
    moved.settler.round()
    told = moved.settler._rows([minute], minute + MINUTE)
    assert moved.settled.add([told], "zeek/abc")
    assert not moved.settled.add([told], "zeek/abc")
    assert len(moved.rows()) == 2
    moved.settled.soil([minute])
    assert moved.settler.round() == 1
    assert len(moved.rows()) == 2


def test_a_call_through_a_service_is_one_connection_of_two_rows(moved):
    minute = moved.at
    moved.learn(
        pod("front-1", "10.244.1.5", "front"),
        pod("carts-1", "10.244.2.7", "carts"),
        Service(
            "s1",
            "shop",
            "carts",
            cluster_ips=("10.96.0.9",),
            selector=labels_of({"app": "carts"}),
            ports=(ServicePort(80, target_port=8080),),
        ),
        at=minute - HOUR,
    )
    window = minute + 5 * SECOND
    before, after = sighting(window, provider="10.96.0.9"), sighting(window, ports=(41022, 8080))
    translation = np.zeros(1, TRANSLATION)
    translation["seen"], translation["protocol"], translation["dnat"] = window, 6, 1
    for stage, row in (("pre", before), ("post", after)):
        for name in TRANSLATION.names:
            if name.startswith(stage + "_"):
                translation[name] = row[name.removeprefix(stage + "_")]
    windows = (window, minute + 59 * SECOND)
    moved.api.send(np.concatenate([before, after]), windows, translations=translation)
    moved.at = minute + MINUTE + 100 * SECOND
    moved.settler.round()
    rows = moved.rows(more="ORDER BY leg")
    assert [(row["leg"], row["opener"], row["counted"]) for row in rows] == [(1, 1, 1), (2, 0, 0)]
    named = {row["version"]: row["name"] for row in moved.settled.endpoints().to_pylist()}
    for row in rows:
        assert (named[row["opened_by"]], named[row["served_by"]], row["served_port"]) == (
            "front-1",
            "carts-1",
            8080,
        )
        assert row["service"] == "shop/carts"
    (rolled,) = moved.rolled("connections, consumer_packets, service, served_port")
    assert rolled == {"connections": 1, "consumer_packets": 6, "service": "shop/carts", "served_port": 8080}


def test_an_outside_address_is_kept_whole_for_a_provider_and_as_its_network_for_a_consumer(moved):
    minute = moved.at
    moved.learn(
        Node("n1", "node1", ("192.168.0.1",), ("10.244.1.0/24",)),
        pod("front-1", "10.244.1.5", "front"),
        at=minute - HOUR,
    )
    window = minute + 5 * SECOND
    rows = [
        sighting(window, provider="203.0.113.77"),
        sighting(window, consumer="198.51.100.9", provider="10.244.1.5", ports=(555, 8079)),
    ]
    moved.api.send(np.concatenate(rows), (window, minute + 59 * SECOND))
    moved.at = minute + MINUTE + 100 * SECOND
    moved.settler.round()
    rolled = moved.rolled("toString(opened_from) AS a, toString(served_at) AS b", more="ORDER BY a")
    assert rolled == [{"a": "::", "b": "::ffff:203.0.113.77"}, {"a": "::ffff:198.51.100.0", "b": "::"}]


def test_only_news_that_changes_what_an_address_meant_is_heard():
    from ringfence.inventory.history import Statement

    was = pod("front-1", "10.244.1.5", "front")
    ready = msgspec.structs.replace(was, phase="Running")
    other = msgspec.structs.replace(was, labels=labels_of({"app": "back"}))
    first = Statement(100, 100, was)
    assert differs_from("lab", [first], 50) == 100
    assert differs_from("lab", [first, Statement(200, 200, ready)], 150) is None
    assert differs_from("lab", [first, Statement(200, 200, other)], 150) == 200
    assert differs_from("lab", [first, Statement(200, 200, None)], 150) == 200
    assert ranges_of(was) == {"10.244.1.5/32"}
    assert ranges_of(External("c/n", "list", "203.0.113.0/24", "office")) == {"203.0.113.0/24"}
