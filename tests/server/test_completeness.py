"""Windows that nobody closed are counted in whole windows, also where an agent changed their length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.server.completeness import missing_windows


def missing(windows: list[tuple[int, int]], asked: tuple[int, int], usual: int = 1) -> int:
    table = np.array(windows, np.int64).reshape(-1, 2)
    return missing_windows(table[:, 0], table[:, 1], asked, usual)


@pytest.mark.parametrize(
    ("windows", "asked", "expected"),
    [
        ([(w, 1) for w in range(10)], (0, 10), 0),
        ([(0, 1), (1, 1), (4, 1)], (0, 5), 2),
        ([(0, 60), (60, 1), (61, 1)], (0, 62), 0),
        ([(w, 1) for w in range(60)] + [(60, 60)], (0, 120), 0),
        ([(60, 60), (120, 60)], (31, 239), 0),
        ([(60, 60)], (31, 241), 2),
        ([(0, 1), (60, 60)], (0, 120), 59),
        ([], (0, 7), 7),
        ([(5, 5)], (7, 7), 0),
    ],
)
def test_gaps(windows: list[tuple[int, int]], asked: tuple[int, int], expected: int) -> None:
    assert missing(windows, asked) == expected


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_of_equal_windows_each_that_is_absent_counts_once(closed: set[int], one: int, other: int) -> None:
    begin, end = sorted((one, other))
    inside = sorted(window for window in closed if begin <= window < end)
    assert missing([(window, 1) for window in inside], (begin, end)) == end - begin - len(inside)
