"""`ringfence flows read` as users run it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ringfence.testing import captures as c

SYN, ACK = c.SYN, c.ACK
INNER = c.ip(c.tcp(40000, 8080, SYN), "10.244.1.5", "10.244.2.7", 6)
REPLY = c.ip(c.tcp(8080, 40000, SYN | ACK), "10.244.2.7", "10.244.1.5", 6)
OVERLAY = [
    c.ether(c.ip(c.udp(50000, 6081, c.geneve(c.ether(INNER))), "172.18.0.2", "172.18.0.3", 17)),
    c.ether(c.ip(c.udp(50001, 6081, c.geneve(c.ether(REPLY))), "172.18.0.3", "172.18.0.2", 17)),
]
PLAIN = [c.ether(INNER), c.ether(REPLY)]

MANIFESTS = """
apiVersion: v1
kind: Pod
metadata: {name: front-end, namespace: shop, labels: {app: front-end}}
spec: {nodeName: node1}
status: {podIP: 10.244.1.5}
---
apiVersion: v1
kind: Pod
metadata: {name: carts, namespace: shop, labels: {app: carts}}
spec: {nodeName: node2}
status: {podIP: 10.244.2.7}
---
apiVersion: v1
kind: Node
metadata: {name: node1}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
"""


def run(*arguments: str | Path, given: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `ringfence flows read ...`."""
    command = [sys.executable, "-m", "ringfence", "flows", "read", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "plain.pcap"
    path.write_bytes(c.pcap(PLAIN))
    return path


def test_json_is_one_document_of_the_contract(capture: Path) -> None:
    code, out, err = run(capture, "-o", "json")
    assert (code, err) == (0, "")
    (flow,) = json.loads(out)
    assert (flow["consumer"]["ip"], flow["consumer"]["port"], flow["provider"]["port"]) == (
        "10.244.1.5",
        40000,
        8080,
    )
    assert (flow["protocol"], flow["direction"], flow["leg"], flow["link"]) == (
        "TCP",
        "syn",
        "direct",
        "none",
    )
    assert (flow["consumer_packets"], flow["consumer_octets"], flow["consumer_flags"]) == (1, 40, "SYN")
    assert (flow["provider_packets"], flow["provider_octets"], flow["provider_flags"]) == (1, 40, "SYN ACK")
    assert (flow["start"], flow["end"]) == ("2023-11-14T22:13:20.000000Z", "2023-11-14T22:13:20.001000Z")
    assert flow["consumer"]["kind"] == flow["provider"]["kind"] == "unresolved"
    assert flow["rtt_us"] is None  # no ACK ends the handshake
    assert (flow["retransmits"], flow["zero_windows"], flow["drop_reason"]) == (0, 0, None)
    assert flow["connection_id"] == flow["flow_id"]


def test_other_formats_say_the_same(capture: Path) -> None:
    (flow,) = json.loads(run(capture, "-o", "json")[1])
    assert [json.loads(line) for line in run(capture, "-o", "jsonl")[1].splitlines()] == [flow]
    assert yaml.safe_load(run(capture, "-o", "yaml")[1]) == [flow]
    table = run(capture)[1]
    assert "10.244.1.5:40000" in table
    assert "1 flows of 2 packets" in table


def test_an_overlay_with_names_is_linked_legs(tmp_path: Path) -> None:
    (tmp_path / "overlay.pcap").write_bytes(c.pcapng(OVERLAY))
    manifests = tmp_path / "cluster.yaml"
    manifests.write_text(MANIFESTS)
    code, out, err = run(tmp_path / "overlay.pcap", "--inventory", manifests, "-o", "json")
    assert (code, err) == (0, "")
    flows = json.loads(out)
    assert [flow["leg"] for flow in flows] == ["outer", "direct", "outer"]
    assert {flow["connection_id"] for flow in flows} == {flows[1]["flow_id"]}
    assert {flow["category"] for flow in flows} == {"pod-to-pod"}
    outer, direct = flows[0], flows[1]
    assert (outer["tunnel"], outer["vni"], outer["link"]) == ("geneve", 42, "tunnel")
    assert (outer["consumer"]["kind"], outer["consumer"]["name"]) == ("node", "node1")
    consumer, provider = direct["consumer"], direct["provider"]
    assert (consumer["kind"], consumer["namespace"], consumer["name"]) == ("pod", "shop", "front-end")
    assert (provider["name"], provider["labels"], provider["cluster"]) == ("carts", {"app": "carts"}, None)


def test_every_file_is_read_as_far_as_it_goes(capture: Path, tmp_path: Path) -> None:
    cut, text = tmp_path / "cut.pcap", tmp_path / "text.pcap"
    cut.write_bytes(c.pcap(PLAIN)[:-5])
    text.write_text("not a capture\n")
    code, out, err = run(cut, text, tmp_path / "missing.pcap", capture, "-o", "jsonl")
    assert code == 2
    assert [json.loads(line)["provider_packets"] for line in out.splitlines()] == [0, 1]
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") and line.count(": ") >= 3 for line in lines)
    assert f"{cut} at octet 94, after packet 1" in lines[0]
    assert lines[1].startswith(
        f"error: not a capture, nor a flow log that is known by its beginning: {text}: "
    )


def test_standard_input_and_packed_files(tmp_path: Path) -> None:
    packed = gzip.compress(c.pcap(PLAIN))
    code, out, _ = run("-", "-o", "json", given=packed)
    assert (code, len(json.loads(out))) == (0, 1)


def test_what_was_printed_is_read_back(capture: Path, tmp_path: Path) -> None:
    for output in ("json", "jsonl"):
        _, printed, _ = run(capture, "-o", output)
        (tmp_path / "printed").write_text(printed)
        assert run(tmp_path / "printed", "-o", output)[:2] == (0, printed)
    code, _, err = run(capture, "--format", "ringfence")
    assert (code, err.startswith("error: no line of it can be used: ")) == (2, True)


def test_a_format_is_one_of_the_contract_s(capture: Path) -> None:
    assert run(capture, "--format", "pcap")[0] == 0
    assert run(capture, "--format", "nonsense")[0] == 2


def test_limit_and_sort(tmp_path: Path) -> None:
    sizes = [10, 300, 20]
    frames = [
        c.ether(c.ip(c.udp(1000 + n, 53, b"x" * size), "10.0.0.1", "10.0.0.2", 17))
        for n, size in enumerate(sizes)
    ]
    path = tmp_path / "three.pcap"
    path.write_bytes(c.pcap(frames))

    def ports(*more: str) -> list[int]:
        return [flow["consumer"]["port"] for flow in json.loads(run(path, "-o", "json", *more)[1])]

    assert ports() == [1000, 1001, 1002]
    assert ports("--sort", "octets") == [1001, 1002, 1000]
    assert ports("--sort", "octets", "--limit", "1") == [1001]
    assert "2 more beyond --limit" in run(path, "--limit", "1")[1]


def test_a_broken_manifest_is_named_and_the_rest_used(capture: Path, tmp_path: Path) -> None:
    manifests = tmp_path / "cluster.yaml"
    manifests.write_text(MANIFESTS + "---\n{broken\n")
    code, out, err = run(capture, "--inventory", manifests, "-o", "json")
    assert code == 2
    assert json.loads(out)[0]["consumer"]["name"] == "front-end"
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    code, out, err = run(capture, "--inventory", tmp_path / "none", "-o", "json")
    assert (code, out) == (2, "")
    assert err.startswith("error: no such file or folder: ")


def test_a_foreign_link_type_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "radio.pcap"
    path.write_bytes(c.pcap([b"\0" * 30], link=195))
    code, out, err = run(path, "-o", "json")
    assert (code, json.loads(out)) == (0, [])
    assert "link type 195" in err
