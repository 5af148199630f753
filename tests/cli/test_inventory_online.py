"""`ringfence inventory` against a server: filters, outside lists, the past, and how the connectors do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cli.conftest import verb
from tests.server.catalog import pod

WEB = 'labels["app"] == "web"'


def inventory(online, *arguments, **more):
    return online("inventory", *arguments, **more)


def test_lists_by_filter_group_and_time(online, golden, now):
    golden("list-filter", inventory(online, "list", "--filter", WEB).out)
    assert "an error for 3 more" in inventory(online, "list", "--filter", WEB).err
    golden("list-by-service", inventory(online, "list", "--by", "service").out)
    golden("list-by-workload", inventory(online, "list", "--by", "workload", "-n", "shop").out)
    online.tell(pod("web-1"), at=now, gone=True)
    names = [row["name"] for row in json.loads(inventory(online, "list", "-l", "app=web", "-o", "json").out)]
    assert names == ["web-3", "web-2"]
    out = inventory(online, "list", "-l", "app=web", "--at", "10m", "-o", "jsonl").out
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["web-3", "web-1", "web-2"]
    done = inventory(online, "list", "--filter", 'labels["app" == 1')
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "filter line 1 column" in done.err
    assert "name: web-2" in inventory(online, "show", "10.0.0.2").out


def test_a_filter_from_save_to_delete(online, golden):
    assert inventory(online, "filters", "save", "web", WEB).out == "saved web version 1: it holds 3\n"
    golden("filters-list", inventory(online, "filters", "list").out)
    golden(
        "filters-preview", inventory(online, "filters", "preview", "web", "--to", 'labels["app"] == "db"').out
    )
    assert inventory(online, "filters", "preview", "--to", "app=db").out.startswith(
        "holds 0 before, 1 after\njoins 1"
    )
    golden("filters-members", inventory(online, "filters", "members", "web").out)
    done = inventory(online, "filters", "members", "web", "--addresses")
    assert done.out == "10.0.0.1\n10.0.0.2\n10.0.0.4\n"
    assert done.err.startswith("generation ")
    done = inventory(online, "filters", "save", "web", "app=web", "--base", "0")
    assert done.code == 2
    assert "version 1 by now" in done.err
    shown = json.loads(inventory(online, "filters", "show", "web", "-o", "json").out)
    assert [each["text"] for each in shown["versions"]] == [WEB]
    assert "by\n" not in inventory(online, "filters", "show", "web", "-o", "table").out
    assert inventory(online, "filters", "delete", "web").out == "deleted web\n"
    assert inventory(online, "filters", "members", "web").err.startswith("error: no filter `web`")
    done = inventory(online, "filters", "save", "bad", 'nme == "x"')
    assert done.code == 2
    assert "filter bad line 1 column 1" in done.err


def test_a_list_from_apply_to_delete(online, tmp_path: Path, golden):
    file = tmp_path / "sites.csv"
    file.write_text("network,name,site\n203.0.113.0/24,dc,hh\n198.51.100.7,bank,\n")
    apply = ("externals", "apply", str(file), "--catalog", "sites")
    golden("externals-apply", inventory(online, *apply, "--dry-run").out)
    assert inventory(online, "externals", "list", "-o", "json").out.strip() == "[]"
    assert inventory(online, *apply, "--from", "30m").code == 0
    golden("externals-list", inventory(online, "externals", "list").out)
    golden("externals-entries", inventory(online, "externals", "list", "--catalog", "sites").out)
    out = inventory(online, "history", "203.0.113.9", "--since", "50m", "-o", "json").out
    assert [each["name"] for each in json.loads(out)] == [None, "dc"]
    assert "External" in inventory(online, "list", "--filter", 'catalog == "sites"').out
    done = inventory(
        online, "externals", "apply", "-", "--catalog", "sites", stdin="network,name\n10.1.2.3/16,x\ny,\n"
    )
    assert done.code == 2
    assert [line.split(": ")[-2] for line in done.err.splitlines()] == [
        "standard input line 2 field `network`",
        "standard input line 3 field `network`",
        "standard input line 3 field `name`",
    ]
    assert inventory(online, "externals", "delete", "--catalog", "sites").out.startswith(
        "sites is replaced: 0 added, 0 changed, 2 removed"
    )
    assert inventory(online, "externals", "delete", "--catalog", "sites").code == 2


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (b"\xff\xfe", "not text in UTF-8")])
def test_a_file_that_cannot_be_read(tmp_path: Path, content, words):
    file = tmp_path / "sites.csv"
    if content is not None:
        file.write_bytes(content)
    done = verb("inventory", "externals", "apply", str(file), "--catalog", "sites")
    assert done.code == 2
    assert words in done.err


def test_what_an_object_was_and_who_held_an_address(online, now):
    online.tell(pod("web-1", "shop", "10.0.0.1", app="www"), at=now - 600 * 10**9)
    online.tell(pod("web-1"), at=now - 300 * 10**9, gone=True)
    online.tell(pod("heir", "other", "10.0.0.1"), at=now - 200 * 10**9)
    lines = inventory(online, "history", "shop/web-1").out.splitlines()
    assert lines[0].split() == ["FROM", "UNTIL", "KNOWN", "CLUSTER", "OBJECT", "WHAT", "CHANGED"]
    rows = [line.split()[3:] for line in lines[1:3]] + [lines[3].split()[2:]]
    assert rows[0] == ["lab", "pod", "shop/web-1", "appeared"]
    assert rows[1] == ["lab", "pod", "shop/web-1", "labels", "+app=www"]
    assert rows[2][-1] == "gone"
    held = json.loads(inventory(online, "history", "10.0.0.1", "--since", "2h", "-o", "json").out)
    assert [each["name"] for each in held] == [None, "web-1", "web-1", None, "heir"]
    assert held[0]["kind"] == "unresolved"
    table = inventory(online, "history", "10.0.0.1", "--since", "250s").out
    assert "heir" in table
    assert "app=www" in inventory(online, "history", "10.0.0.1", "--since", "2h").out
    assert "web-1" not in table
    assert (
        inventory(online, "history", "10.0.0.1", "--since", "2h", "--known", "250s", "-o", "json").out.count(
            "heir"
        )
        == 0
    )
    done = inventory(online, "history", "nobody")
    assert done.code == 2
    assert done.err.startswith("error: no such object: nobody since 24h")


def test_without_any_cluster_nobody_held_anything(tmp_path, monkeypatch):
    from ringfence.cli import inventory_history
    from ringfence.model.problems import Problem

    class Empty:
        def __init__(self, *_):
            pass

        def get(self, *_):
            return {"address": "10.0.0.1", "holders": []}

    monkeypatch.setattr(inventory_history, "Client", Empty)
    with pytest.raises(Problem, match="no cluster is known yet"):
        inventory_history.ask("10.0.0.1", {"since": "1h"}, None, None)


def report(online, cluster, states, **more):
    body = {
        "cluster": cluster,
        "version": "0.1.0",
        "server_version": "v1.34.9",
        "supported": True,
        "states": {
            kind: {"state": state, "detail": detail, "since": 0} for kind, (state, detail) in states.items()
        },
        **more,
    }
    online.agent.put(f"/v1/ingest/connector?cluster={cluster}", body)


def test_no_connector_is_no_good_news(online):
    done = inventory(online, "status")
    assert done.code == 1
    assert (
        done.out == "no connector has reported; start one a cluster: `ringfence connector --cluster NAME`\n"
    )
    assert inventory(online, "status", "-o", "json").code == 1


def test_status_shows_bad_news_first_and_exits_1(online, golden):
    report(online, "east", {"Pod": ("current", ""), "Route": ("absent", "not served")}, lag=0)
    assert inventory(online, "status").code == 0
    report(
        online,
        "west",
        {"Node": ("current", ""), "Pod": ("forbidden", "pods is forbidden"), "Job": ("behind", "410 Gone")},
        problems={"Pod shop/x: ports left out": 3},
        supported=False,
        lag=2_500_000_000,
    )
    done = inventory(online, "status")
    assert done.code == 1
    # How long ago a word came is the one thing here that differs from run to run.
    golden("status", done.out.replace("1 s ago", "0 s ago").replace("2 s ago", "0 s ago"))
    judged = json.loads(inventory(online, "status", "-o", "json").out)
    assert [(each["cluster"], each["current"], each["not_current"]) for each in judged] == [
        ("west", False, ["Job", "Pod"]),
        ("east", True, []),
    ]


def test_a_connector_that_fell_silent_is_not_believed(capsys):
    from ringfence.cli.inventory_status import SILENCE, show_status
    from ringfence.cli.output import Output

    said = {
        "cluster": "c",
        "silent": SILENCE + 1,
        "states": {"Pod": {"state": "current", "detail": "", "since": 0}},
    }
    said |= {"supported": None, "server_version": None, "lag": None, "problems": {}}
    assert not show_status([said], Output.table)
    assert "unseen" in capsys.readouterr().out
    show_status([{**said, "problems": {f"problem {number}": 1 for number in range(25)}}], Output.table)
    assert capsys.readouterr().out.endswith("and 5 more; -o json has them all\n")
    assert show_status([{**said, "silent": SILENCE}], Output.json)
    # One that follows nothing yet is not current either.
    assert not show_status([{**said, "silent": 0, "states": {}}], Output.json)


@pytest.mark.parametrize("output", ["json", "jsonl", "yaml"])
def test_every_format(online, output):
    import yaml

    inventory(online, "filters", "save", "web", WEB)
    verbs = (("list",), ("list", "--by", "node"), ("filters", "list"), ("filters", "members", "web"), ("filters", "show", "web"), ("history", "web-1"))  # fmt: skip
    for arguments in verbs:
        out = inventory(online, *arguments, "-o", output).out
        parsed = [json.loads(line) for line in out.splitlines()] if output == "jsonl" else yaml.safe_load(out)
        assert parsed


def test_news_reaches_members_at_once(online):
    inventory(online, "filters", "save", "web", "app=web")
    for number in range(20):
        online.tell(pod(f"new-{number}", "shop", app="web"), at=time.time_ns())
        found = json.loads(inventory(online, "filters", "members", "web", "-o", "json").out)
        assert found["count"] == 4 + number
