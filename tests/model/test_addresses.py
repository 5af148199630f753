"""Addresses as columns."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringfence.model.addresses import among

HALF = st.sampled_from([0, 1, 2, 2**63, 2**64 - 1])
COLUMN = st.lists(st.tuples(HALF, HALF), max_size=12)


@given(COLUMN, COLUMN)
def test_among_is_membership(addresses: list[tuple[int, int]], those: list[tuple[int, int]]) -> None:
    hi, lo, those_hi, those_lo = (
        np.array([pair[part] for pair in column], np.uint64)
        for column in (addresses, those)
        for part in (0, 1)
    )
    assert among(hi, lo, those_hi, those_lo).tolist() == [pair in those for pair in addresses]
