"""Names at connect time: worked cases, and any history against a second implementation that keeps plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows import names as module
from ringfence.flows.heard import ANSWER, HELLO, MESSAGE, Heard, plain_key
from ringfence.flows.names import GRACE, MOST_NAMES, PATIENCE, SECOND, SHORTEST, Asking, Names, name
from ringfence.flows.terms import Dictionaries
from ringfence.model.addresses import pack
from ringfence.model.batches import TlsInfo
from ringfence.model.columns import FLOW, UNKNOWN_U4, Table, structured

NODE, POD, OTHER_POD = 0, 1, 2
TAP_WHO = np.array([0, 11, 22], np.uint32)
A, B = "10.0.0.1", "10.0.0.2"
X, Y = "192.0.2.1", "2001:db8::1"
START = 1_700_000_000 * SECOND


def answers(*rows: tuple[int, str, int, str, int, str]) -> Heard:
    """`(time, consumer, tap, address, ttl, name)`; times in nanoseconds from START."""
    terms = tuple(dict.fromkeys(row[5] for row in rows))
    table = np.zeros(len(rows), ANSWER)
    for row, (time, consumer, tap, address, ttl, text) in zip(table, rows, strict=True):
        row["consumer_hi"], row["consumer_lo"] = pack(consumer)
        row["address_hi"], row["address_lo"] = pack(address)
        row["time"], row["tap"], row["ttl"], row["name"] = START + time, tap, ttl, terms.index(text)
    return Heard(answers=table, names=terms)


def flows(*rows: tuple[int, str, int, str, int]) -> Table:
    """`(first, consumer, its port, provider, protocol)`."""
    table = structured(FLOW, len(rows))
    for row, (first, consumer, port, provider, protocol) in zip(table, rows, strict=True):
        row["consumer_hi"], row["consumer_lo"] = pack(consumer)
        row["provider_hi"], row["provider_lo"] = pack(provider)
        row["first"], row["consumer_port"], row["provider_port"] = START + first, port, 443
        row["protocol"] = protocol
    return table


def ask(table: Table, who: int = 0, begins: bool = True) -> Asking:
    count = len(table)
    return Asking(table, plain_key(table), np.full(count, who, np.uint32), np.full(count, begins))


def shown(table: Table, dictionaries: Dictionaries) -> list[str]:
    return [dictionaries.names[i - 1] if i else "" for i in table["names"].tolist()]


def once(heard: Heard, table: Table, who: int = 0) -> list[str]:
    return shown(table, name(ask(table, who), heard, TAP_WHO, Names(), int(table["first"].max()))[0])


def test_what_was_answered_before_and_to_this_consumer() -> None:
    heard = answers((0, A, NODE, X, 30, "shop.example"))
    table = flows((-1, A, 1, X, 6), (0, A, 2, X, 6), (1, B, 3, X, 6), (1, A, 4, Y, 6))
    assert once(heard, table) == ["", "shop.example", "", ""]


def test_the_pod_counts_and_not_its_address() -> None:
    heard = answers((0, A, POD, X, 30, "one"), (0, A, OTHER_POD, X, 30, "two"))
    assert once(heard, flows((1, A, 1, X, 6)), who=11) == ["one"]
    assert once(heard, flows((1, A, 1, X, 6)), who=22) == ["two"]
    # Dual stack: asked over IPv4, connected from its other address.
    assert once(heard, flows((1, "2001:db8::9", 1, X, 6)), who=22) == ["two"]


def test_a_pod_that_was_not_known_when_it_asked() -> None:
    heard = answers((0, A, NODE, X, 30, "early"))
    assert once(heard, flows((1, A, 1, X, 6)), who=11) == ["early"]


def test_several_names_the_latest_first() -> None:
    heard = answers((0, A, NODE, X, 60, "old"), (5, A, NODE, X, 60, "new"))
    assert once(heard, flows((9, A, 1, X, 6), (4, A, 2, X, 6))) == ["new old", "old"]


def test_a_name_past_its_ttl_only_where_no_other_is_alive() -> None:
    heard = answers((0, A, NODE, X, 10, "stale"), (30 * SECOND, A, NODE, X, 600, "fresh"))
    table = flows((20 * SECOND, A, 1, X, 6), (40 * SECOND, A, 2, X, 6))
    assert once(heard, table) == ["stale", "fresh"]


def test_a_connection_keeps_its_names_beyond_the_ttl() -> None:
    dictionaries, known = name(
        ask(table := flows((1, A, 1, X, 6))), answers((0, A, NODE, X, 1, "db")), TAP_WHO, Names(), START
    )
    assert shown(table, dictionaries) == ["db"]
    for window in range(1, 200):
        later = START + window * 60 * SECOND
        renamed = answers((window * 60 * SECOND, A, NODE, X, 1, f"other-{window}"))
        table = flows((window * 60 * SECOND + 1, A, 1, X, 6))
        dictionaries, known = name(ask(table, begins=False), renamed, TAP_WHO, known, later)
        assert shown(table, dictionaries) == ["db"]
    table = flows((200 * 60 * SECOND, A, 1, X, 6))
    dictionaries, known = name(ask(table), Heard(), TAP_WHO, known, START + 200 * 60 * SECOND)
    assert "db" not in shown(table, dictionaries)[0]


def test_what_nobody_points_at_is_forgotten() -> None:
    known = Names()
    for hour in range(30):
        heard = answers(
            *((hour * GRACE, A, NODE, f"192.0.2.{i % 250}", 1, f"h{hour}-{i}") for i in range(500))
        )
        table = flows((hour * GRACE + 1, A, hour + 1, "192.0.2.1", 6))
        _, known = name(ask(table), heard, TAP_WHO, known, START + hour * GRACE)
    assert len(known.learnt) <= 1000
    assert len(known.texts) < 5000


def test_too_many_names_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = answers(*((i, A, NODE, X, 60, f"n{i}") for i in range(50)))
    assert once(heard, flows((60, A, 1, X, 6))) == [" ".join(f"n{i}" for i in range(49, 41, -1))]
    monkeypatch.setattr(module, "MOST", 10)
    _, known = name(ask(flows((60, A, 1, Y, 6))), heard, TAP_WHO, Names(), START)
    assert len(known.learnt) == 10
    assert known.learnt["latest"].min() == START + 40
    assert (np.diff(known.learnt["key"].astype(np.int64)) >= 0).all()


def hellos(*rows: tuple[int, str, int, str, TlsInfo]) -> Heard:
    table = np.zeros(len(rows), HELLO)
    infos = tuple(dict.fromkeys(row[4] for row in rows))
    for row, (time, consumer, port, provider, info) in zip(table, rows, strict=True):
        (shape,) = flows((time, consumer, port, provider, 6))
        for column in HELLO.names or ():
            if column in (FLOW.names or ()) and column != "tls":
                row[column] = shape[column]
        row["time"], row["tls"] = START + time, infos.index(info)
    return Heard(hellos=table, tls=infos)


def test_tls_belongs_to_its_tuple_also_when_told_a_window_late() -> None:
    info, partly = TlsInfo("shop.example", ("h2",)), TlsInfo("shop.example")
    table = flows((0, A, 1, X, 6), (0, A, 2, X, 6))
    dictionaries, known = name(ask(table), Heard(), TAP_WHO, Names(), START)
    assert table["tls"].tolist() == [0, 0]
    heard = hellos((2, A, 2, X, info), (1, A, 2, X, partly))
    dictionaries, known = name(ask(table, begins=False), heard, TAP_WHO, known, START)
    assert table["tls"].tolist() == [0, 1]
    assert dictionaries.tls == (info,)
    dictionaries, known = name(ask(table, begins=False), Heard(), TAP_WHO, known, START)
    assert dictionaries.tls == (info,)
    # The same tuple again is another connection.
    name(ask(table), Heard(), TAP_WHO, known, START)
    assert table["tls"].tolist() == [0, 0]


def messages(*rows: tuple[int, int, int, int, bool]) -> Heard:
    """`(time, port, tap, id, response)` between A and X."""
    table = np.zeros(len(rows), MESSAGE)
    for row, (time, port, tap, number, response) in zip(table, rows, strict=True):
        (shape,) = flows((time, A, port, X, 17))
        for column in MESSAGE.names or ():
            if column in (FLOW.names or ()):
                row[column] = shape[column]
        row["provider_port"] = 53
        row["time"], row["tap"], row["number"], row["response"] = START + time, tap, number, response
    return Heard(messages=table, names=("q",))


def dns(*ports: int, protocol: int = 17) -> Table:
    table = flows(*((0, A, port, X, protocol) for port in ports))
    table["provider_port"] = 53
    return table


def test_time_to_the_answer() -> None:
    heard = messages(
        *((0, 1, POD, 7, False), (9_000, 1, POD, 7, True)),
        *((0, 1, NODE, 7, False), (4_000, 1, NODE, 7, True)),  # further on the way: a part of it
        *((0, 2, POD, 7, False), (5_000, 2, POD, 7, False), (11_000, 2, POD, 7, True)),  # asked again
        *((1_000, 3, POD, 7, True), (2_000, 3, POD, 8, False)),  # an answer alone, a question alone
        *((0, 4, POD, 7, False), (PATIENCE + 1, 4, POD, 7, True)),
    )
    table = dns(1, 2, 3, 4)
    _, known = name(ask(table), heard, TAP_WHO, Names(), START)
    assert table["rtt_us"].tolist() == [9, 11, UNKNOWN_U4, UNKNOWN_U4]
    table = dns(3)
    name(ask(table), messages((6_000_000, 3, POD, 8, True)), TAP_WHO, known, START)
    assert table["rtt_us"].tolist() == [5998]


def test_over_tcp_the_handshake_stays() -> None:
    table = dns(1, protocol=6)
    table["rtt_us"] = 77
    name(ask(table), messages((0, 1, POD, 7, False), (9_000, 1, POD, 7, True)), TAP_WHO, Names(), START)
    assert table["rtt_us"].tolist() == [77]


EVENT = st.tuples(
    st.integers(0, 3),  # window
    st.integers(0, 2 * 3600),  # second in it
    st.sampled_from([A, B]),
    st.sampled_from([NODE, POD, OTHER_POD]),
    st.sampled_from([X, Y]),
    st.sampled_from([0, 1, 5, 3600, 7200]),
    st.sampled_from([f"n{i}" for i in range(12)]),
)
FLOWS = st.tuples(
    st.integers(0, 3), st.integers(0, 2 * 3600), st.sampled_from([A, B]), st.sampled_from([X, Y])
)
WINDOW = 2 * 3600 + 1


def expected(
    history: list[tuple], window: int, time: int, consumer: str, who: int, provider: str
) -> list[str]:
    """The names of one flow, from the whole history so far, without memory, hashes or columns."""
    pods = {NODE: 0, POD: 11, OTHER_POD: 22}
    now = window * WINDOW
    rows: dict[tuple, dict[str, list[int]]] = {}
    for at_window in range(window + 1):
        for entries in rows.values():
            for text in [t for t, (_, _, until) in entries.items() if until + 3600 <= at_window * WINDOW]:
                del entries[text]
        for event in sorted((e for e in history if e[0] == at_window), key=lambda e: e[1]):
            _, second, asker, tap, address, ttl, text = event
            at = at_window * WINDOW + second
            key = (pods[tap] or asker, address)
            known = rows.setdefault(key, {}).setdefault(text, [at, at, 0])
            known[0], known[1] = min(known[0], at), max(known[1], at)
            known[2] = max(known[2], at + max(ttl, SHORTEST // SECOND))
    at = now + time
    entries = rows.get((who, provider), {}) if who else {}
    entries = entries or rows.get((consumer, provider), {})
    learnt = {text: row for text, row in entries.items() if row[0] <= at}
    alive = {text: row for text, row in learnt.items() if at < row[2]}
    chosen = sorted((alive or learnt).items(), key=lambda item: -item[1][1])
    return [text for text, _ in chosen]


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=25), st.lists(FLOWS, min_size=1, max_size=8), st.sampled_from([0, 11, 22]))
def test_any_history_against_plain_lists(history: list, wanted: list, who: int) -> None:
    known = Names()
    for window in range(4):
        base = window * WINDOW
        mine = [event for event in history if event[0] == window]
        heard = answers(*(((base + s) * SECOND, c, t, a, ttl, n) for _, s, c, t, a, ttl, n in mine))
        rows = [row for row in wanted if row[0] == window]
        table = flows(*(((base + s) * SECOND, c, port + 1, p, 6) for port, (_, s, c, p) in enumerate(rows)))
        dictionaries, known = name(ask(table, who), heard, TAP_WHO, known, START + base * SECOND)
        for text, (_, second, consumer, provider) in zip(shown(table, dictionaries), rows, strict=True):
            names = expected(history, window, second, consumer, who, provider)
            assert len(text.split()) == min(len(names), MOST_NAMES)
            if len(names) <= MOST_NAMES:
                assert sorted(text.split()) == sorted(names)
