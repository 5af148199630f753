"""`GET /v1/flows/{id}` and `flows show`: one connection hop by hop, with what each tap counted."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.model.batches import TapInfo
from ringfence.model.columns import HOP, TRANSLATION, TUPLE, Direction, Role, Way
from ringfence.store.hops import COUNTERS
from ringfence.testing.batches import SECOND, sighting

VIP, P2 = "10.96.0.9", "10.244.2.7"
TAPS1 = (TapInfo("veth1", "pod", "u1"), TapInfo("eth0", "node"))
TAPS2 = (TapInfo("eth0", "node"), TapInfo("veth2", "pod", "u2"))


def hop(role, way, less=(0, 0, 0, 0), after=0, before=0, mixed=0):
    row = np.zeros(1, HOP)
    row["role"], row["way"], row["mixed"], row["after"], row["before"] = role, way, mixed, after, before
    for name, value in zip(COUNTERS, less, strict=True):
        row[name] = value
    return row


def seen_at(rows, *taps):
    for place, tap in enumerate(taps):
        rows["taps"][:, place] = tap
    return rows


def service_call(api, window):
    """P1 → VIP:80 at its veth; → P2:8080 from node1's uplink to P2's veth, where one packet came less."""
    before = seen_at(sighting(window, provider=VIP), 1)
    after = seen_at(sighting(window, ports=(41022, 8080), role=Role.TRANSIT), 2)
    translation = np.zeros(1, TRANSLATION)
    translation["seen"], translation["protocol"], translation["dnat"] = window, 6, 1
    for stage, row in (("pre", before), ("post", after)):
        for name, _ in TUPLE[:-1]:
            translation[f"{stage}_{name}"] = row[name]
    hops1 = np.concatenate([hop(Role.CONSUMER, Way.IN), hop(Role.TRANSIT, Way.OUT)])
    api.send(np.concatenate([before, after]), (window,), translations=translation, hops=hops1, taps=TAPS1)
    there = seen_at(sighting(window, ports=(41022, 8080), role=Role.PROVIDER, packets=(5, 5)), 2, 1)
    hops2 = [hop(Role.PROVIDER, Way.OUT, after=700), hop(Role.TRANSIT, Way.IN, (1, 100, 0, 0), before=300)]
    api.send(there, (window,), node="node2", hops=np.concatenate(hops2), taps=TAPS2)


def legs(api, flow_id):
    return api.get(f"/v1/flows/{flow_id}")["connection"]["legs"]


def test_every_tap_of_every_leg_in_the_order_of_the_way(api, now):
    window = now - 5 * SECOND
    service_call(api, window)
    (listed,) = api.get("/v1/connections")["connections"]
    shown = api.get(f"/v1/flows/{listed['legs'][1]['flow_id']}")
    assert shown["completeness"]["nodes"]
    connection = shown["connection"]
    assert connection["connection_id"] == listed["connection_id"]
    assert legs(api, connection["connection_id"]) == connection["legs"]
    before, after = connection["legs"]
    assert [(tap["node"], tap["interface"], tap["role"], tap["way"]) for tap in before["taps"]] == [
        ("node1", "veth1", 0, "in")
    ]
    assert [(tap["node"], tap["interface"], tap["at"], tap["role"], tap["way"]) for tap in after["taps"]] == [
        ("node1", "eth0", "node", 2, "out"),
        ("node2", "eth0", "node", 2, "in"),
        ("node2", "veth2", "pod", 1, "out"),
    ]
    counted = [tuple(tap[name] for name in COUNTERS) for tap in after["taps"]]
    assert counted == [(6, 600, 5, 500), (6, 600, 5, 500), (5, 500, 5, 500)]
    assert [tap["start"][-5:] for tap in after["taps"]] == ["0001Z", "0001Z", "0701Z"]


def test_lists_leave_out_what_they_did_not_ask_for(api, now):
    service_call(api, now - 5 * SECOND)
    for flow in api.get("/v1/flows")["flows"]:
        for tap in flow["taps"]:
            assert set(tap) == {"node", "interface", "at", "role"}


def test_windows_add_up_at_each_tap(api, now):
    first, second = now - 6 * SECOND, now - 5 * SECOND
    rows = [
        seen_at(sighting(first), 1, 2),
        seen_at(sighting(second, first_window=first, packets=(3, 2)), 1, 2),
    ]
    hops = [hop(0, Way.IN), hop(2, Way.OUT, (-1, -100, 0, 0)), hop(0, Way.IN), hop(2, Way.OUT)]
    api.send(np.concatenate(rows), (first, second), hops=np.concatenate(hops), taps=TAPS1)
    (flow,) = api.get("/v1/flows")["flows"]
    (leg,) = legs(api, flow["flow_id"])
    assert [(tap["consumer_packets"], tap["provider_octets"]) for tap in leg["taps"]] == [(9, 700), (8, 700)]
    assert leg["taps"][0]["end"] > leg["taps"][0]["start"]


def test_a_node_that_learnt_the_direction_late_has_its_taps_the_right_way_round(api, now):
    first, second = now - 6 * SECOND, now - 5 * SECOND
    guess = sighting(
        first, "10.244.2.7", "10.244.1.5", (80, 41022), packets=(5, 6), direction=Direction.GUESSED, role=1
    )
    known = sighting(second, first_window=first, packets=(10, 1))
    hops = [hop(Role.PROVIDER, Way.OUT), hop(Role.TRANSIT, Way.IN, (0, 0, -2, -200))]
    hops += [hop(Role.CONSUMER, Way.IN), hop(Role.TRANSIT, Way.OUT)]
    rows = np.concatenate([seen_at(guess, 1, 2), seen_at(known, 1, 2)])
    api.send(rows, (first, second), hops=np.concatenate(hops), taps=TAPS1)
    (flow,) = api.get("/v1/flows")["flows"]
    (leg,) = legs(api, flow["flow_id"])
    assert [
        (tap["role"], tap["way"], tap["consumer_packets"], tap["provider_packets"]) for tap in leg["taps"]
    ] == [
        (0, "in", 16, 6),
        (2, "out", 14, 6),
    ]


def test_what_is_not_known_is_null(api, now):
    """Of a batch of before: one tap counted what the sighting says; of two nobody can say it of each."""
    window = now - 5 * SECOND
    rows = np.concatenate([seen_at(sighting(window), 1), seen_at(sighting(window, ports=(41023, 80)), 1, 2)])
    api.send(rows, (window,), taps=TAPS1)
    for flow in api.get("/v1/flows")["flows"]:
        (leg,) = legs(api, flow["flow_id"])
        alone = flow["consumer"]["port"] == 41022
        assert [tap["consumer_packets"] for tap in leg["taps"]] == ([6] if alone else [None, None])
        assert {tap["way"] for tap in leg["taps"]} == {None}


def test_a_tap_that_saw_several_pods_of_one_address_has_no_counters(api, now):
    window = now - 5 * SECOND
    hops = np.concatenate([hop(0, Way.IN), hop(2, Way.OUT, (-6, -600, -5, -500), mixed=1)])
    api.send(seen_at(sighting(window), 1, 2), (window,), hops=hops, taps=TAPS1)
    (flow,) = api.get("/v1/flows")["flows"]
    (leg,) = legs(api, flow["flow_id"])
    assert [tap["consumer_packets"] for tap in leg["taps"]] == [6, None]


def test_the_real_consumer_stands_behind_source_translation(api, now):
    """X calls a NodePort; its node hides it from the pod behind the bridge's address."""
    window = now - 5 * SECOND
    before = sighting(window, "203.0.113.9", "10.88.0.11", (50000, 30080))
    after = sighting(window, "10.244.1.1", P2, (61000, 8080))
    translation = np.zeros(1, TRANSLATION)
    translation["seen"], translation["protocol"], translation["dnat"], translation["snat"] = window, 6, 1, 1
    for stage, row in (("pre", before), ("post", after)):
        for name, _ in TUPLE[:-1]:
            translation[f"{stage}_{name}"] = row[name]
    api.send(np.concatenate([before, after]), (window,), translations=translation)
    told = {flow["leg"]: flow["opened_by"] for flow in api.get("/v1/flows")["flows"]}
    assert told["pre-dnat"] is None
    assert (told["post-dnat"]["ip"], told["post-dnat"]["port"]) == ("203.0.113.9", 50000)
    folded = {flow["leg"]: flow["opened_by"] for flow in api.get("/v1/flows", fold="true")["flows"]}
    assert (folded["post-dnat"]["ip"], folded["post-dnat"]["port"]) == ("203.0.113.9", None)
    (connection,) = api.get("/v1/connections")["connections"]
    assert connection["consumer"]["ip"] == "203.0.113.9"
    assert legs(api, connection["connection_id"])[1]["opened_by"] == told["post-dnat"]


@pytest.mark.parametrize(("flow", "status"), [("00000000deadbeef", 404), ("zz", 400), ("1" * 17, 400)])
def test_an_id_that_is_none_is_an_error(api, now, flow, status):
    window = now - 5 * SECOND
    api.send(sighting(window), (window,))
    headers = {"Authorization": f"Bearer {api.admin}"}
    answer = api.client.get(f"/v1/flows/{flow}", headers=headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"what", "where", "fix"}


def test_a_connection_is_found_without_linking_everything_that_was_asked(api, now, monkeypatch):
    """One long connection whose second leg goes on far beyond the first; only the time around both is linked."""
    first, late = now - 7000 * SECOND, now - 3000 * SECOND
    before, after = sighting(first, provider=VIP), sighting(first, ports=(41022, 8080))
    goes_on = sighting(late, ports=(41022, 8080), first_window=first, packets=(50, 50))
    translation = np.zeros(1, TRANSLATION)
    translation["seen"], translation["protocol"], translation["dnat"] = first, 6, 1
    for stage, row in (("pre", before), ("post", after)):
        for name, _ in TUPLE[:-1]:
            translation[f"{stage}_{name}"] = row[name]
    # Heard of in between, too: a conversation that was silent for so long would be another one.
    on_the_way = [
        sighting(first + number * 60 * SECOND, ports=(41022, 8080), first_window=first, packets=(1, 0))
        for number in range(1, 66)
    ]
    windows = tuple(int(row["window"][0]) for row in (*on_the_way, goes_on))
    api.send(np.concatenate([before, after]), (first,), translations=translation)
    api.send(np.concatenate([*on_the_way, goes_on]), windows)
    api.send(sighting(now - 5 * SECOND, ports=(5, 6)), (now - 5 * SECOND,))
    asked = []
    linked = api.server.service.answers.linked
    monkeypatch.setattr(
        api.server.service.answers, "linked", lambda *span: asked.append(span) or linked(*span)
    )
    (one,) = [flow for flow in api.get("/v1/flows", since="3h")["flows"] if flow["leg"] == "pre-dnat"]
    asked.clear()
    shown = legs(api, one["flow_id"])
    assert [leg["consumer_packets"] for leg in shown] == [6, 6 + 65 + 50]
    assert len(asked) > 1
    assert asked[-1][0] == first - 180 * SECOND
    assert late + SECOND <= asked[-1][1] <= late + 181 * SECOND
