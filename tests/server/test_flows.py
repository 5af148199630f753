"""What the API answers about flows: counted once, one id on every node, the better direction."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.model.addresses import pack
from ringfence.model.columns import TRANSLATION, Direction
from ringfence.model.endpoints import labels_of
from ringfence.model.objects import Node, Pod, Service, ServicePort
from ringfence.testing.batches import SECOND, sighting


def flows(api, since="10m"):
    return api.get("/v1/flows", since=since)["flows"]


def counts(flow):
    return flow["consumer_packets"], flow["provider_packets"]


def test_two_nodes_saw_it_one_counts(api, now):
    window = now - 5 * SECOND
    api.send(sighting(window, role=1, packets=(9, 9)), (window,), node="a-provider")
    api.send(sighting(window, role=0), (window,), node="z-consumer")
    api.send(sighting(window, role=2, packets=(7, 7)), (window,), node="m-transit")
    (flow,) = flows(api)
    assert counts(flow) == (6, 5)
    assert [(tap["node"], tap["role"]) for tap in flow["taps"]] == [
        ("z-consumer", 0),
        ("a-provider", 1),
        ("m-transit", 2),
    ]


def test_a_straggler_over_a_boundary_is_not_counted_twice(api, now):
    """The last packet is in one window at the consumer's node and in the next at the provider's."""
    first, second = now - 5 * SECOND, now - 4 * SECOND
    api.send(sighting(first, role=0, packets=(6, 5)), (first, second), node="node1")
    late = [
        sighting(first, role=1, packets=(5, 5)),
        sighting(second, role=1, packets=(1, 0), first_window=first),
    ]
    api.send(np.concatenate(late), (first, second), node="node2")
    (flow,) = flows(api)
    assert counts(flow) == (6, 5)


@pytest.mark.parametrize("boundary", [0, 1])
def test_a_straggler_outside_the_asked_time_does_not_appear(api, now, boundary):
    first, second = now - 5 * SECOND, now - 4 * SECOND
    api.send(sighting(first, role=0), (first, second), node="node1")
    api.send(sighting(second, role=1, packets=(1, 0), first_window=first), (first, second), node="node2")
    found = api.server.service._queries.flows(
        first + boundary * SECOND, first + (boundary + 1) * SECOND, "lab"
    )
    assert found.table["consumer_packets"].tolist() == ([6] if boundary == 0 else [])


def test_windows_the_counted_node_never_closed_come_from_the_next(api, now):
    windows = [now - n * SECOND for n in (8, 7, 6)]
    rows = [sighting(w, role=1, first_window=windows[0], packets=(2, 2)) for w in windows]
    api.send(np.concatenate(rows), tuple(windows), node="node2")
    api.send(sighting(windows[0], role=0, packets=(3, 3)), (windows[0],), node="node1")
    (flow,) = flows(api)
    assert counts(flow) == (3 + 2 + 2, 3 + 2 + 2)
    # Once the counted node says that it closed them, and saw nothing, its word counts.
    api.send(sighting(windows[0])[:0], (windows[1],), node="node1")
    (flow,) = flows(api)
    assert counts(flow) == (3 + 2, 3 + 2)


@pytest.mark.parametrize("off", [-1, 1])
def test_ids_agree_when_agents_disagree_by_a_window(api, now, off):
    window = now - 5 * SECOND
    api.send(sighting(window, role=0, first_window=window), (window,), node="node1")
    other = window + off * SECOND
    api.send(sighting(other, role=1, first_window=other), (other,), node="node2")
    (flow,) = flows(api)
    assert {tap["node"] for tap in flow["taps"]} == {"node1", "node2"}


def test_a_port_used_again_is_another_flow(api, now):
    early, late = now - 300 * SECOND, now - 5 * SECOND
    api.send(sighting(early), (early,))
    api.send(sighting(late), (late,))
    assert len({flow["flow_id"] for flow in flows(api)}) == 2


def test_the_better_direction_wins_and_turns_the_rest(api, now):
    window = now - 5 * SECOND
    turned = sighting(
        window,
        "10.244.2.7",
        "10.244.1.5",
        (80, 41022),
        packets=(5, 6),
        direction=Direction.GUESSED,
        role=0,
    )
    api.send(turned, (window,), node="node2")
    api.send(sighting(window, role=0), (window,), node="node1")
    (flow,) = flows(api)
    assert flow["consumer"]["ip"] == "10.244.1.5"
    assert flow["direction"] == "syn"
    assert counts(flow) == (6, 5)
    assert [(tap["node"], tap["role"]) for tap in flow["taps"]] == [("node1", 0), ("node2", 1)]


def test_a_node_that_learns_the_direction_late_adds_up(api, now):
    first, second = now - 6 * SECOND, now - 5 * SECOND
    guess = sighting(
        first, "10.244.2.7", "10.244.1.5", (80, 41022), packets=(5, 6), direction=Direction.GUESSED, role=0
    )
    known = sighting(second, first_window=first, packets=(10, 1))
    api.send(np.concatenate([guess, known]), (first, second))
    (flow,) = flows(api)
    assert counts(flow) == (16, 6)
    assert flow["consumer"]["port"] == 41022


def _change(kind, value, at):
    import msgspec

    return {
        "cluster": "lab",
        "kind": kind,
        "uid": value.uid,
        "at": at,
        "known": at,
        "value": msgspec.to_builtins(value),
    }


def teach(api, now):
    at = now - 600 * SECOND
    pods = [
        Pod("p1", "shop", "front-1", "node1", ("10.244.1.5",), labels=labels_of({"app": "front"}), workload="Deployment/front"),
        Pod("p2", "shop", "carts-1", "node2", ("10.244.2.7",), labels=labels_of({"app": "carts"}), workload="Deployment/carts"),
    ]  # fmt: skip
    service = Service("s1", "shop", "carts", cluster_ips=("10.96.0.9",), selector=labels_of({"app": "carts"}), ports=(ServicePort(80, target_port=8080),))  # fmt: skip
    nodes = [Node(f"n{i}", f"node{i}", (f"192.168.0.{i}",), (f"10.244.{i}.0/24",)) for i in (1, 2)]
    changes = [
        *(_change("Pod", pod, at) for pod in pods),
        _change("Service", service, at),
        *(_change("Node", node, at) for node in nodes),
    ]
    body = {"cluster": "lab", "changes": changes, "sequence": 4}
    headers = {"Authorization": f"Bearer {api.agent}"}
    for new in (5, 0):
        answer = api.client.post("/v1/ingest/changes", json=body, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"acknowledged": 4, "new": new})


def test_a_call_through_a_service_is_one_connection_with_two_legs(api, now):
    teach(api, now)
    window = now - 5 * SECOND
    translation = np.zeros(1, TRANSLATION)
    before = sighting(window, provider="10.96.0.9")
    after = sighting(window, ports=(41022, 8080))
    translation["seen"], translation["protocol"], translation["dnat"] = window, 6, 1
    for stage, row in (("pre", before), ("post", after)):
        for name in (
            "consumer_hi",
            "consumer_lo",
            "provider_hi",
            "provider_lo",
            "consumer_port",
            "provider_port",
        ):
            translation[f"{stage}_{name}"] = row[name]
    api.send(np.concatenate([before, after]), (window,), translations=translation)
    (connection,) = api.get("/v1/connections")["connections"]
    assert connection["category"] == "pod-to-pod-via-service"
    assert connection["placement"] == "other-node"
    assert connection["service"] == "shop/carts"
    assert [leg["leg"] for leg in connection["legs"]] == ["pre-dnat", "post-dnat"]
    assert {leg["connection_id"] for leg in connection["legs"]} == {connection["connection_id"]}
    assert connection["provider"]["name"] == "carts-1"
    assert connection["port"] == 8080
    (edge,) = api.get("/v1/edges", namespace="shop")["edges"]
    assert (edge["service"], edge["port"], edge["connections"]) == ("shop/carts", 8080, 1)
    assert api.get("/v1/edges", namespace="other")["edges"] == []
    shown = api.get(f"/v1/flows/{connection['legs'][1]['flow_id']}")["connection"]
    assert shown["connection_id"] == connection["connection_id"]
    listed = api.get("/v1/flows", workload="Deployment/carts")["flows"]
    assert len(listed) == 2
    assert {each["name"] for each in api.get("/v1/inventory", kind="Pod")["endpoints"]} == {
        "front-1",
        "carts-1",
    }


def test_policies_are_proposed_from_what_was_seen(api, now):
    teach(api, now)
    window = now - 5 * SECOND
    api.send(sighting(window, ports=(41022, 8080)), (window,))
    answer = api.client.post(
        "/v1/policies/discover", json={"since": "5m"}, headers={"Authorization": f"Bearer {api.admin}"}
    )
    assert answer.status_code == 200, answer.text
    policies = {policy["workload"]: policy for policy in answer.json()["policies"]}
    assert set(policies) == {"Deployment/front", "Deployment/carts"}
    ingress = policies["Deployment/carts"]["body"]["spec"]["ingress"]
    assert ingress[0]["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert "kind: NetworkPolicy" in policies["Deployment/carts"]["yaml"]


def test_completeness_says_what_is_missing(api, now):
    windows = [now - n * SECOND for n in range(40, 12, -1)]
    kept = tuple(window for window in windows if window != windows[5])
    api.send(sighting(kept[0]), kept, notes=("sees no loopback",))
    answer = api.get("/v1/completeness", since="1m")
    (node,) = answer["nodes"]
    assert node["windows_closed"] == len(kept)
    assert node["windows_expected"] > len(kept)
    assert not answer["complete"]
    assert any("never closed" in reason for reason in answer["reasons"])
    assert any("sees no loopback" in spot for node in answer["nodes"] for spot in node["blind_spots"])


def test_a_node_that_fell_silent_before_the_asked_time_is_missing_from_it(api, now):
    ends = now - 120 * SECOND
    for node, last in (("node1", ends), ("node2", now - 12 * SECOND)):
        windows = tuple(range(now - 200 * SECOND, last, SECOND))
        api.server._clock = lambda: ends
        api.server.service.ingest._clock = lambda at=last: at
        api.send(sighting(windows[0]), windows, node=node, sent=last)
    answer = api.get("/v1/completeness", since="1m")
    states = {
        node["node"]: node["windows_closed"] / max(1, node["windows_expected"]) for node in answer["nodes"]
    }
    assert states["node1"] == 0
    assert states["node2"] > 0.9
    assert not answer["complete"]


def test_a_node_that_fell_silent_at_the_start_of_the_asked_time_is_expected_in_all_of_it(api, now):
    early = tuple(range(now - 100 * SECOND, now - 70 * SECOND, SECOND))
    late = tuple(range(now - 30 * SECOND, now - 12 * SECOND, SECOND))
    api.send(sighting(early[0]), early + late)
    (node,) = api.get("/v1/completeness", since="1m")["nodes"]
    assert node["windows_expected"] - node["windows_closed"] >= 28


def test_a_clock_that_is_ahead_is_said_below_a_second(api, now):
    windows = tuple(range(now - 40 * SECOND, now - 12 * SECOND, SECOND))
    api.send(sighting(windows[0]), windows, sent=now + 300_000_000)
    reasons = api.get("/v1/completeness", since="1m")["reasons"]
    assert any("clock is -0.3 s off" in reason for reason in reasons)


def test_a_connection_of_hours_is_tied_by_the_last_dump(api, now):
    """What conntrack said when it began is long past; a dump each minute says it again."""
    window, began = now - 5 * SECOND, now - 7_200 * SECOND
    before = sighting(window, provider="10.96.0.9", first_window=began)
    after = sighting(window, ports=(41022, 8080), first_window=began)
    translation = np.zeros(1, TRANSLATION)
    translation["seen"], translation["protocol"] = now - 90 * SECOND, 6
    translation["dnat"] = translation["dumped"] = 1
    for stage, row in (("pre", before), ("post", after)):
        for side in ("consumer", "provider"):
            for part in ("hi", "lo", "port"):
                translation[f"{stage}_{side}_{part}"] = row[f"{side}_{part}"]
    api.send(np.concatenate([before, after]), (window,), translations=translation)
    (connection,) = api.get("/v1/connections", since="1m")["connections"]
    assert [leg["leg"] for leg in connection["legs"]] == ["pre-dnat", "post-dnat"]


def test_a_window_told_in_two_batches_counts_both_once(api, now):
    """A kernel map was read early: the first batch has rows of a window that the second closes."""
    window = now - 15 * SECOND
    length = {"window_length": 15 * SECOND}
    api.send(sighting(window, packets=(6, 5)), (), open_window=window, **length)
    api.send(sighting(window, packets=(2, 1)), (window,), **length)
    api.send(sighting(window, role=1, packets=(7, 5)), (), node="node2", open_window=window, **length)
    api.send(sighting(window, role=1, packets=(1, 1)), (window,), node="node2", **length)
    (flow,) = flows(api)
    assert counts(flow) == (8, 6)


def test_ports_are_folded_away_when_asked(api, now):
    window = now - 5 * SECOND
    rows = [sighting(window, ports=(4000 + number, 80)) for number in range(5)]
    api.send(np.concatenate(rows), (window,))
    assert len(flows(api)) == 5
    (one,) = api.get("/v1/flows", since="10m", fold="true")["flows"]
    assert (one["connections"], one["consumer"]["port"], one["provider"]["port"]) == (5, None, 80)
    assert counts(one) == (30, 25)
    assert one["flow_id"] != one["connection_id"]
    assert api.get("/v1/flows", since="10m", fold="true", namespace="nowhere")["flows"] == []


def test_what_was_sampled_says_so(api, now):
    window = now - 5 * SECOND
    api.send(sighting(window, packets=(80, 0)), (window,), sample=8)
    api.send(sighting(window, ports=(41023, 80)), (window,), node="node2")
    told = {flow["consumer"]["port"]: flow["sample"] for flow in flows(api)}
    assert told == {41022: 8, 41023: None}
    assert {flow["sample"] for flow in api.get("/v1/flows", since="10m", fold="true")["flows"]} == {8}


def told(window, first_window=None, role=0, srtt=None, retransmits=None, ends=(), **more):
    """A sighting with what sockets of its node said."""
    row = sighting(window, *ends, role=role, first_window=first_window or window, **more)
    for name, value in (("srtt_us", srtt), ("retransmits", retransmits)):
        if value is not None:
            row[name] = value
    return row


def measured(api):
    (flow,) = flows(api)
    return flow["srtt_us"], flow["retransmits"]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_what_sockets_of_both_ends_said_is_joined(api, now, backwards, turned):
    """Segments sent again add up, over windows and both nodes; of round trips the consumer's last one is shown."""
    first, second = now - 6 * SECOND, now - 5 * SECOND
    # What began before it listened the provider's node may have the wrong way round.
    guess = {"ends": ("10.244.2.7", "10.244.1.5", (80, 41022)), "direction": Direction.GUESSED}
    provider = [
        told(first, role=1, srtt=90, retransmits=5, **(guess if turned else {})),
        told(second, first, role=1, srtt=80, retransmits=0),
    ]
    sent = [
        (
            "z-consumer",
            np.concatenate(
                [told(first, srtt=250, retransmits=2), told(second, first, srtt=300, retransmits=1)]
            ),
        ),
        ("a-provider", np.concatenate(provider)),
        ("m-transit", told(first, role=2)),
    ]
    for node, rows in reversed(sent) if backwards else sent:
        api.send(rows, (first, second), node=node)
    assert measured(api) == (300, 2 + 1 + 5 + 0)


def test_where_one_end_said_nothing_the_other_s_word_holds(api, now):
    """No agent in detailed mode at the consumer: null is not zero, and the provider's own is shown."""
    window = now - 5 * SECOND
    api.send(told(window), (window,), node="node1")
    assert measured(api) == (None, None)
    api.send(told(window, role=1, srtt=90, retransmits=0), (window,), node="node2")
    assert measured(api) == (90, 0)


def test_what_a_node_said_of_windows_that_do_not_count_is_still_the_sockets(api, now):
    """Counters come from one node; what its sockets sent again is each node's own."""
    window = now - 5 * SECOND
    api.send(told(window, role=0, srtt=250, retransmits=1), (window,), node="node1")
    api.send(told(window, role=1, srtt=90, retransmits=4, packets=(9, 9)), (window,), node="node2")
    (flow,) = flows(api)
    assert counts(flow) == (6, 5)
    assert (flow["srtt_us"], flow["retransmits"]) == (250, 5)


def test_clients_behind_source_translation_are_named_without_a_port_of_theirs(api, now):
    """Two calls of one client through a node's port: the leg behind it says who opened, and no one port."""
    window, client, node, pod = now - 5 * SECOND, "203.0.113.9", "10.88.0.11", "10.244.2.7"
    rows, translations = [], []
    for number in (0, 1):
        rows.append(sighting(window, client, node, ports=(4000 + number, 30080)))
        rows.append(sighting(window, node, pod, ports=(6000 + number, 80)))
        each = np.zeros(1, TRANSLATION)
        for prefix, (consumer, provider) in (
            ("pre_", ((client, 4000 + number), (node, 30080))),
            ("post_", ((node, 6000 + number), (pod, 80))),
        ):
            for side, (ip, port) in (("consumer_", consumer), ("provider_", provider)):
                each[prefix + side + "hi"], each[prefix + side + "lo"] = pack(ip)
                each[prefix + side + "port"] = port
        each["seen"], each["protocol"], each["dnat"], each["snat"] = window, 6, 1, 1
        translations.append(each)
    api.send(np.concatenate(rows), (window,), translations=np.concatenate(translations))
    legs = {flow["leg"]: flow for flow in api.get("/v1/flows", since="10m", fold="true")["flows"]}
    assert {leg: flow["connections"] for leg, flow in legs.items()} == {"pre-dnat": 2, "post-dnat": 2}
    opened = legs["post-dnat"]["opened_by"]
    assert (opened["ip"], opened["port"]) == (client, None)
    assert legs["pre-dnat"]["connection_id"] == legs["post-dnat"]["connection_id"]
