"""Exactly once: retries, duplicates, gaps, restarts, crashes between any two steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringfence.model.batches import Loss, ProcessInfo, TapInfo, TlsInfo
from ringfence.server.app import Server, ServerSettings
from ringfence.store.engine import Engine
from ringfence.store.facts import Facts
from ringfence.store.journal import Journal
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.client import Acknowledged, Expected
from ringfence.wire.codec import Batch, encode


def packets(api: Any) -> int:
    answer = api.get("/v1/flows", since="1h")
    return sum(flow["consumer_packets"] + flow["provider_packets"] for flow in answer["flows"])


def test_duplicates_are_acknowledged_and_stored_once(api, now):
    body = encode(header(1, (now - SECOND,)), sighting(now - SECOND), no_translations())
    for _ in range(3):
        assert api.post(body) == (200, {"acknowledged": 1})
    assert packets(api) == 11


def test_a_gap_is_refused_with_what_is_expected(api, now):
    window = now - SECOND
    rows = sighting(window)
    assert api.post(encode(header(3, (window,)), rows, no_translations())) == (409, {"expected": 1})
    api.send(rows, (window,))
    assert api.post(encode(header(3, (window,)), rows, no_translations())) == (409, {"expected": 2})
    assert packets(api) == 11


def test_epochs_and_nodes_have_marks_of_their_own(api, now):
    for node, epoch in (("node1", "e1"), ("node1", "e2"), ("node2", "e1")):
        api.send(sighting(now - SECOND, ports=(1000, 80)), (now - SECOND,), node=node, epoch=epoch)
    assert len(api.get("/v1/agents")["agents"]) == 2


def test_a_restart_keeps_rows_marks_tokens_and_conversations(tmp_path, now):
    settings = ServerSettings(data=str(tmp_path))
    windows = [now - 3 * SECOND, now - 2 * SECOND]
    ids = []
    for number, window in enumerate(windows, 1):
        server = Server(settings, lambda: now)
        server.start()
        assert (server.shown is not None) == (number == 1)
        # The second agent claims that the conversation began a window later: the first claim was stored.
        rows = sighting(window, first_window=window)
        batch = Batch(header(number, (window,)), rows, no_translations())
        assert server.service.ingest.submit(batch).result(10) == Acknowledged(number)
        ids += server.service._queries.flows(now - 60 * SECOND, now, "lab").table["flow_id"].tolist()
        assert total(server, now) == 11 * number
        server.stop()
    assert len(set(ids)) == 1


def test_rows_outside_the_retention_are_counted_not_kept(api, now):
    old = now - 40 * 86400 * SECOND
    rows = np.concatenate([sighting(old), sighting(now - SECOND)])
    api.send(rows, (old, now - SECOND), losses=(Loss("kernel-map-full", 1, 2, 3),))
    assert packets(api) == 11
    node = api.get("/v1/completeness", since="1h")["nodes"][0]
    lost = {loss["stage"]: loss["packets"] for loss in node["losses"]}
    assert lost == {"outside-retention": 11, "kernel-map-full": 1}


class Crash(RuntimeError):
    """The process died here."""


@pytest.mark.parametrize("step", ["journal", "first table", "second table", "commit", "forget"])
def test_a_crash_between_any_two_steps_loses_and_repeats_nothing(tmp_path, now, monkeypatch, step):
    settings = ServerSettings(data=str(tmp_path))
    window = now - SECOND
    batch = Batch(header(1, (window,)), sighting(window), no_translations())
    server = Server(settings, lambda: now)
    server.start()
    inserted: list[str] = []
    insert = Engine.insert

    def die(*_: object) -> None:
        raise Crash

    def insert_some(self: Engine, table: Any, rows: Any, token: str) -> None:
        if len(inserted) >= ["first table", "second table"].index(step):
            raise Crash
        insert(self, table, rows, token)
        inserted.append(table.name)

    with monkeypatch.context() as patch:
        if step.endswith("table"):
            patch.setattr(Engine, "insert", insert_some)
        place = {
            "journal": (Journal, "write"),
            "commit": (Facts, "commit_segment"),
            "forget": (Journal, "forget"),
        }
        if step in place:
            patch.setattr(*place[step], die)
        with pytest.raises(Exception, match="could not be kept"):
            server.service.ingest.submit(batch).result(10)
        assert total(server, now) in (0, 11)
        server.stop()
    again = Server(settings, lambda: now)
    again.start()
    expected = 0 if step == "journal" else 11
    assert total(again, now) == expected
    assert again.service.ingest.submit(batch).result(10) == Acknowledged(1)
    assert total(again, now) == 11
    assert not list((tmp_path / "journal").glob("*.segment"))
    again.stop()


def test_a_failed_segment_is_finished_before_anything_new(api, now, monkeypatch):
    window = now - SECOND
    batches = [
        Batch(header(n, (window,)), sighting(window, ports=(n, 80)), no_translations()) for n in (1, 2)
    ]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    ingest = api.server.service.ingest
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "insert", full)
        for _ in range(2):
            with pytest.raises(Exception, match="No space left"):
                ingest.submit(batches[0]).result(10)
        assert api.get("/v1/health")["status"] == "failing"
        assert api.post(encode(*batches[0]))[0] == 503
        assert packets(api) == 0
    assert ingest.submit(batches[1]).result(10) == Acknowledged(2)
    assert ingest.submit(batches[0]).result(10) == Acknowledged(2)
    assert packets(api) == 22
    assert api.get("/v1/health")["status"] == "ok"


def test_many_agents_at_once_share_segments(api, now):
    window = now - SECOND
    futures = [
        api.server.service.ingest.submit(
            Batch(header(1, (window,), node=f"n{i}"), sighting(window, ports=(i, 80)), no_translations())
        )
        for i in range(1, 60)
    ]
    assert {future.result(20) for future in futures} == {Acknowledged(1)}
    assert packets(api) == 59 * 11
    assert api.server.service.ingest.visible < 20


def test_out_of_order_in_one_group(api, now):
    window = now - SECOND
    submit = api.server.service.ingest.submit
    batches = {n: Batch(header(n, (window,)), sighting(window), no_translations()) for n in (1, 2, 3)}
    futures = [submit(batches[n]) for n in (1, 3, 1, 2)]
    assert [future.result(10) for future in futures] == [
        Acknowledged(1),
        Expected(2),
        Acknowledged(1),
        Acknowledged(2),
    ]
    assert packets(api) == 22


def total(server: Server, now: int) -> int:
    answer = server.service._queries.flows(now - 3600 * SECOND, now, "lab")
    return int(answer.table["consumer_packets"].sum() + answer.table["provider_packets"].sum())


def test_a_batch_that_cannot_be_built_harms_no_other(api, now, monkeypatch):
    """A defect of ours on one agent's batch, whatever it raises: the writer lives on and the rest is kept."""
    from ringfence.server import ingest

    window = now - SECOND
    build = ingest.build_segment

    def picky(number, fresh, state):
        if any(batch.header.node == "bad" for batch, _ in fresh):
            raise IndexError("a defect")
        return build(number, fresh, state)

    monkeypatch.setattr(ingest, "build_segment", picky)
    nodes = ["n1", "bad", "n2"]
    batches = [
        Batch(header(1, (window,), node=n), sighting(window, ports=(i + 1, 80)), no_translations())
        for i, n in enumerate(nodes)
    ]
    futures = [api.server.service.ingest.submit(batch) for batch in batches]
    assert [futures[i].result(10) for i in (0, 2)] == [Acknowledged(1)] * 2
    with pytest.raises(Exception, match="a defect"):
        futures[1].result(10)
    assert packets(api) == 22


def test_addresses_heard_while_the_disk_was_full_are_not_forgotten(api, now, monkeypatch):
    window = now - SECOND
    batch = Batch(header(1, (window,), addresses=("10.88.0.11",)), sighting(window), no_translations())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    ingest = api.server.service.ingest
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", full)
        with pytest.raises(Exception, match="No space left"):
            ingest.submit(batch).result(10)
    assert ingest.submit(batch).result(10) == Acknowledged(1)
    assert api.server.service.book.node_addresses(batch.header.cluster, now) == {
        batch.header.node: ("10.88.0.11",)
    }


def test_a_header_that_says_a_thing_twice_is_stored_all_the_same(api, now):
    """Two entries of a header may read alike (a process noted twice, an interface's name used again)."""
    process = ProcessInfo(name="kubelet", pid=7, exe="/bin/kubelet")
    tap = TapInfo("veth1", "pod")
    rows = np.concatenate([sighting(now - SECOND, ports=(41022, port)) for port in (80, 81)])
    rows["process"], rows["taps"][:, 0] = (1, 2), (1, 2)
    rows["consumer_pod"] = (1, 2)
    api.send(rows, (now - SECOND,), processes=(process, process), taps=(tap, tap), pods=("u", "u"))
    flows = api.get("/v1/flows")["flows"]
    assert [flow["process"]["name"] for flow in flows] == ["kubelet", "kubelet"]
    assert [[tap["interface"] for tap in flow["taps"]] for flow in flows] == [["veth1"], ["veth1"]]


def test_what_is_known_of_a_beginning_is_stored_and_shown(api, now):
    """Both ends' processes, DNS names, TLS facts, reasons and measures; absent in one window, kept from another."""
    opener = ProcessInfo("curl", 812, "/usr/bin/curl", "u1", "3f2a", "sh", 811)
    accepter = ProcessInfo("carts", 7, "/carts")
    first, second = now - 2 * SECOND, now - SECOND
    rows = sighting(first)
    rows["process"], rows["provider_process"], rows["names"], rows["tls"], rows["drop"] = 1, 2, 1, 1, 2
    rows["rtt_us"], rows["srtt_us"], rows["retransmits"], rows["zero_windows"] = 210, 250, 2, 0
    later = sighting(second, first_window=first)
    later["srtt_us"], later["retransmits"], later["zero_windows"] = 300, 1, 1
    known = {
        "processes": (opener, accepter),
        "names": ("carts.sock-shop.svc.cluster.local carts",),
        "tls": (TlsInfo("shop.example", ("h2",)),),
    }
    api.send(np.concatenate([rows, later]), (first, second), **known)
    (flow,) = api.get("/v1/flows")["flows"]
    assert flow["process"] == {
        "exe": "/usr/bin/curl",
        "name": "curl",
        "pid": 812,
        "container": "3f2a",
        "parent": "sh",
        "parent_pid": 811,
    }
    assert flow["provider_process"]["name"] == "carts"
    assert flow["provider_names"] == ["carts.sock-shop.svc.cluster.local", "carts"]
    assert flow["tls"] == {"server_name": "shop.example", "alpn": ["h2"]}
    assert flow["drop_reason"] == "refused"
    assert (flow["rtt_us"], flow["srtt_us"], flow["retransmits"], flow["zero_windows"]) == (210, 300, 3, 1)


def test_what_nobody_measured_is_null(api, now):
    api.send(sighting(now - SECOND), (now - SECOND,))
    (flow,) = api.get("/v1/flows")["flows"]
    assert flow["tls"] is None
    assert flow["provider_names"] == []
    assert [flow[name] for name in ("rtt_us", "srtt_us", "retransmits", "zero_windows")] == [None] * 4
