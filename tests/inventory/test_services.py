"""What a dialled address stood for, what a kubelet probes, where a service leads."""

from __future__ import annotations

import numpy as np

from ringfence.inventory.inventory import Inventory
from ringfence.inventory.services import Services, backends, dns_peers, is_probe, pods_of
from ringfence.model.addresses import pack
from ringfence.model.objects import (
    Backend,
    ContainerPort,
    EndpointSlice,
    Node,
    Pod,
    Probe,
    Service,
    ServicePort,
)

HTTP = ServicePort(80, "TCP", "http", "web", 30001)
DNS = ServicePort(53, "UDP", "dns", 53)


def cluster() -> Inventory:
    inventory = Inventory()
    web = Pod(
        "u1",
        "shop",
        "web-1",
        "node1",
        ("10.244.1.5",),
        labels=(("app", "web"),),
        ports=(ContainerPort(8079, "TCP", "web"),),
        probes=(Probe("readiness", "http", 8079),),
        workload="Deployment/web",
        phase="Running",
    )
    dns = Pod("u2", "kube-system", "coredns-1", "node2", ("10.244.2.2",), phase="Running")
    inventory.add_objects(
        "c",
        [
            web,
            dns,
            Node("n1", "node1", ("192.0.2.11",)),
            Node("n2", "node2", ("192.0.2.12",)),
            Service(
                "s1", "shop", "web", "NodePort", ("10.96.0.7",), selector=(("app", "web"),), ports=(HTTP,)
            ),
            Service("s2", "kube-system", "kube-dns", cluster_ips=("10.96.0.10",), ports=(DNS,)),
            EndpointSlice(
                "e2",
                "kube-system",
                "kube-dns-x",
                "kube-system/kube-dns",
                (Backend("10.244.2.2", "kube-system/coredns-1"),),
                (ServicePort(1053, "UDP", "dns"),),
            ),
        ],
    )
    return inventory


def versions(inventory: Inventory, *addresses: str) -> np.ndarray:
    packed = [pack(address) for address in addresses]
    hi = np.array([address[0] for address in packed], np.uint64)
    lo = np.array([address[1] for address in packed], np.uint64)
    return inventory.resolve("c", hi, lo, np.full(len(packed), 10, np.int64))


def test_dialled_by_cluster_ip_and_node_port() -> None:
    inventory = cluster()
    services = Services(inventory, "c", 0, 20)
    who = versions(
        inventory, "10.96.0.7", "10.96.0.7", "192.0.2.12", "192.0.2.12", "10.244.1.5", "10.96.0.10"
    )
    protocol = np.array([6, 6, 6, 17, 6, 17], np.uint8)
    port = np.array([80, 81, 30001, 30001, 8079, 53], np.uint16)
    found = services.dialled(who, protocol, port).tolist()
    named = [services.asked[i].service if i >= 0 else None for i in found]
    assert named == ["shop/web", None, "shop/web", None, None, "kube-system/kube-dns"]
    assert services.asked[found[2]].via == "nodeport"


def test_probes_come_from_the_pods_own_node() -> None:
    inventory = cluster()
    inventory.add_node_addresses("c", "node1", ["10.244.1.1"], 0)
    consumer = versions(inventory, "10.244.1.1", "192.0.2.12", "10.244.1.1", "10.244.2.2")
    provider = versions(inventory, *["10.244.1.5"] * 4)
    protocol = np.full(4, 6, np.uint8)
    port = np.array([8079, 8079, 22, 8079], np.uint16)
    assert is_probe(inventory, "c", consumer, provider, protocol, port).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_backends_from_slices_and_from_selectors() -> None:
    inventory = cluster()
    (found,) = backends(inventory, "c", "shop/web", 10).values()
    assert [(b.address, b.port, b.pod) for b in found] == [("10.244.1.5", 8079, "shop/web-1")]
    peers = dns_peers(inventory, "c", 10)
    assert peers.addresses == ("10.96.0.10",)
    assert [(b.address, b.port) for b in peers.backends] == [("10.244.2.2", 1053)]
    assert [pod.name for pod in peers.pods] == ["coredns-1"]
    assert peers.ports == (("UDP", 53),)


def test_the_pods_of_a_workload() -> None:
    assert [p.name for p in pods_of(cluster(), "c", 10)["shop", "Deployment/web"]] == ["web-1"]
