"""What taps counted, put side by side, is what a row-by-row reading of the same counts gives."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows import taps
from ringfence.model.columns import TAP_COUNT

SENT = st.fixed_dictionaries(
    {
        "tap": st.integers(0, 2),
        "ingress": st.integers(0, 1),
        "protocol": st.sampled_from((6, 17, 132)),
        "src_lo": st.integers(1, 3),
        "dst_lo": st.integers(1, 3),
        "src_port": st.integers(1, 3),
        "dst_port": st.integers(1, 3),
        "zone": st.sampled_from((0, 7)),
        "first": st.integers(0, 50),
        "packets": st.integers(1, 9),
        "flags": st.integers(0, 0x3FF),
    }
)
KEY = ("tap", "ingress", "protocol", "src_lo", "dst_lo", "src_port", "dst_port", "zone")


def table(rows):
    made = np.zeros(len(rows), TAP_COUNT)
    for number, row in enumerate(rows):
        for name, value in row.items():
            made[name][number] = value
    made["octets"], made["last"] = made["packets"] * 100, made["first"] + 5
    return made


def naive(rows):
    """{(tap, low end, high end, protocol, zone): what each end sent}, by dictionaries; of in and out the busier way."""
    ways = defaultdict(dict)
    for row in rows:
        src, dst = (row["src_lo"], row["src_port"]), (row["dst_lo"], row["dst_port"])
        low, high = sorted((src, dst))
        sender = "low" if src == low and src <= dst else "high"
        ways[row["tap"], low, high, row["protocol"], row["zone"]].setdefault(sender, []).append(row)
    return {
        key: {
            sender: (max(row["packets"] for row in sent), len(sent) > 1, min(row["first"] for row in sent))
            for sender, sent in ends.items()
        }
        for key, ends in ways.items()
    }


def found(made):
    answer = {}
    for row in made:
        ends = [(int(row[f"{side}_lo"]), int(row[f"{side}_port"])) for side in ("consumer", "provider")]
        key = (int(row["tap"]), *ends, int(row["protocol"]), int(row["zone"]))
        assert key not in answer
        answer[key] = row
    return answer


@given(st.lists(SENT, max_size=30, unique_by=lambda row: tuple(row[name] for name in KEY)))
@settings(max_examples=300)
def test_a_row_by_row_reading_agrees(rows):
    made = taps.per_tap(table(rows)).packed()
    expected, told = naive(rows), found(made)
    assert set(told) == set(expected)
    for key, ends in expected.items():
        for sender in ("low", "high"):
            packets, _, _ = ends.get(sender, (0, False, None))
            assert told[key][f"{sender}_packets"] == packets
            assert told[key][f"{sender}_octets"] == packets * 100
        assert told[key]["through"] == any(several for _, several, _ in ends.values())
        assert told[key]["first"] == min(first for *_, first in ends.values())
    assert (made["key"][1:] >= made["key"][:-1]).all()


@pytest.mark.parametrize("bits", [40, 60])
@given(st.lists(SENT, max_size=40))
def test_keys_that_share_their_upper_bits_are_told_apart_all_the_same(bits, rows):
    counts = table(rows)
    expected = taps.per_tap(counts).packed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taps, "WAY_BITS", np.uint64(bits))
        assert (taps.per_tap(counts).packed() == expected).all()
