"""`netpol connectivity|diff|explain|lint` as people and pipelines use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringfence.cli.netpol import app
from ringfence.model.problems import Problem

SHOP = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: front-end, namespace: shop}
spec: {template: {metadata: {labels: {app: front}}, spec: {containers: [{name: c}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: carts, namespace: shop}
spec:
  template:
    metadata: {labels: {app: carts}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
"""
CLOSED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: carts, namespace: shop}
spec:
  podSelector: {matchLabels: {app: carts}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: front}}}], ports: [{port: http}]}]
  egress: [{to: [{podSelector: {}}], ports: [{port: 8080}]}]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "a.yaml").write_text(SHOP)
    (folder / "b.yaml").write_text(CLOSED)
    return folder


def run(*words: object, given: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], input=given)
    if isinstance(result.exception, Problem):
        return 2, result.stdout, f"error: {result.exception}"
    return result.exit_code, result.stdout, result.stderr


def test_lines(shop: Path) -> None:
    code, out, _ = run("connectivity", shop)
    assert code == 0
    assert out.splitlines() == [
        "0.0.0.0-255.255.255.255[External] => shop/front-end[Deployment] : All Connections",
        "shop/carts[Deployment] => shop/front-end[Deployment] : TCP 8080",
        "shop/front-end[Deployment] => 0.0.0.0-255.255.255.255[External] : All Connections",
        "shop/front-end[Deployment] => shop/carts[Deployment] : TCP 80",
    ]


def test_every_format_tells_the_same_pairs(shop: Path) -> None:
    for form in ("txt", "table", "csv", "md", "dot", "svg", "yaml", "json", "jsonl"):
        code, out, _ = run("connectivity", shop, "-o", form, "--exposure")
        assert (code, "shop/carts[Deployment]" in out, "TCP 8080" in out) == (0, True, True), form
    rows = json.loads(run("connectivity", shop, "-o", "json")[1])
    assert rows[1] == {
        "src": "shop/carts[Deployment]",
        "dst": "shop/front-end[Deployment]",
        "conn": "TCP 8080",
    }


def test_standard_input() -> None:
    assert run("connectivity", "-", given=SHOP + "---" + CLOSED)[1].count("\n") == 4


def test_focus(shop: Path) -> None:
    out = run("connectivity", shop, "--focus-workload", "carts", "--focus-direction", "ingress")[1]
    assert out == "shop/front-end[Deployment] => shop/carts[Deployment] : TCP 80\n"
    out = run("connectivity", shop, "--focus-conn", "tcp-8080", "--focus-workload", "shop/carts")[1]
    assert out.startswith("Permitted connections on TCP 8080:\nshop/carts[Deployment] => shop/front-end")
    code, _, err = run("connectivity", shop, "--focus-workload", "nobody")
    assert (code, "no such workload: nobody" in err) == (2, True)


def test_what_is_refused_says_file_field_and_fix(shop: Path) -> None:
    (shop / "b.yaml").write_text(CLOSED.replace("port: 8080", "port: 80801"))
    code, out, err = run("connectivity", shop)
    assert (code, out) == (2, "")
    assert "spec.egress[0].ports[0].port: 80801 is no port" in err
    assert "b.yaml document 1 line 1" in err


def test_a_broken_document_costs_itself_and_the_exit_code(shop: Path) -> None:
    (shop / "c.yaml").write_text("kind: [")
    code, out, err = run("connectivity", shop)
    assert (code, out.count("\n")) == (2, 4)
    assert "c.yaml" in err


def test_foreign_json_is_a_note_and_with_strict_an_error(shop: Path) -> None:
    (shop / "list.json").write_text('[{"src": "a"}]')
    code, _, err = run("connectivity", shop)
    assert (code, "list.json" in err) == (0, True)
    assert run("connectivity", shop, "--strict")[0] == 2


def test_difference_and_its_exit_codes(shop: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "a.yaml").write_text(SHOP)
    code, out, _ = run("diff", shop, old)
    assert code == 1
    assert "diff-type: added, source: shop/carts[Deployment]" in out
    assert (
        "changed, source: shop/front-end[Deployment], destination: shop/carts[Deployment], ref1: TCP 80"
        in out
    )
    assert run("diff", shop, old, "--fail-on", "removed")[0] == 0
    assert run("diff", shop, shop)[:2] == (0, "")
    assert run("diff", shop, old, "--fail-on", "sometimes")[0] == 2
    for form in ("table", "csv", "md", "dot", "yaml", "json", "jsonl"):
        assert "shop/carts[Deployment]" in run("diff", shop, old, "-o", form)[1], form


def test_explain(shop: Path) -> None:
    code, out, _ = run("explain", shop, "--from", "front-end", "--to", "shop/carts", "--port", "http")
    assert code == 0
    assert "shop/front-end[Deployment] => shop/carts[Deployment] : TCP 80: allowed" in out
    assert "NetworkPolicy shop/carts spec.ingress[0] allows it" in out
    code, out, _ = run("explain", shop, "--from", "10.0.0.1", "--to", "carts", "--port", "80", "-o", "json")
    assert (code, json.loads(out)["allowed"]) == (1, False)
    assert run("explain", shop, "--from", "ghost", "--to", "carts", "--port", "80")[0] == 2


def test_lint(shop: Path) -> None:
    code, out, _ = run("lint", shop, "-o", "json")
    assert code == 1
    assert [finding["check"] for finding in json.loads(out)] == ["dns-blocked"]
    assert run("lint", shop, "--fail-on", "selects-nothing")[0] == 0
    (shop / "b.yaml").write_text(CLOSED.replace("app: carts}}\n  policyTypes", "app: cart}}\n  policyTypes"))
    assert "selects-nothing: NetworkPolicy shop/carts" in run("lint", shop)[1]
