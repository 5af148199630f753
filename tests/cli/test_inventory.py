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


DEPLOYMENT = (
    "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: web, namespace: shop}\n"
    "spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: nginx}]}}}\n"
)


def test_a_filter_holds_what_manifests_promise(folder: Path) -> None:
    (folder / "web.yaml").write_text(DEPLOYMENT)
    for text in ('labels["app"] == "web"', "app=web"):
        code, out, err = run("list", "--manifests", str(folder), "-l", text, "-o", "json")
        (row,) = json.loads(out)
        assert (code, row["kind"], row["name"], row["workload"]) == (0, "Pod", "web", "Deployment/web")
        assert row["uid"] is None
        # A selector is never an error; without the label CEL is one, for the pod and the service.
        assert ("an error for 2 more" in err) == ("==" in text)
    with pytest.raises(Problem, match="--filter line 1 column"):
        run("list", "--manifests", str(folder), "--filter", 'labels["app" == 1')


def test_groups_of_manifests(folder: Path) -> None:
    (folder / "web.yaml").write_text(DEPLOYMENT)
    code, out, _ = run("list", "--manifests", str(folder), "--by", "workload")
    assert code == 0
    assert out.splitlines() == [
        "CLUSTER  NAMESPACE  WORKLOAD        PODS  MEMBERS",
        "         other      Pod/p           1     p",
        "         shop       Deployment/web  1     web",
    ]
    out = run("list", "--manifests", str(folder), "--by", "namespace", "-n", "shop", "-o", "json")[1]
    assert [(row["name"], row["pods"]) for row in json.loads(out)] == [("shop", 1)]
    for more, words in (
        (("--by", "colour"), "unknown grouping"),
        (("--by", "node", "--kind", "pod"), "a kind with"),
    ):
        with pytest.raises(Problem, match=words):
            run("list", "--manifests", str(folder), *more)


def test_a_preview_over_manifests(folder: Path) -> None:
    (folder / "web.yaml").write_text(DEPLOYMENT)
    place = ("filters", "preview", "--manifests", str(folder))
    code, out, _ = run(*place, "--to", "app=web", "--from", 'namespace == "other"')
    assert (code, out) == (
        0,
        "holds 1 before, 1 after\njoins 1:\n  + pod shop/web\nleaves 1:\n  - pod other/p\n",
    )
    out = run(*place, "--to", 'labels["app"] == "web"')[1]
    assert '  ! pod other/p: labels has no key `app` (line 1 column 1: labels["app"])' in out
    (folder / "bad.yaml").write_text("a: [")
    code, out, err = run(*place, "--to", "app=web", "-o", "json")
    assert code == 2
    assert json.loads(out)["joins"]["count"] == 1
    assert err.startswith("error: not YAML")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to preview"),
        (("--manifests", "x"), "nothing to preview"),
        (("web", "--manifests", "x", "--to", "true"), "no saved filters"),
        (("--manifests", "x", "--to", "true", "--at", "1h"), "no past"),
        (("--to", "true", "--from", "false"), "a text to replace"),
        (("--manifests", "/does/not/exist", "--to", "nme == 'x'"), "--to line 1 column 1"),
    ],
)
def test_a_preview_that_contradicts_itself(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(Problem, match=words):
        run("filters", "preview", *arguments)


def test_manifests_have_no_past(folder: Path) -> None:
    with pytest.raises(Problem, match="no history"):
        run("list", "--manifests", str(folder), "--at", "15m")
