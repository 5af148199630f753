"""The Kubernetes API over HTTP: lists page by page, watches line by line, refusals as one error.

Thin: bytes are decoded by `decode`, what is news is decided by `ledger`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple

import httpx
import msgspec

from ringfence.kube.access import Access, credentials, tls
from ringfence.kube.decode import KINDS

PAGE = 500
"""Objects asked for at once: what kubectl asks for."""

LONGEST_LINE = 64 << 20
"""Octets of one watch event before the connection is given up; objects in etcd are far smaller."""

GONE, UNAUTHORIZED, FORBIDDEN, ABSENT = 410, 401, 403, 404


class Refused(Exception):
    """The API said no, or nothing. `status` is the HTTP code; 0 when there was no answer."""

    def __init__(self, status: int, message: str, after: float | None = None) -> None:
        super().__init__(f"{status} {message}" if status else message)
        self.status = status
        self.message = message
        self.after = after
        """Seconds the server asks us to stay away."""


class Page(NamedTuple):
    """Part of a list: raw objects, the list's version, and the token of the next part ('' at the end)."""

    items: list[msgspec.Raw]
    version: str
    following: str


class _ListMeta(msgspec.Struct):
    resourceVersion: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta | None = None
    items: list[msgspec.Raw] | None = None


class _Status(msgspec.Struct):
    message: str | None = None
    reason: str | None = None


class Api:
    """One cluster's API. Inert until entered as a context; credentials are renewed on demand."""

    def __init__(self, access: Access, timeout: float = 30.0) -> None:
        self._access = access
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None
        self._retired: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Api:
        self.renew()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in [*self._retired, *([self._client] if self._client else [])]:
            await client.aclose()

    def renew(self) -> None:
        """Fresh credentials and connections. Raises Problem when they cannot be had.

        Watches that run on the old connections may end by themselves.
        """
        held = credentials(self._access)
        secure: Any = tls(self._access, held) if self._access.server.startswith("https") else False
        if self._client is not None:
            self._retired.append(self._client)
        self._client = httpx.AsyncClient(
            base_url=self._access.server,
            headers={**held.headers, "Accept": "application/json", "User-Agent": "ringfence-connector"},
            verify=secure,
            timeout=self._timeout,
            trust_env=False,
        )

    async def page(self, kind: str, following: str) -> Page:
        """One page of a list. Raises Refused."""
        parameters = {"limit": str(PAGE)} | ({"continue": following} if following else {})
        try:
            response = await self._http().get(_path(kind), params=parameters)
        except httpx.HTTPError as error:
            raise Refused(0, _words(error)) from None
        if response.status_code != httpx.codes.OK:
            raise _refusal(response.status_code, response.content, response.headers)
        try:
            listed = msgspec.json.decode(response.content, type=_List)
        except msgspec.MsgspecError as error:
            raise Refused(0, f"not a list: {error}") from None
        meta = listed.metadata or _ListMeta()
        items = [item for item in listed.items or () if bytes(item) != b"null"]
        return Page(items, meta.resourceVersion or "", meta.continue_ or "")

    async def lines(
        self, kind: str, version: str, seconds: int, silence: float
    ) -> AsyncGenerator[bytes, None]:
        """Whole lines of a watch from `version`. Ends when the server ends it; raises Refused otherwise.

        `silence` is how long (s) nothing at all may come: bookmarks come about once a minute, so a longer
        silence is a dead connection. A line cut by the connection's end is dropped: it comes again.
        """
        parameters = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        patience = httpx.Timeout(self._timeout, read=silence)
        try:
            async with self._http().stream(
                "GET", _path(kind), params=parameters, timeout=patience
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response.status_code, await response.aread(), response.headers)
                async for line in _split(response.aiter_bytes()):
                    yield line
        except httpx.ReadTimeout:
            raise Refused(0, f"nothing came for {silence:g} s") from None
        except httpx.HTTPError as error:
            raise Refused(0, _words(error)) from None

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("enter the Api as a context first")
        return self._client


async def _split(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines out of chunks, each octet looked at once."""
    parts: list[bytes] = []
    held = 0
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            parts.append(line)
            yield b"".join(parts)
            parts, held = [], 0
        parts.append(rest)
        held += len(rest)
        if held > LONGEST_LINE:
            raise Refused(0, f"one event of more than {LONGEST_LINE >> 20} MiB")


def _path(kind: str) -> str:
    return f"{KINDS[kind].prefix}/{KINDS[kind].plural}"


def _refusal(status: int, body: bytes, headers: httpx.Headers) -> Refused:
    try:
        said = msgspec.json.decode(body, type=_Status).message
    except msgspec.MsgspecError:
        said = None
    after = headers.get("Retry-After", "")
    return Refused(
        status, said or httpx.codes.get_reason_phrase(status), float(after) if after.isdigit() else None
    )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
