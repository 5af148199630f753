"""The agent's mind: windows close on time, counts are kept before the kernel forgets them, never twice."""

from __future__ import annotations

import numpy as np

from ringfence.agent.naming import NAMES_CUT
from ringfence.agent.step import Commit, Keep, Observe, Observed, Pace, Switch, Tick, begin, step
from ringfence.flows.ends import END, OPENED, holder_of
from ringfence.flows.heard import ANSWER, HELLO, MESSAGE, Heard
from ringfence.model.addresses import pack
from ringfence.model.batches import Loss, ProcessInfo, TapInfo, TlsInfo
from ringfence.model.columns import FLAG_SYN_ONLY, TAP_COUNT, TRANSLATION, TUPLE, UNKNOWN_U4, Direction
from ringfence.wire.codec import decode, encode

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
        processes=np.zeros(0, OPENED) if processes is None else processes,
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


def test_an_heir_closes_the_windows_since_the_crash():
    """The kernel went on counting: those windows are seen, or another node's counts would be added to ours."""
    state = begin("c", "n", "e2", "0", "detailed", SECOND, 15 * SECOND + 7, kept=3, closed=12 * SECOND)
    state, commands = step(state, Tick(15 * SECOND + 8))
    assert commands == (Observe((12 * SECOND, 13 * SECOND, 14 * SECOND)),)
    assert step(state, Tick(16 * SECOND))[1] == (Observe((15 * SECOND,)),)


def test_an_heir_in_the_same_window_or_behind_it_goes_on():
    for closed in (10 * SECOND, 99 * SECOND):
        state = begin("c", "n", "e2", "0", "detailed", SECOND, 10 * SECOND + 7, closed=closed)
        assert step(state, Tick(10 * SECOND + 9))[1] == ()
        assert step(state, Tick(11 * SECOND))[1] == (Observe((10 * SECOND,)),)


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
    opened = np.zeros(2, OPENED)
    for side, ip, port in (("consumer", "10.244.1.5", 4000), ("provider", "10.96.0.1", 80)):
        opened[side + "_hi"], opened[side + "_lo"] = pack(ip)
        opened[side + "_port"] = (port, 1)
    opened["protocol"], opened["process"] = 6, (1, 0)
    infos = (ProcessInfo("other", 1), ProcessInfo("curl", 812))
    _, (keep, _) = step(start(), observed((10 * SECOND,), processes=opened, infos=infos))
    assert keep.header.processes[keep.sightings["process"][0] - 1].name == "curl"


def test_a_clock_set_back_goes_on_from_there():
    """An hour back: without this, nothing would be read for an hour while kernel maps fill."""
    state, _ = step(start(now=7_200 * SECOND), Tick(7_201 * SECOND))
    state, commands = step(state, Tick(3_600 * SECOND + 5))
    assert commands == ()
    _, commands = step(state, Tick(3_601 * SECOND + 5))
    assert commands == (Observe((3_600 * SECOND,)),)


def test_a_clock_set_back_a_little_waits():
    state, commands = step(start(), Tick(9 * SECOND + 900_000_000))
    assert commands == ()
    assert state.next_close == 11 * SECOND


def test_a_clean_stop_after_the_clock_was_set_back_loses_nothing():
    _, commands = step(start(), Tick(9 * SECOND + 5, final=True))
    assert commands == (Observe((9 * SECOND,)),)


def test_windows_never_begin_before_their_conversation_when_the_clock_goes_back():
    """The server refuses such rows, and would refuse the batch for ever."""
    state, _ = step(start(), observed((10 * SECOND,)))
    _, (keep, _) = step(state, observed((7 * SECOND,), generation=2))
    assert (keep.sightings["first_window"] <= keep.sightings["window"]).all()
    decode(encode(keep.header, keep.sightings, keep.translations))


def opening(ip="10.244.1.5", port=4000):
    opened = np.zeros(1, OPENED)
    for side, address, number in (("consumer", ip, port), ("provider", "10.96.0.1", 80)):
        opened[side + "_hi"], opened[side + "_lo"] = pack(address)
        opened[side + "_port"] = number
    opened["protocol"] = 6
    return opened


def test_an_opening_heard_before_its_packet_is_kept_for_one_window():
    """Maps are swapped first and processes asked after: a SYN in between is read a window later."""
    both = np.concatenate([opening(), opening(port=4001)])
    both["process"] = (0, 1)
    infos = (ProcessInfo("curl", 812), ProcessInfo("wget", 813))
    state, _ = step(start(), observed((10 * SECOND,), rows=counts()[:0], processes=both, infos=infos))
    state, (keep, _) = step(state, observed((11 * SECOND,), generation=2))
    assert keep.header.processes[keep.sightings["process"][0] - 1].name == "curl"
    assert (len(state.opened), state.openers) == (0, ())


def test_conntracks_news_heard_before_the_packet_still_says_who_opened():
    rows = counts()
    rows["flags"], rows["protocol"] = 0, 17
    asked = opening()[[name for name, _ in TUPLE]].astype(np.dtype(TUPLE))
    asked["protocol"] = 17
    early = observed((10 * SECOND,), rows=rows[:0])._replace(hints=asked)
    state, _ = step(start(), early)
    _, (keep, _) = step(state, observed((11 * SECOND,), generation=2, rows=rows))
    assert keep.sightings["direction"][0] == Direction.CONNTRACK


def test_a_loss_kept_before_a_crash_is_not_reported_again():
    lost = (Loss("kernel-map-full", 5, 500),)
    again = observed((10 * SECOND,), generation=7)._replace(kernel_losses=lost)
    assert step(start(kept=7), again)[1][0].header.losses == ()
    assert step(start(kept=6), again)[1][0].header.losses == lost


def test_a_dump_larger_than_a_batch_goes_over_several(monkeypatch):
    monkeypatch.setattr("ringfence.agent.step.MAX_TRANSLATIONS", 3)
    dump = np.zeros(5, TRANSLATION)
    dump["seen"] = range(5)
    state, (first, _) = step(start(), observed((10 * SECOND,))._replace(translations=dump))
    _, (second, _) = step(state, observed((11 * SECOND,), generation=2))
    assert (first.translations["seen"].tolist(), second.translations["seen"].tolist()) == ([0, 1, 2], [3, 4])


def closed(state, at):
    """One tick at `at`; the windows it closed, and the batch's header."""
    state, commands = step(state, Tick(at))
    if not commands:
        return state, None
    (observe,) = commands
    state, (keep, _) = step(state, observed(observe.windows, rows=counts()[:0]))
    return state, keep.header


def test_another_mode_begins_where_windows_of_both_lengths_end():
    state, commands = step(start(now=13 * SECOND + 5), Switch(Pace("conversation", 15 * SECOND)))
    assert commands == ()
    seen = []
    for at in range(14 * SECOND + 1, 61 * SECOND, SECOND):
        state, header = closed(state, at)
        if header is not None:
            seen.append((header.mode, header.window_length // SECOND, [w // SECOND for w in header.windows]))
    assert seen == [
        ("detailed", 1, [13]),
        ("detailed", 1, [14]),
        ("conversation", 15, [15]),
        ("conversation", 15, [30]),
        ("conversation", 15, [45]),
    ]
    state, _ = step(state, Switch(Pace("detailed", SECOND)))
    state, header = closed(state, 75 * SECOND)
    assert header.windows == (60 * SECOND,)
    state, header = closed(state, 76 * SECOND)
    assert (header.mode, header.windows) == ("detailed", (75 * SECOND,))


def test_a_switch_that_is_taken_back_changes_nothing():
    state, _ = step(start(), Switch(Pace("conversation", 15 * SECOND)))
    state, _ = step(state, Switch(Pace("detailed", SECOND)))
    assert state == start()


def test_what_socket_tables_showed_counts_until_it_is_two_hours_old():
    shown = np.zeros(1, np.dtype(TUPLE))
    shown["consumer_hi"], shown["consumer_lo"] = pack("10.96.0.1")
    shown["provider_hi"], shown["provider_lo"] = pack("10.244.1.5")
    shown["consumer_port"], shown["provider_port"], shown["protocol"] = 80, 4000, 6
    state, _ = step(start(), observed((10 * SECOND,), rows=counts()[:0])._replace(accepted=shown))
    spoken = counts()
    spoken["flags"] = 0x10
    for at, listener in ((600, True), (7_000, True), (7_300, False)):
        _, (keep, _) = step(state, observed((at * SECOND,), generation=at, rows=spoken))
        direction = Direction.LISTENER if listener else Direction.GUESSED
        assert keep.sightings["direction"].tolist() == [direction], at
        assert keep.sightings["provider_port"].tolist() == [4000 if listener else 80]


def test_a_silent_connection_of_before_names_both_ends_when_it_speaks():
    """Socket tables were read at start; the first packet came much later."""
    known = np.zeros(2, OPENED)
    ends = (("10.244.1.5", 4000), ("10.96.0.1", 80))
    for side, order in (("consumer", (0, 1)), ("provider", (1, 0))):
        known[side + "_hi"], known[side + "_lo"] = zip(*(pack(ends[at][0]) for at in order), strict=True)
        known[side + "_port"] = [ends[at][1] for at in order]
    known["protocol"], known["process"], known["until"] = 6, (0, 1), 3_600 * SECOND
    infos = (ProcessInfo("curl", 812), ProcessInfo("nginx", 7))
    first = observed((10 * SECOND,), rows=counts()[:0], processes=known, infos=infos)
    state, (keep, _) = step(start(), first)
    assert keep.header.processes == ()
    for at in range(11, 15):
        state, _ = step(state, observed((at * SECOND,), generation=at, rows=counts()[:0]))
    _, (keep, _) = step(state, observed((15 * SECOND,), generation=15))
    (row,) = keep.sightings
    assert keep.header.processes[row["process"] - 1].name == "curl"
    assert keep.header.processes[row["provider_process"] - 1].name == "nginx"
    state, _ = step(state, observed((3_700 * SECOND,), generation=16, rows=counts()[:0]))
    _, (keep, _) = step(state, observed((3_701 * SECOND,), generation=17))
    assert keep.header.processes == ()


def test_who_listens_is_named_in_each_window():
    from_far = counts()
    from_far["src_port"], from_far["dst_port"], from_far["ingress"] = 80, 4000, 0
    from_far["src_hi"], from_far["src_lo"] = pack("10.96.0.1")
    from_far["dst_hi"], from_far["dst_lo"] = pack("10.244.1.5")
    ends = np.zeros(1, END)
    ends["who"], ends["port"], ends["protocol"] = holder_of("uid-1"), 4000, 6
    state = start()
    for at in (10, 11):
        event = observed((at * SECOND,), generation=at, rows=from_far, infos=(ProcessInfo("nginx", 7),))
        state, (keep, _) = step(state, event._replace(ends=ends))
        assert [info.name for info in keep.header.processes] == ["nginx"]
        assert keep.sightings["provider_process"].tolist() == [1]


def test_a_map_that_fills_is_read_before_its_window_ends():
    state, (observe,) = step(start(), Tick(10 * SECOND + 9, filling=True))
    assert observe == Observe((), 10 * SECOND)
    early = observed((10 * SECOND,))._replace(windows=(), open_window=10 * SECOND)
    state, (keep, commit) = step(state, early)
    assert (keep.header.windows, keep.header.open_window) == ((), 10 * SECOND)
    assert keep.sightings["window"].tolist() == keep.sightings["first_window"].tolist() == [10 * SECOND]
    assert commit == Commit(1)
    decode(encode(*keep))
    # What comes after it is of the same conversation, in the window that now ends.
    state, (observe,) = step(state, Tick(11 * SECOND + 3, filling=True))
    assert observe == Observe((10 * SECOND,))
    _, (keep, _) = step(state, observed(observe.windows, generation=2))
    assert (keep.header.windows, keep.header.open_window) == ((10 * SECOND,), None)
    assert keep.sightings["first_window"].tolist() == [10 * SECOND]


def test_a_mode_that_is_wanted_waits_for_the_end_of_a_window_that_is_read_early():
    state, _ = step(start(now=13 * SECOND + 5), Switch(Pace("conversation", 15 * SECOND)))
    early = observed((13 * SECOND,))._replace(windows=(), open_window=13 * SECOND)
    state, _ = step(state, early)
    assert (state.mode, state.next_close) == ("detailed", 14 * SECOND)


POD, DB = "10.244.1.5", "10.96.0.1"


def said(*, asker=POD, tap=0, address=DB, ttl=30, text="db.example", time=10 * SECOND, port=5353):
    """A question and its answer of one address, told at a tap."""
    messages, answers = np.zeros(2, MESSAGE), np.zeros(1, ANSWER)
    for table in (messages, answers):
        table["consumer_hi"], table["consumer_lo"] = pack(asker)
        table["tap"], table["time"] = tap, time
    messages["provider_hi"], messages["provider_lo"] = pack("10.96.0.10")
    messages["consumer_port"], messages["provider_port"], messages["protocol"] = port, 53, 17
    messages["response"], messages["time"] = (0, 1), (time, time + 2_000_000)
    answers["address_hi"], answers["address_lo"] = pack(address)
    answers["ttl"], answers["message"] = ttl, 1
    return Heard(messages, answers, names=(text,))


def hello(info):
    row = np.zeros(1, HELLO)
    for side, ip, port in (("consumer", POD, 4000), ("provider", DB, 80)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["protocol"], row["time"] = 6, 10 * SECOND + 7
    return Heard(hellos=row, tls=(info,))


def named(keep):
    """What users will see of each row: names and TLS facts, through the wire."""
    batch = decode(encode(keep.header, keep.sightings, keep.translations))
    texts, infos = ("", *batch.header.names), (None, *batch.header.tls)
    return [
        (texts[row["names"]], infos[row["tls"]]) for row in batch.sightings[["names", "tls"]]
    ], batch.header


def test_a_flow_has_the_names_that_were_answered_before_it_began():
    info = TlsInfo("db.example", ("h2",))
    heard = said()._replace(hellos=hello(info).hellos, tls=(info,))
    state, (keep, _) = step(start(), observed((10 * SECOND,))._replace(heard=heard))
    assert named(keep)[0] == [("db.example", info)]
    # It keeps them, whatever is answered later, and the next one is another.
    heard = said(text="other.example", time=11 * SECOND)
    again = counts()
    again["flags"], again["first"], again["last"] = 16, 11 * SECOND + 5, 11 * SECOND + 6
    state, (keep, _) = step(state, observed((11 * SECOND,), 2, again)._replace(heard=heard))
    assert named(keep)[0] == [("db.example", info)]


def test_what_was_answered_after_it_began_or_to_another_is_not_its_name():
    for heard in (said(time=10 * SECOND + 8), said(asker="10.244.1.6", tap=1), said(address="10.96.0.2")):
        _, (keep, _) = step(start(), observed((10 * SECOND,))._replace(heard=heard))
        assert named(keep)[0] == [("", None)]


def test_a_connection_older_than_the_agent_has_no_name():
    """What its consumer had learnt when it connected nobody heard; a name of now might be another one."""
    rows = counts()
    rows["flags"] = 16
    _, (keep, _) = step(start(), observed((10 * SECOND,), rows=rows)._replace(heard=said()))
    assert named(keep)[0] == [("", None)]


def test_the_node_has_names_too_but_not_those_pods_asked_for_through_it():
    node = "10.88.0.11"
    rows = counts()
    rows["src_hi"], rows["src_lo"] = pack(node)
    rows["tap"], rows["ingress"] = 1, 0
    translated = np.zeros(1, TRANSLATION)
    translated["snat"], translated["protocol"] = 1, 17
    for side, ip, port in (("consumer", node, 5353), ("provider", "10.96.0.10", 53)):
        translated[f"post_{side}_hi"], translated[f"post_{side}_lo"] = pack(ip)
        translated[f"post_{side}_port"] = port
    for translations, expected in ((translated[:0], "db.example"), (translated, "")):
        event = observed((10 * SECOND,), rows=rows)._replace(
            heard=said(asker=node, tap=1), translations=translations
        )
        assert named(step(start(), event)[1][0])[0] == [(expected, None)]


def test_a_node_that_asks_from_one_of_its_addresses_and_connects_from_another():
    """As it does where its resolver is behind a bridge and its provider behind a tunnel."""
    rows = counts()
    rows["src_hi"], rows["src_lo"] = pack("10.88.0.11")
    rows["tap"], rows["ingress"] = 1, 0
    event = observed((10 * SECOND,), rows=rows)._replace(heard=said(asker="10.244.1.1", tap=0))
    for addresses, expected in ((("10.88.0.11", "10.244.1.1"), "db.example"), (("10.88.0.11",), "")):
        assert named(step(start(), event._replace(addresses=addresses))[1][0])[0] == [(expected, None)]


def test_time_to_the_answer_over_two_windows():
    rows = counts()
    rows["dst_hi"], rows["dst_lo"] = pack("10.96.0.10")
    rows["src_port"], rows["dst_port"], rows["protocol"], rows["flags"] = 5353, 53, 17, 0
    whole = said()
    question = whole._replace(messages=whole.messages[:1], answers=whole.answers[:0])
    answer = whole._replace(messages=whole.messages[1:], answers=whole.answers.copy())
    answer.answers["message"] = 0
    state, (keep, _) = step(start(), observed((10 * SECOND,), rows=rows)._replace(heard=question))
    assert keep.sightings["rtt_us"].tolist() == [UNKNOWN_U4]
    state, (keep, _) = step(state, observed((11 * SECOND,), 2, rows)._replace(heard=answer))
    assert keep.sightings["rtt_us"].tolist() == [2_000]
    later = counts()
    later["first"], later["last"] = 12 * SECOND + 5, 12 * SECOND + 6
    _, (keep, _) = step(state, observed((12 * SECOND,), 3, later))
    assert named(keep)[0] == [("db.example", None)]


def test_nobody_tells_a_pod_a_name_that_it_did_not_ask_for():
    """A datagram from port 53 is no answer where nothing was asked, nor is a second one, nor one to another question."""
    whole = said()
    unasked = whole._replace(messages=whole.messages.copy())
    unasked.messages["response"] = 1
    another = whole._replace(messages=whole.messages.copy(), names=("db.example", "evil.example"))
    another.messages["name"] = (0, 1)
    other_number = whole._replace(messages=whole.messages.copy())
    other_number.messages["number"] = (1, 2)
    late = whole._replace(messages=whole.messages.copy())
    late.messages["time"][1] += 31 * SECOND
    for heard in (unasked, another, other_number, late):
        _, (keep, _) = step(start(), observed((10 * SECOND,))._replace(heard=heard))
        assert named(keep)[0] == [("", None)]


def test_the_first_answer_counts():
    whole = said()
    messages = np.concatenate([whole.messages, whole.messages[1:]])
    messages["time"] = 10 * SECOND, 10 * SECOND + 1, 10 * SECOND + 2
    answers = np.concatenate([whole.answers, whole.answers])
    answers["message"], answers["name"] = (1, 2), (0, 1)
    heard = Heard(messages, answers, names=("db.example", "evil.example"))
    _, (keep, _) = step(start(), observed((10 * SECOND,))._replace(heard=heard))
    assert named(keep)[0] == [("db.example", None)]


def test_names_beyond_a_batch_are_counted(monkeypatch):
    monkeypatch.setattr("ringfence.agent.naming.MAX_NAMES", 0)
    _, (keep, _) = step(start(), observed((10 * SECOND,))._replace(heard=said()))
    rows, header = named(keep)
    assert rows == [("", None)]
    assert header.losses == (Loss(NAMES_CUT, events=1),)


def test_what_was_heard_with_counts_kept_before_a_crash_is_learnt():
    state, _ = step(start(kept=7), observed((10 * SECOND,), generation=7)._replace(heard=said()))
    rows = counts()
    rows["first"], rows["last"] = 11 * SECOND + 5, 11 * SECOND + 6
    _, (keep, _) = step(state, observed((11 * SECOND,), 8, rows))
    assert named(keep)[0] == [("db.example", None)]
