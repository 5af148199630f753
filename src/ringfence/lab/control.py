"""The lab's control plane: documents become owners, pods with addresses and nodes, services and slices.

Pure apart from its own memory: time and randomness are arguments, and it touches no kernel. The supervisor
makes the machine look like what this says.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ringfence.lab import objects, services, talk
from ringfence.lab.extras import PINNED
from ringfence.lab.records import PodRecord, ServiceRecord
from ringfence.lab.rules import ServiceRule
from ringfence.lab.settings import LabSettings, NodePlan
from ringfence.lab.store import Object, ObjectStore, key_of
from ringfence.model.problems import Problem

LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""What Kubernetes makes random name endings from: no vowels, so no words."""


class ControlPlane:
    """Who runs where under which address.

    Goal: the same documents and seed give the same cluster. Tension: addresses are given out upwards, as a
    CNI's host-local does, but a test may ask for one that was used before.
    """

    def __init__(self, settings: LabSettings, nodes: Sequence[NodePlan], rng: random.Random) -> None:
        self.settings, self.nodes, self.rng = settings, nodes, rng
        self.store = ObjectStore()
        self.pods: dict[tuple[str, str], PodRecord] = {}
        self.specs: dict[tuple[str, str], Object] = {}
        """The pod spec each pod was made from."""
        self._next_host = {node.name: 2 for node in nodes}
        self._next_node = 0
        self._next_service = 0

    def uid(self) -> str:
        """A random UID (version 4, as the API server's are)."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def _letters(self, count: int) -> str:
        return "".join(self.rng.choice(LETTERS) for _ in range(count))

    def add_nodes(self, now: str) -> None:
        """Make the Node objects."""
        for plan in self.nodes:
            self.store.put(objects.node(plan, self.uid(), now))

    def apply(self, documents: Iterable[Object], now: str) -> list[PodRecord]:
        """Take documents in; returns the pods that must now be started. Namespaces are made as needed."""
        started: list[PodRecord] = []
        for document in documents:
            kind, meta = document["kind"], document["metadata"]
            if kind == "Namespace":
                self._namespace(meta["name"], now, meta.get("labels"))
                continue
            space = meta.get("namespace") or "default"
            self._namespace(space, now, None)
            document = {**document, "metadata": {**meta, "namespace": space}}
            if kind == "Service":
                self._service(document, now)
            elif kind == "Pod":
                started.append(self._bare(document, now))
            else:
                started += self._workload(document, now)
        return started

    def _namespace(self, name: str, now: str, labels: dict[str, str] | None) -> None:
        old = self.store.get("namespaces", ("", name))
        if old is not None and labels is None:
            return
        meta = {"name": name, "labels": {**(labels or {}), "kubernetes.io/metadata.name": name}}
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta, "status": {"phase": "Active"}}
        uid = old["metadata"]["uid"] if old else self.uid()
        self.store.put(objects.finish(document, uid, old["metadata"]["creationTimestamp"] if old else now))

    def _workload(self, document: Object, now: str) -> list[PodRecord]:
        """A controller and its pods; kinds without pods of their own are only stored."""
        item = objects.finish(document, self.uid(), now)
        spec, kind, name = item["spec"], item["kind"], item["metadata"]["name"]
        if kind in ("CronJob", "NetworkPolicy"):
            self.store.put(item)
            return []
        placements = self._placements(item)
        item["status"] = _workload_status(kind, len(placements))
        self.store.put(item)
        template, above, base = spec["template"], item, name
        labels = dict(template.get("metadata", {}).get("labels", {}))
        if kind == "Deployment":
            tag = self._letters(10)
            labels["pod-template-hash"] = tag
            above, base = self._replica_set(item, tag, labels, len(placements), now), f"{name}-{tag}"
        elif kind in ("DaemonSet", "StatefulSet"):
            labels["controller-revision-hash"] = self._letters(10)
        elif kind == "Job":
            uid = item["metadata"]["uid"]
            labels |= {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/controller-uid": uid}
        found = []
        for number, node in enumerate(placements):
            ending = str(number) if kind == "StatefulSet" else self._letters(5)
            own = dict(labels)
            if kind == "StatefulSet":
                own["statefulset.kubernetes.io/pod-name"] = f"{base}-{ending}"
                own["apps.kubernetes.io/pod-index"] = ending
            meta = {**template.get("metadata", {}), "labels": own, "namespace": item["metadata"]["namespace"]}
            meta["name"] = f"{base}-{ending}"
            found.append(self._pod(meta, template["spec"], objects.owner(above), f"{kind}/{name}", node, now))
        return found

    def _replica_set(self, item: Object, tag: str, labels: dict[str, str], count: int, now: str) -> Object:
        spec, meta = item["spec"], item["metadata"]
        template = {
            **spec["template"],
            "metadata": {**spec["template"].get("metadata", {}), "labels": labels},
        }
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{meta['name']}-{tag}",
                "namespace": meta["namespace"],
                "uid": self.uid(),
                "creationTimestamp": now,
                "labels": labels,
                "ownerReferences": objects.owner(item),
            },
            "spec": {
                "replicas": count,
                "selector": {"matchLabels": {**_match_labels(spec), "pod-template-hash": tag}},
                "template": template,
            },
            "status": _workload_status("ReplicaSet", count),
        }
        self.store.put(replica_set)
        return replica_set

    def _placements(self, item: Object) -> list[NodePlan]:
        spec = item["spec"]
        if item["kind"] == "DaemonSet":
            return list(self.nodes)
        wanted = spec.get("parallelism", 1) if item["kind"] == "Job" else spec.get("replicas", 1)
        return [self._place(spec["template"]) for _ in range(min(int(wanted), 50))]

    def _place(self, template: Object) -> NodePlan:
        """The node a pod asks for, else the next in turn."""
        asked = (template.get("metadata", {}).get("annotations") or {}).get(PINNED)
        if asked is not None:
            return self.nodes[(int(asked) - 1) % len(self.nodes)]
        for node in self.nodes:
            if template["spec"].get("nodeName") == node.name:
                return node
        self._next_node += 1
        return self.nodes[(self._next_node - 1) % len(self.nodes)]

    def _bare(self, document: Object, now: str) -> PodRecord:
        meta = document["metadata"]
        workload = f"Pod/{meta['name']}"
        return self._pod(meta, document["spec"], [], workload, self._place(document), now)

    def _pod(
        self, meta: Object, spec: Object, owners: list[Object], workload: str, node: NodePlan, now: str
    ) -> PodRecord:
        key = (meta["namespace"], meta["name"])
        if key in self.pods:
            raise Problem("pod exists already", "/".join(key), "choose another name, or delete it first")
        uid = self.uid()
        containers = tuple(f"{self.rng.getrandbits(256):064x}" for _ in spec["containers"])
        host = bool(spec.get("hostNetwork"))
        record = PodRecord(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=uid,
            node=node.name,
            addresses=self._addresses(
                node, host, (meta.get("annotations") or {}).get("ringfence.dev/lab-address")
            ),
            netns=node.netns if host else f"{self.settings.prefix()}{meta['namespace']}-{meta['name']}"[:200],
            veth=None if host else f"veth{self.rng.getrandbits(32):08x}",
            labels=dict(meta.get("labels") or {}),
            workload=workload,
            host_network=host,
            containers=containers,
            cgroup=f"ringfence-{self.settings.name}/{node.name}/kubepods/besteffort/pod{uid}/{containers[0]}",
            ports=tuple(_ports(spec)),
        )
        self.pods[key], self.specs[key] = record, spec
        self._show(record, meta.get("annotations") or {}, owners, now)
        return record

    def _addresses(self, node: NodePlan, host_network: bool, asked: str | None) -> tuple[str, ...]:
        if host_network:
            return (node.uplink4, node.uplink6) if node.uplink6 else (node.uplink4,)
        used = {pod.addresses[0] for pod in self.pods.values()}
        if asked is not None:
            addresses = node.pod_addresses(int(asked.rpartition(".")[2]))
            if addresses[0] != asked or asked in used:
                raise Problem("cannot give that pod address", asked, f"ask for a free one of {node.cidr4}")
            return addresses
        for _ in range(253):
            host = self._next_host[node.name]
            self._next_host[node.name] = 2 if host >= 254 else host + 1
            if node.pod_addresses(host)[0] not in used:
                return node.pod_addresses(host)
        raise Problem("no pod address left", node.name, "use more nodes or fewer pods")

    def _show(self, record: PodRecord, annotations: dict[str, str], owners: list[Object], now: str) -> None:
        spec = self.specs[record.namespace, record.name]
        item = objects.pod(record, spec, annotations, owners, now)
        self.store.put(objects.with_host(item, self.node(record.node)))

    def node(self, name: str) -> NodePlan:
        """The plan of a node by name."""
        return next(plan for plan in self.nodes if plan.name == name)

    def started(self, key: tuple[str, str], pid: int, now: str) -> PodRecord:
        """Note that a pod's process answers: the Pod object becomes Running and ready."""
        record = msgspec.structs.replace(self.pods[key], pid=pid)
        self.pods[key] = record
        meta = self.store.objects["pods"][key]["metadata"]
        self._show(record, meta["annotations"], meta.get("ownerReferences", []), meta["creationTimestamp"])
        return record

    def relabel(self, key: tuple[str, str], labels: dict[str, str | None]) -> PodRecord:
        """Set labels of a pod; None removes one."""
        merged: dict[str, str | None] = {**self._known(key).labels, **labels}
        kept = {name: value for name, value in merged.items() if value is not None}
        self.pods[key] = record = msgspec.structs.replace(self.pods[key], labels=kept)
        item = self.store.get("pods", key)
        if item is not None:
            item["metadata"]["labels"] = kept
            self.store.put(item)
        return record

    def terminating(self, key: tuple[str, str], now: str) -> PodRecord:
        """Mark a pod as being deleted."""
        record = self._known(key)
        item = self.store.get("pods", key)
        if item is not None:
            item["metadata"]["deletionTimestamp"] = now
            self.store.put(item)
        return record

    def remove(self, key: tuple[str, str]) -> None:
        """Forget a pod whose process has ended."""
        del self.pods[key], self.specs[key]
        self.store.delete("pods", key)

    def _known(self, key: tuple[str, str]) -> PodRecord:
        if key not in self.pods:
            raise Problem("no such pod", "/".join(key), "see `ringfence lab status`")
        return self.pods[key]

    def _service(self, document: Object, now: str) -> None:
        """Give a service what it did not ask for: ClusterIPs, and node ports where its type has them."""
        item = objects.finish(document, self.uid(), now)
        spec = item["spec"] = {"type": "ClusterIP", "sessionAffinity": "None", **item["spec"]}
        item["status"] = {"loadBalancer": {}}
        self._next_service += 1
        if spec["type"] != "ExternalName" and "clusterIPs" not in spec:
            spec["clusterIPs"] = self._cluster_ips(spec.get("clusterIP"))
        if spec.get("clusterIPs"):
            spec["clusterIP"] = spec["clusterIPs"][0]
        spec["ipFamilies"] = ["IPv4", "IPv6"] if self.settings.ipv6 else ["IPv4"]
        spec["ipFamilyPolicy"] = "PreferDualStack"
        outside = spec["type"] in ("NodePort", "LoadBalancer")
        if outside:
            spec.setdefault("externalTrafficPolicy", "Cluster")
        else:
            spec.pop("externalTrafficPolicy", None)
        for number, port in enumerate(spec.get("ports") or ()):
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
            if outside:
                port.setdefault("nodePort", 31000 + self._next_service * 10 + number)
        self._refuse_clash(item)
        self.store.put(item)

    def _refuse_clash(self, item: Object) -> None:
        """One node port or ClusterIP leads to one service."""
        spec = item["spec"]
        wanted = {port["nodePort"] for port in spec.get("ports") or () if "nodePort" in port}
        wanted |= set(spec.get("clusterIPs", ())) - {"None"}
        for other in self.store.items("services"):
            taken = {port.get("nodePort") for port in other["spec"].get("ports") or ()}
            taken |= set(other["spec"].get("clusterIPs", ()))
            if wanted & taken and key_of(other) != key_of(item):
                clash = ", ".join(str(one) for one in sorted(wanted & taken, key=str))
                where = "/".join(key_of(item))
                raise Problem(
                    f"{clash} is taken by service {'/'.join(key_of(other))}", where, "choose another"
                )

    def sync_slices(self, now: str) -> None:
        """Write the EndpointSlices that follow from the pods as they are; takes back those of no service."""
        wanted = {}
        for service in self.store.items("services"):
            for item in services.slices(service, self.pods, self.settings.ipv6, now):
                old = self.store.get("endpointslices", key_of(item))
                meta = old["metadata"] if old else {"uid": self.uid(), "creationTimestamp": now}
                item["metadata"] |= {"uid": meta["uid"], "creationTimestamp": meta["creationTimestamp"]}
                wanted[key_of(item)] = item
        for key in set(self.store.objects["endpointslices"]) - set(wanted):
            self.store.delete("endpointslices", key)
        for item in wanted.values():
            self.store.put(item)

    def rules(self, family: int) -> list[ServiceRule]:
        """What the nodes' rules of one address family are made from."""
        return services.rules(self.store.items("services"), self.pods, family)

    def names(self) -> talk.Table:
        """What the cluster's resolver answers."""
        return services.names(self.store.items("services"), self.pods)

    def services(self) -> tuple[ServiceRecord, ...]:
        """Every service, in the order of their names."""
        return tuple(services.record(item) for item in self.store.items("services"))

    def _cluster_ips(self, asked: str | None) -> list[str]:
        if asked == "None":
            return ["None"]
        number = self._next_service
        first = asked or f"10.96.{1 + number // 200}.{10 + number % 200}"
        return [first, f"fd00:10:96::{0x100 + number:x}"] if self.settings.ipv6 else [first]


def _match_labels(spec: Object) -> dict[str, str]:
    return dict((spec.get("selector") or {}).get("matchLabels") or {})


def _workload_status(kind: str, count: int) -> dict[str, Any]:
    if kind == "DaemonSet":
        return {"desiredNumberScheduled": count, "currentNumberScheduled": count, "numberReady": count}
    if kind == "Job":
        return {"active": count}
    return {"replicas": count, "readyReplicas": count, "availableReplicas": count}


def _ports(spec: Object) -> Iterator[tuple[str, int, str]]:
    for container in spec["containers"]:
        for port in container.get("ports") or ():
            yield port.get("name", ""), int(port["containerPort"]), port.get("protocol", "TCP")
