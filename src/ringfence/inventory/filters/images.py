"""Image references, taken apart by the grammar of distribution/reference.

`reference := name [":" tag] ["@" digest]`, `name := [domain "/"] path`. The first part is a domain only when it
holds a dot or a colon, or is `localhost`; without one it is docker.io, and a bare name there is in `library/`
(distribution/reference normalize.go, splitDockerDomain).
"""

from __future__ import annotations

import re

DOCKER_HUB = "docker.io"

_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_DIGEST_ONLY = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9-]+)*(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?"
)


def parts(reference: str) -> dict[str, str]:
    """`reference` itself, and where it follows the grammar its registry, repository, tag and digest.

    Parts that are not there are not in the answer: no tag is invented (a missing one means `latest` only to
    those who pull). A text that is no reference has only `reference`.
    """
    rest, _, digest = reference.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        return {"reference": reference}
    head, slash, last = rest.rpartition("/")
    bare, colon, tag = last.partition(":")
    name = head + slash + bare
    if (colon and not _TAG.fullmatch(tag)) or _DIGEST_ONLY.fullmatch(name):
        return {"reference": reference}
    registry, repository = _split(name)
    if not _PATH.fullmatch(repository) or not _DOMAIN.fullmatch(registry):
        return {"reference": reference}
    found = {"reference": reference, "registry": registry, "repository": repository}
    return found | ({"tag": tag} if tag else {}) | ({"digest": digest} if digest else {})


def _split(name: str) -> tuple[str, str]:
    """(domain, path) with Docker Hub's defaults."""
    first, slash, rest = name.partition("/")
    named = slash and (first == "localhost" or "." in first or ":" in first or first != first.lower())
    domain, path = (first, rest) if named else (DOCKER_HUB, name)
    if domain == "index.docker.io":
        domain = DOCKER_HUB
    if domain == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return domain, path
