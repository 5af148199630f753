"""An agent over its budget becomes coarser in a fixed order, and finer again only when that will last."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.agent.budget import (
    EASE,
    LENGTHEN,
    LEVELS,
    OVER,
    UNDER,
    Budget,
    Standing,
    Use,
    check,
    load,
    look,
    window,
)
from ringfence.agent.budget import note as note_of
from ringfence.model.problems import Problem

BUDGET = Budget(cpu=0.1, memory=64 << 20)
CALM, BUSY, FULL = Use(0.01, 10 << 20), Use(0.2, 10 << 20), Use(0.01, 65 << 20)
SECOND = 1_000_000_000
NEW = Standing()


def after(uses: list[Use], standing: Standing = NEW) -> Standing:
    for use in uses:
        standing = look(standing, BUDGET, use)
    return standing


def test_up_after_three_looks_over_and_down_after_twelve_well_below() -> None:
    assert after([BUSY] * (OVER - 1)).level == 0
    assert after([BUSY] * OVER).level == 1
    assert after([FULL] * OVER * 2).level == 2
    assert after([BUSY, BUSY, CALM, BUSY, BUSY]).level == 0
    high = after([BUSY] * OVER)
    assert after([CALM] * (UNDER - 1), high).level == 1
    assert after([CALM] * UNDER, high).level == 0


@given(st.lists(st.sampled_from([CALM, BUSY, FULL, Use(0.07, 40 << 20)]), max_size=200))
def test_never_beyond_the_levels_and_one_step_at_a_time(uses: list[Use]) -> None:
    standing, known = Standing(), [0]
    for use in uses:
        standing = look(standing, BUDGET, use)
        known.append(standing.level)
    assert all(0 <= level < len(LEVELS) for level in known)
    assert all(abs(one - other) <= 1 for one, other in pairwise(known))


@given(st.integers(0, 3), st.integers(0, 50))
def test_between_easy_and_full_nothing_changes(level: int, looks: int) -> None:
    use = Use(BUDGET.cpu * (EASE + 0.2), 1)
    assert after([use] * looks, Standing(level)).level == level


def test_without_limits_nothing_is_ever_given_up() -> None:
    assert load(Budget(), Use(64.0, 1 << 40)) == 0
    assert note_of(Standing(), BUDGET) is None


def test_what_is_given_up_is_said_with_the_limits() -> None:
    assert note_of(Standing(2), BUDGET) == (
        "over its budget of 0.1 cores and 64 MiB: processes and names are not looked up, and windows are 4 times as long"
    )


@pytest.mark.parametrize(
    "length", [SECOND, 15 * SECOND, 5 * SECOND, 7 * SECOND, 1800 * SECOND, 3600 * SECOND]
)
def test_longer_windows_are_multiples_so_that_switching_closes_nothing_early(length: int) -> None:
    lengths = [window(length, level) for level in range(len(LEVELS))]
    assert lengths[0] == lengths[1] == length
    assert all(each % length == 0 for each in lengths)
    assert lengths == sorted(lengths)
    assert lengths[-1] <= 3600 * SECOND
    if length <= 15 * SECOND:
        assert lengths[2] == LENGTHEN[2] * length
    if length == SECOND:
        assert lengths[3] == 60 * SECOND


@pytest.mark.parametrize(
    ("budget", "word"), [(Budget(cpu=0.001), "cpu_limit"), (Budget(memory=1), "memory_limit")]
)
def test_limits_that_nobody_could_keep_are_a_problem(budget: Budget, word: str) -> None:
    with pytest.raises(Problem, match=word):
        check(budget)
    check(Budget())
