"""NetFlow and IPFIX: what another exporter sent of a trace, and what the RFCs allow beyond it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ringfence.cli.offline import Answer, read_files
from ringfence.model.flows import Flow

A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def read(file: Path, format: str = "auto") -> Answer:
    return read_files([str(file)], None, "start", None, format)


def told(flow: Flow) -> tuple[object, ...]:
    """By unordered ends: these formats rarely say who opened."""
    sides = (
        (flow.consumer.ip, flow.consumer.port, flow.consumer_packets, flow.consumer_octets),
        (flow.provider.ip, flow.provider.port, flow.provider_packets, flow.provider_octets),
    )
    return flow.protocol, *sorted(sides, key=str)


@pytest.mark.shared
@pytest.mark.parametrize("version", [5, 9, 10])
def test_another_exporter_says_what_the_packets_say(repo: Path, shared_data: Path, version: int) -> None:
    sent = read(repo / "tests/golden/imports/pmacctd-smtp" / f"version-{version}.bin")
    seen = read(shared_data / "pcap/zeek/traces/smtp.pcap")
    assert {told(flow) for flow in sent.flows} == {told(flow) for flow in seen.flows}
    assert {flow.origin for flow in sent.flows} == {"ipfix"}
    if version != 5:  # pmacctd tells times of an old trace since a start of its own that does not fit
        cut = {flow.start[:23] for flow in seen.flows if flow.start}
        assert {flow.start[:23] for flow in sent.flows if flow.start} == cut


@pytest.mark.shared
def test_sampled_packets_say_what_the_packets_say(repo: Path, shared_data: Path) -> None:
    """One packet in one; pmacctd kept the very last packet to itself."""
    sent = read(repo / "tests/golden/imports/pmacctd-smtp/sflow.bin")
    seen = read(shared_data / "pcap/zeek/traces/smtp.pcap")
    (cut,) = {told(flow) for flow in sent.flows} - {told(flow) for flow in seen.flows}
    assert cut == ("TCP", ("17.167.150.73", 443, 13, 4185), ("192.168.133.100", 49655, 14, 2833))
    assert len(sent.flows) == len(seen.flows)
    opened = {told(flow)[1:][0][:2] for flow in seen.flows if flow.direction == "syn"}
    assert {told(flow)[1:][0][:2] for flow in sent.flows if flow.direction == "syn"} == opened
    assert {(flow.origin, flow.start, flow.sample) for flow in sent.flows} == {("sflow", None, None)}


def test_samples_are_scaled_by_their_own_rate(tmp_path: Path) -> None:
    """Expanded sample with sampled IPv6, in a datagram of an IPv6 agent; a counter sample beside it."""
    ends = bytes(15) + b"\x01" + bytes(15) + b"\x02"
    packet = struct.pack(">II", 100, 6) + ends + struct.pack(">IIII", 40000, 443, 2, 0)
    record = struct.pack(">II", 4, len(packet)) + packet
    sample = struct.pack(">12I", 1, 0, 3, 512, 512, 0, 0, 3, 0, 4, 1, 0)[:44] + record
    body = struct.pack(">II", 3, len(sample)) + sample + struct.pack(">II", 2, 4) + bytes(4)
    head = struct.pack(">II", 5, 2) + bytes(15) + b"\x09" + struct.pack(">IIII", 0, 1, 1000, 2)
    (flow,) = flows(tmp_path, head + body).flows
    assert (flow.consumer_packets, flow.consumer_octets, flow.sample) == (512, 51200, 512)
    assert (flow.consumer.ip, flow.direction, flow.consumer_flags) == ("::1", "syn", "SYN")


def ipfix(*sets: bytes, domain: int = 1) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, domain) + body


def template(number: int, *fields: tuple[int, int] | tuple[int, int, int], kind: int = 2) -> bytes:
    told = b"".join(
        struct.pack(">HH", field[0], field[1])
        if len(field) == 2
        else struct.pack(">HHI", field[0] | 0x8000, field[1], field[2])
        for field in fields
    )
    body = struct.pack(">HH", number, len(fields)) + told
    return struct.pack(">HH", kind, 4 + len(body)) + body


def data(number: int, *values: bytes) -> bytes:
    body = b"".join(values)
    return struct.pack(">HH", number, 4 + len(body)) + body


TUPLE = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1))
PLAIN = template(256, *TUPLE, (2, 8), (1, 8), (152, 8), (153, 8))
NUMBERS = struct.pack(">QQQQ", 3, 180, 1_700_000_000_123, 1_700_000_001_000)
ROW = A + B + struct.pack(">HHB", 40000, 80, 6) + NUMBERS


def flows(tmp_path: Path, *messages: bytes) -> Answer:
    file = tmp_path / "sent"
    file.write_bytes(b"".join(messages))
    answer = read(file)
    assert not answer.problems
    return answer


def test_both_ways_in_one_record(tmp_path: Path) -> None:
    """RFC 5103, with fields of variable length and of an enterprise nobody here knows in between."""
    both = template(
        300, *TUPLE, (2, 4), (1, 4), (2, 4, 29305), (1, 4, 29305), (100, 0xFFFF, 9), (156, 8), (157, 8)
    )
    time = struct.pack(">II", 1_700_000_000 + 2_208_988_800, 1 << 31)
    row = A + B + struct.pack(">HHB4I", 40000, 80, 6, 3, 180, 2, 100) + b"\x03abc" + time * 2
    (flow,) = flows(tmp_path, ipfix(both, data(300, row))).flows
    assert (flow.consumer.ip, flow.provider.port) == ("10.0.0.1", 80)
    assert told(flow)[1:] == (("10.0.0.1", 40000, 3, 180), ("10.0.0.2", 80, 2, 100))
    assert flow.start == "2023-11-14T22:13:20.500000Z"


def test_templates_are_of_their_domain_and_sets_without_one_are_counted(tmp_path: Path) -> None:
    answer = flows(
        tmp_path,
        ipfix(data(256, ROW)),
        ipfix(PLAIN),
        ipfix(data(256, ROW), domain=2),
        ipfix(data(256, ROW, ROW)),
    )
    (flow,) = answer.flows
    assert (flow.consumer_packets, flow.consumer_octets) == (9, 540), "the first set waited for its template"
    (note,) = answer.notes
    assert "1 lines passed over: sets whose template was not sent" in note


def test_templates_change_and_are_withdrawn(tmp_path: Path) -> None:
    """RFC 7011 section 8.1."""
    less = template(256, *TUPLE, (2, 4))
    answer = flows(
        tmp_path,
        ipfix(PLAIN, data(256, ROW), less, data(256, ROW[:13] + struct.pack(">I", 5))),
        ipfix(struct.pack(">HHHH", 2, 8, 256, 0)),
        ipfix(data(256, ROW)),
    )
    assert [flow.consumer_packets for flow in answer.flows] == [8]
    assert "sets whose template was not sent" in answer.notes[0]
    answer = flows(tmp_path, ipfix(PLAIN), ipfix(struct.pack(">HHHH", 2, 8, 2, 0)), ipfix(data(256, ROW)))
    assert answer.flows == []


def test_a_broken_set_costs_the_rest_of_its_message_only(tmp_path: Path) -> None:
    answer = flows(tmp_path, ipfix(PLAIN, struct.pack(">HH", 256, 400)), ipfix(data(256, ROW)))
    assert len(answer.flows) == 1
    assert "the rest of its message was not read" in answer.notes[0]


def nine(*sets: bytes) -> bytes:
    return struct.pack(">HHIIII", 9, len(sets), 1000, 1_700_000_000, 0, 7) + b"".join(sets)


def sampler(kind: int, number: int, scope: tuple[int, int], *fields: tuple[int, int]) -> bytes:
    """A template of options, of NetFlow 9 (kind 1) or IPFIX (kind 3)."""
    told = b"".join(struct.pack(">HH", *field) for field in (scope, *fields))
    sizes = (4, 4 * len(fields)) if kind == 1 else (1 + len(fields), 1)
    body = struct.pack(">HHH", number, *sizes) + told
    return struct.pack(">HH", kind, 4 + len(body)) + body


SAMPLED = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (2, 4), (48, 1))
SAMPLED_ROW = ROW[:13] + struct.pack(">IB", 3, 9)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("version", [9, 10])
def test_rates_of_a_table_of_samplers(tmp_path: Path, version: int, late: bool) -> None:
    """Sampler 9 takes one in 100, 8 one in 50; told before the flows, or after."""
    wrap, kind, scope = (nine, 1, (1, 4)) if version == 9 else (ipfix, 3, (149, 4))
    options = sampler(kind, 300, scope, (48, 1), (49, 1), (50, 4))
    table = data(300, *(struct.pack(">IBBI", 0, number, 2, rate) for number, rate in ((8, 50), (9, 100))))
    told = (
        wrap(options, table),
        wrap(template(259, *SAMPLED, kind=0 if version == 9 else 2), data(259, SAMPLED_ROW)),
    )
    (flow,) = flows(tmp_path, *(reversed(told) if late else told)).flows
    assert (flow.consumer_packets, flow.sample) == (300, 100)


@pytest.mark.parametrize("interface", [4, 5])
def test_rates_of_interfaces(tmp_path: Path, interface: int) -> None:
    """As softflowd tells: NetFlow 9, scope interface."""
    options = sampler(1, 300, (2, 4), (34, 4), (35, 1))
    table = data(300, *(struct.pack(">IIB", number, rate, 1) for number, rate in ((4, 10), (5, 20))))
    told = (
        template(259, *TUPLE, (2, 4), (10, 4), kind=0),
        data(259, ROW[:13] + struct.pack(">II", 3, interface)),
    )
    (flow,) = flows(tmp_path, nine(options, table), nine(*told)).flows
    assert flow.sample == {4: 10, 5: 20}[interface]


def test_a_domain_s_rate_is_of_all_its_records_and_of_no_other_domain_s(tmp_path: Path) -> None:
    options = sampler(3, 300, (149, 4), (305, 4), (306, 4))
    rate = data(300, struct.pack(">III", 1, 1, 99))
    answer = flows(
        tmp_path, ipfix(options, rate), ipfix(PLAIN, data(256, ROW)), ipfix(PLAIN, data(256, ROW), domain=2)
    )
    assert [flow.sample for flow in answer.flows] == [100]
    (flow,) = flows(tmp_path, ipfix(options, rate, domain=3), ipfix(PLAIN, data(256, ROW))).flows
    assert flow.sample is None


def test_firewalls_tell_both_ways(tmp_path: Path) -> None:
    """Cisco's initiatorOctets and responderOctets, and an event's time."""
    event = template(262, *TUPLE, (231, 4), (232, 4), (323, 8), kind=0)
    row = ROW[:13] + struct.pack(">IIQ", 500, 900, 1_700_000_000_123)
    (flow,) = flows(tmp_path, nine(event, data(262, row))).flows
    assert (flow.consumer_octets, flow.provider_octets, flow.consumer_packets) == (500, 900, None)
    assert flow.start == "2023-11-14T22:13:20.123000Z"


def test_lists_inside_records_are_passed_over(tmp_path: Path) -> None:
    """RFC 6313: basicList, subTemplateList and subTemplateMultiList, of either form of length."""
    told = template(263, *TUPLE, (291, 0xFFFF), (292, 0xFFFF), (293, 0xFFFF), (2, 4))
    row = ROW[:13] + b"\x03abc" + b"\xff\x01\x00" + bytes(256) + b"\0" + struct.pack(">I", 7)
    (flow,) = flows(tmp_path, ipfix(told, data(263, row, row))).flows
    assert flow.consumer_packets == 14


def test_options_are_no_flows_and_denied_flows_are_told(tmp_path: Path) -> None:
    options = struct.pack(">HHHHHHHH", 3, 18, 257, 2, 1, 149, 4, 34) + struct.pack(">H", 4)
    firewall = template(258, *TUPLE, (233, 1))
    answer = flows(
        tmp_path,
        ipfix(options, data(257, bytes(8))),
        ipfix(firewall, data(258, ROW[:13] + b"\x03")),
    )
    (flow,) = answer.flows
    assert (flow.drop_reason, flow.consumer_packets, flow.start) == ("policy", None, None)


def test_sampled_counts_are_scaled_and_marked(tmp_path: Path) -> None:
    sampled = template(259, *TUPLE, (2, 4), (34, 4))
    (flow,) = flows(tmp_path, ipfix(sampled, data(259, ROW[:13] + struct.pack(">II", 7, 100)))).flows
    assert (flow.consumer_packets, flow.sample) == (700, 100)


def test_a_cut_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = ipfix(PLAIN, data(256, ROW))
    answer = flows(tmp_path, whole, whole[:40])
    assert len(answer.flows) == 1
    assert "the rest was not read" in answer.notes[0]
    (tmp_path / "none").write_bytes(b"\x00\x0a\x00\x01")
    (problem,) = read(tmp_path / "none").problems
    assert "is no NetFlow or IPFIX" in str(problem)


@pytest.mark.parametrize(
    ("status", "reason"), [(129, "policy"), (130, "policy"), (132, "kernel"), (64, None)]
)
def test_what_became_of_a_flow(tmp_path: Path, status: int, reason: str | None) -> None:
    """RFC 7270 section 4.12."""
    told = template(260, *TUPLE, (89, 1))
    (flow,) = flows(tmp_path, ipfix(told, data(260, ROW[:13] + bytes((status,))))).flows
    assert flow.drop_reason == reason


@pytest.mark.parametrize(("taken", "left", "factor"), [(1, 999, 1000), (100, 900, 10)])
def test_packets_taken_in_a_row_and_left_out(tmp_path: Path, taken: int, left: int, factor: int) -> None:
    """RFC 5477."""
    told = template(261, *TUPLE, (2, 4), (305, 4), (306, 4))
    (flow,) = flows(tmp_path, ipfix(told, data(261, ROW[:13] + struct.pack(">III", 7, taken, left)))).flows
    assert (flow.consumer_packets, flow.sample) == (7 * factor, factor)
