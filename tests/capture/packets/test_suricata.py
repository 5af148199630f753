"""Suricata's own checks of its captures: whose conversations there are, which way round, how large, and their names."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringfence.capture.packets.read import Reading, read_capture
from ringfence.model.addresses import texts
from ringfence.model.columns import Direction
from ringfence.model.protocols import PORTS, protocol_name

DIFFERENT = {
    "sctp-pkt-too-small": "Suricata names no ports of an SCTP header that is cut behind them",
    "bug-814": "its flow was cut in two by a change of protocol; ours has both parts",
}
SEEDS = {"community-id-ipv6": 7, "community-id-sameip": 1, "nfs3-01": 1234}
"""Each of these tests sets a seed of its own; one number has to fit all its events."""
Ends = tuple[str, str, int, str, int]


def checks(folder: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """`(name, capture, what must match)` of each check that looks for an event there is."""
    for test in sorted(folder.glob("*/test.yaml")):
        captures = [path for path in test.parent.iterdir() if ".pcap" in path.name]
        if len(captures) != 1:
            continue
        for check in yaml.safe_load(test.read_text()).get("checks") or ():
            wanted = check.get("filter") or {}
            if wanted.get("count") and isinstance(wanted.get("match"), dict):
                yield test.parent.name, captures[0], wanted["match"]


def ends_of(match: dict[str, Any]) -> Ends | None:
    """The conversation an event is of, as Suricata names it; None where it does not name all of it."""
    names = ("src_ip", "src_port", "dest_ip", "dest_port")
    if any(name not in match for name in names) or str(match.get("proto")).upper() not in (
        "TCP",
        "UDP",
        "SCTP",
    ):
        return None
    src, dst = (str(ipaddress.ip_address(match[name])) for name in ("src_ip", "dest_ip"))
    return str(match["proto"]).upper(), src, int(match["src_port"]), dst, int(match["dest_port"])


def conversations(reading: Reading) -> dict[Ends, Any]:
    """Our flows, by protocol, consumer and provider."""
    flows = reading.captured.flows
    ends = [texts(flows[end + "_hi"], flows[end + "_lo"]) for end in ("consumer", "provider")]
    return {
        (
            protocol_name(int(flow["protocol"])).upper(),
            *(str(ipaddress.ip_address(a)), int(flow["consumer_port"])),
            *(str(ipaddress.ip_address(b)), int(flow["provider_port"])),
        ): flow
        for flow, a, b in zip(flows, *ends, strict=True)
        if int(flow["protocol"]) in PORTS
    }


def community_id(ends: Ends, seed: int = 0) -> str:
    """Version 1 (github.com/corelight/community-id-spec)."""
    number = {"TCP": 6, "UDP": 17, "SCTP": 132}[ends[0]]
    sides = sorted((ipaddress.ip_address(ends[at]).packed, ends[at + 1].to_bytes(2)) for at in (1, 3))
    packed = seed.to_bytes(2) + sides[0][0] + sides[1][0] + bytes([number, 0]) + sides[0][1] + sides[1][1]
    return "1:" + base64.b64encode(hashlib.sha1(packed, usedforsecurity=False).digest()).decode()


@pytest.fixture(scope="module")
def events(shared_data: Path) -> list[tuple[str, dict[str, Any], dict[Ends, Any], Reading]]:
    """Each check beside what we read of its capture."""
    readings: dict[Path, tuple[dict[Ends, Any], Reading]] = {}
    found = []
    for name, capture, match in checks(shared_data / "pcap" / "suricata-verify"):
        if capture not in readings:
            reading = read_capture(str(capture))
            readings[capture] = conversations(reading), reading
        found.append((name, match, *readings[capture]))
    return found


Events = list[tuple[str, dict[str, Any], dict[Ends, Any], Reading]]


@pytest.mark.shared
def test_every_conversation_is_there(events: Events) -> None:
    checked = 0
    for name, match, ours, _ in events:
        ends = ends_of(match)
        if ends is not None and name not in DIFFERENT:
            assert ends in ours or (ends[0], *ends[3:], *ends[1:3]) in ours, (name, ends)
            checked += 1
    assert checked > 250


@pytest.mark.shared
def test_flows_go_the_same_way_and_are_as_large(events: Events) -> None:
    """An event of a flow has the consumer as its source; its octets are those of Ethernet frames."""
    checked: Counter[str] = Counter()
    for name, match, ours, _ in events:
        ends = ends_of(match)
        if match.get("event_type") != "flow" or ends is None or name in DIFFERENT:
            continue
        assert ends in ours, (name, ends)
        flow = ours[ends]
        checked["way"] += 1
        checked["known"] += flow["direction"] == Direction.SYN
        for side, end in (("toserver", "consumer"), ("toclient", "provider")):
            if f"flow.pkts_{side}" in match:
                assert flow[f"{end}_packets"] == match[f"flow.pkts_{side}"], name
                checked["packets"] += 1
            if f"flow.bytes_{side}" in match and name != "dhcp-eve-extended":
                # Short frames are padded to 60 octets.
                octets, packets = int(flow[f"{end}_octets"]), int(flow[f"{end}_packets"])
                assert 0 <= match[f"flow.bytes_{side}"] - octets - 14 * packets <= 20 * packets, name
                checked["octets"] += 1
    assert min(checked.values()) > 4, checked


@pytest.mark.shared
def test_community_ids_are_of_our_conversations(events: Events) -> None:
    # The specification's own example.
    assert (
        community_id(("TCP", "128.232.110.120", 34855, "66.35.250.204", 80))
        == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="
    )
    checked = 0
    for name, match, ours, _ in events:
        if "community_id" in match and ends_of(match) is not None and name not in DIFFERENT:
            assert match["community_id"] in {community_id(each, SEEDS[name]) for each in ours}, name
            checked += 1
    assert checked > 200


@pytest.mark.shared
def test_server_names_are_those_asked_for(events: Events) -> None:
    checked = 0
    for name, match, ours, reading in events:
        ends = ends_of(match)
        asked = match.get("tls.sni")
        if asked is None or ends is None or "quic" in name:
            continue
        number = int(ours[ends]["tls"])
        assert number, (name, asked)
        assert reading.dictionaries.tls[number - 1].server_name == asked
        checked += 1
    assert checked >= 2
