"""`ringfence inventory` as people run it, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ringfence.cli.inventory import app
from ringfence.model.problems import Problem

SERVICE = (
    "kind: Service\napiVersion: v1\nmetadata: {name: carts, namespace: shop, labels: {a: b}}\n"
    "spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}\n"
)
POD = "kind: Pod\napiVersion: v1\nmetadata: {name: p, namespace: other}\nstatus: {podIP: 10.0.0.1}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(f"{SERVICE}---\n{POD}")
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit | typer.Exit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_is_one_document(folder: Path) -> None:
    code, out, _ = run("list", "--manifests", str(folder), "-o", "json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["kind"], row["name"]) for row in rows] == [
        ("Service", "carts"),
        ("Workload", "p"),
        ("Pod", "p"),
    ]
    assert rows[0]["labels"] == {"a": "b"}
    assert rows[0]["uid"] is None


def test_list_one_kind_of_one_namespace(folder: Path) -> None:
    assert "carts" not in run("list", "--manifests", str(folder), "--kind", "pods")[1]
    assert "carts" in run("list", "--manifests", str(folder), "-n", "shop")[1]
    with pytest.raises(Problem, match="unknown kind"):
        run("list", "--manifests", str(folder), "--kind", "widget")


def test_show_by_name_and_by_address(folder: Path) -> None:
    for name in ("shop/carts", "carts", "Service/carts", "10.96.0.7"):
        assert "name: carts" in run("show", name, "--manifests", str(folder))[1]
    with pytest.raises(Problem, match="no such object"):
        run("show", "nobody", "--manifests", str(folder))


def test_a_broken_document_is_said_after_the_rest_and_exits_2(folder: Path) -> None:
    (folder / "bad.yaml").write_text("a: [\n---\n" + SERVICE.replace("carts", "orders"))
    code, out, err = run("list", "--manifests", str(folder))
    assert code == 2
    assert "carts" in out
    assert "orders" in out
    assert err.startswith("error: not YAML")
    assert "bad.yaml document 1 line" in err


def test_standard_input() -> None:
    assert "carts" in run("list", "--manifests", "-", stdin=SERVICE)[1]


def test_manifests_have_no_past(folder: Path) -> None:
    with pytest.raises(Problem, match="no history"):
        run("list", "--manifests", str(folder), "--at", "15m")
