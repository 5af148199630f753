"""Of several services that a socket asked for, the one that leads to the pod that was reached, and none where two do."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.inventory.inferred import believable
from ringfence.inventory.inventory import Inventory
from ringfence.model.addresses import pack
from ringfence.model.columns import TRANSLATION, Link
from ringfence.model.objects import Service, ServicePort
from ringfence.testing.batches import SECOND, START

WEB, DNS, BOTH = "10.96.0.10", "10.96.0.11", "10.96.0.12"
POD = "10.244.2.7"


def service(name, address, selector, port=53, target=5353):
    ports = (ServicePort(port, protocol="UDP", target_port=target),)
    return Service(name, "shop", name, cluster_ips=(address,), selector=((("app", selector),)), ports=ports)


@pytest.fixture
def inventory():
    import msgspec

    from ringfence.model.objects import Change, Pod

    known = Inventory()
    objects = [
        service("web", WEB, "web"),
        service("dns", DNS, "dns"),
        service("both", BOTH, "dns"),
        Pod("p1", "shop", "dns-1", "node1", (POD,), labels=(("app", "dns"),), phase="Running"),
    ]
    known.apply(
        Change("lab", type(one).__name__, one.uid, START, START, msgspec.Raw(msgspec.json.encode(one)))
        for one in objects
    )
    return known


def might(asked, link=Link.INFERRED, port=53, to=5353, seen=START + SECOND):
    row = np.zeros(1, TRANSLATION)
    for side, address, number in (
        ("pre_consumer", "10.244.1.5", 41022),
        ("post_consumer", "10.244.1.5", 41022),
        ("pre_provider", asked, port),
        ("post_provider", POD, to),
    ):
        row[side + "_hi"], row[side + "_lo"] = pack(address)
        row[side + "_port"] = number
    row["protocol"], row["seen"], row["link"], row["dnat"] = 17, seen, link, 1
    return row


@pytest.mark.parametrize(
    ("rows", "good"),
    [
        ([might(WEB), might(DNS)], [False, True]),
        ([might(WEB), might(DNS), might(DNS, seen=START + 2 * SECOND)], [False, True, True]),
        ([might(DNS), might(BOTH)], [False, False]),  # both lead there
        ([might(DNS, port=80)], [False]),
        ([might(DNS, to=53)], [False]),
        ([might("10.96.9.9")], [False]),
        ([might(DNS, seen=START - SECOND)], [False]),  # it was not there yet
        ([might(DNS), might(WEB, Link.SOCKET)], [False, True]),  # the socket knows better by now
        ([might(WEB, Link.SOCKET), might(WEB, Link.CONNTRACK), might(WEB, 0)], [True, True, True]),
        ([might(DNS)[:0]], []),
    ],
)
def test_only_what_can_be_and_is_alone(inventory, rows, good):
    assert believable(inventory, "lab", np.concatenate(rows)).tolist() == good


def test_another_cluster_knows_nothing_of_it(inventory):
    assert believable(inventory, "other", might(DNS)).tolist() == [False]
