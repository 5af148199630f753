"""Shared fixtures: what the machine can do, and where the given data is.

A test that needs something the machine lacks is skipped with a reason, or fails where REQUIRE_REAL=1 (CI).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

pytest_plugins = ("tests.kubernetes",)

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_REAL = os.environ.get("REQUIRE_REAL") == "1"


def _missing(item: pytest.Item) -> str | None:
    if item.get_closest_marker("real"):
        if os.geteuid() != 0:
            return "needs root: run as root, or `make test` in CI"
        for tool in ("ip", "iptables", "clang"):
            if shutil.which(tool) is None:
                return f"needs the command `{tool}`: run `make setup` as root"
    if item.get_closest_marker("testbed"):
        for tool in ("go", "apt-get", "openssl"):
            if shutil.which(tool) is None:
                return f"needs the command `{tool}` to make a Kubernetes: see docs/reference/testbed.md"
    if item.get_closest_marker("shared") and not _data_folder().is_dir():
        return "needs the given data in ../shared/data"
    return None


def _data_folder() -> Path:
    return Path(os.environ.get("RINGFENCE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = _missing(item)
    if reason and REQUIRE_REAL:
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything must be real, only what the kernel itself cannot do may be left out: `this kernel ...`."""
    report = yield
    if REQUIRE_REAL and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith("this kernel "):
            report.outcome, report.longrepr = "failed", f"left out where REQUIRE_REAL=1: {reason}"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data nobody here wrote."""
    return _data_folder()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of this checkout."""
    return ROOT
