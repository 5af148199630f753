"""One conversation, one first window, whoever tells of it in whatever order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringfence.flows.conversations import Conversations

S = 1_000_000_000
CLAIMS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=30
)


def settle(state, claims):
    """Claims are (key, first window in seconds, how much later the row's window is)."""
    key = np.array([c[0] for c in claims], np.uint64)
    first = np.array([c[1] * S for c in claims], np.int64)
    window = np.array([(c[1] + c[2]) * S for c in claims], np.int64)
    return (state.settle(key, first, window, np.full(len(claims), S)) // S).tolist()


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
