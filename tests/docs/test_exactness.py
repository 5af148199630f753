"""The page of exact claims names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_that_is_named_exists(repo: Path) -> None:
    page = (repo / "docs" / "explanation" / "exactness.md").read_text()
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", page)
    assert len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (repo / file).read_text(), f"{file}::{name}"
