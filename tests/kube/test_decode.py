"""Kubernetes' JSON becomes facts; what is wrong costs as little as it can."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.kube.decode import KINDS, decode
from ringfence.kube.ledger import Ledger
from ringfence.kube.owners import Owners
from ringfence.model.objects import ContainerPort, EndpointSlice, Pod, Probe, Service, Workload

META = {"name": "x", "namespace": "shop", "uid": "u"}


def value(kind: str, **body: Any) -> Any:
    item, problems = decode({"metadata": META, **body}, kind, "")
    assert problems == ()
    assert item is not None
    return item.value


def owned(kind: str, name: str, **labels: str) -> dict[str, Any]:
    reference = {"kind": kind, "name": name, "controller": True}
    return {"metadata": {**META, "labels": labels, "ownerReferences": [reference]}}


def root(body: dict[str, Any], *controllers: tuple[str, dict[str, Any]]) -> str | None:
    owners = Owners()
    for kind, controller in controllers:
        item, _ = decode(controller, kind, "")
        assert item is not None
        owners.learn(item)
    item, _ = decode(body, "Pod", "")
    assert item is not None
    return owners.with_root(item).workload


def controller(name: str, owner: tuple[str, str] | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": "shop", "uid": f"uid-{name}"}
    if owner:
        meta["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    return {"metadata": meta}


def test_the_root_owner_of_every_kind_of_pod() -> None:
    assert root({"metadata": META}) == "Pod/x"
    assert root(owned("Node", "n1")) == "Pod/x"  # a static pod's mirror
    assert root(owned("DaemonSet", "d")) == "DaemonSet/d"
    assert root(owned("StatefulSet", "s")) == "StatefulSet/s"
    replica_set = ("ReplicaSet", controller("web-1", ("Deployment", "web")))
    assert root(owned("ReplicaSet", "web-1"), replica_set) == "Deployment/web"
    job = ("Job", controller("j-1", ("CronJob", "j")))
    assert root(owned("Job", "j-1"), job) == "CronJob/j"
    assert root(owned("Job", "j-1")) == "Job/j-1"
    assert root(owned("ReplicaSet", "lone"), ("ReplicaSet", controller("lone"))) == "ReplicaSet/lone"


def test_a_replica_set_nobody_listed_is_known_by_its_hash_alone() -> None:
    assert root(owned("ReplicaSet", "web-5c9f", **{"pod-template-hash": "5c9f"})) == "Deployment/web"
    assert root(owned("ReplicaSet", "web-5c9f", **{"pod-template-hash": "other"})) == "ReplicaSet/web-5c9f"


@pytest.mark.parametrize(("phase", "held"), [("Running", 2), ("Pending", 2), ("Succeeded", 0), ("Failed", 0)])
def test_a_terminated_pod_has_no_address(phase: str, held: int) -> None:
    status = {"phase": phase, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, None]}
    assert len(value("Pod", status=status).addresses) == held


def test_probes_and_ports_with_their_names_resolved() -> None:
    container = {
        "ports": [{"containerPort": 8079, "name": "http"}, None, {"containerPort": 53, "protocol": "UDP"}],
        "livenessProbe": {"httpGet": {"port": "http", "scheme": "HTTPS"}},
        "readinessProbe": {"tcpSocket": {"port": 8079}},
        "startupProbe": {"exec": {"command": ["true"]}},
    }
    sidecar = {"restartPolicy": "Always", "readinessProbe": {"grpc": {"port": 9000}}}
    job = {"livenessProbe": {"tcpSocket": {"port": 1}}}
    pod: Pod = value("Pod", spec={"containers": [container, None], "initContainers": [sidecar, job]})
    assert pod.ports == (ContainerPort(8079, "TCP", "http"), ContainerPort(53, "UDP"))
    assert pod.probes == (
        Probe("liveness", "https", 8079),
        Probe("readiness", "tcp", 8079),
        Probe("readiness", "grpc", 9000),
    )


def test_services_of_every_shape() -> None:
    headless: Service = value("Service", spec={"clusterIP": "None", "clusterIPs": ["None"]})
    assert headless.cluster_ips == ()
    named = value("Service", spec={"type": "ExternalName", "externalName": "example.com", "ports": None})
    assert named.external_name == "example.com"
    spec = {
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "externalIPs": ["198.51.100.1"],
        "ports": [{"port": 80, "targetPort": "http", "nodePort": 30001}, {"port": 53, "protocol": "UDP"}],
    }
    balancer = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "lb.example.com"}]}}
    service: Service = value("Service", spec=spec, status=balancer)
    assert service.cluster_ips == ("10.96.0.1", "fd00::1")
    assert service.load_balancer_ips == ("203.0.113.7",)
    assert [(p.port, p.target_port, p.node_port) for p in service.ports] == [
        (80, "http", 30001),
        (53, 53, None),
    ]


def test_a_workload_says_what_its_template_says() -> None:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"ports": [{"containerPort": 80}]}]},
    }
    web: Workload = value("Deployment", spec={"replicas": 0, "template": template})
    assert (web.root, web.replicas, web.labels, web.ports) == (
        "Deployment/x",
        0,
        (("app", "web"),),
        (ContainerPort(80),),
    )
    cron: Workload = value("CronJob", spec={"jobTemplate": {"spec": {"template": template}}})
    assert (cron.root, cron.replicas, cron.labels) == ("CronJob/x", None, (("app", "web"),))


def test_a_static_pod_is_its_own_root_and_annotated_objects_keep_their_annotations() -> None:
    mirror = {**META, "annotations": {"kubernetes.io/config.mirror": "hash", "long": "x" * 5000}}
    mirror["ownerReferences"] = [{"kind": "Node", "name": "n1", "controller": True}]
    item, problems = decode({"metadata": mirror}, "Pod", "")
    assert item is not None
    assert problems == ()
    pod = Owners().with_root(item)
    assert pod.workload == "Pod/x"
    assert pod.annotations == (("kubernetes.io/config.mirror", "hash"),)
    noted = {**META, "annotations": {"a": "b"}}
    for kind in (
        "Service",
        "Node",
        "Namespace",
        "Deployment",
        "CronJob",
        "Ingress",
        "HTTPRoute",
        "NetworkPolicy",
    ):
        item, _ = decode({"metadata": noted}, kind, "")
        assert item is not None
        assert item.value.annotations == (("a", "b"),)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        (None, None),
        ([{"type": "Initialized", "status": "True"}], None),
        ([None, {"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "False"}], False),
        ([{"type": "Ready", "status": "Unknown"}], False),
    ],
)
def test_readiness(conditions: Any, ready: bool | None) -> None:
    assert value("Pod", status={"conditions": conditions}).ready is ready


def test_a_terminating_pod_keeps_its_address_and_says_since_when() -> None:
    meta = {**META, "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    item, _ = decode({"metadata": meta, "status": {"podIP": "10.0.0.1", "phase": "Running"}}, "Pod", "")
    assert item is not None
    assert isinstance(item.value, Pod)
    assert item.value.deleted == 1767225600 * 10**9
    assert item.value.addresses == ("10.0.0.1",)


def test_endpoints_of_both_families_and_named_ports() -> None:
    meta = {**META, "labels": {"kubernetes.io/service-name": "web"}}
    body = {
        "metadata": meta,
        "addressType": "IPv6",
        "endpoints": [
            {"addresses": ["fd00::1"], "targetRef": {"kind": "Pod", "name": "a"}},
            {"addresses": ["fd00::2"], "conditions": {"ready": False}},
            None,
        ],
        "ports": [{"name": "http", "port": 8080}, {"name": "any"}],
    }
    item, problems = decode(body, "EndpointSlice", "")
    assert item is not None
    assert problems == ()
    assert isinstance(item.value, EndpointSlice)
    assert item.value.service == "shop/web"
    assert [(b.address, b.pod, b.ready) for b in item.value.backends] == [
        ("fd00::1", "shop/a", True),
        ("fd00::2", None, False),
    ]
    assert [(port.name, port.port) for port in item.value.ports] == [("http", 8080)]


def test_a_wrong_field_is_named_and_the_rest_is_kept() -> None:
    body = {
        "metadata": {**META, "labels": {"app": "web", "version": 1.2}},
        "spec": {"nodeName": "n1", "containers": [{"ports": "http"}, {"ports": [{"containerPort": 80}]}]},
        "status": {"podIP": "10.0.0.1"},
    }
    for source in (body, msgspec.json.encode(body)):
        item, problems = decode(source, "Pod", "dump.json")
        assert item is not None
        assert isinstance(item.value, Pod)
        assert item.value.addresses == ("10.0.0.1",)
        assert item.value.labels == (("app", "web"),)
        assert item.value.ports == (ContainerPort(80),)
        assert {problem.where for problem in problems} == {
            "dump.json: Pod shop/x: metadata.labels[...]",
            "dump.json: Pod shop/x: spec.containers[0].ports",
        }


def test_an_object_without_a_name_is_no_object() -> None:
    for body in ({}, {"metadata": None}, {"metadata": {"name": 5}}, {"metadata": "x"}):
        item, problems = decode(body, "Pod", "f")
        assert item is None
        assert problems


def test_what_is_no_address_is_said() -> None:
    _, problems = decode({"metadata": META, "status": {"podIP": "not-an-ip"}}, "Pod", "f")
    assert "not an address" in str(problems[0])


def test_every_field_of_a_pod_is_where_it_belongs() -> None:
    """A pod is made by position: a field that moved in `Pod` would land in another."""
    body = {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "uid": "u",
            "labels": {"app": "web"},
            "annotations": {"note": "x"},
            "deletionTimestamp": "2026-01-01T00:01:00Z",
            "deletionGracePeriodSeconds": 30,
        },
        "spec": {
            "nodeName": "n1",
            "hostNetwork": True,
            "serviceAccountName": "robot",
            "containers": [
                {
                    "image": "web:1",
                    "ports": [{"containerPort": 80}],
                    "livenessProbe": {"tcpSocket": {"port": 81}},
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "startTime": "2026-01-01T00:00:05Z",
            "conditions": [{"type": "Initialized", "status": "False"}, {"type": "Ready", "status": "True"}],
        },
    }
    item, problems = decode(body, "Pod", "")
    assert item is not None
    assert problems == ()
    began = 1767225600 * 10**9
    assert item.value == Pod(
        uid="u",
        namespace="shop",
        name="web-1",
        node="n1",
        addresses=("10.0.0.1", "fd00::1"),
        host_network=True,
        labels=(("app", "web"),),
        annotations=(("note", "x"),),
        workload=None,
        ports=(ContainerPort(80),),
        probes=(Probe("liveness", "tcp", 81),),
        phase="Running",
        service_account="robot",
        images=("web:1",),
        started=began + 5 * 10**9,
        ready=True,
        deleted=began + 30 * 10**9,
    )


FIELDS = [
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "containers",
    "ports",
    "podIP",
    "podIPs",
    "items",
    "ownerReferences",
    "clusterIP",
    "template",
    "endpoints",
    "addresses",
    "creationTimestamp",
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(KINDS)), json_values, json_values)
def test_nothing_makes_decoding_or_telling_raise(kind: str, body: Any, other: Any) -> None:
    decode(msgspec.json.encode(body), kind, "f")
    for source in (
        {"metadata": META, "spec": body, "status": other},
        {"metadata": {**META, "labels": other}},
    ):
        item, _ = decode(source, kind, "f")
        if item is not None:
            Ledger("c").present(kind, item, 1)


@pytest.mark.parametrize("number", [-1, 2**31, 2**40, 2**63, 2**70, 10**30])
def test_numbers_that_no_cluster_has_cost_their_field(number: int) -> None:
    meta = {**META, "deletionGracePeriodSeconds": number, "deletionTimestamp": "9999-01-01T00:00:00Z"}
    meta["creationTimestamp"] = "0001-01-01T00:00:00Z"
    spec = {
        "replicas": number,
        "priority": number,
        "ports": [{"port": number, "nodePort": number, "targetPort": number}],
        "containers": [
            {"ports": [{"containerPort": number}], "livenessProbe": {"tcpSocket": {"port": number}}}
        ],
    }
    body = {"metadata": meta, "spec": spec, "status": {"startTime": "9999-01-01T00:00:00Z"}}
    for kind in sorted(KINDS):
        item, _ = decode(body, kind, "f")
        assert item is not None
        Ledger("c").present(kind, item, 1)


def test_a_policy_that_only_yaml_can_write() -> None:
    spec = {1: {True: float("nan"), "a": 10**30}, "b": [float("inf"), b"x"]}
    item, _ = decode({"metadata": META, "spec": {"inner": spec}}, "NetworkPolicy", "f")
    assert item is not None
    text = item.value.spec  # type: ignore[union-attr]
    assert json.loads(text)["inner"]["1"]["a"] == 10**30


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=30))
def test_not_even_what_is_no_json(kind: str, body: bytes) -> None:
    decode(body, kind, "f")
