"""What each kind of endpoint has, and what the parts of an image reference are."""

from __future__ import annotations

import pytest

from ringfence.inventory.filters import FIELDS, Population, parse
from ringfence.inventory.filters.facts import plain_network
from ringfence.inventory.filters.images import parts
from ringfence.model.objects import (
    ContainerPort,
    EndpointSlice,
    External,
    Namespace,
    Node,
    Pod,
    Service,
    ServicePort,
)

POD = Pod(
    uid="u1",
    namespace="shop",
    name="web-1",
    node="n1",
    addresses=("10.0.0.1", "fd00::1"),
    labels=(("app", "web"),),
    annotations=(("note", "x"),),
    workload="Deployment/web",
    ports=(ContainerPort(80, "TCP", "http"), ContainerPort(53, "UDP")),
    phase="Running",
    service_account="web",
    images=("web:1", "r.example/db@sha256:" + "a" * 64),
    ready=True,
)
SERVICE = Service(
    uid="s1",
    namespace="shop",
    name="web",
    type="LoadBalancer",
    cluster_ips=("10.96.0.1",),
    external_ips=("192.0.2.1",),
    load_balancer_ips=("192.0.2.2",),
    selector=(("app", "web"),),
    ports=(ServicePort(80, "TCP", "http"),),
)
NODE = Node(uid="n", name="n1", addresses=("192.168.0.1",), labels=(("zone", "z1"),))
EXTERNAL = External(
    uid="c/192.0.2.0/24", catalog="c", network="192.0.2.0/24", name="bank", labels=(("pci", "yes"),)
)
NAMESPACE = Namespace(uid="ns", name="shop", labels=(("team", "x"),))
ALL = [("c", POD), ("c", SERVICE), ("c", NODE), ("", EXTERNAL), ("c", NAMESPACE)]

EXPECTED = {
    ("c", "Pod", "u1"): {
        "kind": "pod",
        "cluster": "c",
        "namespace": "shop",
        "name": "web-1",
        "uid": "u1",
        "workload": "Deployment/web",
        "workload_kind": "Deployment",
        "workload_name": "web",
        "node": "n1",
        "service_account": "web",
        "phase": "Running",
        "ready": True,
        "host_network": False,
        "labels": {"app": "web"},
        "annotations": {"note": "x"},
        "namespace_labels": {"team": "x"},
        "node_labels": {"zone": "z1"},
        "addresses": ("10.0.0.1", "fd00::1"),
        "images": (
            {"reference": "web:1", "registry": "docker.io", "repository": "library/web", "tag": "1"},
            {
                "reference": "r.example/db@sha256:" + "a" * 64,
                "registry": "r.example",
                "repository": "db",
                "digest": "sha256:" + "a" * 64,
            },
        ),
        "ports": (
            {"port": 80, "protocol": "TCP", "name": "http"},
            {"port": 53, "protocol": "UDP"},
        ),
    },
    ("c", "Service", "s1"): {
        "kind": "service",
        "cluster": "c",
        "namespace": "shop",
        "name": "web",
        "uid": "s1",
        "labels": {},
        "annotations": {},
        "namespace_labels": {"team": "x"},
        "addresses": ("10.96.0.1", "192.0.2.1", "192.0.2.2"),
        "ports": ({"port": 80, "protocol": "TCP", "name": "http"},),
        "service_type": "LoadBalancer",
        "selector": {"app": "web"},
    },
    ("c", "Node", "n"): {
        "kind": "node",
        "cluster": "c",
        "name": "n1",
        "uid": "n",
        "workload": "Node/n1",
        "workload_kind": "Node",
        "workload_name": "n1",
        "node": "n1",
        "labels": {"zone": "z1"},
        "annotations": {},
        "node_labels": {"zone": "z1"},
        "addresses": ("192.168.0.1",),
    },
    ("", "External", "c/192.0.2.0/24"): {
        "kind": "external",
        "name": "bank",
        "uid": "c/192.0.2.0/24",
        "labels": {"pci": "yes"},
        "catalog": "c",
        "network": "192.0.2.0/24",
    },
}


@pytest.mark.parametrize("key", EXPECTED)
def test_each_kind_has_the_fields_the_table_says(key):
    rows = Population(ALL)
    row = rows.row(key)
    facts = dict(zip((field.name for field in FIELDS), rows.facts(row), strict=True))
    present = {name: value for name, value in facts.items() if value is not None}
    assert present == EXPECTED[key]
    assert present.keys() == {field.name for field in FIELDS if present["kind"] in field.kinds}


def test_what_is_not_there_is_an_error_and_has_says_so():
    bare = Pod(uid="u", namespace="shop", name="p")
    rows = Population(
        [("c", bare), ("c", EndpointSlice(uid="e", namespace="shop", name="e", service="shop/web"))]
    )
    assert len(rows) == 1
    for field in ("node", "ready", "service_account"):
        assert len(rows.select(parse(f"!has({field})"))) == 1
    for text in ('node == "n1"', "ready", 'namespace_labels["team"] == "x"', '!("team" in namespace_labels)'):
        selection = rows.select(parse(text))
        assert (len(selection), selection.failed()) == (0, [("c", "Pod", "u")])
    # A bare pod is its own workload, and has maps and lists that are empty.
    assert len(rows.select(parse('workload == "Pod/p" && size(labels) == 0 && size(addresses) == 0'))) == 1


HUB, DIGEST = "docker.io", "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("reference", "registry", "repository", "tag", "digest"),
    [
        ("nginx", HUB, "library/nginx", None, None),
        ("nginx:1.25", HUB, "library/nginx", "1.25", None),
        ("bitnami/redis:7", HUB, "bitnami/redis", "7", None),
        ("docker.io/nginx", HUB, "library/nginx", None, None),
        ("index.docker.io/library/nginx", HUB, "library/nginx", None, None),
        ("localhost/a", "localhost", "a", None, None),
        ("localhost:5000/a:b", "localhost:5000", "a", "b", None),
        ("r.example/a/b/c:1", "r.example", "a/b/c", "1", None),
        ("r.example:5000/a", "r.example:5000", "a", None, None),
        ("[::1]:5000/a", "[::1]:5000", "a", None, None),
        (f"a@{DIGEST}", HUB, "library/a", None, DIGEST),
        (f"r.example/a:1@{DIGEST}", "r.example", "a", "1", DIGEST),
        ("Upper/a", "Upper", "a", None, None),
        ("a__b/c-d.e", HUB, "a__b/c-d.e", None, None),
    ],
)
def test_references_are_taken_apart_by_their_grammar(reference, registry, repository, tag, digest):
    found = parts(reference)
    assert found.pop("reference") == reference
    assert found.pop("registry") == registry
    assert found.pop("repository") == repository
    assert (found.pop("tag", None), found.pop("digest", None)) == (tag, digest)
    assert not found


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a:", "a b", "a@x", "0" * 64, "/a", "a//b", "a:-1", "a_-b", "sha256:"]
)
def test_what_is_no_reference_has_only_its_text(text):
    assert parts(text) == {"reference": text}


@pytest.mark.parametrize(
    ("network", "plain"),
    [
        ("192.0.2.1/32", "192.0.2.1"),
        ("fd00::1/128", "fd00::1"),
        ("192.0.2.1/24", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1"),
        ("no network", "no network"),
    ],
)
def test_a_network_of_one_address_is_that_address(network, plain):
    assert plain_network(network) == plain
