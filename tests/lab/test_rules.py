"""The lab's rules against kube-proxy's own: chain names from its published test dumps, and the shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.lab import rules
from ringfence.lab.rules import Backend, ServiceRule

ONE = ServiceRule(
    "ns1", "svc1", "p80", "tcp", "172.30.0.41", 80, None, False, (Backend("10.180.0.1", 80, "node1"),)
)


def test_chain_names_are_kube_proxys() -> None:
    assert rules.chain("SVC", "ns1/svc1:p80", "tcp") == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert rules.chain("SEP", "ns1/svc1:p80", "tcp", "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"


@pytest.mark.shared
def test_a_service_is_written_as_kube_proxy_writes_it(shared_data: Path) -> None:
    dump = shared_data / "firewall/kube-proxy-iptables/proxier-TestSyncProxyRulesRepeated-L6317-expected.txt"
    theirs = {line for line in dump.read_text().splitlines() if "-SNQ3ZNILQDEJNDQO -m" in line}
    service = ServiceRule(
        "ns1", "svc1", "p80", "tcp", "172.30.0.41", 80, None, False, (Backend("10.0.1.1", 80, "node1"),)
    )
    assert theirs
    assert theirs <= set(rules.sync(4, "node1", [service], []).splitlines())


def test_backends_share_evenly() -> None:
    three = tuple(Backend(f"10.180.0.{i}", 80, "node1") for i in (1, 2, 3))
    text = rules.sync(4, "node1", [ServiceRule("a", "b", "", "tcp", "10.96.0.9", 80, None, False, three)], [])
    assert [part.split()[0] for part in text.split("--probability ")[1:]] == ["0.3333333333", "0.5000000000"]


def test_a_service_without_backends_refuses() -> None:
    empty = ServiceRule("a", "b", "", "tcp", "10.96.0.9", 80, None, False, ())
    text = rules.sync(4, "node1", [empty], [])
    assert (
        '-A KUBE-SERVICES -m comment --comment "a/b has no endpoints" -m tcp -p tcp -d 10.96.0.9 --dport 80 -j REJECT'
        in text
    )


def test_stale_chains_are_emptied_and_dropped() -> None:
    old = rules.chains("node1", [ONE])
    text = rules.sync(4, "node1", [], old)
    for name in old:
        assert f":{name} - [0:0]" in text
        assert f"-X {name}" in text


def test_a_local_service_stays_on_its_node() -> None:
    local = ServiceRule(
        "a", "b", "", "tcp", "10.96.0.9", 80, 30080, True, (Backend("10.244.1.9", 8080, "node1"),)
    )
    here, there = (rules.sync(4, node, [local], []) for node in ("node1", "node2"))
    svl = rules.chain("SVL", "a/b", "tcp")
    assert any(line.startswith(f"-A {svl} ") for line in here.splitlines())
    assert not any(line.startswith(f"-A {svl} ") for line in there.splitlines())
    assert "has no local endpoints" in there
    assert "has no local endpoints" not in here
