"""Batches survive the way; anything else is a Problem."""

from __future__ import annotations

import contextlib
import struct

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows.hops import named
from ringfence.model.batches import BatchHeader, Loss, ProcessInfo, TapInfo, TlsInfo
from ringfence.model.columns import HOP, LAYOUT, SIGHTING, TRANSLATION, Table
from ringfence.model.problems import Problem
from ringfence.testing.batches import SECOND, START, header, no_translations, sighting
from ringfence.wire.codec import MAX_BODY, PREFIX, decode, encode, peek

NAMES = st.text("abcdefgh0123456789-", min_size=1, max_size=12)


@st.composite
def batches(draw: st.DrawFn) -> tuple[BatchHeader, Table, Table, Table]:
    rows, others = draw(st.integers(0, 40)), draw(st.integers(0, 10))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    windows = tuple(START + i * SECOND for i in range(draw(st.integers(1, 5))))
    pods, taps = draw(st.lists(NAMES, max_size=3)), draw(st.lists(NAMES, max_size=3))
    table = np.frombuffer(random.bytes(rows * SIGHTING.itemsize), SIGHTING).copy()
    table["window"] = random.choice(np.array(windows), rows)
    table["first_window"] = table["window"] - random.integers(0, SECOND, rows)
    table["first"] = table["window"]
    table["last"] = table["window"] + random.integers(0, SECOND, rows)
    for name, ceiling in (("kind", 6), ("direction", 5), ("role", 3), ("drop", 6)):
        table[name] = random.integers(0, ceiling, rows)
    for name in ("process", "provider_process", "names", "tls"):
        table[name] = random.integers(0, 2, rows)
    for name in ("consumer_pod", "provider_pod"):
        table[name] = random.integers(0, len(pods) + 1, rows)
    table["taps"] = random.integers(0, len(taps) + 1, (rows, 6))
    for name in ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets"):
        table[name] >>= np.uint64(5)
    translations = np.frombuffer(random.bytes(others * TRANSLATION.itemsize), TRANSLATION).copy()
    translations["seen"] = START
    for name in ("dnat", "snat", "dumped"):
        translations[name] &= 1
    translations["link"] %= 3
    hops = np.zeros(int(named(table).sum()) * draw(st.integers(0, 1)), HOP)
    for name, ceiling in (("role", 3), ("way", 4), ("mixed", 2), ("after", 1 << 32), ("before", 1 << 32)):
        hops[name] = random.integers(0, ceiling, len(hops))
    hops["consumer_packets"] = random.integers(0, 1 << 40, len(hops))
    head = BatchHeader(
        cluster=draw(NAMES),
        node=draw(NAMES),
        epoch=draw(NAMES),
        sequence=draw(st.integers(1, 2**40)),
        sent=START,
        window_length=SECOND,
        windows=windows,
        taps=tuple(TapInfo(name, "pod", name) for name in taps),
        pods=tuple(pods),
        processes=(ProcessInfo("curl", 812, "/usr/bin/curl", None, "3f2a", "sh", 811),),
        names=("carts.sock-shop.svc.cluster.local",),
        tls=(TlsInfo("shop.example", ("h2", "http/1.1")),),
        addresses=("10.0.0.1", "fd00::1"),
        losses=(Loss("kernel-map-full", 1, 2, 3),),
    )
    return head, table, translations, hops


@given(batches())
@settings(max_examples=60, deadline=None)
def test_round_trip(batch: tuple[BatchHeader, Table, Table, Table]) -> None:
    head, sightings, translations, hops = batch
    back = decode(encode(head, sightings, translations, hops))
    assert back.header == head
    assert back.sightings.tobytes() == sightings.tobytes()
    assert back.translations.tobytes() == translations.tobytes()
    assert back.hops.tobytes() == hops.tobytes()


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_are_a_problem(body: bytes) -> None:
    with pytest.raises(Problem):
        decode(body)


@given(batches(), st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_bytes_are_a_problem_or_another_batch(
    batch: tuple[BatchHeader, Table, Table, Table], data: st.DataObject
) -> None:
    body = bytearray(encode(*batch))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    changed = bytes(body[: data.draw(st.integers(0, len(body)))])
    with contextlib.suppress(Problem):
        decode(changed)
    # What a spool finds whole is the batch itself, as far as its frame goes.
    with contextlib.suppress(Problem):
        assert peek(changed) == batch[0]


@given(batches(), st.binary(min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_what_follows_a_batch_is_seen_without_unpacking_it(
    batch: tuple[BatchHeader, Table, Table, Table], more: bytes
) -> None:
    body = encode(*batch)
    assert peek(body) == batch[0]
    with pytest.raises(Problem):
        peek(body + more)


def test_a_large_batch_is_looked_into_a_piece_at_a_time() -> None:
    rows = np.repeat(sighting(START), 100_000)
    rows["consumer_octets"] = np.random.default_rng(1).integers(0, 1 << 40, len(rows))
    head = header(1, (START,))
    body = encode(head, rows, no_translations())
    assert peek(body) == head
    for damaged in (body[:-1], body[: 1 << 14], body[:-9] + bytes(9), body + bytes(1 << 15)):
        with pytest.raises(Problem):
            peek(damaged)


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_well_packed_nonsense_is_a_problem_or_a_batch(
    batch: tuple[BatchHeader, Table, Table, Table], data: st.DataObject
) -> None:
    """Mutations inside the frame, packed again, so that the checksum does not save the checks behind it."""
    body = encode(*batch)
    content = bytearray(zstandard.ZstdDecompressor().decompress(body[PREFIX.size :]))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Problem):
        decode(body[: PREFIX.size] + zstandard.ZstdCompressor().compress(bytes(content)))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("window", START + 7, "does not tell of"),
        ("first_window", START + 1, "first window"),
        ("first", -1, "times"),
        ("last", START - 5, "times"),
        ("kind", 77, "kind"),
        ("direction", 9, "direction"),
        ("role", 3, "role"),
        ("consumer_packets", 2**63, "consumer_packets"),
        ("consumer_pod", 1, "consumer_pod beyond"),
        ("process", 5, "process beyond"),
        ("provider_process", 5, "provider_process beyond"),
        ("names", 5, "names beyond"),
        ("tls", 5, "tls beyond"),
        ("drop", 6, "drop"),
        ("taps", 2, "taps beyond"),
    ],
)
def test_values_out_of_range_are_named(column: str, value: int, words: str) -> None:
    row = sighting(START)
    row[column] = value
    with pytest.raises(Problem, match=words):
        decode(encode(header(1, (START,)), row, no_translations()))


@pytest.mark.parametrize(
    "facts",
    [
        {"node": ""},
        {"node": "a b"},
        {"cluster": "x" * 300},
        {"epoch": "../x"},
        {"sequence": 0},
        {"window_length": 0},
        {"windows": (START, START)},
        {"addresses": ("nonsense",)},
        {"losses": (Loss("x", packets=-1),)},
        {"taps": (TapInfo("a b", "pod"),)},
        {"processes": (ProcessInfo("x", -1),)},
    ],
)
def test_bad_headers_are_problems(facts: dict[str, object]) -> None:
    bad = msgspec.structs.replace(header(1, (START,)), **facts)
    with pytest.raises(Problem):
        decode(encode(bad, sighting(START)[:0], no_translations()))


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    prefix = PREFIX.pack(b"RFBATCH\x01", LAYOUT, 0, 100, 0, 0, 0)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    assert len(bomb) < 1 << 20
    with pytest.raises(Problem, match="another size"):
        decode(prefix + bomb)
    with pytest.raises(Problem, match="not a batch"):
        decode(bytes(MAX_BODY + 1))


def test_another_layout_names_both() -> None:
    body = bytearray(encode(header(1, (START,)), sighting(START), no_translations()))
    body[8] = 9
    with pytest.raises(Problem, match="layout 9, not"):
        decode(bytes(body))


def test_a_place_that_no_interface_holds_is_a_good_tap() -> None:
    """Tap ids are indexes: once a pod is deleted its place is empty, until another takes it."""
    taps = (TapInfo("eth0", "node"), TapInfo("", "node"), TapInfo("veth1", "pod", "uid"))
    head = header(1, (START,), taps=taps)
    assert decode(encode(head, sighting(START), no_translations())).header.taps == taps


def hop(**values: int) -> Table:
    row = np.zeros(1, HOP)
    for name, value in values.items():
        row[name] = value
    return row


@pytest.mark.parametrize(
    ("hops", "words"),
    [
        (np.concatenate([hop(), hop()]), "another number of hops"),
        (hop(role=3), "bad role"),
        (hop(way=4), "bad way"),
        (hop(mixed=2), "bad mixed"),
        (hop(consumer_packets=-7), "bad consumer_packets"),
        (hop(provider_octets=-(1 << 63)), "bad provider_octets"),
        (hop(consumer_octets=(1 << 63) - 1), "bad consumer_octets"),
    ],
)
def test_hops_that_cannot_be_are_named(hops: Table, words: str) -> None:
    """The sighting names one tap and has 6 packets of the consumer."""
    with pytest.raises(Problem, match=words):
        encode(header(1, (START,)), sighting(START), no_translations(), hops)


def test_a_batch_of_the_layout_before_is_read() -> None:
    """Written here by hand, as agents of before and recordings have it: no hops, no `link`."""
    rows, others = sighting(START), np.ones(2, TRANSLATION)
    head = msgspec.json.encode(msgspec.structs.replace(header(1, (START,)), layout=2))
    columns = [rows[name].tobytes() for name in SIGHTING.names or ()]
    columns += [others[name].tobytes() for name in TRANSLATION.names or () if name != "link"]
    prefix = struct.pack("<8sHHIII", b"RFBATCH\x01", 2, 0, len(head), len(rows), len(others))
    back = decode(prefix + zstandard.ZstdCompressor().compress(b"".join([head, *columns])))
    assert back.header == header(1, (START,))
    assert back.sightings.tobytes() == rows.tobytes()
    assert back.translations["link"].tolist() == [0, 0]
    assert back.translations["post_provider_port"].tolist() == [1, 1]
    assert len(back.hops) == 0
    assert decode(encode(*back)).header.layout == LAYOUT
