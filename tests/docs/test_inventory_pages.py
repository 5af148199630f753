"""The lists, trees and filters that the pages show are ones that the code takes."""

from __future__ import annotations

import re

import pytest

from ringfence.inventory.externals_file import read_externals
from ringfence.inventory.filters import parse_any
from ringfence.inventory.scope_file import read_scopes


def blocks(repo, page: str, language: str) -> list[str]:
    text = (repo / "docs" / "reference" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_lists_shown_are_read(repo):
    (csv,) = blocks(repo, "inventory.md", "csv")
    (yaml,) = blocks(repo, "inventory.md", "yaml")
    for text, file in ((csv, "f.csv"), (yaml, "f.yaml")):
        entries, problems = read_externals(text, file)
        assert not problems
        assert [each.name for each in entries] == ["bank", "datacentre"]


def test_the_tree_shown_is_read(repo):
    (text,) = blocks(repo, "scopes.md", "yaml")
    tree, problems = read_scopes(text, "scopes.md")
    assert not problems
    assert tree.path("data") == ("root", "shop", "data")


@pytest.mark.parametrize("page", ["docs/reference/inventory.md", "docs/reference/scopes.md", "README.md"])
def test_the_filters_shown_are_taken(repo, page):
    found = re.findall(r"(?:--filter|--to|-l|save \w+) (?:'([^']+)'|(\w+=\w+))", (repo / page).read_text())
    assert found
    for quoted, plain in found:
        assert parse_any(quoted or plain)
