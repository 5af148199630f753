"""Socket tables: decoded as `ss` reads them, whatever the family; who accepted is found by listeners alone."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ringfence.capture import netlink
from ringfence.capture.decode.sockdiag import (
    CLOSE,
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_WAIT2,
    INFO,
    LISTEN,
    SOCK_DIAG_BY_FAMILY,
    SOCKET,
    SYN_RECV,
    SYN_SENT,
    V6_ONLY,
    accepted,
    request,
    sockets,
)
from ringfence.capture.sockets import FAMILIES, NETLINK_SOCK_DIAG, Accepted, tables
from ringfence.capture.taps import namespace_inode
from ringfence.model.addresses import pack, unpack
from ringfence.model.protocols import TCP, UDP

CASES = 4_000


def message(state, local, remote=("0.0.0.0", 0), only=None, family=None, info=b"") -> bytes:
    """One message as the kernel writes it (struct inet_diag_msg)."""
    family = family or (socket.AF_INET6 if ":" in local[0] else socket.AF_INET)
    body = struct.pack("=BBBB", family, state, 0, 0)
    body += struct.pack("!HH", local[1], remote[1])
    for address in (local[0], remote[0]):
        address = "::" if family == socket.AF_INET6 and address == "0.0.0.0" else address
        body += socket.inet_pton(family, address).ljust(16, b"\0")
    body += struct.pack("=III", 0, 1, 2) + struct.pack("=IIIII", 0, 0, 0, 1000, 77)
    if only is not None:
        body += struct.pack("=HHBxxx", 5, V6_ONLY, only)
    if info:
        body += struct.pack("=HH", 4 + len(info), INFO) + info
    return struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, 0, 1, 0) + body


def counters(acked, sent, retransmitted=0, unacked=0, size=280) -> bytes:
    """A struct tcp_info with what tells who opened."""
    info = bytearray(size)
    struct.pack_into("=I", info, 24, unacked)
    struct.pack_into("=Q", info, 120, acked)
    if size >= 216:
        struct.pack_into("=QQ", info, 200, sent, retransmitted)
    return bytes(info)


def opened(*parts: bytes) -> set[tuple[str, int, str, int]]:
    """(consumer, its port, provider, its port) of what was accepted."""
    return {pair(row, "consumer", "provider") for row in accepted(sockets(b"".join(parts)))}


def pair(row, *sides: str) -> tuple[str, int, str, int]:
    """Two ends of a row as texts and ports."""
    (one, port), (other, its) = (
        (unpack(int(row[f"{side}_hi"]), int(row[f"{side}_lo"])), int(row[f"{side}_port"])) for side in sides
    )
    return one, port, other, its


P, C = ("10.1.1.1", 45000), ("10.1.1.2", 1500)
V6P, V6C = ("fd00::1", 45000), ("fd00::2", 1500)
CONNECTION = ("10.1.1.2", 1500, "10.1.1.1", 45000)


@pytest.mark.parametrize(
    ("listener", "found"),
    [
        (message(LISTEN, ("0.0.0.0", 45000)), True),
        (message(LISTEN, ("10.1.1.1", 45000)), True),
        (message(LISTEN, ("10.1.1.9", 45000)), False),
        (message(LISTEN, ("0.0.0.0", 45001)), False),
        (message(LISTEN, ("::", 45000), only=0), True),
        (message(LISTEN, ("::", 45000)), True),
        (message(LISTEN, ("::", 45000), only=1), False),
        (b"", False),
    ],
)
def test_who_accepted_is_known_by_its_listener(listener: bytes, found: bool) -> None:
    assert opened(message(ESTABLISHED, P, C), listener) == ({CONNECTION} if found else set())


def test_the_connecting_end_proves_nothing() -> None:
    """Its own listener may have been closed since: FTP data, one-shot servers."""
    assert opened(message(ESTABLISHED, C, P), message(LISTEN, ("0.0.0.0", 80))) == set()


BACK = ("10.1.1.1", 45000, "10.1.1.2", 1500)


@pytest.mark.parametrize(
    ("state", "info", "found"),
    [
        (ESTABLISHED, counters(1, 0), {BACK}),
        (ESTABLISHED, counters(0, 0), {CONNECTION}),
        (ESTABLISHED, counters(5001, 5100, retransmitted=100), {BACK}),
        (CLOSE_WAIT, counters(5000, 5100, retransmitted=100), {CONNECTION}),
        (ESTABLISHED, counters(5001, 5000, unacked=1), set()),  # something is under way
        (
            ESTABLISHED,
            counters(5007, 5000),
            set(),
        ),  # restored from a checkpoint: the counters are not the socket's
        (FIN_WAIT2, counters(1, 0), set()),  # a FIN counts as a SYN does
        (ESTABLISHED, counters(1, 0, size=200), set()),  # before 4.19
        (SYN_SENT, b"", {BACK}),
        (SYN_RECV, b"", {CONNECTION}),
    ],
)
def test_what_tcp_counted_tells_who_opened(state, info, found) -> None:
    assert opened(message(state, P, C, info=info)) == found


def test_counters_know_better_than_a_listener() -> None:
    """Peer-to-peer programs connect from the port they listen on."""
    listener = message(LISTEN, ("0.0.0.0", 45000))
    assert opened(message(ESTABLISHED, P, C, info=counters(1, 0)), listener) == {BACK}
    assert opened(message(ESTABLISHED, P, C, info=counters(1, 0, unacked=1)), listener) == {CONNECTION}


def test_a_udp_socket_made_for_one_peer_is_the_providers() -> None:
    beside = sockets(message(ESTABLISHED, P, C) + message(CLOSE, ("0.0.0.0", 45000)), UDP)
    (row,) = accepted(beside)
    assert (pair(row, "consumer", "provider"), row["protocol"]) == (CONNECTION, UDP)
    assert len(accepted(sockets(message(ESTABLISHED, P, C), UDP))) == 0
    tcp = sockets(message(LISTEN, ("0.0.0.0", 45000)))
    assert len(accepted(np.concatenate([sockets(message(ESTABLISHED, P, C), UDP), tcp]))) == 0


def test_a_real_connection_whose_listener_is_gone_has_its_direction() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        one, _ = server.accept()
    with client, one:
        mine = {("127.0.0.1", client.getsockname()[1], "127.0.0.1", port)}
        # A few octets each way, and more than one segment.
        for end, other, size in ((client, one, 100_000), (one, client, 7)):
            end.sendall(bytes(size))
            while size:
                size -= len(other.recv(size))
        for _ in range(200):
            told = {
                pair(row, "consumer", "provider")
                for row in accepted(tables(netlink.Netlink(NETLINK_SOCK_DIAG)))
            }
            if mine <= told:
                break
        assert mine <= told
        assert not {(one[2], one[3], one[0], one[1]) for one in mine} & told


def test_ipv6_and_mapped_addresses() -> None:
    assert opened(message(ESTABLISHED, V6P, V6C), message(LISTEN, ("::", 45000), only=1)) == {
        ("fd00::2", 1500, "fd00::1", 45000)
    }
    mapped = message(ESTABLISHED, ("::ffff:10.1.1.1", 45000), ("::ffff:10.1.1.2", 1500))
    assert opened(mapped, message(LISTEN, ("::", 45000), only=0)) == {CONNECTION}
    assert opened(message(ESTABLISHED, V6P, V6C), message(LISTEN, ("0.0.0.0", 45000))) == set()


@contextlib.contextmanager
def connections() -> Iterator[set[tuple[str, int, str, int]]]:
    """Real ones on loopback, of both families; yields them as opened."""
    with contextlib.ExitStack() as held:
        found = set()
        for family, at, dual in (
            (socket.AF_INET, "127.0.0.1", False),
            (socket.AF_INET, "0.0.0.0", False),
            (socket.AF_INET6, "::1", False),
            (socket.AF_INET6, "::", True),
        ):
            server = held.enter_context(socket.create_server((at, 0), family=family, dualstack_ipv6=dual))
            port = server.getsockname()[1]
            targets = {
                "127.0.0.1": ["127.0.0.1"],
                "0.0.0.0": ["127.0.0.1"],
                "::1": ["::1"],
                "::": ["::1", "127.0.0.1"],
            }
            for to in targets[at]:
                client = held.enter_context(socket.create_connection((to, port)))
                held.enter_context(server.accept()[0])
                found.add((to, client.getsockname()[1], to, port))
        yield found


def as_texts(table) -> set[tuple[str, int, str, int]]:
    return {pair(row, "local", "remote") for row in table}


def test_real_connections_are_found_the_right_way_round() -> None:
    with connections() as expected:
        table = tables(netlink.Netlink(NETLINK_SOCK_DIAG))
    found = {pair(row, "consumer", "provider") for row in accepted(table)}
    assert expected <= found
    assert not {(one[2], one[3], one[0], one[1]) for one in expected} & found


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss (iproute2) as the second reader")
def test_the_table_is_the_one_that_ss_prints() -> None:
    with connections():
        table = tables(netlink.Netlink(NETLINK_SOCK_DIAG))
        printed = subprocess.run(
            ["ss", "-tnH", "state", "established"], capture_output=True, text=True, check=True
        ).stdout
    ours = as_texts(table[(table["state"] == ESTABLISHED) & (table["protocol"] == TCP)])
    theirs = set()
    for line in printed.splitlines():
        ends = [re.sub(r"%\w+", "", word) for word in line.split() if re.search(r":\d+$", word)][:2]
        texts = [
            (address.strip("[]"), int(port)) for address, _, port in (end.rpartition(":") for end in ends)
        ]
        theirs.add(tuple(part for address, port in texts for part in (unpack(*pack(address)), port)))
    assert {each for each in ours if each[0] in ("127.0.0.1", "::1")} == {
        each for each in theirs if each[0] in ("127.0.0.1", "::1")
    }


def test_a_namespace_is_read_once_and_again_when_it_comes_back() -> None:
    own = namespace_inode(Path("/proc/self/ns/net"))
    with connections() as expected:
        known = Accepted(None)
        known.look(own, ())
        assert len(known.take()) >= len(expected)
        known.look(own, ())
        assert len(known.take()) == 0
    assert known.notes == ()


def test_no_mutation_ends_in_anything_but_rows() -> None:
    with connections():
        asking = netlink.Netlink(NETLINK_SOCK_DIAG)
        bodies = [
            body
            for family in FAMILIES
            for _, body in asking.request(SOCK_DIAG_BY_FAMILY, netlink.NLM_DUMP, request(family))
        ]
        asking.close()
    whole = b"".join(
        struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, 0, 1, 0) + body + bytes(-len(body) % 4)
        for body in bodies
    )
    chance = random.Random(11)
    for _ in range(CASES):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[: chance.randint(0, len(data))])
        table = sockets(cut)
        assert table.dtype == SOCKET
        assert len(accepted(table)) <= len(table)
    assert len(sockets(b"")) == 0
    assert np.array_equal(sockets(whole), sockets(whole + whole[:40]))
