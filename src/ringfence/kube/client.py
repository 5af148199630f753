"""The Kubernetes API over HTTP: lists page by page, watches in blocks of whole lines, refusals as one error.

Thin: bytes are decoded by `decode`, what is news is decided by `ledger`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from urllib.parse import urlencode

import msgspec

from ringfence import __version__
from ringfence.kube.access import Access, credentials, tls
from ringfence.kube.http import Broken, Client, Head, target_of
from ringfence.model.problems import Problem

PAGE = 500
"""Objects asked for at once: what kubectl asks for."""

LONGEST_LINE = 32 << 20
"""Octets of one watch event; a longer one is passed over. Objects in etcd are far smaller (1.5 MiB by default)."""

RENEW_SECONDS = 5.0
"""Between two renewals of credentials that the server refuses."""

OK, NOT_MODIFIED, GONE, UNAUTHORIZED, FORBIDDEN, ABSENT = 200, 304, 410, 401, 403, 404
BAD_REQUEST, INVALID = 400, 422


class Refused(Exception):
    """The API said no, or nothing. `status` is the HTTP code; 0 when there was no answer.

    `after` is how long (s) the server asks us to stay away; `credentials` which ones were refused.
    """

    def __init__(self, status: int, message: str, after: float | None = None, credentials: int = 0) -> None:
        super().__init__(f"{status} {message}" if status else message)
        self.status = status
        self.message = message
        self.after = after
        self.credentials = credentials


class Long(msgspec.Struct, frozen=True):
    """A line of a watch that was too long to read; `head` is its beginning."""

    head: bytes


class _Status(msgspec.Struct):
    message: str | None = None


class Api:
    """One cluster's API. Inert until entered as a context; credentials are renewed on demand."""

    def __init__(self, access: Access, timeout: float = 30.0, rest: float = RENEW_SECONDS) -> None:
        try:
            self._target = target_of(access.server)
        except ValueError:
            raise Problem("not a URL", access.server, "write http://HOST:PORT or https://HOST:PORT") from None
        self.requests = 0
        """Requests sent so far, watches included."""
        self.generation = 0
        """Which credentials are in use."""
        self._access, self._timeout, self._rest = access, timeout, rest
        self._client: Client | None = None
        self._renewing = asyncio.Lock()
        self._renewed = -rest

    async def __aenter__(self) -> Api:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client:
            self._client.close()

    async def renew(self, refused: int) -> None:
        """Fresh credentials, unless those of `refused` are no longer in use or have only just been renewed.

        Raises Problem when they cannot be had. Watches that run go on with what let them in.
        """
        now = asyncio.get_running_loop().time()
        async with self._renewing:
            if refused == self.generation and now >= self._renewed + self._rest:
                self._renewed = now
                await self._open()

    async def _open(self) -> None:
        # Files are read and plugins run in a thread: neither may hold up the watches.
        held = await asyncio.to_thread(credentials, self._access)
        secure = tls(self._access, held) if self._target.secure else None
        if self._client is not None:
            self._client.close()
        headers = {**held.headers, "User-Agent": f"ringfence-connector/{__version__}"}
        name = self._access.server_name
        self._client = Client(self._target, headers, secure, name, self._timeout)
        self.generation += 1

    async def get(self, path: str, fields: dict[str, str] | None = None) -> tuple[Head, bytes]:
        """A whole answer with status 200 or 304. Raises Refused."""
        generation = self.generation
        self.requests += 1
        try:
            head, body = await self._http().get(path, fields)
        except (OSError, Broken) as error:
            raise Refused(0, _words(error, self._timeout)) from None
        if head.status not in (OK, NOT_MODIFIED):
            raise _refusal(head, body, generation)
        return head, body

    async def page(self, path: str, following: str, limit: int = PAGE) -> bytes:
        """One page of a list; the whole list where `limit` is 0. Raises Refused."""
        parameters = {"limit": str(limit)} if limit else {}
        if following:
            parameters["continue"] = following
        _, body = await self.get(_with(path, parameters))
        return body

    async def watch(
        self, path: str, parameters: dict[str, str], silence: float
    ) -> AsyncGenerator[bytes | Long, None]:
        """Blocks of whole lines of a watch, an empty one first, when the server has agreed to it.

        Ends when the server ends it; raises Refused otherwise. `silence` is how long (s) nothing at all may come:
        bookmarks come about once a minute, so a longer silence is a dead connection. A line cut by the
        connection's end is dropped: it comes again.
        """
        generation = self.generation
        self.requests += 1
        parameters = {"watch": "1", "allowWatchBookmarks": "true", **parameters}
        try:
            head, blocks = await self._http().stream(_with(path, parameters), silence)
            async with aclosing(blocks):
                if head.status != OK:
                    body = b"".join([block async for block in blocks])
                    raise _refusal(head, body, generation)
                yield b""
                async with aclosing(whole_lines(blocks)) as lines:
                    async for block in lines:
                        yield block
        except TimeoutError:
            raise Refused(0, f"nothing came for {silence:g} s") from None
        except (OSError, Broken) as error:
            raise Refused(0, _words(error, self._timeout)) from None

    def _http(self) -> Client:
        if self._client is None:
            raise RuntimeError("enter the Api as a context first")
        return self._client


async def whole_lines(
    blocks: AsyncGenerator[bytes, None], longest: Callable[[], int] = lambda: LONGEST_LINE
) -> AsyncGenerator[bytes | Long, None]:
    """Blocks cut anywhere become blocks of whole lines; each octet is looked at once."""
    parts: list[bytes] = []
    held, skipping = 0, False
    async for block in blocks:
        end = block.rfind(b"\n") + 1
        if end and skipping:
            # The rest of a line that was too long ends here.
            start = block.find(b"\n") + 1
            block, end, skipping = block[start:], end - start, False
        if end:
            yield b"".join([*parts, block[:end]])
            parts, held = [], 0
        if skipping or end == len(block):
            continue
        parts.append(block[end:])
        held += len(block) - end
        if held > longest():
            yield Long(b"".join(parts)[:4096])
            parts, held, skipping = [], 0, True


def _with(path: str, parameters: dict[str, str]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


def _refusal(head: Head, body: bytes, generation: int) -> Refused:
    try:
        said = msgspec.json.decode(body, type=_Status).message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = None
    after = head.headers.get("retry-after", "")
    words = said or f"HTTP status {head.status}"
    return Refused(head.status, words, float(after) if after.isdigit() else None, generation)


def _words(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {seconds:g} s"
    return str(error) or type(error).__name__
