"""The connector's page: rights, versions and settings are those of the code."""

from __future__ import annotations

import re

import yaml

from ringfence.cli.config import load
from ringfence.kube.decode import KINDS
from ringfence.kube.settings import ConnectorSettings, clusters_of
from ringfence.kube.support import NEWEST, OLDEST, STREAMS


def page(repo) -> str:
    return (repo / "docs" / "reference" / "connector.md").read_text()


def blocks(repo) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page(repo), re.DOTALL)


def test_the_rights_are_those_of_the_kinds(repo):
    (role,) = [block for block in blocks(repo) if "ClusterRole" in block]
    rules = yaml.safe_load(role)["rules"]
    told = {(group, name) for rule in rules for group in rule["apiGroups"] for name in rule["resources"]}
    assert told == {(entry.group, entry.plural) for entry in KINDS.values()}
    assert all(rule["verbs"] == ["list", "watch"] for rule in rules)


def test_the_settings_are_taken(repo, tmp_path):
    (example,) = [block for block in blocks(repo) if "clusters:" in block]
    file = tmp_path / "connector.yaml"
    file.write_text(example)
    assert [each.cluster for each in clusters_of(load(ConnectorSettings, file, {}))] == [
        "prod",
        "test",
        "lab",
    ]


def test_the_matrix_is_that_of_the_code(repo):
    rows = re.findall(r"^\| (1\.[^|]*) \| yes \| ([^|]*) \|", page(repo), re.MULTILINE)
    minors = {}
    for versions, states in rows:
        found = [int(text) for text in re.findall(r"1\.(\d+)", versions)]
        for minor in range(found[0], found[-1] + 1):
            minors[minor] = "streamed" in states
    assert minors == {minor: minor >= STREAMS for minor in range(OLDEST, NEWEST + 1)}
