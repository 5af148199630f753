from __future__ import annotations

import ipaddress

import pytest

from ringfence.lab import settings
from ringfence.lab.settings import LabSettings
from ringfence.model.problems import Problem


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a-b"},
        {"name": ""},
        {"name": "../x"},
        {"overlay": "ipip"},
        {"nodes": 0},
        {"nodes": 51},
        {"rate": 0.0},
    ],
)
def test_impossible_labs_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(Problem):
        settings.check(LabSettings(**bad))  # type: ignore[arg-type]


def test_no_two_nodes_share_an_address() -> None:
    nodes = settings.plan_nodes(LabSettings(nodes=50))
    for field in ("uplink4", "uplink6", "cidr4", "cidr6", "bridge4", "bridge6", "netns"):
        assert len({getattr(node, field) for node in nodes}) == 50
    for node in nodes:
        for address, cidr in zip(node.pod_addresses(254), (node.cidr4, node.cidr6), strict=True):
            assert ipaddress.ip_address(address) in ipaddress.ip_network(str(cidr))


def test_the_overlay_takes_its_octets() -> None:
    sizes = [
        settings.pod_mtu(LabSettings(overlay=o, ipv6=six)) for o in settings.OVERLAYS for six in (False, True)
    ]
    assert sizes == [1500, 1500, 1450, 1430]
