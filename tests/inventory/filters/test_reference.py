"""The page about filters keeps up with the code: every field and function is on it, and its examples are filters."""

from __future__ import annotations

import re

import pytest

from ringfence.inventory.filters import FIELDS, parse
from ringfence.inventory.filters.functions import NAMES
from ringfence.model.problems import Problem


@pytest.fixture(scope="module")
def page(repo) -> str:
    return (repo / "docs" / "reference" / "filters.md").read_text()


def test_the_table_of_fields_is_that_of_the_code(page):
    rows = [f"| `{f.name}` | {f.type} | {', '.join(f.kinds)} | {f.meaning} |" for f in FIELDS]
    table = page.split("| field | type | of | meaning |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == rows


def test_every_function_is_explained(page):
    table = page.split("| function | meaning |")[1].split("\n\n")[0]
    assert [name for name in sorted(NAMES) if f"{name}(" not in table] == []


def test_every_example_is_a_filter(page):
    blocks = re.findall(r"```cel\n(.*?)```", page, re.DOTALL)
    examples = [example for block in blocks for example in block.split("\n\n")]
    assert len(examples) > 10
    for example in examples:
        parse(example)


def test_the_error_of_the_page_is_the_error(page):
    with pytest.raises(Problem) as caught:
        parse('    lables["app"] == "web"')
    assert f"error: {caught.value}" in page
