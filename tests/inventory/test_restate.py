"""A corrected list holds from the time it names, and history stays for who asks as of before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.history import Statement, spans, value_at
from ringfence.inventory.restate import restate
from ringfence.model.objects import External

VALUES = [None, *(External("c/10.0.0.0/8", "c", "10.0.0.0/8", name) for name in "ab")]
STEP = 1_000

statements = st.builds(
    Statement,
    st.integers(0, 20).map(lambda n: n * STEP),
    st.integers(0, 20).map(lambda n: n * STEP),
    st.sampled_from(VALUES),
)


@given(st.lists(statements, max_size=8), st.integers(0, 22), st.sampled_from(VALUES))
def test_from_its_time_on_the_word_holds_and_before_it_nothing_changes(said, at, value):
    at, known = at * STEP, 100 * STEP
    before, after = spans(said), spans([*said, *restate(said, at, known, value)])
    for time in range(0, at, STEP // 2):
        assert value_at(after, time) == value_at(before, time)
    for time in range(at, 120 * STEP, STEP):
        # Between the steps: single nanoseconds after a former word are left to it.
        assert value_at(after, time + STEP // 2) == value


@given(st.lists(statements, max_size=8), st.integers(0, 22), st.sampled_from(VALUES))
def test_saying_it_again_adds_nothing_that_anyone_sees(said, at, value):
    at = at * STEP
    once = [*said, *restate(said, at, 100 * STEP, value)]
    again = [*once, *restate(once, at, 101 * STEP, value)]
    for time in range(0, 120 * STEP, STEP):
        assert value_at(spans(again), time + STEP // 2) == value_at(spans(once), time + STEP // 2)


def test_what_is_so_already_is_not_said():
    said = [Statement(5, 5, VALUES[1])]
    assert restate(said, 7, 9, VALUES[1]) == ()
    assert restate([], 7, 9, None) == ()
    assert restate(said, 7, 9, VALUES[2]) == (Statement(7, 9, VALUES[2]),)
    assert restate(said, 5, 9, VALUES[2]) == (Statement(6, 9, VALUES[2]),)
    assert restate(said, 3, 9, VALUES[2]) == (Statement(3, 9, VALUES[2]), Statement(6, 9, VALUES[2]))
