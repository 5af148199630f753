"""Processes at ends: a conversation's own opening first, then who holds the end; against a plain second implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.flows.ends import END, OPENED, holder_of, keys_of, lent, name_ends, name_opened, used
from ringfence.flows.fold import Place
from ringfence.model.addresses import pack
from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import SIGHTING, TRANSLATION, structured
from ringfence.model.protocols import ICMP, TCP, UDP

POD, OTHER, NODE = "10.244.1.5", "10.244.2.7", "10.88.0.11"
PODS = ("uid-pod", "uid-other")
WHO = np.array([0, *map(holder_of, PODS)], np.uint32)
LOCAL = pack(NODE)
PLACE = Place(
    np.zeros(0, np.bool_),
    np.zeros(0, np.uint32),
    np.zeros(0, np.uint32),
    np.array([LOCAL[0]], np.uint64),
    np.array([LOCAL[1]], np.uint64),
)


def sighting(consumer=(POD, 40_000), provider=(OTHER, 53), protocol=UDP, pods=(1, 2)):
    row = structured(SIGHTING, 1)
    for side, (ip, port) in (("consumer", consumer), ("provider", provider)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["protocol"] = protocol
    row["consumer_pod"], row["provider_pod"] = pods
    return row


def end(who, ip, port, process, protocol=UDP):
    row = np.zeros(1, END)
    row["who"], row["port"], row["protocol"], row["process"] = who, port, protocol, process
    row["hi"], row["lo"] = pack(ip) if ip else (0, 0)
    return row


def opened(local, remote, process, protocol=UDP):
    row = np.zeros(1, OPENED)
    for side, (ip, port) in (("consumer", local), ("provider", remote)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["protocol"], row["process"] = protocol, process
    return row


def named(row, *ends, not_ours=False):
    name_ends(row, np.concatenate(ends), PLACE, WHO, np.full(len(row), not_ours))
    return int(row["process"][0]), int(row["provider_process"][0])


def test_both_ends_of_a_datagram_are_named():
    assert named(sighting(), end(WHO[1], None, 40_000, 3), end(WHO[2], None, 53, 7)) == (4, 8)


def test_an_end_belongs_to_one_network():
    """Every pod may have a socket on port 53."""
    assert named(sighting(), end(WHO[1], None, 53, 3), end(0, None, 40_000, 4)) == (0, 0)


def test_an_address_of_its_own_is_closer_than_any():
    both = (end(WHO[2], OTHER, 53, 1), end(WHO[2], None, 53, 2))
    assert named(sighting(), *both) == named(sighting(), *both[::-1]) == (0, 2)
    assert named(sighting(), end(WHO[2], POD, 53, 1)) == (0, 0)


def test_the_latest_of_two_is_named():
    assert named(sighting(), end(WHO[2], None, 53, 5), end(WHO[2], None, 53, 6)) == (0, 7)


def test_a_tcp_listener_is_a_provider_and_nothing_else():
    listeners = (end(WHO[1], None, 40_000, 3, TCP), end(WHO[2], None, 80, 7, TCP))
    assert named(sighting(provider=(OTHER, 80), protocol=TCP), *listeners) == (0, 8)
    assert named(sighting(provider=(OTHER, 80)), *listeners) == (0, 0)


def test_the_node_holds_its_own_addresses_only():
    node = end(0, None, 40_000, 3)
    assert named(sighting(consumer=(NODE, 40_000), pods=(0, 2)), node) == (4, 0)
    assert named(sighting(consumer=("203.0.113.9", 40_000), pods=(0, 2)), node) == (0, 0)


def test_a_port_that_translation_lent_is_not_the_nodes():
    node = end(0, None, 40_000, 3)
    assert named(sighting(consumer=(NODE, 40_000), pods=(0, 2)), node, not_ours=True) == (0, 0)
    row = np.zeros(2, TRANSLATION)
    row["post_consumer_hi"], row["post_consumer_lo"] = pack(NODE)
    row["post_provider_hi"], row["post_provider_lo"] = pack(OTHER)
    row["post_consumer_port"], row["post_provider_port"], row["protocol"] = 40_000, 53, UDP
    row["snat"] = (1, 0)
    assert lent(row).tolist() == keys_of(opened((NODE, 40_000), (OTHER, 53), 0)).tolist()


def test_icmp_and_tunnels_have_no_ends():
    tunnel = sighting()
    tunnel["kind"] = 1
    for row in (sighting(protocol=ICMP), tunnel):
        assert named(row, end(WHO[1], None, 40_000, 3), end(WHO[2], None, 53, 3)) == (0, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_an_opening_names_the_end_it_is_of(turned):
    """A datagram's direction may be a guess: the process is at its socket's end, whichever that is."""
    ends = ((POD, 40_000), (OTHER, 53))
    row = sighting(*(ends[::-1] if turned else ends))
    known = np.concatenate([opened((POD, 40_000), (OTHER, 53), 4), opened((POD, 1), (OTHER, 2), 5)])
    assert name_opened(row, keys_of(row), known).tolist() == [True, False]
    assert (row["process"][0], row["provider_process"][0]) == ((0, 5) if turned else (5, 0))


def test_an_opening_is_better_than_an_end():
    row = sighting()
    name_opened(row, keys_of(row), opened((POD, 40_000), (OTHER, 53), 1))
    assert named(row, end(WHO[1], None, 40_000, 9)) == (2, 0)


def test_only_processes_that_rows_name_are_told():
    rows = np.concatenate([sighting(), sighting(), sighting()])
    rows["process"], rows["provider_process"] = (4, 0, 2), (0, 4, 0)
    infos = tuple(ProcessInfo(str(number), number) for number in range(9))
    told = used(rows, infos)
    assert [info.pid for info in told] == [1, 3]
    assert (rows["process"].tolist(), rows["provider_process"].tolist()) == ([2, 0, 1], [0, 2, 0])


address = st.sampled_from([POD, OTHER, NODE])
port = st.sampled_from([53, 80, 40_000])
protocol = st.sampled_from([TCP, UDP])
held = st.tuples(st.sampled_from([*map(int, WHO)]), st.none() | address, port, st.integers(0, 20), protocol)
seen = st.tuples(
    st.tuples(address, port), st.tuples(address, port), protocol, st.tuples(*[st.integers(0, 2)] * 2)
)


def plainly(row, side, ends):
    """One row and one side, as one would say it."""
    pod = int(row[side + "_pod"])
    ours = (int(row[side + "_hi"]), int(row[side + "_lo"]))
    if (not pod and ours != LOCAL) or (side == "consumer" and row["protocol"] == TCP):
        return 0
    of = [
        (ip, process)
        for who, ip, port, process, protocol in ends
        if (who, port, protocol) == (int(WHO[pod]), int(row[side + "_port"]), int(row["protocol"]))
    ]
    exact = [process + 1 for ip, process in of if ip and pack(ip) == ours]
    return (exact or [process + 1 for ip, process in of if not ip] or [0])[-1]


@given(st.lists(held, min_size=1, max_size=8), st.lists(seen, min_size=1, max_size=8))
def test_columns_say_what_plain_words_say(ends, rows):
    table = np.concatenate([sighting(*row) for row in rows])
    expected = [(plainly(row, "consumer", ends), plainly(row, "provider", ends)) for row in table.copy()]
    name_ends(
        table, np.concatenate([end(*each) for each in ends]), PLACE, WHO, np.zeros(len(table), np.bool_)
    )
    assert list(zip(table["process"].tolist(), table["provider_process"].tolist(), strict=True)) == expected
