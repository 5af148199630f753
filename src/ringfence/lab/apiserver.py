"""LIST and WATCH of the lab's objects over HTTP, as the Kubernetes API does them. Bearer token, loopback only.

The rules are those of the Kubernetes API concepts page: chunked lists (`limit`, `continue`), watches from a
resourceVersion, bookmarks, 410 Gone for a version that is forgotten, `Status` objects as errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ringfence.lab.store import KINDS, Kind, Object, ObjectStore

BOOKMARK_SECONDS = 5.0
"""How often a quiet watch that asked for bookmarks gets one; a real API server takes about a minute."""
LONGEST_WATCH = 300.0
SNAPSHOTS = 64
"""Unfinished chunked lists kept; older `continue` tokens get 410."""


class Refused(Exception):
    """A request answered with a `Status`: HTTP code, reason word, sentence."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Object:
        """The `Status` object of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


class Target(NamedTuple):
    """What a path names: a kind, maybe in one namespace, maybe one object."""

    kind: Kind
    namespace: str
    name: str


class ApiServer:
    """Serves one store. `start` binds and returns the URL; nothing happens before it."""

    def __init__(self, store: ObjectStore, token: str, port: int = 0) -> None:
        self.store, self.token, self.port = store, token, port
        self._snapshots: dict[str, tuple[str, list[Object]]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Stop listening; open watches end with the loop."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after another, until it closes or a watch ends it."""
        try:
            while request := await _read(reader):
                if not await self._answer(request, writer):
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The client went away or does not speak HTTP.
            pass
        finally:
            writer.close()

    async def _answer(self, request: tuple[str, str, dict[str, str]], writer: asyncio.StreamWriter) -> bool:
        method, target, headers = request
        url = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        try:
            self._authorise(method, headers)
            where = parse(unquote(url.path))
            if "sendInitialEvents" in query:
                raise Refused(422, "Invalid", "sendInitialEvents is forbidden without the WatchList feature")
            if isinstance(where, Target) and query.get("watch") in ("1", "true"):
                await self._watch(where, query, writer)
                return False
            body = self._list_or_get(where, query) if isinstance(where, Target) else where
            await _send(writer, 200, body)
        except Refused as refused:
            await _send(writer, refused.code, refused.status())
        return headers.get("connection", "").lower() != "close"

    def _authorise(self, method: str, headers: dict[str, str]) -> None:
        offered = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(offered.encode(), self.token.encode()):
            raise Refused(401, "Unauthorized", "Unauthorized")
        if method != "GET":
            raise Refused(405, "MethodNotAllowed", "the lab's API is read-only")

    def _list_or_get(self, where: Target, query: dict[str, str]) -> Object:
        if not where.name:
            return self._list(where, query)
        found = self.store.get(where.kind.plural, (where.namespace, where.name))
        if found is None:
            raise Refused(404, "NotFound", f'{where.kind.plural} "{where.name}" not found')
        return found

    def _list(self, where: Target, query: dict[str, str]) -> Object:
        """All objects, or a page of them; later pages come from the first one's moment."""
        if "continue" in query:
            if query["continue"] not in self._snapshots:
                raise Refused(410, "Expired", "the provided continue parameter is too old")
            version, items = self._snapshots.pop(query["continue"])
        else:
            select = selector(query)
            version = str(self.store.version)
            items = [i for i in self.store.items(where.kind.plural, where.namespace) if select(i)]
        limit = _number(query, "limit") or len(items)
        meta: Object = {"resourceVersion": version}
        if len(items) > limit:
            meta["continue"] = token = secrets.token_urlsafe(12)
            meta["remainingItemCount"] = len(items) - limit
            self._snapshots[token] = (version, items[limit:])
            while len(self._snapshots) > SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]
        kind = where.kind
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version(),
            "metadata": meta,
            # Items of a real list carry neither kind nor apiVersion.
            "items": [
                {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
                for item in items[:limit]
            ],
        }

    async def _watch(self, where: Target, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        """Stream changes until `timeoutSeconds`. Without a version it starts with what exists now."""
        loop = asyncio.get_running_loop()
        limit = min(_number(query, "timeoutSeconds") or LONGEST_WATCH, LONGEST_WATCH)
        deadline, select = loop.time() + limit, selector(query)
        version = _number(query, "resourceVersion")
        _head(writer, 200, "Transfer-Encoding: chunked")
        if version == 0:
            version = self.store.version
            for item in self.store.items(where.kind.plural, where.namespace):
                if select(item):
                    _chunk(writer, {"type": "ADDED", "object": item})
        bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        while True:
            changed = self.store.changed
            fresh = self._since(where, version, select)
            newest = self.store.version
            if fresh is None:
                gone = Refused(410, "Expired", f"too old resource version: {version} ({newest})")
                _chunk(writer, {"type": "ERROR", "object": gone.status()})
                break
            for event in fresh:
                _chunk(writer, event)
            version = max(version, newest)
            await writer.drain()
            left = deadline - loop.time()
            try:
                await asyncio.wait_for(changed.wait(), max(0.0, min(left, BOOKMARK_SECONDS)))
            except TimeoutError:
                if bookmarks:
                    _chunk(writer, _bookmark(where.kind, version))
                if left <= BOOKMARK_SECONDS:
                    break
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _since(self, where: Target, version: int, select: Any) -> list[Object] | None:
        events = self.store.since(version, where.kind.plural)
        if events is None:
            return None
        return [
            {"type": event.type, "object": event.object}
            for event in events
            if where.namespace in ("", event.object["metadata"].get("namespace", "")) and select(event.object)
        ]


def _bookmark(kind: Kind, version: int) -> Object:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    item = {"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta}
    return {"type": "BOOKMARK", "object": item}


def _number(query: dict[str, str], name: str) -> int:
    text = query.get(name, "")
    if text in ("", "0"):
        return 0
    if not text.isdigit():
        raise Refused(400, "BadRequest", f"{name} must be a number, not {text!r}")
    return int(text)


def selector(query: dict[str, str]) -> Any:
    """Label and field selectors of a request as a predicate; equality only, as the lab needs no more."""
    labels = list(_terms(query.get("labelSelector", "")))
    fields = list(_terms(query.get("fieldSelector", "")))

    def holds(item: Object) -> bool:
        own = item["metadata"].get("labels") or {}
        return all((own.get(k) == v) == same for k, v, same in labels) and all(
            (_field(item, k) == v) == same for k, v, same in fields
        )

    return holds


def _terms(text: str) -> Iterator[tuple[str, str, bool]]:
    for term in filter(None, text.split(",")):
        name, operator, value = term.partition("!=" if "!=" in term else "=")
        if not operator:
            raise Refused(400, "BadRequest", f"unable to parse requirement: {term!r}")
        yield name, value.removeprefix("="), operator == "="


def _field(item: Object, path: str) -> str:
    value: Any = item
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def parse(path: str) -> Target | Object:
    """A path as a target, or the discovery document it names. Raises `Refused` 404."""
    parts = [part for part in path.split("/") if part]
    documents = _discovery()
    if "/".join(parts) in documents:
        return documents["/".join(parts)]
    for kind in KINDS:
        root = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
        if parts[: len(root)] != root:
            continue
        rest = parts[len(root) :]
        if kind.namespaced and len(rest) in (3, 4) and rest[0] == "namespaces" and rest[2] == kind.plural:
            return Target(kind, rest[1], rest[3] if len(rest) == 4 else "")
        if len(rest) in (1, 2 - kind.namespaced) and rest[0] == kind.plural:
            return Target(kind, "", rest[1] if len(rest) == 2 else "")
    raise Refused(404, "NotFound", "the server could not find the requested resource")


def _discovery() -> dict[str, Object]:
    """`/version`, `/api`, `/apis` and the resource lists below them."""
    found: dict[str, Object] = {
        "version": {
            "major": "1",
            "minor": "34",
            "gitVersion": "v1.34.0-ringfence-lab",
            "platform": "linux/amd64",
        },
        "api": {"kind": "APIVersions", "versions": ["v1"]},
        "readyz": {"status": "ok"},
    }
    groups = sorted({kind.group for kind in KINDS if kind.group})
    described = [_group(group) for group in groups]
    found["apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": described}
    for group in ["", *groups]:
        kinds = [kind for kind in KINDS if kind.group == group]
        where = f"apis/{group}/v1" if group else "api/v1"
        found[where] = {
            "kind": "APIResourceList",
            "groupVersion": kinds[0].api_version(),
            "resources": [
                {
                    "name": kind.plural,
                    "singularName": kind.kind.lower(),
                    "namespaced": kind.namespaced,
                    "kind": kind.kind,
                    "verbs": ["get", "list", "watch"],
                }
                for kind in kinds
            ],
        }
    return found


def _group(group: str) -> Object:
    version = {"groupVersion": f"{group}/v1", "version": "v1"}
    return {"name": group, "versions": [version], "preferredVersion": version}


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    """One request without its body's content: method, target, headers in lower case."""
    line = await reader.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = {}
    while (header := await reader.readline()) not in (b"\r\n", b"\n", b""):
        name, _, value = header.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    with contextlib.suppress(ValueError):
        await reader.readexactly(int(headers.get("content-length", "0")))
    return method, target, headers


def kubeconfig(name: str, url: str, token: str) -> str:
    """A kubeconfig for this server, as text."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    # JSON is YAML, and needs no writer of its own.
    return json.dumps(config, indent=2) + "\n"


def _head(writer: asyncio.StreamWriter, code: int, *more: str) -> None:
    lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}", "Content-Type: application/json", *more]
    writer.write("\r\n".join([*lines, "", ""]).encode())


async def _send(writer: asyncio.StreamWriter, code: int, body: Object) -> None:
    data = json.dumps(body, separators=(",", ":")).encode() + b"\n"
    _head(writer, code, f"Content-Length: {len(data)}")
    writer.write(data)
    await writer.drain()


def _chunk(writer: asyncio.StreamWriter, event: Object) -> None:
    data = json.dumps(event, separators=(",", ":")).encode() + b"\n"
    writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
