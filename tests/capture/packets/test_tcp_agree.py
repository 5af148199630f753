"""What TCP's sequence numbers tell, in every given capture: retransmissions, zero windows, the handshake's round trip.

Against tshark's own analysis, packet by packet; against Zeek's histories; against DeepFlow's counters. Where we differ,
and why, stands in REPEATS and TIMES; a difference that is gone fails too, so that the lists stay true.
"""

from __future__ import annotations

import csv
import json
import random
import re
import struct
import subprocess
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from ringfence.capture.packets.read import read_capture
from ringfence.model.addresses import texts
from ringfence.model.columns import UNKNOWN_U4, Drop
from ringfence.model.problems import Problem
from ringfence.model.protocols import TCP
from ringfence.testing import captures as c

REPEATS = {
    "zeek/traces/docs/vxlan-overlapping-http-get.pcap": "inside tunnels and outside of them are two flows of ours",
    "zeek/traces/smtp.pcap": "octets that were sent before in smaller pieces: tshark looks for the same piece only",
    "zeek/traces/tcp/ctu-64702-888.pcap": "the second of two equal segments in a hole: tshark calls both out of order",
}
KARN = "the SYN is there twice before its answer: sent again or captured twice, it is open which one was answered"
BACK = "the capture's clock goes back between SYN and ACK"
ALONE = "no ACK of the opener: tshark times whatever the other end says first"
TIMES = {
    "deepflow/handshake-retrans.pcap": KARN,
    "suricata-verify/bug-5437-02/input.pcap": KARN,
    "zeek/traces/docs/vxlan-overlapping-http-get.pcap": KARN,
    "zeek/traces/http/ctu-62604-80.pcap": KARN,
    "zeek/traces/postgresql/psql-login-no-role.pcap": KARN,
    "zeek/traces/ssh/ssh.client-side-half-duplex.pcap": KARN,
    "zeek/traces/vlan-collisions.pcap": KARN,
    "tcpdump/malformed/timestamp_invalid_micro.pcap": BACK,
    "tcpdump/malformed/timestamp_invalid_nano.pcap": BACK,
    "zeek/traces/http/261/variant-03-cl_negative.pcap": BACK,
    "zeek/traces/http/261/variant-04-te_cl_desync.pcap": BACK,
    "zeek/traces/http/261/variant-07-expect_100_cl0.pcap": BACK,
    "zeek/traces/http/261/variant-09-te_obs_fold.pcap": BACK,
    "zeek/traces/http/261/variant-10-multi_value_te.pcap": BACK,
    "deepflow/syn-1.pcap": ALONE,
    "suricata-verify/mqtt5-unsub-qos1/input.pcap": ALONE,
    "zeek/traces/tcp/syn-then-ack-then-rst.pcap": ALONE,
    "zeek/traces/zip/nested.pcap": ALONE,
    "suricata-verify/tcp-fastopen-07/tcp_fastopen_segmentation.pcap": "fast open: data of the provider comes before "
    "the ACK, and tshark takes it for the ACK",
    "suricata-verify/mac-eve-multiple-disabled/multi_mac.pcap": "tshark shows no time where an ACK carries nothing",
    "zeek/traces/tls/ml-dsa-44-cert.pcap": "it took no time at all, which tshark does not show",
    "zeek/traces/modbus/modbus-and-non-modbus-p502.pcap": "15 s: something may have been sent again meanwhile",
}

Ends = tuple[tuple[str, str], tuple[str, str]]


class Told(NamedTuple):
    """By conversation, whichever end comes first."""

    repeats: Counter[Ends]
    shut: Counter[Ends]
    times: dict[Ends, set[int | None]]


FIELDS = (
    *("tcp.stream", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport"),
    *(
        "tcp.analysis.retransmission",
        "tcp.analysis.fast_retransmission",
        "tcp.analysis.spurious_retransmission",
    ),
    *("tcp.analysis.zero_window", "tcp.analysis.initial_rtt"),
)


def tshark(capture: Path) -> Told:
    command = ["tshark", "-r", str(capture), "-n", "-Y", "tcp && !icmp && !icmpv6", "-T", "fields"]
    for field in FIELDS:
        command += ["-e", field]
    told = Told(Counter(), Counter(), defaultdict(set))
    streams: dict[tuple[Ends, str], int | None] = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        stream, *rest = line.split("\t")
        v4, to4, v6, to6, sport, dport, plain, fast, spurious, shut, rtt = (
            each.split(",")[-1] for each in rest
        )
        ends = ordered((v4 or v6, sport), (to4 or to6, dport))
        told.repeats[ends] += any((plain, fast, spurious))
        told.shut[ends] += bool(shut)
        if rtt or (ends, stream) not in streams:
            streams[ends, stream] = (
                int(rtt.split(".")[0]) * 1_000_000 + int(rtt.split(".")[1][:6]) if rtt else None
            )
    for (ends, _), rtt_us in streams.items():
        told.times[ends].add(rtt_us)
    return told


def ordered(a: tuple[str, str], b: tuple[str, str]) -> Ends:
    return (a, b) if a <= b else (b, a)


def ours(capture: Path) -> Told:
    told = Told(Counter(), Counter(), defaultdict(set))
    flows = read_capture(str(capture)).captured.flows
    flows = flows[flows["protocol"] == TCP]
    ends = [texts(flows[end + "_hi"], flows[end + "_lo"]) for end in ("consumer", "provider")]
    for flow, a, b in zip(flows, *ends, strict=True):
        key = ordered((a, str(flow["consumer_port"])), (b, str(flow["provider_port"])))
        if flow["retransmits"] != UNKNOWN_U4:
            told.repeats[key] += int(flow["retransmits"])
            told.shut[key] += int(flow["zero_windows"])
        told.times[key].add(None if flow["rtt_us"] == UNKNOWN_U4 else int(flow["rtt_us"]))
    return told


@pytest.fixture(scope="module")
def everything(shared_data: Path) -> dict[str, tuple[Told, Told]]:
    """What both say of each capture with TCP."""
    folder = shared_data / "pcap"
    lines = [json.loads(line) for line in (folder / "tshark-flows.jsonl").read_text().splitlines()]
    names = [
        line["pcap"]
        for line in lines
        if any(flow["proto"] == "TCP" for kind in ("outer", "inner") for flow in line.get(kind, ()))
    ]
    with ThreadPoolExecutor(2) as pool:
        theirs = dict(zip(names, pool.map(tshark, [folder / name for name in names]), strict=True))
    found = {}
    for name in names:
        try:
            found[name] = ours(folder / name), theirs[name]
        except Problem:
            continue
    return found


@pytest.mark.shared
def test_retransmissions_are_those_of_tshark(everything: dict[str, tuple[Told, Told]]) -> None:
    different = {name for name, (mine, its) in everything.items() if +mine.repeats != +its.repeats}
    assert different == set(REPEATS)
    assert sum(1 for mine, _ in everything.values() if +mine.repeats) > 15


@pytest.mark.shared
def test_zero_windows_are_those_of_tshark(everything: dict[str, tuple[Told, Told]]) -> None:
    assert all(+mine.shut == +its.shut for mine, its in everything.values())


@pytest.mark.shared
def test_handshakes_took_what_tshark_says(everything: dict[str, tuple[Told, Told]]) -> None:
    different = {
        name
        for name, (mine, its) in everything.items()
        if any(mine.times[ends] != {rtt} for ends in mine.times for rtt in its.times[ends])
    }
    assert different == set(TIMES)
    timed = sum(1 for mine, _ in everything.values() for times in mine.times.values() if times != {None})
    assert timed > 200


def directions(log: Path) -> list[tuple[Ends, str]]:
    """Both ends and the history of each TCP connection; of ends that were used once."""
    lines = log.read_text().splitlines()
    names = next((line for line in lines if line.startswith("#fields")), "").split("\t")[1:]
    if not {"history", "id.orig_h", "id.orig_p", "id.resp_p", "proto"} <= set(names):
        return []
    rows = [dict(zip(names, line.split("\t"), strict=False)) for line in lines if not line.startswith("#")]
    found = [
        (ordered((row["id.orig_h"], row["id.orig_p"]), (row["id.resp_h"], row["id.resp_p"])), row["history"])
        for row in rows
        if row["proto"] == "tcp"
    ]
    used = Counter(ends for ends, _ in found)
    return [(ends, history) for ends, history in found if used[ends] == 1]


@pytest.mark.shared
def test_zeek_saw_data_again_where_we_did(shared_data: Path) -> None:
    """T and t: a packet whose data was all seen before; W and w: no room. SYN and FIN alone it does not count."""
    folder = shared_data / "pcap" / "zeek"
    checked: Counter[bool] = Counter()
    with (folder / "index.tsv").open() as file:
        traces = {row["test"]: row["trace"] for row in csv.DictReader(file, delimiter="\t")}
    for test, trace in sorted(traces.items()):
        log, capture = folder / "baseline" / test / "conn.log", folder / "traces" / trace
        if not log.exists() or not capture.exists() or "vlan" in test or "vxlan" in trace:
            continue
        mine = ours(capture)
        for ends, history in directions(log):
            if ends not in mine.repeats:
                continue
            assert bool(mine.shut[ends]) == ("w" in history.lower()), (trace, ends)
            again = "t" in history.lower()
            assert mine.repeats[ends] >= again, (trace, ends)
            checked[again] += 1
    assert checked[True], checked
    assert checked[False] > 20, checked


def number(text: str, name: str) -> int:
    """The last value of a field in what DeepFlow prints."""
    return int(re.findall(rf"\b{name}: (\d+)", text)[-1])


@pytest.mark.shared
def test_deepflow_counts_and_times_the_same(shared_data: Path) -> None:
    folder = shared_data / "pcap" / "deepflow"
    whole = (folder / "report.result").read_text().split("report after last packet:")[1]
    (flow,) = read_capture(str(folder / "art-continues-payload-len-larger-than-1.pcap")).captured.flows
    assert flow["rtt_us"] == number(whole, "rtt") == 30548
    assert flow["retransmits"] == number(whole, "total_retrans_count")
    name = "client_request_timewait_and_syn_synack_count"
    last = (folder / f"{name}.result").read_text().split("th perf data")[-1]
    (flow,) = read_capture(str(folder / f"{name}.pcap")).captured.flows
    assert flow["rtt_us"] == number(last, "rtt_full") == 670
    assert flow["retransmits"] == number(last, "retrans_sum")
    assert flow["zero_windows"] == number(last, "zero_win_count_0") + number(last, "zero_win_count_1")


def quoted(capture: Path) -> set[tuple[str, Ends]]:
    """Protocol and ends that unreachable messages quote: the last of each field in a packet."""
    fields = ("ip.proto", "ip.src", "ip.dst", "ipv6.nxt", "ipv6.src", "ipv6.dst")
    ports = ("udp.srcport", "udp.dstport", "tcp.srcport", "tcp.dstport")
    wanted = "(icmp.type == 3 && icmp.code != 4) || icmpv6.type == 1"
    command = ["tshark", "-r", str(capture), "-n", "-Y", wanted, "-T", "fields"]
    for field in (*fields, *ports):
        command += ["-e", field]
    found = set()
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        values = line.split("\t")
        protocol, src, dst = ((values[n] or values[n + 3]).split(",") for n in range(3))
        if len(src) > 1:
            ends = ordered((src[-1], values[6] or values[8]), (dst[-1], values[7] or values[9]))
            found.add((protocol[-1], ends))
    return found


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("suricata-verify/flow-drop-iponly-02/input.pcap", 1),
        ("zeek/traces/icmp/icmp-destunreach-udp.pcap", 0),
        ("zeek/traces/smtp.pcap", 0),
        ("zeek/traces/communityid/icmp6.pcap", 0),
    ],
)
def test_unreachable_conversations_are_those_quoted(shared_data: Path, name: str, there: int) -> None:
    """In smtp.pcap it is "fragmentation needed", in others the quoted conversation is not in the capture."""
    capture = shared_data / "pcap" / name
    flows = read_capture(str(capture)).captured.flows
    ends = [texts(flows[end + "_hi"], flows[end + "_lo"]) for end in ("consumer", "provider")]
    ports = [flows[end + "_port"].astype(str).tolist() for end in ("consumer", "provider")]
    keys = [
        (str(protocol), ordered((a, p), (b, q)))
        for protocol, a, p, b, q in zip(flows["protocol"], ends[0], ports[0], ends[1], ports[1], strict=True)
    ]
    dropped = {key for key, drop in zip(keys, flows["drop"], strict=True) if drop == Drop.UNREACHABLE}
    assert dropped == quoted(capture) & set(keys)
    assert len(dropped) == there


MS = 1_000_000
CONVERSATIONS = 150


class Made:
    """A conversation to whose packets everything happens that may: lost before the tap and sent again, overtaken,
    repeated, kept alive, without room. `frames` are `(time, frame)`."""

    def __init__(self, dice: random.Random, number: int) -> None:
        self.dice, self.now, self.at = dice, number * 1000 * MS, 1
        self.ends, self.ports = (
            (f"10.0.{number // 250}.{number % 250 + 1}", "10.9.9.9"),
            (40000 + number, 443),
        )
        self.starts = dice.randrange(2**32), dice.randrange(2**32)
        self.frames: list[tuple[int, bytes]] = []
        self.missing: list[tuple[int, int]] = []
        self.handshake()
        for _ in range(dice.randrange(4, 30)):
            self.step()
        self.ending()

    def say(self, at: int, octets: int = 0, flags: int = c.ACK, window: int = 1000, way: int = 1) -> None:
        """A segment of the consumer (`way` 1) or the provider (-1), `at` octets behind its SYN."""
        (src, dst), (sport, dport) = self.ends[::way], self.ports[::way]
        base, back = self.starts[::way]
        told = back + 1 if flags & c.ACK else 0
        numbers = base + at & 0xFFFFFFFF, told & 0xFFFFFFFF
        header = struct.pack(">HHIIBBHHH", sport, dport, *numbers, 0x50, flags, window, 0, 0)
        self.frames.append((self.now, c.ether(c.ip(header + bytes(octets), src, dst, 6))))

    def handshake(self) -> None:
        for _ in range(self.dice.choice((1, 1, 2))):
            self.say(0, flags=c.SYN)
            self.now += 5 * MS
        self.say(0, flags=c.SYN | c.ACK, way=-1)
        self.now += 15 * MS
        self.say(1)

    def step(self) -> None:
        self.now += self.dice.randrange(30, 60) * MS
        octets = self.dice.randrange(2, 1400)
        happens = self.dice.randrange(8)
        if happens == 0:
            self.missing.append((self.at, octets))
        elif happens == 1:
            self.say(self.at + octets, 100)
            self.now += MS
            self.say(self.at, octets)
            octets += 100
        else:
            self.say(self.at, octets)
            self.more(happens, octets)
        self.at += octets
        if self.missing and self.dice.random() < 0.4:
            self.recovered()

    def more(self, happens: int, octets: int) -> None:
        if happens == 2:
            self.now += self.dice.choice((1, 300)) * MS
            self.say(self.at, octets)
        elif happens == 3:
            self.now += 900 * MS
            self.say(self.at + octets - 1, self.dice.randrange(2))
        elif happens == 4:
            self.say(1, window=0, way=-1)

    def recovered(self) -> None:
        self.now += 300 * MS
        self.say(self.at, 10)
        self.at += 10
        self.now += 200 * MS
        for at, octets in self.missing:
            self.say(at, octets)
        self.missing = []

    def ending(self) -> None:
        for _ in range(self.dice.choice((1, 2))):
            self.now += 300 * MS
            self.say(self.at, flags=c.ACK | c.FIN)


def test_made_conversations_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    """What the given captures hardly hold: holes, keep-alives, zero windows, over the numbers' wrap too."""
    dice = random.Random(7)
    frames = [frame for number in range(CONVERSATIONS) for frame in Made(dice, number).frames]
    blocks = b"".join(c.enhanced(data, 1_700_000_000_000_000 + at // 1000) for at, data in frames)
    capture = tmp_path / "made.pcapng"
    capture.write_bytes(c.section() + c.interface() + blocks)
    mine, its = ours(capture), tshark(capture)
    assert +mine.repeats == +its.repeats
    assert +mine.shut == +its.shut
    assert sum(mine.repeats.values()) > 2 * CONVERSATIONS
    assert sum(mine.shut.values()) > CONVERSATIONS
    for ends, times in mine.times.items():
        assert times in ({20_000}, {None}), ends
        assert times == {None} or times == its.times[ends]
