"""The agent's mind: `step(state, event) -> (state, commands)`. Pure; `main` performs.

One window's life: a `Tick` at its end asks to `Observe`; what was `Observed` is folded into sightings and asked to
be `Keep`t; once kept on disk, and only then, the kernel may forget it (`Commit`). Counts whose generation was kept
before a crash are not kept twice: they are only committed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ringfence.flows.fold import CONVERSATION, U64, Place, conversation_key, fold
from ringfence.model.addresses import pack
from ringfence.model.batches import BatchHeader, Loss, ProcessInfo, TapInfo
from ringfence.model.columns import SIGHTING, Table, structured

MAX_WINDOWS = 3_600
"""Windows one batch may close; after a longer pause the older ones are left out, which shows as absence."""


class State(NamedTuple):
    """What the agent knows. `kept` is the generation of the newest counts that are on disk."""

    cluster: str
    node: str
    epoch: str
    version: str
    mode: str
    window_length: int
    next_close: int
    sequence: int = 0
    kept: int = 0
    conversations: Table = np.zeros(0, CONVERSATION)


class Tick(NamedTuple):
    """Time passed. `now` is UTC nanoseconds; `final` closes the open window early, before a clean stop."""

    now: int
    final: bool = False


class Observed(NamedTuple):
    """What the capture had at the end of a window."""

    now: int
    windows: tuple[int, ...]
    counts: Table
    generation: int
    packets: int
    taps: tuple[TapInfo, ...]
    addresses: tuple[str, ...]
    translations: Table
    hints: Table
    processes: Table
    process_infos: tuple[ProcessInfo, ...]
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]


class Observe(NamedTuple):
    """Read the capture; these windows end now."""

    windows: tuple[int, ...]


class Keep(NamedTuple):
    """Put this batch on disk, then send it."""

    header: BatchHeader
    sightings: Table
    translations: Table


class Commit(NamedTuple):
    """The counts of this generation are on disk: the kernel may forget them."""

    generation: int


Event = Tick | Observed
Command = Observe | Keep | Commit


def begin(
    cluster: str, node: str, epoch: str, version: str, mode: str, window_length: int, now: int, kept: int = 0
) -> State:
    """The state of an agent that starts at `now`: the window that is open now is its first."""
    next_close = now - now % window_length + window_length
    return State(cluster, node, epoch, version, mode, window_length, next_close, kept=kept)


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """What to do about `event`."""
    if isinstance(event, Tick):
        return _tick(state, event)
    return _observed(state, event)


def _tick(state: State, event: Tick) -> tuple[State, tuple[Command, ...]]:
    length = state.window_length
    end = event.now - event.now % length + length * event.final
    if end < state.next_close:
        return state, ()
    first = max(state.next_close - length, end - MAX_WINDOWS * length)
    windows = tuple(range(first, end, length))
    return state._replace(next_close=end + length), (Observe(windows),)


def _observed(state: State, event: Observed) -> tuple[State, tuple[Command, ...]]:
    if event.generation == state.kept and event.generation:
        # These counts were kept before a crash; what conntrack and processes said goes with the next window.
        event = event._replace(counts=event.counts[:0], packets=0)
    pods = tuple(dict.fromkeys(tap.pod for tap in event.taps if tap.pod))
    folded = fold(event.counts, event.windows[-1], _place(event, pods), state.conversations, event.hints)
    sightings = _with_processes(folded.sightings, folded.key, event.processes)
    header = BatchHeader(
        cluster=state.cluster,
        node=state.node,
        epoch=state.epoch,
        sequence=state.sequence + 1,
        sent=event.now,
        window_length=state.window_length,
        windows=event.windows,
        mode=state.mode,
        version=state.version,
        taps=event.taps,
        pods=pods,
        processes=event.process_infos,
        addresses=event.addresses,
        losses=event.losses,
        notes=event.notes,
        packets=event.packets,
        records=len(event.counts),
        generation=event.generation,
        unnamed_taps=folded.unnamed_taps,
    )
    state = state._replace(
        sequence=header.sequence, kept=event.generation, conversations=folded.conversations
    )
    return state, (Keep(header, sightings, event.translations), Commit(event.generation))


def _place(event: Observed, pods: tuple[str, ...]) -> Place:
    index = {uid: position + 1 for position, uid in enumerate(pods)}
    local = [pack(address) for address in event.addresses]
    return Place(
        is_pod=np.array([tap.at == "pod" for tap in event.taps], np.bool_),
        pod=np.array([index.get(tap.pod or "", 0) for tap in event.taps], np.uint32),
        local_hi=np.array([hi for hi, _ in local], np.uint64),
        local_lo=np.array([lo for _, lo in local], np.uint64),
    )


def _with_processes(sightings: Table, keys: U64, processes: Table) -> Table:
    """Name the opening process of the sightings whose conversation it opened."""
    if not len(processes) or not len(sightings):
        return sightings
    probe = structured(SIGHTING, len(processes))
    for name in processes.dtype.names or ():
        if name != "process":
            probe[name] = processes[name]
    opened = conversation_key(probe)
    at = np.minimum(np.searchsorted(keys, opened), len(keys) - 1)
    hit = keys[at] == opened
    sightings["process"][at[hit]] = processes["process"][hit] + 1
    return sightings
