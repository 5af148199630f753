"""What follows from services and the pods as they are: slices, rules, names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ringfence.lab import objects
from ringfence.lab.records import PodRecord, ServiceRecord
from ringfence.lab.rules import Backend, ServiceRule
from ringfence.lab.store import Object
from ringfence.lab.talk import Table

Pods = Mapping[tuple[str, str], PodRecord]


def behind(service: Object, pods: Pods) -> list[PodRecord]:
    """The running pods a service selects, in the order of their names."""
    selector = service["spec"].get("selector") or {}
    space = service["metadata"]["namespace"]
    return [
        pod
        for key, pod in sorted(pods.items())
        if selector and key[0] == space and pod.pid is not None and selector.items() <= pod.labels.items()
    ]


def slices(service: Object, pods: Pods, ipv6: bool, now: str) -> Iterator[Object]:
    """The EndpointSlices of a service, one an address family, as yet without UIDs."""
    if not service["spec"].get("selector"):
        return
    found = behind(service, pods)
    ports = [
        {"name": port.get("name", ""), "port": target, "protocol": port["protocol"]}
        for port in service["spec"].get("ports") or ()
        if (target := _target(port, found[0].ports if found else ())) is not None
    ]
    for family in (4, 6) if ipv6 else (4,):
        yield objects.endpoint_slice(service, family, "", ports, found, now)


def rules(services: Iterable[Object], pods: Pods, family: int) -> list[ServiceRule]:
    """Every port of every service that has an address in this family, for the nodes' rules."""
    found = []
    for service in services:
        spec, meta = service["spec"], service["metadata"]
        addresses = [a for a in spec.get("clusterIPs", ()) if a != "None" and (":" in a) == (family == 6)]
        chosen = [pod for pod in behind(service, pods) if len(pod.addresses) > family // 6]
        for port in spec.get("ports") or () if addresses else ():
            backends = [
                Backend(pod.addresses[family // 6], target, pod.node)
                for pod in chosen
                if (target := _target(port, pod.ports)) is not None
            ]
            found.append(
                ServiceRule(
                    namespace=meta["namespace"],
                    name=meta["name"],
                    port_name=port.get("name", ""),
                    protocol=port["protocol"].lower(),
                    cluster_ip=addresses[0],
                    port=port["port"],
                    node_port=port.get("nodePort"),
                    local=spec.get("externalTrafficPolicy") == "Local",
                    backends=tuple(backends),
                )
            )
    return found


def names(services: Iterable[Object], pods: Pods) -> Table:
    """What the cluster's resolver answers: services by ClusterIP, headless ones by their pods."""
    table: Table = {}
    for item in services:
        own = record(item)
        addresses = list(own.addresses)
        if not addresses:
            chosen = behind(item, pods)
            addresses = [address for pod in chosen for address in pod.addresses]
            for pod in chosen:
                table[f"{pod.name}.{own.dns}"] = _by_family(pod.addresses)
        table[own.dns] = _by_family(addresses)
    return table


def record(item: Object) -> ServiceRecord:
    """A Service object as the lab's state shows it."""
    meta, spec = item["metadata"], item["spec"]
    return ServiceRecord(
        namespace=meta["namespace"],
        name=meta["name"],
        addresses=tuple(a for a in spec.get("clusterIPs", ()) if a != "None"),
        ports=tuple(
            (port.get("name", ""), port["port"], port["protocol"], port.get("nodePort"))
            for port in spec.get("ports") or ()
        ),
        dns=f"{meta['name']}.{meta['namespace']}.svc.cluster.local",
    )


def _by_family(addresses: Iterable[str]) -> dict[str, list[str]]:
    every = list(addresses)
    return {"A": [a for a in every if ":" not in a], "AAAA": [a for a in every if ":" in a]}


def _target(port: Object, declared: Sequence[tuple[str, int, str]]) -> int | None:
    """A service port's target on a pod; a name is looked up among the pod's ports."""
    target = port["targetPort"]
    if isinstance(target, int):
        return target
    return next((number for name, number, _ in declared if name == target), None)
