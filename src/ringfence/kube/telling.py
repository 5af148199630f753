"""The Ringfence server as a connector sees it: changes, reports and checkpoints over HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from typing import Any

import httpx
import msgspec

from ringfence.kube.outbox import Outbox
from ringfence.model.objects import Change
from ringfence.model.problems import Problem

AT_ONCE = 2_000
"""Changes in one request."""

FIRST, LONGEST = 0.2, 15.0
"""Seconds between attempts to reach the server."""

REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
TOO_MUCH = (httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE)

log = logging.getLogger("ringfence.connector")


class Unwelcome(Problem):
    """The server does not take our token."""


class Server:
    """One Ringfence server. Inert until entered as a context."""

    def __init__(self, url: str, token: str, authority: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise Problem("not a URL", url, "write --server http://HOST:PORT")
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=30.0, trust_env=False, verify=_trusting(authority)
        )
        self._welcome = False

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def tell(self, cluster: str, changes: list[Change], sequence: int) -> tuple[int, str]:
        """(HTTP status, what was said); status 0 when there was no answer."""
        body = msgspec.json.encode({"cluster": cluster, "changes": changes, "sequence": sequence})
        status, _, said = await self._ask("POST", "/v1/ingest/changes", body, "application/json")
        return status, said

    async def report(self, cluster: str, report: dict[str, Any]) -> bool:
        """Whether the server took a report; the next one will do as well."""
        body = msgspec.json.encode({"cluster": cluster, **report})
        status, _, _ = await self._ask("PUT", _path("connector", cluster), body, "application/json")
        return status == httpx.codes.OK

    async def save(self, cluster: str, checkpoint: bytes) -> bool:
        """Whether the server took a checkpoint."""
        path = _path("checkpoint", cluster)
        status, _, said = await self._ask("PUT", path, checkpoint, "application/octet-stream")
        if status != httpx.codes.OK:
            log.warning("%s: the server does not keep the checkpoint: %s", cluster, said)
        return status == httpx.codes.OK

    async def checkpoint(self, cluster: str) -> bytes:
        """The last checkpoint, empty where there is none. Waits for the server, which alone can know."""
        wait = FIRST
        while True:
            status, body, said = await self._ask("GET", _path("checkpoint", cluster))
            if status == httpx.codes.OK:
                return body
            if status == httpx.codes.NOT_FOUND:
                return b""
            log.warning("%s: the server does not answer: %s", cluster, said)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST)

    async def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes, str]:
        """(status, body, what was said). Raises Unwelcome when the token was never taken."""
        headers = {"Content-Type": kind} if kind else {}
        try:
            response = await self._http.request(method, path, content=body or None, headers=headers)
        except httpx.HTTPError as error:
            return 0, b"", str(error) or type(error).__name__
        if response.status_code in REFUSED and not self._welcome:
            raise Unwelcome("the server refuses the token", self.url, "give --server-token-file")
        self._welcome = self._welcome or response.is_success
        return response.status_code, response.content, f"{response.status_code} {response.text[:200]}"


def _trusting(authority: str | None) -> ssl.SSLContext:
    """A TLS context that trusts the authority in a file, or the system's."""
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise Problem(f"cannot read the authority ({error})", authority or "", "give it in PEM") from None


def _path(what: str, cluster: str) -> str:
    return f"/v1/ingest/{what}?{httpx.QueryParams({'cluster': cluster})}"


async def tell_all(cluster: str, outbox: Outbox, server: Server) -> None:
    """Send what waits, in order, each part until it is acknowledged; for ever. A part sent again is harmless."""
    sequence, wait, most = 0, FIRST, AT_ONCE
    while True:
        changes = await outbox.first(most)
        status, said = await server.tell(cluster, changes, sequence + 1)
        if status == httpx.codes.OK:
            sequence, wait, most = sequence + 1, FIRST, AT_ONCE
            outbox.drop(len(changes))
        elif status in TOO_MUCH:
            if len(changes) == 1:
                # One change that the server cannot take must not hold up all that follow.
                first = changes[0]
                log.error(
                    "%s: the server cannot take a change of %s %s: %s", cluster, first.kind, first.uid, said
                )
                outbox.drop(1)
            most = max(len(changes) // 2, 1)
        else:
            log.warning("%s: the server does not acknowledge: %s", cluster, said)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST)
