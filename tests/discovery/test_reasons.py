"""Every reason is explained to users, and every reason in the code has its row."""

from __future__ import annotations

import re
from pathlib import Path

from ringfence.discovery.reasons import REASONS


def test_the_reference_lists_every_reason(repo: Path) -> None:
    page = (repo / "docs/reference/netpol.md").read_text()
    (section,) = re.findall(r"^## Reasons$(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert listed == set(REASONS)


def test_every_reason_says_why_and_what_to_do() -> None:
    assert all(reason.why and reason.decide for reason in REASONS.values())
