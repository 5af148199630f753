"""A simulated cluster as the API server would tell it: JSON of nodes, namespaces, services and pods' whole lives.

The texts have the shape and size of what a 1.34 API server sends (managed fields, conditions, volumes, tolerations,
container statuses: 6 to 8 kB a pod). Used by benchmarks; nothing here is a peer or a product.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

FIRST_TIME = "2026-01-01T00:00:00Z"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch: the kind, and its JSON with a line end."""

    kind: str
    line: bytes


class Simulated(NamedTuple):
    """Sizes of a cluster. Pods are dealt out evenly over nodes and workloads."""

    nodes: int = 5_000
    pods: int = 150_000
    services: int = 10_000

    def namespace(self, workload: int) -> str:
        """Ten workloads share a namespace."""
        return f"team-{workload // 10}"

    def workload(self, pod: int) -> int:
        """The workload of a pod: as many workloads as services."""
        return pod % self.services


def meta(
    kind: str, number: int, name: str, namespace: str | None, version: int, labels: dict[str, str]
) -> Any:
    """Object metadata as the server fills it in."""
    uid = f"{number:08x}-{abs(hash_of(kind)):04x}-4000-8000-{number:012x}"
    found: dict[str, Any] = {"name": name, "uid": uid, "resourceVersion": str(version)}
    if namespace:
        found["namespace"] = namespace
    return {**found, "creationTimestamp": FIRST_TIME, "labels": labels, "managedFields": _managed(labels)}


def hash_of(text: str) -> int:
    """A small number that is the same in every run."""
    return sum(text.encode()) & 0xFFFF


def _managed(labels: dict[str, str]) -> list[Any]:
    """Two managers, as a controller and a kubelet leave them."""
    owned = {f"f:{key}": {} for key in labels}
    spec = {
        'k:{"name":"app"}': {
            ".": {},
            **{
                f"f:{name}": {}
                for name in ("image", "imagePullPolicy", "name", "resources", "terminationMessagePath")
            },
            "f:ports": {
                ".": {},
                'k:{"containerPort":8080,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:name": {}},
            },
            "f:livenessProbe": {
                ".": {},
                "f:httpGet": {".": {}, "f:path": {}, "f:port": {}},
                "f:periodSeconds": {},
            },
        }
    }
    conditions = {
        f'k:{{"type":"{name}"}}': {
            ".": {},
            "f:lastProbeTime": {},
            "f:lastTransitionTime": {},
            "f:status": {},
            "f:type": {},
        }
        for name in ("ContainersReady", "Initialized", "Ready", "PodReadyToStartContainers")
    }
    return [
        {
            "manager": "kube-controller-manager",
            "operation": "Update",
            "apiVersion": "v1",
            "time": FIRST_TIME,
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:generateName": {},
                    "f:labels": {".": {}, **owned},
                    "f:ownerReferences": {".": {}},
                },
                "f:spec": {
                    "f:containers": spec,
                    "f:dnsPolicy": {},
                    "f:enableServiceLinks": {},
                    "f:restartPolicy": {},
                },
            },
        },
        {
            "manager": "kubelet",
            "operation": "Update",
            "apiVersion": "v1",
            "time": FIRST_TIME,
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:status": {
                    "f:conditions": conditions,
                    "f:containerStatuses": {},
                    "f:hostIP": {},
                    "f:podIP": {},
                }
            },
            "subresource": "status",
        },
    ]


def node(size: Simulated, number: int) -> dict[str, Any]:
    """One node with its pod CIDR and addresses."""
    name = f"node-{number}"
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"zone-{number % 3}",
        "node.kubernetes.io/instance-type": "m5.xlarge",
    }
    block = f"10.{number >> 7 & 0x7F | 0x80}.{(number & 0x7F) << 1}.0/23"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": meta("Node", number, name, None, number + 1, labels),
        "spec": {"podCIDR": block, "podCIDRs": [block]},
        "status": {
            "addresses": [
                {
                    "type": "InternalIP",
                    "address": f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
                },
                {"type": "Hostname", "address": name},
            ],
            "images": [
                {"names": [f"registry.example/app-{i}@sha256:{i:064x}"], "sizeBytes": 10_000_000 + i}
                for i in range(30)
            ],
        },
    }


def namespace(number: int) -> dict[str, Any]:
    """One namespace."""
    name = f"team-{number}"
    labels = {"kubernetes.io/metadata.name": name, "stage": ("prod", "test")[number % 2]}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": meta("Namespace", number, name, None, 1, labels),
    }


def service(size: Simulated, number: int) -> dict[str, Any]:
    """One service in front of one workload."""
    labels = {"app": f"app-{number}"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta("Service", number, f"app-{number}", size.namespace(number), number + 1, labels),
        "spec": {
            "clusterIP": (ip := f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"),
            "clusterIPs": [ip],
            "type": "ClusterIP",
            "selector": labels,
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {}},
    }


def pod_address(size: Simulated, number: int) -> str:
    """The address of a pod in its node's block."""
    where = number % size.nodes
    slot = number // size.nodes % 500 + 2
    return f"10.{where >> 7 & 0x7F | 0x80}.{((where & 0x7F) << 1) + (slot >> 8)}.{slot & 255}"


def pod(size: Simulated, number: int, version: int, stage: str = "ready") -> dict[str, Any]:
    """One pod at a stage of its life: created, scheduled, running, ready or deleted."""
    workload = size.workload(number)
    replica_set = f"app-{workload}-{hash_of(str(workload)):08x}"
    labels = {
        "app": f"app-{workload}",
        "pod-template-hash": f"{hash_of(str(workload)):08x}",
        "tier": ("web", "cache", "db")[workload % 3],
        "team": f"team-{workload // 10}",
    }
    metadata = meta("Pod", number, f"{replica_set}-{number:05x}", size.namespace(workload), version, labels)
    metadata["generateName"] = f"{replica_set}-"
    metadata["annotations"] = {"prometheus.io/scrape": "true", "checksum/config": f"{workload:064x}"}
    owner = f"{workload:08x}-00aa-4000-8000-{workload:012x}"
    metadata["ownerReferences"] = [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": replica_set,
            "uid": owner,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    if stage == "deleted":
        metadata |= {"deletionTimestamp": FIRST_TIME, "deletionGracePeriodSeconds": 30}
    spec = _spec(size, workload)
    if stage != "created":
        spec["nodeName"] = f"node-{number % size.nodes}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": _status(size, number, stage),
    }


def _spec(size: Simulated, workload: int) -> dict[str, Any]:
    mount = {
        "name": "kube-api-access",
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    probe = {
        "httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    return {
        "volumes": [
            {
                "name": "kube-api-access",
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                        {
                            "configMap": {
                                "name": "kube-root-ca.crt",
                                "items": [{"key": "ca.crt", "path": "ca.crt"}],
                            }
                        },
                        {
                            "downwardAPI": {
                                "items": [
                                    {
                                        "path": "namespace",
                                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                                    }
                                ]
                            }
                        },
                    ],
                    "defaultMode": 420,
                },
            }
        ],
        "containers": [
            {
                "name": "app",
                "image": f"registry.example/team/app-{workload}:1.{workload % 20}",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "env": [{"name": f"SETTING_{i}", "value": f"value-{i}"} for i in range(8)],
                "resources": {
                    "limits": {"cpu": "500m", "memory": "256Mi"},
                    "requests": {"cpu": "50m", "memory": "64Mi"},
                },
                "volumeMounts": [mount],
                "livenessProbe": probe,
                "readinessProbe": probe,
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent",
            }
        ],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": f"app-{workload}",
        "serviceAccount": f"app-{workload}",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "tolerations": [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }


def _status(size: Simulated, number: int, stage: str) -> dict[str, Any]:
    if stage in ("created", "scheduled"):
        return {"phase": "Pending", "qosClass": "Burstable"}
    ready = str(stage != "running")
    address = pod_address(size, number)
    host = f"172.16.{number % size.nodes >> 8 & 255}.{number % size.nodes & 255}"
    types = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "phase": "Running",
        "conditions": [
            {
                "type": name,
                "status": ready if "Ready" in name[-5:] else "True",
                "lastProbeTime": None,
                "lastTransitionTime": FIRST_TIME,
            }
            for name in types
        ],
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": FIRST_TIME,
        "containerStatuses": [
            {
                "name": "app",
                "state": {"running": {"startedAt": FIRST_TIME}},
                "lastState": {},
                "ready": ready == "True",
                "restartCount": 0,
                "image": f"registry.example/team/app-{size.workload(number)}:1.{size.workload(number) % 20}",
                "imageID": f"registry.example/team/app@sha256:{size.workload(number):064x}",
                "containerID": f"containerd://{number:064x}",
                "started": True,
            }
        ],
        "qosClass": "Burstable",
    }


def everything(size: Simulated) -> Iterator[Event]:
    """The cluster as a first list would tell it, one event an object."""
    for number in range((size.services + 9) // 10):
        yield _event("Namespace", "ADDED", namespace(number))
    for number in range(size.nodes):
        yield _event("Node", "ADDED", node(size, number))
    for number in range(size.services):
        yield _event("Service", "ADDED", service(size, number))
    for number in range(size.pods):
        yield _event("Pod", "ADDED", pod(size, number, number + 1))


APART = 200
"""Pods that begin between two stages of one pod's life: lives run side by side, as in a cluster."""


def starts(size: Simulated, count: int, first: int = 0) -> Iterator[Event]:
    """`count` pods are replaced: one is deleted (two events), its successor comes to life (four), many side by side.

    `first` is the number of pods that were replaced before. An address is used again after all others of its node.
    """
    version = 10**7 + first * len(STEPS)
    for step in range(count + (len(STEPS) - 1) * APART):
        for number, (word, stage, heir) in enumerate(STEPS):
            each = step - number * APART
            if 0 <= each < count:
                which = first + each + (size.pods if heir else 0)
                yield _event("Pod", word, pod(size, which, version := version + 1, stage))


STEPS = (
    ("MODIFIED", "deleted", False),
    ("ADDED", "created", True),
    ("MODIFIED", "scheduled", True),
    ("DELETED", "deleted", False),
    ("MODIFIED", "running", True),
    ("MODIFIED", "ready", True),
)
"""(word, stage, whether of the successor) of one replacement, in order."""


def _event(kind: str, word: str, body: dict[str, Any]) -> Event:
    return Event(kind, json.dumps({"type": word, "object": body}, separators=(",", ":")).encode() + b"\n")
