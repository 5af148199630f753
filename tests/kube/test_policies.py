"""Policies and routes of every kind become facts."""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.kube.decode import decode
from ringfence.model.objects import NetworkPolicy, Route, RouteBackend

META = {"name": "x", "namespace": "shop", "uid": "u", "labels": {"app": "web"}}


def value(kind: str, **body: Any) -> Any:
    item, problems = decode({"metadata": META, **body}, kind, "")
    assert problems == ()
    assert item is not None
    return item.value


def test_a_policys_spec_is_kept_whole_in_one_form() -> None:
    spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], "egress": None}
    one = value("NetworkPolicy", apiVersion="networking.k8s.io/v1", spec=spec)
    other = value(
        "NetworkPolicy", spec=dict(reversed(list(spec.items()))), apiVersion="networking.k8s.io/v1", status={}
    )
    assert one == other
    assert msgspec.json.decode(one.spec) == spec
    assert (one.namespace, one.version, one.kind) == ("shop", "networking.k8s.io/v1", "NetworkPolicy")
    assert one.labels == (("app", "web"),)


def test_cluster_wide_policies_are_in_no_namespace() -> None:
    for kind in ("ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"):
        policy = value(kind, spec={"priority": 5})
        assert isinstance(policy, NetworkPolicy)
        assert (policy.kind, policy.namespace, policy.spec) == (kind, "", '{"priority":5}')
    assert value("NetworkPolicy").spec == "{}"


def test_an_ingress() -> None:
    def backend(name: str, port: dict[str, Any]) -> dict[str, Any]:
        return {"service": {"name": name, "port": port}}

    rules = [
        {"host": "a.example", "http": {"paths": [{"backend": backend("web", {"number": 80})}, None]}},
        {"host": "b.example", "http": {"paths": [{"backend": backend("api", {"name": "http"})}]}},
        {"host": "a.example", "http": {"paths": [{"backend": backend("web", {"number": 80})}]}},
        {"host": "c.example"},
    ]
    spec = {"ingressClassName": "nginx", "rules": rules, "tls": [{"hosts": ["a.example"]}]}
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]}}
    route = value("Ingress", spec=spec, status=status)
    assert route == Route(
        uid="u",
        kind="Ingress",
        namespace="shop",
        name="x",
        hosts=("a.example", "b.example", "c.example"),
        backends=(RouteBackend("shop/web", 80), RouteBackend("shop/api", "http")),
        via=("nginx",),
        tls=True,
        addresses=("203.0.113.7",),
        labels=(("app", "web"),),
    )


def test_an_ingress_for_every_host_and_one_of_long_ago() -> None:
    fallback = {"service": {"name": "web", "port": {"number": 80}}}
    assert value("Ingress", spec={"defaultBackend": fallback}).hosts == ()
    rule = {"host": "a.example", "http": {"paths": []}}
    both = value("Ingress", spec={"defaultBackend": fallback, "rules": [rule]})
    assert both.hosts == ("a.example", "*")
    old = {"rules": [{"http": {"paths": [{"backend": {"serviceName": "web", "servicePort": "http"}}]}}]}
    body = {"metadata": {**META, "annotations": {"kubernetes.io/ingress.class": "traefik"}}, "spec": old}
    item, _ = decode(body, "Ingress", "")
    assert item is not None
    assert isinstance(item.value, Route)
    assert item.value.via == ("traefik",)
    assert item.value.backends == (RouteBackend("shop/web", "http"),)


def test_gateway_routes() -> None:
    spec = {
        "hostnames": ["a.example", None],
        "parentRefs": [{"name": "edge", "namespace": "infra"}, {"kind": "Service", "name": "web"}],
        "rules": [
            {
                "backendRefs": [
                    {"name": "web", "port": 80, "filters": [mirror("audit")]},
                    {"name": "api", "namespace": "back", "port": 81},
                    {"kind": "Bucket", "name": "b"},
                ],
                "filters": [mirror("copy"), None],
            },
            None,
        ],
    }
    route = value("HTTPRoute", spec=spec)
    assert route.hosts == ("a.example",)
    assert route.via == ("infra/edge", "Service/shop/web")
    assert [backend.service for backend in route.backends] == [
        "shop/web",
        "back/api",
        "shop/copy",
        "shop/audit",
    ]
    assert not route.tls
    assert value("TLSRoute", spec=spec).tls
    for kind in ("GRPCRoute", "TCPRoute", "UDPRoute"):
        assert value(kind).kind == kind


def mirror(name: str) -> dict[str, Any]:
    return {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": 80}}}


def test_a_route_of_openshift() -> None:
    spec = {
        "host": "a.example",
        "to": {"kind": "Service", "name": "web"},
        "alternateBackends": [{"kind": "Service", "name": "new"}],
        "port": {"targetPort": "http"},
        "tls": {"termination": "edge"},
    }
    route = value("Route", spec=spec, status={"ingress": [{"routerName": "default", "host": "a.example"}]})
    assert (route.hosts, route.via, route.tls) == (("a.example",), ("default",), True)
    assert route.backends == (RouteBackend("shop/web", "http"), RouteBackend("shop/new", "http"))
