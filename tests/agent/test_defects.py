"""A defect of ours in what is done with a window costs that window's facts, or its counts, said as lost; never the agent."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.agent import main
from ringfence.agent.defects import COUNTS_DEFECT, FACTS_DEFECT
from ringfence.agent.main import Agent
from ringfence.agent.settings import AgentSettings
from ringfence.agent.step import Commit, Keep, Tick, step
from ringfence.capture import privilege
from ringfence.flows.ends import OPENED
from tests.agent.test_step import SECOND, observed, start


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.delenv("RINGFENCE_DEBUG", raising=False)
    return Agent(AgentSettings(node="n", data=str(tmp_path)))


def lost(keep: Keep) -> dict[str, tuple[int, int]]:
    return {loss.stage: (loss.packets, loss.events) for loss in keep.header.losses}


def test_facts_that_end_in_a_defect_are_counted_as_lost(agent, capsys, monkeypatch):
    def broken(state, event):
        if event.notes and len(event.process_infos):
            raise IndexError("index 30 is out of bounds")
        return step(state, event)

    monkeypatch.setattr(main, "step", broken)
    event = observed((10 * SECOND,))._replace(process_infos=("somebody",))
    _, (keep, _) = agent._decided(start(), event)
    assert (len(keep.sightings), lost(keep)) == (1, {FACTS_DEFECT: (0, 1)})
    said = capsys.readouterr().err
    assert "a defect: IndexError: index 30 is out of bounds" in said
    assert "please report it" in said


def test_counts_that_end_in_a_defect_are_counted_as_lost_and_committed(agent, monkeypatch):
    def broken(state, event):
        if not isinstance(event, Tick) and len(event.counts):
            raise ValueError("no such row")
        return step(state, event)

    monkeypatch.setattr(main, "step", broken)
    state, (keep, commit) = agent._decided(start(), observed((10 * SECOND,)))
    assert (len(keep.sightings), keep.header.packets, commit) == (0, 0, Commit(1))
    assert lost(keep) == {FACTS_DEFECT: (0, 1), COUNTS_DEFECT: (3, 1)}
    assert keep.header.windows == (10 * SECOND,)
    assert state.sequence == 1


def test_a_memory_that_ends_in_a_defect_is_forgotten(agent):
    """Or it would cost the facts of every window to come."""
    opened = np.zeros(1, OPENED)
    opened["process"], opened["until"] = 99, 1 << 62  # of an opener that is not remembered
    poisoned = start()._replace(opened=opened)
    state, (keep, _) = agent._decided(poisoned, observed((10 * SECOND,)))
    assert (len(keep.sightings), lost(keep)) == (1, {FACTS_DEFECT: (0, 1)})
    _, (keep, _) = agent._decided(state, observed((11 * SECOND,), generation=2))
    assert (len(keep.sightings), lost(keep)) == (1, {})


@pytest.mark.parametrize(
    ("settings", "held", "reason"),
    [
        ({}, ("BPF", "PERFMON"), ""),
        ({"netns": "/run/netns/x"}, ("BPF", "PERFMON"), "another namespace"),
        ({}, (), "stands in for CAP_BPF and CAP_PERFMON"),
        ({}, ("BPF",), "stands in for CAP_PERFMON"),
        ({"facts": False, "processes": False, "socket_links": False}, ("BPF",), ""),
        ({"facts": False, "processes": False, "socket_links": False}, (), "stands in for CAP_BPF"),
        ({"path": "packet", "facts": False, "processes": False, "socket_links": False}, (), ""),
    ],
)
def test_a_right_that_stands_in_for_others_is_not_given_up(monkeypatch, settings, held, reason):
    """Where a runtime knows no CAP_BPF, CAP_SYS_ADMIN is what loads programs (capabilities(7))."""
    monkeypatch.setattr(privilege, "owned", lambda name: name in held)
    said = main._keeps(AgentSettings(**settings))
    assert reason in said
    assert bool(reason) == bool(said)


def test_whoever_looks_for_a_defect_sees_it_whole(agent, monkeypatch):
    monkeypatch.setenv("RINGFENCE_DEBUG", "1")
    monkeypatch.setattr(main, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        agent._decided(start(), observed((10 * SECOND,)))
