"""What bringing records together must never change, over random records."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.imports.pair import Imported, flows
from ringfence.imports.records import UNKNOWN, End, Record
from ringfence.model.addresses import unpack
from ringfence.model.protocols import TCP

ADDRESSES = st.integers(1, 4).map(lambda last: (0, 0xFFFF_0A00_0000 + last))
ENDS = st.builds(End, ADDRESSES, st.integers(1, 4))
COUNTS = st.integers(0, 1000) | st.just(UNKNOWN)


@st.composite
def record(draw, reporters=("a", "b")):
    source, destination = draw(ENDS), draw(ENDS)
    first = draw(st.integers(0, 100))
    both = draw(st.booleans())
    return Record(
        source,
        destination,
        TCP,
        first,
        first + draw(st.integers(0, 10)),
        both=both,
        packets=draw(COUNTS),
        octets=draw(COUNTS),
        back_packets=draw(COUNTS) if both else UNKNOWN,
        back_octets=draw(COUNTS) if both else UNKNOWN,
        reporter=draw(st.sampled_from(reporters)),
        role=draw(st.integers(0, 2)),
    )


def told(made: Imported) -> dict[tuple[object, ...], tuple[object, ...]]:
    """By unordered ends: who sent how much, null where nobody told."""
    found = {}
    for row, flow in enumerate(made.flows):
        sides = {}
        for side in ("consumer", "provider"):
            end = unpack(int(flow[f"{side}_hi"]), int(flow[f"{side}_lo"])), int(flow[f"{side}_port"])
            counts = tuple(
                None if made.untold[f"{side}_{name}"][row] else int(flow[f"{side}_{name}"])
                for name in ("packets", "octets")
            )
            sides[end, side if end in sides else ""] = counts
        found[tuple(sorted(sides))] = tuple(sides[key] for key in sorted(sides))
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(record(), max_size=12))
def test_each_conversation_is_there_once(records: list[Record]) -> None:
    made = flows(records, "t")
    ends = {
        frozenset(((one.source.address, one.source.port), (one.destination.address, one.destination.port)))
        for one in records
    }
    assert len(made.flows) == len(ends)
    assert len({*made.flows["flow_id"].tolist()}) == len(made.flows)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(record(reporters=("a",)), max_size=12).map(
        lambda all: [r for r in all if r.source != r.destination]
    )
)
def test_one_reporter_s_numbers_add_up(records: list[Record]) -> None:
    made = flows(records, "t")
    known = sum(value for one in records for value in (one.packets, one.back_packets) if value != UNKNOWN)
    total = sum(int(made.flows[f"{side}_packets"].sum()) for side in ("consumer", "provider"))
    assert total == known


@settings(max_examples=150, deadline=None)
@given(
    st.lists(record(reporters=("a",)), max_size=8).map(
        lambda all: [r for r in all if r.source != r.destination]
    )
)
def test_another_reporter_of_the_same_changes_nothing(records: list[Record]) -> None:
    again = [one._replace(reporter="b") for one in records]
    assert told(flows([*records, *again], "t")) == told(flows(records, "t"))


@settings(max_examples=150, deadline=None)
@given(st.lists(record(), max_size=10), st.randoms())
def test_the_order_of_lines_changes_no_numbers(records: list[Record], random) -> None:
    records = [one for one in records if one.source != one.destination]
    mixed = list(records)
    random.shuffle(mixed)
    one, other = told(flows(records, "t")), told(flows(mixed, "t"))
    assert one.keys() == other.keys()
    if len({r.reporter for r in records}) == 1:
        assert one == other


def test_no_records_no_flows() -> None:
    assert len(flows([], "t").flows) == 0
