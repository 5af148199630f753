"""The compatibility matrix: which versions of Kubernetes the connector is known to follow."""

from __future__ import annotations

import re

from ringfence.model.problems import Problem

OLDEST, NEWEST = 25, 34
"""Minor versions of Kubernetes 1, both included. OpenShift reports the Kubernetes that it is made of."""

STREAMS = 32
"""The first minor version whose lists are asked for as streams; older servers may ignore the wish."""

_VERSION = re.compile(r"v?1\.(\d+)")


def minor(version: str) -> int | None:
    """The minor version in `v1.34.9`, `v1.27.8+4fab27b` and the like; None for anything else."""
    match = _VERSION.match(version)
    return int(match[1]) if match else None


def unsupported(version: str) -> Problem | None:
    """What to say of a server outside the matrix. It is followed all the same."""
    found = minor(version)
    if found is not None and OLDEST <= found <= NEWEST:
        return None
    what = f"Kubernetes {version}" if version else "a Kubernetes that does not tell its version"
    fix = f"supported are 1.{OLDEST} to 1.{NEWEST}; it is followed, check what it tells"
    return Problem(f"{what} is not in the compatibility matrix", "the API server", fix)
