"""Golden categories this kernel has no devices for, from captures: pod → pod over IPIP and over Geneve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ringfence.testing import captures as c


def flows_of(*arguments: object) -> list[dict]:
    command = [sys.executable, "-m", "ringfence", "flows", "read", *map(str, arguments), "-o", "json"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


def connections(flows: list[dict]) -> list[dict[str, dict]]:
    """Each connection's legs by name."""
    found: dict[str, dict[str, dict]] = defaultdict(dict)
    for flow in flows:
        found[flow["connection_id"]][flow["leg"]] = flow
    return list(found.values())


@pytest.mark.shared
def test_ipip_of_a_real_network(shared_data: Path) -> None:
    """N1→N2 protocol 4 : outer, and what it carries : direct, linked; the outer header is 20 octets a packet."""
    flows = flows_of(shared_data / "pcap" / "deepflow" / "common" / "ipip.pcap")
    whole = connections(flows)
    assert len(whole) == 3
    for legs in whole:
        assert set(legs) == {"outer", "direct"}
        outer, direct = legs["outer"], legs["direct"]
        assert (outer["protocol"], outer["tunnel"], outer["link"]) == ("IPIP", "ipip", "tunnel")
        for side in ("consumer", "provider"):
            assert outer[side + "_packets"] == direct[side + "_packets"]
            assert outer[side + "_octets"] == direct[side + "_octets"] + 20 * direct[side + "_packets"]


def test_geneve_between_two_nodes(tmp_path: Path) -> None:
    """N1→N2 UDP : outer, counted once, beside P1→P2 : direct; Geneve adds 50 octets to a packet without options."""
    inner = c.ip(c.udp(40000, 53, b"x" * 30), "10.244.1.5", "10.244.2.7", 17)
    outer = c.ip(c.udp(50000, 6081, c.geneve(c.ether(inner))), "10.88.0.11", "10.88.0.12", 17)
    file = tmp_path / "geneve.pcap"
    file.write_bytes(c.pcap([c.ether(outer)] * 4))
    (legs,) = connections(flows_of(file))
    assert {leg: flow["consumer_packets"] for leg, flow in legs.items()} == {"outer": 4, "direct": 4}
    assert legs["outer"]["consumer_octets"] == legs["direct"]["consumer_octets"] + 50 * 4
    assert legs["outer"]["provider"]["port"] == 6081
    assert legs["direct"]["consumer_octets"] == 4 * (30 + 28)
