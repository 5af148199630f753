"""Which kinds a server has, from its discovery documents."""

from __future__ import annotations

import json
from typing import Any

from ringfence.kube.decode import KINDS
from ringfence.kube.discovery import aggregated, plain, resources_of, wanted

WATCHED = ["get", "list", "watch"]


def document(*groups: tuple[str, list[tuple[str, list[Any], str]]]) -> bytes:
    items = []
    for name, versions in groups:
        described = [
            {
                "version": version,
                "freshness": freshness,
                "resources": [
                    {"resource": each, "verbs": WATCHED} if isinstance(each, str) else each
                    for each in resources
                ],
            }
            for version, resources, freshness in versions
        ]
        items.append({"metadata": {"name": name}, "versions": described})
    return json.dumps({"kind": "APIGroupDiscoveryList", "items": items}).encode()


GATEWAY = "gateway.networking.k8s.io"


def test_the_best_version_that_is_served() -> None:
    served = aggregated(
        document(
            (
                GATEWAY,
                [("v1beta1", ["httproutes"], "Current"), ("v1", ["httproutes", "grpcroutes"], "Current")],
            ),
            ("networking.k8s.io", [("v1", ["networkpolicies"], "Current")]),
        )
    )
    assert served is not None
    assert served.paths["HTTPRoute"] == f"/apis/{GATEWAY}/v1/httproutes"
    assert served.paths["GRPCRoute"] == f"/apis/{GATEWAY}/v1/grpcroutes"
    assert "Ingress" not in served.paths
    # The core group is in a document of its own.
    assert served.paths["Pod"] == "/api/v1/pods"
    assert served.unsure == frozenset()


def test_a_version_that_is_not_understood_or_cannot_be_watched_is_none() -> None:
    listed_only = {"resource": "tcproutes", "verbs": ["list"]}
    served = aggregated(
        document((GATEWAY, [("v2", ["httproutes"], "Current"), ("v1", [listed_only], "Current")]))
    )
    assert served is not None
    assert not {"HTTPRoute", "TCPRoute"} & set(served.paths)


def test_a_stale_group_is_no_proof_of_absence() -> None:
    served = aggregated(document(("route.openshift.io", [("v1", [], "Stale")])))
    assert served is not None
    assert served.unsure == {"Route"}


def test_other_documents_and_odd_ones() -> None:
    assert aggregated(b'{"kind":"APIGroupList","groups":[]}') is None
    for odd in (b'{"kind":"APIGroupDiscoveryList","items":null}', document(("", [])), document(("x", []))):
        served = aggregated(odd)
        assert served is not None
        assert set(served.paths) == {kind for kind, entry in KINDS.items() if not entry.group}


def test_the_plain_documents() -> None:
    groups = [
        {"name": "apps", "versions": [{"version": "v1"}]},
        {"name": "policy.networking.k8s.io", "versions": [{"version": "v1alpha1"}, {"version": "v1alpha2"}]},
        {"name": "unknown", "versions": [{"version": "v1"}]},
    ]
    asked = wanted(json.dumps({"kind": "APIGroupList", "groups": groups}).encode())
    assert asked == [
        ("apps", "v1"),
        ("policy.networking.k8s.io", "v1alpha1"),
        ("policy.networking.k8s.io", "v1alpha2"),
    ]
    resources = [{"name": "deployments", "verbs": WATCHED}, {"name": "deployments/status", "verbs": ["get"]}]
    found = resources_of(json.dumps({"kind": "APIResourceList", "resources": resources}).encode())
    assert found == {"deployments"}
    served = plain({("apps", "v1"): found}, {"policy.networking.k8s.io"})
    assert served.paths["Deployment"] == "/apis/apps/v1/deployments"
    assert "DaemonSet" not in served.paths
    assert served.unsure == {"ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"}
