"""The agent's mind: windows close on time, counts are kept before the kernel forgets them, never twice."""

from __future__ import annotations

import numpy as np

from ringfence.agent.step import Commit, Keep, Observe, Observed, Tick, begin, step
from ringfence.model.addresses import pack
from ringfence.model.batches import ProcessInfo, TapInfo
from ringfence.model.columns import FLAG_SYN_ONLY, TAP_COUNT, TRANSLATION, TUPLE, Direction

SECOND = 1_000_000_000
TAPS = (TapInfo("veth1", "pod", "uid-1"), TapInfo("eth0", "node"))


def start(now=10 * SECOND + 5, kept=0):
    return begin("c", "n", "e1", "0", "detailed", SECOND, now, kept)


def counts(packets=3):
    row = np.zeros(1, TAP_COUNT)
    row["src_hi"], row["src_lo"] = pack("10.244.1.5")
    row["dst_hi"], row["dst_lo"] = pack("10.96.0.1")
    row["src_port"], row["dst_port"], row["protocol"], row["ingress"] = 4000, 80, 6, 1
    row["packets"], row["octets"], row["flags"] = packets, 40 * packets, 2 | FLAG_SYN_ONLY
    row["first"], row["last"] = 10 * SECOND + 6, 10 * SECOND + 7
    return row


def observed(windows, generation=1, rows=None, processes=None, infos=()):
    opened = np.dtype([*TUPLE, ("process", "<u4")])
    return Observed(
        now=windows[-1] + SECOND,
        windows=windows,
        counts=counts() if rows is None else rows,
        generation=generation,
        packets=3,
        taps=TAPS,
        addresses=("10.88.0.11",),
        translations=np.zeros(0, TRANSLATION),
        hints=np.zeros(0, np.dtype(TUPLE)),
        processes=np.zeros(0, opened) if processes is None else processes,
        process_infos=infos,
        losses=(),
        notes=("sees everything",),
    )


def test_a_window_closes_at_its_aligned_end_and_not_before():
    state = start()
    assert step(state, Tick(11 * SECOND - 1))[1] == ()
    state, commands = step(state, Tick(11 * SECOND + 3))
    assert commands == (Observe((10 * SECOND,)),)
    assert step(state, Tick(11 * SECOND + 4))[1] == ()


def test_a_late_tick_closes_every_window_that_passed():
    _, commands = step(start(), Tick(14 * SECOND))
    assert commands == (Observe((10 * SECOND, 11 * SECOND, 12 * SECOND, 13 * SECOND)),)


def test_the_final_tick_closes_the_open_window():
    _, commands = step(start(), Tick(10 * SECOND + 50, final=True))
    assert commands == (Observe((10 * SECOND,)),)


def test_a_sleep_of_a_month_is_an_absence_not_a_flood():
    _, commands = step(start(), Tick(30 * 86_400 * SECOND))
    assert len(commands[0].windows) == 3_600
    assert commands[0].windows[-1] == 30 * 86_400 * SECOND - SECOND


def test_what_was_seen_is_kept_and_only_then_committed():
    state, (keep, commit) = step(start(), observed((10 * SECOND,)))
    assert isinstance(keep, Keep)
    assert commit == Commit(1)
    assert (keep.header.sequence, keep.header.windows, keep.header.pods) == (1, (10 * SECOND,), ("uid-1",))
    assert keep.header.generation == 1
    row = keep.sightings[0]
    assert (row["consumer_packets"], row["direction"], row["consumer_pod"]) == (3, Direction.SYN, 1)
    state, (keep, _) = step(state, observed((11 * SECOND,), generation=2))
    assert (keep.header.sequence, keep.sightings["first_window"][0]) == (2, 10 * SECOND)


def test_counts_kept_before_a_crash_are_not_kept_again():
    _, (keep, commit) = step(start(kept=7), observed((10 * SECOND,), generation=7))
    assert len(keep.sightings) == 0
    assert keep.header.packets == 0
    assert commit == Commit(7)


def test_silence_is_reported_as_a_closed_window():
    _, (keep, _) = step(start(), observed((10 * SECOND,), rows=counts()[:0]))
    assert keep.header.windows == (10 * SECOND,)
    assert len(keep.sightings) == 0


def test_the_opening_process_is_named():
    opened = np.zeros(2, np.dtype([*TUPLE, ("process", "<u4")]))
    for side, ip, port in (("consumer", "10.244.1.5", 4000), ("provider", "10.96.0.1", 80)):
        opened[side + "_hi"], opened[side + "_lo"] = pack(ip)
        opened[side + "_port"] = (port, 1)
    opened["protocol"], opened["process"] = 6, (1, 0)
    infos = (ProcessInfo("other", 1), ProcessInfo("curl", 812))
    _, (keep, _) = step(start(), observed((10 * SECOND,), processes=opened, infos=infos))
    assert keep.header.processes[keep.sightings["process"][0] - 1].name == "curl"
