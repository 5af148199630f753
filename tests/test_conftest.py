"""What may be left out where everything must be real: only what the kernel itself cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import pytest

def test_lazy():
    pytest.skip("no tshark here")

def test_kernel():
    pytest.skip("this kernel has no SCTP")

@pytest.mark.skipif(True, reason="not today")
def test_marked():
    pass
"""


@pytest.mark.parametrize(
    ("real", "outcome"), [("1", {"failed": 2, "skipped": 1}), ("0", {"failed": 0, "skipped": 3})]
)
def test_a_skip_fails_where_everything_must_be_real(
    repo: Path, tmp_path: Path, real: str, outcome: dict[str, int]
) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rA", "-q"]
    done = subprocess.run(
        [*argv, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=repo,
        env={**os.environ, "REQUIRE_REAL": real, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout
    failed, skipped = said.count("\nFAILED ") + said.count("\nERROR "), said.count("\nSKIPPED ")
    assert {"failed": failed, "skipped": skipped} == outcome, said
