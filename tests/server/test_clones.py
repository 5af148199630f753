"""Every order that one agent can produce is let through; two that live at once are noticed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringfence.server.clones import REMEMBERED, Life

Step = tuple[int, str, int]
"""Connection, epoch, sequence."""


@st.composite
def lives(draw: st.DrawFn, tag: str = "e") -> list[Step]:
    """What one agent sends: epochs one after the other, batches again after an answer that was lost, connections new
    at any time and never used again."""
    steps: list[Step] = []
    connection = draw(st.integers(0, 10_000)) * 10_000
    for epoch in range(draw(st.integers(1, 4))):
        for sequence in range(1, draw(st.integers(1, 6)) + 1):
            for _ in range(draw(st.integers(1, 2))):
                connection += draw(st.integers(0, 1))
                steps.append((connection, f"{tag}{epoch}", sequence))
    return steps


def suspicion(steps: list[Step]) -> str | None:
    life = Life()
    for step in steps:
        if reason := life.suspect(*step):
            return reason
        life.took(*step)
    return None


@given(lives())
def test_one_agent_is_never_suspected(steps: list[Step]) -> None:
    assert suspicion(steps) is None


@given(lives(), st.data())
def test_nor_is_one_whose_server_reads_late_what_it_gave_up(steps: list[Step], data: st.DataObject) -> None:
    """One request of a connection that was left arrives after what came next over the new one."""
    at = data.draw(st.integers(0, len(steps) - 1))
    connection, epoch, sequence = steps[at]
    later = [(each[0] + 1, *each[1:]) for each in steps[at:]]
    delay = data.draw(st.integers(1, len(later)))
    assert suspicion([*steps[:at], *later[:delay], (connection, epoch, sequence), *later[delay:]]) is None


@given(st.integers(1, 20), st.integers(1, 20))
def test_two_epochs_by_turns_are_suspected_at_the_third_turn(first: int, second: int) -> None:
    turns = [(1, "e", n) for n in range(1, first + 1)] + [(2, "f", n) for n in range(1, second + 1)]
    assert suspicion(turns) is None
    assert suspicion([*turns, (1, "e", first + 1)]) == "epochs f and e come by turns"


@given(st.integers(2, 30))
def test_two_that_go_on_with_one_spool_are_suspected_by_their_connections(batches: int) -> None:
    turns = [(connection, "e", n) for n in range(1, batches + 2) for connection in (1, 2)]
    assert suspicion(turns) == "two connections send batches by turns"


def test_what_is_remembered_is_bounded() -> None:
    life = Life()
    for number in range(10 * REMEMBERED):
        life.took(number, f"e{number}", 1)
    assert len(life._epochs) == len(life._connections) == REMEMBERED
