"""Maps are read just before they would be full, and not where what is in them lives on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringfence.agent.filling import AHEAD, LONGEST, SHORTEST, Filling, is_due, look, pause


def reads(speed, most=10.0, seconds=5.0):
    """(how full each read found the map) of one that fills at `speed` a second up to `most`, and is emptied then."""
    now, base, filling, found = 0.0, 0.0, Filling(0.0), []
    while now < seconds:
        now += pause(filling)
        filled = min((now - base) * speed, most)
        filling = look(filling, now, filled)
        if is_due(filling):
            found.append(filled)
            base = now
    return found


@given(st.floats(0.01, 4.0))
def test_a_map_is_read_before_it_is_full_and_not_long_before(speed):
    found = reads(speed)
    assert len(found) >= int(speed * 5.0 * 0.8) - 1
    # After the first one, whose speed nobody knew, each is read in time, and no earlier than it has to be.
    for filled in found[1:]:
        assert 1 - speed * AHEAD - 0.001 <= filled <= 1


@given(st.floats(0.05, 2.0), st.floats(0.05, 0.83))
def test_a_map_that_stops_filling_is_left_alone(speed, most):
    assert reads(speed, most) == []


def test_what_is_nearly_full_and_stands_still_is_left_alone():
    filling = look(look(Filling(0.0), 1.0, 0.93), 1.1, 0.93)
    assert not is_due(filling)
    assert pause(filling) == LONGEST


def test_looks_come_closer_as_a_map_fills():
    assert pause(Filling(0.0, 0.0, 0.1)) == LONGEST
    assert pause(Filling(0.0, 0.99, 10.0)) == SHORTEST


def test_a_clock_that_stands_still_does_no_harm():
    assert not is_due(look(Filling(1.0), 1.0, 0.99))
