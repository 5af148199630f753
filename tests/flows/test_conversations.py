"""One conversation, one first window, whoever tells of it in whatever order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.flows.conversations import Claims, Conversations, Stretches, pods_at
from ringfence.testing.batches import sighting

S = 1_000_000_000
CLAIMS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=30
)


def settle(state, claims):
    """Claims are (key, first window in seconds, how much later the row's window is)."""
    key = np.array([c[0] for c in claims], np.uint64)
    first = np.array([c[1] * S for c in claims], np.int64)
    window = np.array([(c[1] + c[2]) * S for c in claims], np.int64)
    nobody = np.zeros(len(claims), np.uint64)
    told = Claims(key, first, window, np.full(len(claims), S), window + 1000, nobody, nobody)
    return (state.settle(told) // S).tolist()


def test_a_window_more_or_less_is_the_same_conversation():
    state = Conversations()
    assert settle(state, [(7, 100, 0)]) == [100]
    assert settle(state, [(7, 101, 0), (7, 99, 0), (8, 99, 0)]) == [100, 100, 99]


def test_a_restarted_agent_goes_on_with_the_conversation():
    state = Conversations()
    settle(state, [(7, 100, 50)])
    assert settle(state, [(7, 140, 1)]) == [100]
    assert settle(state, [(7, 160, 1)]) == [160]
    # News of the older one still finds it.
    assert settle(state, [(7, 100, 51), (7, 160, 2)]) == [100, 160]


def test_what_is_forgotten_begins_anew():
    state = Conversations()
    settle(state, [(7, 100, 0), (8, 200, 0)])
    state.forget(150 * S)
    assert len(state) == 1
    assert settle(state, [(7, 101, 0), (8, 201, 0)]) == [101, 200]


@given(CLAIMS, st.integers(0, 30))
def test_agrees_with_a_naive_reading(claims, split):
    """Batches one after the other, as a plain loop over stretches would settle them."""
    state, stretches = Conversations(), {}
    for part in (claims[:split], claims[split:]):
        if not part:
            continue
        got = settle(state, part)
        expected, groups = {}, []
        for index in sorted(range(len(part)), key=lambda i: (part[i][0], part[i][1])):
            key, first, more = part[index]
            if groups and groups[-1][0] == key and first <= groups[-1][2] + 2:
                groups[-1][2] = max(groups[-1][2], first + more)
                groups[-1][3].append(index)
            else:
                groups.append([key, first, first + more, [index]])
        new = []
        for key, first, last, members in groups:
            fits = [s for s in stretches.get(key, []) if s[0] <= first + 2]
            best = max(fits, key=lambda s: s[0], default=None)
            if best is not None and first <= best[1] + 2:
                best[1] = max(best[1], last)
                first = best[0]
            else:
                new.append((key, [first, last]))
            expected |= dict.fromkeys(members, first)
        for key, stretch in new:
            stretches.setdefault(key, []).append(stretch)
        assert got == [expected[i] for i in range(len(part))]


# Addresses given to another pod. A telling is (first window, window, pods at the low and the high end).


def tell(state, *tellings, key=7):
    """The flow of each telling, named by where it begins."""
    first, window = (np.array([t[i] * S for t in tellings], np.int64) for i in (0, 1))
    low, high = (np.array([t[2][i] for t in tellings], np.uint64) for i in (0, 1))
    keys, length = np.full(len(tellings), key, np.uint64), np.full(len(tellings), S)
    return state.settle(Claims(keys, first, window, length, window + 1000, low, high)).tolist()


A, B, OLD, NEW = 11, 12, 21, 22


@pytest.mark.parametrize("at_once", [True, False])
def test_another_pod_is_another_flow(at_once):
    state = Conversations()
    tellings = [(100, 100, (0, OLD)), (100, 100, (A, 0)), (101, 101, (0, NEW)), (100, 101, (A, 0))]
    old, far, new, _ = tell(state, *tellings) if at_once else [tell(state, each)[0] for each in tellings]
    assert (old, far, new) == (100 * S, 100 * S, 101 * S + 1000)
    # Both go on, each as it is, also for an agent that did not see the change of hands.
    assert tell(state, (101, 103, (0, NEW)), (100, 103, (0, NEW))) == [new] * 2
    assert tell(state, (100, 101, (0, OLD))) == [old]


def test_the_pods_may_be_heard_of_in_any_order():
    state = Conversations()
    tell(state, (100, 102, (A, 0)))
    (new,) = tell(state, (102, 102, (0, NEW)))
    (old,) = tell(state, (100, 101, (0, OLD)))
    assert new != old
    assert tell(state, (102, 103, (0, NEW)), (100, 101, (0, OLD))) == [new, old]


def test_within_one_window_too():
    state = Conversations()
    old, new = tell(state, (100, 100, (A, OLD)), (100, 100, (A, NEW)))
    assert old != new
    assert tell(state, (100, 105, (A, NEW))) == [new]


def test_both_ends_may_change():
    state = Conversations()
    flows = [
        tell(state, (100, window, pods))[0]
        for window, pods in ((100, (A, OLD)), (101, (B, OLD)), (102, (B, NEW)), (103, (B, NEW)))
    ]
    assert len(set(flows)) == 3
    assert flows[2] == flows[3]


def test_a_new_conversation_knows_nothing_of_the_pods_of_the_one_before():
    state = Conversations()
    assert tell(state, (100, 100, (0, OLD))) == [100 * S]
    assert tell(state, (200, 200, (0, NEW))) == [200 * S]
    # In one segment with news of another pod it is a conversation of its own just the same.
    assert tell(state, (300, 300, (0, OLD)), (300, 300, (0, NEW)))[0] == 300 * S


def test_a_restart_remembers_the_pods():
    before = Conversations()
    told = tell(before, (100, 100, (A, OLD)), (100, 101, (A, NEW)))
    state = Conversations()
    state.remember(Stretches._make(column[::-1] for column in before._known))
    assert tell(state, (100, 102, (A, NEW)), (100, 102, (A, OLD))) == [told[1], told[0]]


def test_pods_are_told_by_canonical_end_and_only_of_addresses_of_one_host():
    names = np.array([5, 6], np.uint64)
    row = sighting(0)
    row["consumer_pod"], row["provider_pod"] = 1, 2
    assert [ends.tolist() for ends in pods_at(row, names)] == [[5], [6]]
    turned = sighting(0, "10.244.2.7", "10.244.1.5", (80, 41022))
    turned["consumer_pod"], turned["provider_pod"] = 2, 1
    assert [ends.tolist() for ends in pods_at(turned, names)] == [[5], [6]]
    everybody = sighting(0, "::", "ff02::16")
    everybody["consumer_pod"], everybody["provider_pod"] = 1, 2
    assert [ends.tolist() for ends in pods_at(everybody, names)] == [[0], [0]]


PODS = st.tuples(st.sampled_from([0, A, B]), st.sampled_from([0, OLD, NEW]))
TELLINGS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), PODS), min_size=1, max_size=16)


@given(TELLINGS, st.integers(0, 16))
def test_no_flow_ever_has_two_pods_at_one_end(tellings, split):
    state, told = Conversations(), []
    for part in (tellings[:split], tellings[split:]):
        rows = [(0, window, pods) for _, window, pods in part]
        told += zip(tell(state, *rows), rows, strict=True)
    for end in (0, 1):
        pods = {}
        for flow, (_, _, row) in told:
            if row[end]:
                assert pods.setdefault(flow, row[end]) == row[end]
    # Where all rows of an end tell of one pod or none, nothing is divided.
    if all(len({row[2][end] for _, row in told} - {0}) < 2 for end in (0, 1)):
        assert {flow for flow, _ in told} == {0}
    known = state._known
    assert (np.diff(known.first) > 0).all()
    assert set(known.first.tolist()) == {flow for flow, _ in told}


@given(TELLINGS)
def test_what_tells_of_no_pods_is_settled_as_ever(tellings):
    one, other = Conversations(), Conversations()
    for first, more, pods in tellings:
        quiet = tell(one, (first * 40, first * 40 + more, (0, 0)))
        same = tell(other, (first * 40, first * 40 + more, (pods[0] and A, pods[1] and OLD)))
        assert quiet == same
