"""The agent's mind: `step(state, event) -> (state, commands)`. Pure; `main` performs.

One window's life: a `Tick` at its end asks to `Observe`; what was `Observed` is folded into sightings and asked to
be `Keep`t; once kept on disk, and only then, the kernel may forget it (`Commit`). Counts whose generation was kept
before a crash are not kept twice: they are only committed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.agent.naming import Named, name_providers
from ringfence.flows.accepted import through
from ringfence.flows.asked import ASK, ASKS_LOST, given, remember
from ringfence.flows.ends import END, OPENED, holder_of, lent, name_ends, name_opened, used
from ringfence.flows.facts import FACT, tell
from ringfence.flows.facts import MOST as MOST_FACTS
from ringfence.flows.fold import U64, Folded, Mask, Place, fold
from ringfence.flows.heard import Heard
from ringfence.flows.memory import CONVERSATION, IDLE_TCP, MOST
from ringfence.flows.names import Names
from ringfence.model.addresses import pack
from ringfence.model.batches import BatchHeader, Loss, ProcessInfo, TapInfo
from ringfence.model.columns import TRANSLATION, TUPLE, Table

HINT = np.dtype(TUPLE)
ACCEPTED = np.dtype([*TUPLE, ("window", "<i8")])
MAX_TRANSLATIONS = 500_000
"""Translations in one batch; a dump of a busier node goes over several."""
MAX_WINDOWS = 3_600
"""Windows one batch may close; after a longer pause the older ones are left out, which shows as absence."""


class Pace(NamedTuple):
    """A mode and the length of its windows in nanoseconds."""

    mode: str
    window_length: int


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
    hints: Table = np.zeros(0, HINT)
    """What conntrack said in the last window: its news of a packet may be read before the packet is."""
    opened: Table = np.zeros(0, OPENED)
    """Openings that no counted packet matched yet and that may yet; `process` indexes `openers`."""
    openers: tuple[ProcessInfo, ...] = ()
    translations: Table = np.zeros(0, TRANSLATION)
    """What found no room in the last batch."""
    lent: U64 = np.zeros(0, np.uint64)
    """Conversations whose consumer's address came from source translation, of the last window."""
    facts: Table = np.zeros(0, FACT)
    """What the kernel told of conversations in the last window whose packets were not counted yet."""
    accepted: Table = np.zeros(0, ACCEPTED)
    """Connections known from socket tables, for as long as a silent one is remembered."""
    asks: Table = np.zeros(0, ASK)
    """What sockets sent datagrams to lately."""
    names: Names = Names()
    """What pods were answered by DNS, and what live conversations were given of it."""
    wanted: Pace | None = None
    """What to go over to where a window of both kinds ends."""


class Tick(NamedTuple):
    """Time passed. `now` is UTC nanoseconds; `final` closes the open window early, before a clean stop; `filling` says
    that the kernel's maps should be read before they are full."""

    now: int
    final: bool = False
    filling: bool = False


class Observed(NamedTuple):
    """What the capture had at the end of a window."""

    now: int
    windows: tuple[int, ...]
    """Those that ended. None where the maps were read early: the counts are then of `open_window`."""
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
    kernel_losses: tuple[Loss, ...] = ()
    """What the counts of this generation lack; kept, and known, with them."""
    facts: Table = np.zeros(0, FACT)
    """What the kernel told beside the packets (flows.facts.FACT)."""
    accepted: Table = np.zeros(0, TUPLE)
    """Connections that socket tables showed, oriented as opened."""
    ends: Table = np.zeros(0, END)
    """Sockets that speak to anybody; `process` indexes `process_infos`."""
    asks: Table = np.zeros(0, ASK)
    """What sockets sent datagrams to."""
    heard: Heard = Heard()
    """What DNS and TLS said at the taps; times are UTC."""
    open_window: int | None = None
    sample: int = 1
    """One packet in so many was counted."""

    @property
    def told(self) -> tuple[int, ...]:
        """The windows that the counts are of, ascending."""
        return self.windows or (self.open_window or 0,)


class Switch(NamedTuple):
    """Go over to another mode or window. Nothing is closed early: it happens where windows of both lengths end."""

    pace: Pace


class Observe(NamedTuple):
    """Read the capture; these windows end now, or, where none does, `open_window` goes on."""

    windows: tuple[int, ...]
    open_window: int | None = None


class Keep(NamedTuple):
    """Put this batch on disk, then send it."""

    header: BatchHeader
    sightings: Table
    translations: Table
    hops: Table


class Commit(NamedTuple):
    """The counts of this generation are on disk: the kernel may forget them."""

    generation: int


Event = Tick | Observed | Switch
Command = Observe | Keep | Commit


def begin(
    cluster: str,
    node: str,
    epoch: str,
    version: str,
    mode: str,
    window_length: int,
    now: int,
    kept: int = 0,
    closed: int = 0,
) -> State:
    """The state of an agent that starts at `now`.

    The window that is open now is its first, unless it takes over from one that crashed while the kernel went on
    counting: `closed` is the end of the last window that one closed, and all since are this agent's to close.
    Otherwise they would look like windows nobody saw here, and another node's counts would be taken in addition.
    """
    next_close = now - now % window_length + window_length
    if closed:
        next_close = min(next_close, closed - closed % window_length + window_length)
    return State(cluster, node, epoch, version, mode, window_length, next_close, kept=kept)


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """What to do about `event`."""
    match event:
        case Tick():
            return _tick(state, event)
        case Switch(pace):
            same = pace == (state.mode, state.window_length)
            return state._replace(wanted=None if same else pace), ()
        case Observed():
            return _observed(state, event)


def _tick(state: State, event: Tick) -> tuple[State, tuple[Command, ...]]:
    length = state.window_length
    aligned = event.now - event.now % length
    if aligned + (1 if event.final else 2) * length < state.next_close:
        # The clock was set back: windows go on from where it is now, or nothing would be read until it caught up.
        state = state._replace(next_close=aligned + length)
    end = aligned + length * event.final
    if end < state.next_close:
        early = Observe((), state.next_close - length)
        return state, (early,) * event.filling
    first = max(state.next_close - length, end - MAX_WINDOWS * length)
    windows = tuple(range(first, end, length))
    return state._replace(next_close=end + length), (Observe(windows),)


def _observed(state: State, event: Observed) -> tuple[State, tuple[Command, ...]]:
    if event.generation == state.kept and event.generation:
        # These counts were kept before a crash; what conntrack and processes said goes with the next window.
        event = event._replace(counts=event.counts[:0], packets=0, kernel_losses=())
    hints = np.concatenate([state.hints, event.hints])
    opened, openers = _openings(state, event)
    translations = np.concatenate([state.translations, event.translations])
    pods = tuple(dict.fromkeys(tap.pod for tap in event.taps if tap.pod))
    who = np.array([0, *map(holder_of, pods)], np.uint32)
    place = _place(event, pods)
    accepted = _accepted(state.accepted, event)
    folded = fold(
        event.counts,
        event.told[-1],
        place,
        state.conversations,
        hints,
        event.told,
        accepted,
    )
    named = _with_processes(state, event, folded, opened, place, who)
    asks = remember(state.asks[: 0 if _asks_lack(event) else None], event.asks, event.now)
    translations = np.concatenate(
        [translations, given(folded.sightings, place, who, asks, event.told[-1], state.window_length)]
    )
    facts = np.concatenate([state.facts, event.facts])
    told = tell(folded.sightings, folded.key, facts)
    learnt = name_providers(
        folded,
        place,
        who,
        event.heard,
        np.concatenate([state.lent, lent(event.translations)]),
        (state.conversations, event.told[0]),
        state.names,
        event.now,
    )
    header = _header(state, event, pods, used(folded.sightings, openers), learnt, folded.unnamed_taps)
    state = state._replace(
        sequence=header.sequence,
        kept=event.generation,
        conversations=folded.conversations,
        hints=event.hints,
        accepted=accepted,
        asks=asks,
        facts=facts[len(state.facts) :][~told[len(state.facts) :]][-MOST_FACTS:],
        lent=lent(event.translations),
        names=learnt.memory,
        translations=translations[MAX_TRANSLATIONS:],
    )
    state = _waiting(state, opened, named, openers, event)
    if event.windows:
        state = _switched(state, event.windows[-1] + state.window_length)
    kept = Keep(header, folded.sightings, translations[:MAX_TRANSLATIONS], folded.hops)
    return state, (kept, Commit(event.generation))


def _header(
    state: State,
    event: Observed,
    pods: tuple[str, ...],
    processes: tuple[ProcessInfo, ...],
    learnt: Named,
    unnamed_taps: int,
) -> BatchHeader:
    return BatchHeader(
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
        processes=processes,
        names=learnt.dictionaries.names,
        tls=learnt.dictionaries.tls,
        addresses=event.addresses,
        losses=(*event.losses, *event.kernel_losses, *learnt.cut),
        notes=event.notes,
        packets=event.packets,
        records=len(event.counts),
        generation=event.generation,
        unnamed_taps=unnamed_taps,
        open_window=event.open_window,
        sample=event.sample,
    )


def _switched(state: State, end: int) -> State:
    """The state after a window that ended at `end`, in another mode where one is wanted and begins there."""
    wanted = state.wanted
    if wanted is None or end % wanted.window_length:
        return state
    return state._replace(
        mode=wanted.mode,
        window_length=wanted.window_length,
        next_close=end + wanted.window_length,
        wanted=None,
    )


def _place(event: Observed, pods: tuple[str, ...]) -> Place:
    index = {uid: position + 1 for position, uid in enumerate(pods)}
    local = [pack(address) for address in event.addresses]
    return Place(
        is_pod=np.array([tap.at == "pod" for tap in event.taps], np.bool_),
        pod=np.array([index.get(tap.pod or "", 0) for tap in event.taps], np.uint32),
        who=np.array([holder_of(tap.pod) for tap in event.taps], np.uint32),
        local_hi=np.array([hi for hi, _ in local], np.uint64),
        local_lo=np.array([lo for _, lo in local], np.uint64),
    )


def _accepted(known: Table, event: Observed) -> Table:
    """What socket tables showed, and conntrack joins to it; as long and as much as conversations are remembered."""
    window = event.told[-1]
    fresh = _dated(event.accepted, window)
    kept = np.concatenate([known[known["window"] + IDLE_TCP > window], fresh])
    joined = through(kept, event.translations[event.translations["dumped"] == 1])
    rows: Table = np.concatenate([kept, _dated(joined, window)])[-MOST:]
    return rows


def _dated(tuples: Table, window: int) -> Table:
    rows = np.zeros(len(tuples), ACCEPTED)
    for column, _ in TUPLE:
        rows[column] = tuples[column]
    rows["window"] = window
    return rows


def _asks_lack(event: Observed) -> bool:
    """Whether some of what sockets asked for was lost: then nothing told before may be concluded from."""
    return any(loss.stage == ASKS_LOST for loss in event.losses)


def _openings(state: State, event: Observed) -> tuple[Table, tuple[ProcessInfo, ...]]:
    """What was opened before and is not matched yet, then in this window; and by whom."""
    fresh = event.processes.astype(OPENED)
    fresh["process"] += len(state.openers)
    return np.concatenate([state.opened, fresh]), (*state.openers, *event.process_infos)


def _waiting(
    state: State, opened: Table, named: Mask, openers: tuple[ProcessInfo, ...], event: Observed
) -> State:
    """Keep the openings of this window that matched nothing for one more: their packets may be in the next.

    Those that socket tables showed wait as long as a silent conversation is remembered.
    """
    fresh = np.arange(len(opened)) >= len(opened) - len(event.processes)
    late = opened[~named & (fresh | (opened["until"] > event.now))][-MOST:]
    still, index = np.unique(late["process"], return_inverse=True)
    late["process"] = index
    return state._replace(opened=late, openers=tuple(openers[i] for i in still.tolist()))


def _with_processes(
    state: State, event: Observed, folded: Folded, opened: Table, place: Place, who: NDArray[np.uint32]
) -> Mask:
    """Name the processes at both ends of the sightings; which openings found theirs. `who` names `place`'s pods."""
    rows = folded.sightings
    named = name_opened(rows, folded.key, opened)
    ends = event.ends.copy()
    ends["process"] += len(state.openers)
    # Of older conversations nobody remembers whether their address was lent.
    not_ours = (rows["consumer_pod"] == 0) & (rows["first_window"] < event.told[0] - state.window_length)
    not_ours |= np.isin(folded.key, np.concatenate([state.lent, lent(event.translations)]))
    name_ends(rows, ends, place, who, not_ours)
    return named
