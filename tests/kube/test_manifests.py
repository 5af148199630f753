"""Files of manifests and dumps: everything that can be read is, and what cannot is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringfence.kube.decode import KINDS
from ringfence.kube.documents import documents
from ringfence.kube.manifests import Manifests, load, of_texts
from ringfence.model.problems import Problem

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{ports: [{containerPort: 80}]}]}}}
"""
POD = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s"},"status":{"podIP":"10.0.0.1"}}'


def read(*texts: str) -> Manifests:
    return of_texts((f"f{number}", text.encode()) for number, text in enumerate(texts))


def test_many_documents_and_comments() -> None:
    found = read(f"# only a comment\n---\n{DEPLOYMENT}\n---\n---\n# nothing\n---\n{POD % 'a'}\n...\n")
    assert [w.root for w in found.workloads] == ["Deployment/web", "Pod/a"]
    assert found.problems == found.notes == ()


def test_a_broken_document_is_named_with_its_line_and_the_rest_is_read() -> None:
    found = read(f"{DEPLOYMENT}---\nkind: Pod\n  bad: [\n---\n{POD % 'a'}")
    assert len(found.workloads) == 2
    (problem,) = found.problems
    assert problem.where.startswith("f0 document 2 line")
    assert int(problem.where.split()[-1]) in range(7, 12)


def test_lists_of_every_kind() -> None:
    typed = '{"kind":"PodList","items":[{"metadata":{"name":"a"}},null,{"metadata":{"name":"b"}}]}'
    plain = f'{{"kind":"List","apiVersion":"v1","items":[{POD % "c"},{{"kind":"PodList","items":null}}]}}'
    found = read(typed, plain, '{"kind":"List","items":null}', "[]", "")
    assert [pod.name for pod in found.pods] == ["a", "b", "c"]
    assert found.problems == ()


def test_json_after_json_goes_on_after_a_broken_one() -> None:
    found = read(f"{POD % 'a'}\n{POD % 'b'}{POD % 'c'}\n{{broken\n{POD % 'd'}")
    assert [pod.name for pod in found.pods] == ["a", "b", "c", "d"]
    assert "document 4 line 3" in found.problems[0].where


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        '{"a":' * 100_000,
        '["x",' * 20_000,
        "a:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 2_000)),
    ],
)
def test_hostile_nesting_is_a_problem_and_not_a_crash(text: str) -> None:
    (problem,) = documents(text, "f")
    assert isinstance(problem, Problem)


def test_flow_style_yaml_is_not_taken_for_json() -> None:
    assert [pod.name for pod in read("{kind: Pod, apiVersion: v1, metadata: {name: a}}").pods] == ["a"]


def test_templates_are_named() -> None:
    chart = "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Values.name }}\n  {{- with .x }}\n"
    quoted = 'apiVersion: v1\nkind: Service\nmetadata: {name: "{{ .Release.Name }}"}\n'
    found = read(chart, quoted)
    assert [problem.what for problem in found.problems] == ["a template, not a manifest"] * 2
    assert found.services == ()


def test_what_is_no_object_is_passed_over_with_a_note() -> None:
    found = read("a: 1\n", "just text\n", '{"kind":"Widget","metadata":{"name":"w"}}')
    assert len(found.notes) == 2
    assert len(found.others) == 1
    assert found.problems == ()


def test_the_same_kind_of_another_group_is_another_kind() -> None:
    found = read('{"apiVersion":"serving.knative.dev/v1","kind":"Service","metadata":{"name":"w"}}')
    assert found.services == ()
    assert len(found.others) == 1


def test_dates_stay_text_and_the_last_of_one_name_counts() -> None:
    one = "kind: Namespace\napiVersion: v1\nmetadata: {name: a, labels: {built: 2024-01-01}}\n"
    found = read(one, one, one.replace("2024", "2025"))
    assert dict(found.namespaces[0].labels)["built"] == "2025-01-01"
    assert len(found.notes) == 1


def test_workloads_without_their_owner_in_the_files() -> None:
    pod = (
        "kind: Pod\napiVersion: v1\nmetadata: {name: %s, labels: {app: w, v: '%s', pod-template-hash: h},"
        " ownerReferences: [{kind: ReplicaSet, name: w-h, controller: true}]}\n"
    )
    found = read(pod % ("a", 1), pod % ("b", 2))
    (workload,) = found.workloads
    assert workload.root == "Deployment/w"
    assert workload.labels == (("app", "w"), ("pod-template-hash", "h"))


def test_policies_are_kept_as_they_are() -> None:
    policy = "apiVersion: %s\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n"
    found = read(policy % "networking.k8s.io/v1", policy % "projectcalico.org/v3")
    assert found.network_policies[0]["spec"] == {"podSelector": {}}
    assert len(found.other_policies) == 1


def test_policies_and_routes_are_facts_too() -> None:
    found = read(
        "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: old, namespace: shop}\n",
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: all}\n",
        "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: other}\n",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {rules: [{host: a.example}]}\n",
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {name: h}\n",
        "apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: r}\n",
        "apiVersion: serving.knative.dev/v1\nkind: Route\nmetadata: {name: not-this}\n",
    )
    assert [(policy.kind, policy.name) for policy in found.policies] == [
        ("NetworkPolicy", "old"),
        ("ClusterNetworkPolicy", "all"),
    ]
    assert [(route.kind, route.hosts) for route in found.routes] == [
        ("Ingress", ("a.example",)),
        ("HTTPRoute", ()),
        ("Route", ()),
    ]
    assert set(found.policies) | set(found.routes) <= set(found.objects)
    assert len(found.other_policies) == len(found.others) == 1
    assert found.problems == found.notes == ()


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(Problem, match="no manifests"):
        load(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.json").write_text(POD % "b")
    (tmp_path / "c.txt").write_text("not looked at")
    found = load(tmp_path)
    assert [problem.where for problem in found.problems] == ["a.yaml"]
    assert [pod.name for pod in found.pods] == ["b"]


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["k8s-objects", "sock-shop", "apps", "netpol", "netpol-cases"])
def test_everything_given_loads(shared_data: Path, folder: str) -> None:
    found = load(shared_data / folder)
    assert found.workloads or found.network_policies
    for problem in found.problems:
        assert problem.what in ("a template, not a manifest",) or problem.what.startswith(
            ("not YAML", "wrong type")
        )


def flattened(body: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document, read without any of the code under test."""
    if isinstance(body, list):
        for each in body:
            yield from flattened(each)
    elif isinstance(body, dict) and isinstance(body.get("kind"), str):
        if body["kind"].endswith("List") and "items" in body:
            kind = body["kind"].removesuffix("List")
            for each in body["items"] or ():
                yield from flattened({"kind": kind, **each} if isinstance(each, dict) else each)
        else:
            yield body


def plainly(folder: Path) -> set[tuple[str, str, str]]:
    """(kind, namespace, name) of every object whose kind and group are followed."""
    found = set()
    for file in sorted(each for each in folder.rglob("*") if each.suffix in (".yaml", ".yml", ".json")):
        try:
            documents = list(yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader))
        except (yaml.YAMLError, ValueError):
            continue
        for body in flattened(documents):
            group = (body.get("apiVersion") or "").rpartition("/")[0]
            meta = body.get("metadata") or {}
            name = meta.get("name")
            if (
                body["kind"] in KINDS
                and group in (KINDS[body["kind"]].group, "")
                and name
                and "{{" not in str(name)
            ):
                entry = KINDS[body["kind"]]
                namespaced = entry.noun not in ("Node", "Namespace") and not entry.plural.startswith(
                    ("cluster", "admin", "baseline")
                )
                namespace = (meta.get("namespace") or "default") if namespaced else ""
                found.add((body["kind"], namespace, str(name)))
    return found


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["k8s-objects", "netpol", "netpol-cases", "sock-shop"])
def test_no_object_that_another_reader_sees_is_missing(shared_data: Path, folder: str) -> None:
    found = load(shared_data / folder)
    kinds = {"Pod": found.pods, "Service": found.services, "EndpointSlice": found.slices, "Node": found.nodes}
    kinds["Namespace"] = found.namespaces
    have = {
        (kind, getattr(each, "namespace", ""), each.name) for kind, some in kinds.items() for each in some
    }
    have |= {
        (each.kind, each.namespace, each.name) for each in (*found.policies, *found.routes, *found.workloads)
    }
    wanted = plainly(shared_data / folder)
    assert len(wanted) > 20
    # A controller that another one made, and that made nothing itself, is told as the workload that is its root.
    missing = {each for each in wanted - have if each[0] not in ("ReplicaSet", "Job")}
    assert missing == set()


@pytest.mark.shared
def test_objects_as_clusters_have_them_load_whole(shared_data: Path) -> None:
    found = load(shared_data / "k8s-objects")
    assert found.problems == ()
    assert len(found.pods) > 20


@pytest.mark.shared
def test_the_sock_shop(shared_data: Path) -> None:
    found = load(shared_data / "sock-shop" / "manifests")
    names = {workload.name for workload in found.workloads if workload.namespace == "sock-shop"}
    assert {"front-end", "carts", "carts-db", "orders", "user-db", "session-db", "queue-master"} <= names
    assert found.problems == ()
