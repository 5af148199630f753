"""Versions of Kubernetes and the compatibility matrix."""

from __future__ import annotations

import pytest

from ringfence.kube.support import minor, unsupported


@pytest.mark.parametrize(
    ("version", "number", "fits"),
    [
        ("v1.34.9", 34, True),
        ("v1.25.0-eks-1", 25, True),
        ("v1.27.8+4fab27b", 27, True),
        ("v1.24.17", 24, False),
        ("v1.35.0-alpha.1", 35, False),
        ("v2.0.0", None, False),
        ("", None, False),
        ("latest", None, False),
    ],
)
def test_versions(version: str, number: int | None, fits: bool) -> None:
    assert minor(version) == number
    problem = unsupported(version)
    assert (problem is None) == fits
    if problem is not None:
        assert (version or "does not tell") in str(problem)
