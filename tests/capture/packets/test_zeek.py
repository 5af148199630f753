"""Where Zeek and tshark agree on a trace we agree exactly: packets, octets, and who opened the conversation."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from ringfence.capture.packets.read import read_capture
from ringfence.flows.handshakes import drops
from ringfence.model.addresses import texts
from ringfence.model.columns import Direction, Drop

NAMES = {"tcp": (6,), "udp": (17,), "icmp": (1, 58), "unknown_transport": ()}
Ends = tuple[str, int, str, int]


def zeek_flows(log: Path) -> dict[tuple[str, Ends], Counter[str]]:
    """Packets and octets of each end, by (protocol, originator, responder), connections on one tuple added."""
    lines = log.read_text().splitlines()
    names = next(line for line in lines if line.startswith("#fields")).split("\t")[1:]
    found: dict[tuple[str, Ends], Counter[str]] = defaultdict(Counter)
    for line in lines:
        if line.startswith("#"):
            continue
        row = dict(zip(names, line.split("\t"), strict=True))
        ends = (row["id.orig_h"], int(row["id.orig_p"]), row["id.resp_h"], int(row["id.resp_p"]))
        for name in ("orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes"):
            found[row["proto"], ends][name] += int(row[name])
    return found


def our_flows(capture: Path) -> dict[tuple[int, Ends], tuple[Counter[str], int]]:
    flows = read_capture(str(capture)).captured.flows
    ends = [texts(flows[end + "_hi"], flows[end + "_lo"]) for end in ("consumer", "provider")]
    found = {}
    for flow, a, b in zip(flows, *ends, strict=True):
        ports = (
            (0, 0)
            if flow["protocol"] in (1, 58)
            else (int(flow["consumer_port"]), int(flow["provider_port"]))
        )
        counts = Counter(
            orig_pkts=int(flow["consumer_packets"]),
            orig_ip_bytes=int(flow["consumer_octets"]),
            resp_pkts=int(flow["provider_packets"]),
            resp_ip_bytes=int(flow["provider_octets"]),
        )
        found[int(flow["protocol"]), (a, ports[0], b, ports[1])] = counts, int(flow["direction"])
    return found


def agreed(folder: Path) -> list[tuple[str, str]]:
    with (folder / "oracle-agreement.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(row["trace"], row["zeek_test"]) for row in rows if row["ip_octet_agreement"] == "same-octets"]


@pytest.mark.shared
def test_exactly_what_zeek_says_where_two_programs_agree(shared_data: Path) -> None:
    folder = shared_data / "pcap" / "zeek"
    checked = 0
    for trace, test in agreed(folder):
        log = folder / "baseline" / test / "conn.log"
        ours = our_flows(folder / "traces" / trace)
        for (protocol, ends), counts in zeek_flows(log).items():
            if protocol == "icmp":
                ends = (ends[0], 0, ends[2], 0)
            turned = (*ends[2:], *ends[:2])
            same = [ours[n, ends] for n in NAMES[protocol] if (n, ends) in ours]
            other = [ours[n, turned] for n in NAMES[protocol] if (n, turned) in ours]
            assert same or other, (trace, ends)
            if same:
                assert same[0][0] == counts, (trace, ends)
            else:
                swapped = Counter(
                    {
                        f"{b}_{u}": counts[f"{a}_{u}"]
                        for a, b in (("orig", "resp"), ("resp", "orig"))
                        for u in ("pkts", "ip_bytes")
                    }
                )
                assert other[0][0] == swapped, (trace, ends)
                # Zeek guesses by port numbers too; a handshake that was seen leaves nothing to guess.
                assert other[0][1] != Direction.SYN, (trace, ends)
            checked += 1
    assert checked > 60


STATES = {
    "S0": Drop.UNANSWERED,
    "REJ": Drop.REFUSED,
    "SF": Drop.NONE,
    "S1": Drop.NONE,
    "RSTO": Drop.NONE,
    "RSTR": Drop.NONE,
}
"""Zeek's words for how a connection went (base/protocols/conn), as reasons."""


@pytest.mark.shared
def test_nothing_that_zeek_saw_established_is_called_refused_or_unanswered(shared_data: Path) -> None:
    folder = shared_data / "pcap" / "zeek"
    checked: Counter[str] = Counter()
    with (folder / "index.tsv").open() as file:
        traces = {row["test"]: row["trace"] for row in csv.DictReader(file, delimiter="\t")}
    for test, trace in sorted(traces.items()):
        log = folder / "baseline" / test / "conn.log"
        capture = folder / "traces" / trace
        if not log.exists() or not capture.exists():
            continue
        states = states_of(log)
        flows = read_capture(str(capture)).captured.flows
        ends = [texts(flows[end + "_hi"], flows[end + "_lo"]) for end in ("consumer", "provider")]
        for flow, reason, a, b in zip(flows, drops(flows).tolist(), *ends, strict=True):
            state = states.get((a, int(flow["consumer_port"]), b, int(flow["provider_port"])))
            if state in STATES and flow["protocol"] == 6 and flow["direction"] == Direction.SYN:
                assert reason == STATES[state], (trace, a, b, state)
                checked[state] += 1
    assert sum(checked.values()) > 35, checked


def states_of(log: Path) -> dict[Ends, str]:
    """The state of each TCP connection whose tuple was used once, whole from its beginning."""
    lines = log.read_text().splitlines()
    names = next((line for line in lines if line.startswith("#fields")), "").split("\t")[1:]
    if "conn_state" not in names:
        return {}
    found: dict[Ends, str] = {}
    for line in lines:
        row = dict(zip(names, line.split("\t"), strict=False))
        if line.startswith("#") or row["proto"] != "tcp":
            continue
        ends = (row["id.orig_h"], int(row["id.orig_p"]), row["id.resp_h"], int(row["id.resp_p"]))
        found[ends] = "twice" if ends in found else row["conn_state"]
    return found
