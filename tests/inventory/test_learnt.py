"""Every span of a history was learnt at some time, and a history as of that time has it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.history import Span, Statement, spans
from ringfence.inventory.learnt import learnt
from ringfence.model.objects import Pod

VALUES = [
    None,
    *(Pod("u", "ns", "p", workload=owner, phase=phase) for owner in (None, "Job/x") for phase in "ab"),
]

statements = st.builds(Statement, st.integers(0, 6), st.integers(0, 6), st.sampled_from(VALUES))


@given(st.lists(statements, max_size=8))
def test_a_span_is_there_as_of_when_it_was_learnt_and_not_before(said):
    for span in spans(said):
        known = learnt(said, span)
        assert known is not None
        assert any(one.known == known for one in said)
        before = spans(one for one in said if one.known < known)
        # Nobody said that value from that time on yet; something like it may have begun earlier.
        assert not any(one.start == span.start and learnt(said, one, known - 1) == known for one in before)


def test_what_was_learnt_later_and_what_is_forgotten():
    a, b = VALUES[1], VALUES[2]
    said = [Statement(1, 5, a), Statement(1, 9, b)]
    assert [(span.start, learnt(said, span)) for span in spans(said)] == [(1, 5), (9, 9)]
    assert learnt(said, Span(1, a), 4) is None
    assert learnt([], Span(1, a)) is None
