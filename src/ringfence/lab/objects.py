"""Kubernetes objects as the API shows them, from templates and the lab's own facts. Pure."""

from __future__ import annotations

from typing import Any

from ringfence.lab.records import PodRecord
from ringfence.lab.settings import NodePlan
from ringfence.lab.store import Object


def finish(document: Object, uid: str, now: str) -> Object:
    """A document as the API server stores it: with a UID and a creation time."""
    meta = {**document["metadata"], "uid": uid, "creationTimestamp": now}
    return {**document, "metadata": meta}


def owner(item: Object) -> list[Object]:
    """The ownerReferences of something `item` controls."""
    return [
        {
            "apiVersion": item["apiVersion"],
            "kind": item["kind"],
            "name": item["metadata"]["name"],
            "uid": item["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def node(plan: NodePlan, uid: str, now: str) -> Object:
    """A ready Node with its addresses and pod ranges."""
    cidrs = [plan.cidr4] + ([plan.cidr6] if plan.cidr6 else [])
    addresses = [{"type": "InternalIP", "address": plan.uplink4}]
    if plan.uplink6:
        addresses.append({"type": "InternalIP", "address": plan.uplink6})
    labels = {
        "kubernetes.io/hostname": plan.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{plan.index}",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": plan.name, "uid": uid, "creationTimestamp": now, "labels": labels},
        "spec": {"podCIDR": plan.cidr4, "podCIDRs": cidrs, "providerID": f"ringfence-lab://{plan.name}"},
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": plan.name}],
            "conditions": [_condition("Ready", now, reason="KubeletReady")],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "v1.34.0",
                "containerRuntimeVersion": "ringfence-lab://1",
            },
        },
    }


def _condition(kind: str, now: str, status: str = "True", **more: str) -> Object:
    return {"type": kind, "status": status, "lastTransitionTime": now, **more}


def pod(
    record: PodRecord, spec: Object, annotations: dict[str, str], owners: list[Object], now: str
) -> Object:
    """A Pod that is scheduled and, when `record.pid` is set, running and ready."""
    meta: Object = {
        "name": record.name,
        "namespace": record.namespace,
        "uid": record.uid,
        "labels": record.labels,
        "annotations": annotations,
        "creationTimestamp": now,
    }
    if owners:
        meta["ownerReferences"] = owners
    full = {
        "serviceAccountName": "default",
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        **spec,
        "nodeName": record.node,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": full,
        "status": _pod_status(record, spec, now),
    }


def _pod_status(record: PodRecord, spec: Object, now: str) -> Object:
    scheduled = _condition("PodScheduled", now)
    if record.pid is None:
        return {"phase": "Pending", "qosClass": "BestEffort", "conditions": [scheduled]}
    return {
        "phase": "Running",
        "qosClass": "BestEffort",
        "startTime": now,
        "podIP": record.addresses[0],
        "podIPs": [{"ip": address} for address in record.addresses],
        "conditions": [
            *(_condition(kind, now) for kind in ("Initialized", "Ready", "ContainersReady")),
            scheduled,
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": "",
                "containerID": f"containerd://{ident}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container, ident in zip(spec["containers"], record.containers, strict=True)
        ],
    }


def with_host(item: Object, plan: NodePlan) -> Object:
    """A Pod object with its node's addresses filled in."""
    addresses = [plan.uplink4] + ([plan.uplink6] if plan.uplink6 else [])
    item["status"]["hostIP"] = plan.uplink4
    item["status"]["hostIPs"] = [{"ip": address} for address in addresses]
    return item


def endpoint_slice(
    service: Object, family: int, uid: str, ports: list[Object], pods: list[PodRecord], now: str
) -> Object:
    """The EndpointSlice of a service in one address family, with every backend ready."""
    meta = service["metadata"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{meta['name']}-ipv{family}",
            "namespace": meta["namespace"],
            "uid": uid,
            "creationTimestamp": now,
            "labels": {
                "kubernetes.io/service-name": meta["name"],
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": owner(service),
        },
        "addressType": f"IPv{family}",
        "ports": ports,
        "endpoints": [
            _endpoint(pod, address) for pod in pods for address in pod.addresses[family // 6 :][:1]
        ],
    }


def _endpoint(record: PodRecord, address: str) -> dict[str, Any]:
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": record.node,
        "targetRef": {
            "kind": "Pod",
            "name": record.name,
            "namespace": record.namespace,
            "uid": record.uid,
        },
    }
