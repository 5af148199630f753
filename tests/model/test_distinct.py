"""The distinct values of a column are what NumPy says they are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringfence.model.distinct import distinct


@given(st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1)))
def test_as_numpy_says(values: list[int]) -> None:
    column = np.array(values, np.int64)
    assert np.array_equal(distinct(column), np.unique(column))
