"""What is left of a window where a defect of ours ends what is done with it: less and less of it, said as lost. Pure."""

from __future__ import annotations

from ringfence.agent.step import Observed, State
from ringfence.flows.heard import Heard
from ringfence.flows.names import Names
from ringfence.model.batches import Loss

FACTS_DEFECT, COUNTS_DEFECT = "facts-defect", "counts-defect"
"""Losses by a defect of ours: what was known beside the counts of a window, and the counts themselves."""


def bare(state: State, event: Observed) -> tuple[State, Observed]:
    """The same counts without anything beside them, now or remembered, said as a loss: what a defect in the rest leaves."""
    state = state._replace(
        hints=state.hints[:0],
        opened=state.opened[:0],
        openers=(),
        facts=state.facts[:0],
        accepted=state.accepted[:0],
        asks=state.asks[:0],
        names=Names(),
        lent=state.lent[:0],
    )
    return state, event._replace(
        hints=event.hints[:0],
        processes=event.processes[:0],
        process_infos=(),
        facts=event.facts[:0],
        accepted=event.accepted[:0],
        ends=event.ends[:0],
        asks=event.asks[:0],
        heard=Heard(),
        losses=(*event.losses, Loss(FACTS_DEFECT, events=1)),
    )


def blind(state: State, event: Observed) -> tuple[State, Observed]:
    """Nothing but that time passed, as if the agent had just begun; the packets, all taps added, are a loss."""
    lost = Loss(COUNTS_DEFECT, event.packets, int(event.counts["octets"].sum()), len(event.counts))
    state, empty = bare(state, event)
    state = state._replace(conversations=state.conversations[:0], translations=state.translations[:0])
    empty = empty._replace(counts=event.counts[:0], packets=0, translations=event.translations[:0])
    return state, empty._replace(losses=(*empty.losses, lost))
