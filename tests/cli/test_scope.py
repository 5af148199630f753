"""`ringfence scope` as people run it: against a server, and over manifests."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cli.conftest import verb
from tests.server.catalog import pod

MANIFESTS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: nginx}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec: {template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: postgres}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80}]}
"""
SCOPES = """\
scopes:
- {name: root}
- {name: shop, parent: root, filter: namespace == "shop"}
- {name: data, parent: root, filter: 'app=db'}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "all.yaml").write_text(MANIFESTS)
    (tmp_path / "scopes.yaml").write_text(SCOPES)
    return tmp_path


def test_from_nothing_to_a_committed_tree_and_an_edit(online, golden):
    assert (
        online("scope", "tree").out
        == "version 0\nno scopes; begin with `ringfence scope init --per-namespace`\n"
    )
    done = online("scope", "init", "--per-namespace")
    assert done.code == 0
    golden("scope-init", done.out)
    assert online("scope", "commit", "--note", "begin").out.endswith("committed version 1: 4 scopes\n")
    golden("scope-tree", online("scope", "tree").out)
    done = online("scope", "edit", "shop", "--filter", 'namespace == "shop" && labels["app"] == "web"')
    assert done.code == 0
    golden("scope-edit", done.out)
    done = online("scope", "edit", "web", "--filter", "app=web")
    assert done.code == 1
    golden("scope-conflict", done.out)
    assert online("scope", "commit").code == 1
    assert online("scope", "tree").out.startswith("version 1; there is a draft")
    online("scope", "edit", "shop", "--order", "2")
    online("scope", "edit", "other", "--order", "3")
    assert online("scope", "edit", "web", "--order", "1").code == 0
    assert online("scope", "commit").code == 0
    rows = json.loads(online("scope", "tree", "-o", "json").out)["scopes"]
    assert {row["name"]: row["decides"] for row in rows}["web"] == 3
    assert [row["note"] for row in json.loads(online("scope", "versions", "-o", "json").out)] == ["", "begin"]
    assert "web-3" in online("scope", "show", "web").out
    assert "4 more" not in online("scope", "show", "web", "--limit", "1").out
    assert "note: 2 more" in online("scope", "show", "web", "--limit", "1").err


def test_a_conflict_that_came_after_the_commit_exits_1(online):
    online("scope", "init", "--single", "--yes")
    online("scope", "edit", "a", "--filter", '"a" in labels')
    online("scope", "edit", "b", "--filter", '"b" in labels')
    assert online("scope", "commit").code == 0
    assert online("scope", "tree").code == 0
    online.tell(pod("both", "shop", a="1", b="1"), at=time.time_ns())
    done = online("scope", "tree")
    assert done.code == 1
    assert "pod shop/both in lab" in done.out
    done = online("scope", "path", "shop/both")
    assert done.code == 1
    assert done.out.splitlines()[1].split("  ") == ["pod shop/both in lab", "root > undecided: a and b"]
    assert online("scope", "path", "web-1").code == 0


def test_drafts_are_discarded_deleted_from_and_never_overwritten(online):
    online("scope", "init", "--single")
    done = online("scope", "init", "--single")
    assert done.code == 2
    assert done.err.startswith("error: there is a draft already")
    assert online("scope", "init", "--single", "--replace").code == 0
    online("scope", "edit", "shop", "--filter", 'namespace == "shop"')
    assert online("scope", "delete", "shop").code == 0
    assert len(json.loads(online("scope", "tree", "--draft", "-o", "json").out)["scopes"]) == 1
    done = online("scope", "commit", "--revision", "1")
    assert done.code == 1
    assert "the draft is at revision" in done.err
    assert online("scope", "discard").out == "the draft is dropped\n"
    assert online("scope", "discard").out == "there was no draft\n"
    assert online("scope", "review").err.startswith("error: no draft: scopes: begin one")


def test_a_bad_filter_names_scope_line_and_column(online):
    done = online("scope", "edit", "shop", "--filter", 'labels["app" == "web"')
    assert done.code == 2
    assert "scope shop line 1 column" in done.err


def test_what_is_exported_is_what_is_read(online, folder):
    online("scope", "init", "--per-namespace", "--yes")
    text = online("scope", "export").out
    (folder / "export.yaml").write_text(text)
    assert verb("scope", "check", str(folder / "export.yaml"), "-f", str(folder / "k8s")).code == 0
    assert online("scope", "init", "--file", str(folder / "export.yaml")).out.count("nothing changes") == 1


def test_check_over_manifests(folder, golden):
    done = verb("scope", "check", str(folder / "scopes.yaml"), "--manifests", str(folder / "k8s"))
    assert done.code == 1
    golden("scope-check", done.out)
    (folder / "scopes.yaml").write_text(
        SCOPES.replace("app=db'", "app=db', order: 1").replace('"shop"}', '"shop", order: 2}')
    )
    done = verb("scope", "check", str(folder / "scopes.yaml"), "-f", str(folder / "k8s"), "-o", "json")
    assert done.code == 0
    rows = {row["name"]: row for row in json.loads(done.out)["scopes"]}
    assert (rows["data"]["decides"], rows["shop"]["count"], rows["shop"]["decides"]) == (1, 3, 2)


def test_a_bad_file_of_scopes_tells_every_problem(folder):
    (folder / "scopes.yaml").write_text("- {name: A}\n- {name: b, parent: c}\n")
    done = verb("scope", "check", str(folder / "scopes.yaml"), "-f", str(folder / "k8s"))
    assert done.code == 2
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 2


@pytest.mark.parametrize("arguments", [(), ("--single", "--per-namespace")])
def test_one_design_is_needed(arguments):
    done = verb("scope", "init", *arguments)
    assert done.err == "error: no one design: scope init: give one of --per-namespace, --single and --file\n"


@pytest.mark.parametrize("output", ["json", "jsonl", "yaml"])
def test_every_format(online, output):
    import yaml

    online("scope", "init", "--per-namespace", "--yes")
    for arguments in (("tree",), ("versions",), ("export",), ("show", "shop")):
        out = online("scope", *arguments, "-o", output).out
        parsed = [json.loads(line) for line in out.splitlines()] if output == "jsonl" else yaml.safe_load(out)
        assert parsed
