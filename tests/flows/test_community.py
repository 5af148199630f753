"""Community ID 1: the specification's own examples, and tshark's word on given captures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ringfence.capture.packets.read import read_capture
from ringfence.flows.community import community_id
from ringfence.model.addresses import pack

EXAMPLES = [
    ("128.232.110.120", "66.35.250.204", 34855, 80, 6, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    ("192.168.1.52", "8.8.8.8", 54585, 53, 17, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    ("192.168.0.89", "192.168.0.1", 0, 8 << 8, 1, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (
        "fe80::200:86ff:fe05:80da",
        "fe80::260:97ff:fe07:69ea",
        0,
        135 << 8,
        58,
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
    ),
    ("10.1.24.4", "10.1.12.1", 0, 0, 46, "1:/nQI4Rh/TtY3mf0R2gJFBkVlgS4="),
]
"""From the specification's baseline (community-id-spec, baseline/baseline_deflt.json)."""


def row(consumer, provider, consumer_port, provider_port, protocol, kind=0):
    made = {
        "consumer_port": consumer_port,
        "provider_port": provider_port,
        "protocol": protocol,
        "kind": kind,
    }
    for side, address in (("consumer", consumer), ("provider", provider)):
        made[side + "_hi"], made[side + "_lo"] = pack(address)
    return made


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one[-1])
def test_the_specifications_examples(example):
    a, b, a_port, b_port, protocol, expected = example
    assert community_id(row(a, b, a_port, b_port, protocol)) == expected
    if protocol in (6, 17, 132, 46):
        assert community_id(row(b, a, b_port, a_port, protocol)) == expected


def test_a_folded_port_names_no_conversation():
    assert community_id(row("10.0.0.1", "10.0.0.2", 0, 4789, 17, kind=1)) is None
    assert community_id(row("10.0.0.1", "10.0.0.2", 40000, 4789, 17, kind=1)) is not None


@pytest.mark.shared
def test_tshark_names_the_same_conversations(shared_data: Path) -> None:
    found = 0
    files = sorted(path for path in (shared_data / "pcap").rglob("*.pcap") if path.stat().st_size < 200_000)
    for path in files[::24]:
        if "fragment" in path.name:
            continue  # we join later fragments to their first one's ports, tshark does not
        words = [
            "tshark",
            "-r",
            str(path),
            "--enable-protocol",
            "communityid",
            "-T",
            "fields",
            "-e",
            "communityid",
        ]
        told = (
            subprocess.run(words, capture_output=True, text=True, check=False)
            .stdout.replace(",", "\n")
            .split()
        )
        flows = read_capture(str(path)).captured.flows
        ours = {community_id({name: flow[name].item() for name in flows.dtype.names}) for flow in flows}
        assert set(told) <= ours, path
        found += len(set(told))
    assert found > 20
