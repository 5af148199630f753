"""A small API server on a real socket that can misbehave: forget, forbid, cut, stall, end."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ringfence.kube.decode import KINDS
from tests.kube.serving import Serving

PLURALS = {entry.path(version): kind for kind, entry in KINDS.items() for version in entry.versions}


OLD_ETCD = "a watch stream was requested by the client but the required storage feature RequestWatchProgress is disabled"


class FaultyApi:
    """Objects by kind and UID, every change in a log. Knobs are plain attributes, tests turn them."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.version = 100
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.log: list[tuple[int, str, str, dict[str, Any]]] = []
        self.oldest = 0
        self.token = "secret"
        self.page = 500
        self.forbidden: set[str] = set()
        self.absent: set[str] = set()
        """Kinds that discovery does not name and that are answered 404."""
        self.discovery = "aggregated"
        """Or `plain`, as before Kubernetes 1.27, or `none`."""
        self.git_version = "v1.34.9"
        self.streams = "yes"
        """Complete states can be streamed (WatchList); `no`: refused; `old etcd`; `ignored`, as before 1.27."""
        self.expired_pages = 0
        """How many `continue` tokens are answered 410."""
        self.stalled = False
        self.bookmarks = True
        self.requests: list[str] = []
        self.lists = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._news = asyncio.Condition()

    async def __aenter__(self) -> FaultyApi:
        self._server = await Serving(self._serve, self.port).__aenter__()
        self.port = self._server.port
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._server.__aexit__(*details)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def put(self, kind: str, body: dict[str, Any]) -> None:
        self.version += 1
        uid = body["metadata"]["uid"]
        body["metadata"]["resourceVersion"] = str(self.version)
        word = "MODIFIED" if uid in self.objects[kind] else "ADDED"
        self.objects[kind][uid] = body
        await self._record(word, kind, body)

    async def delete(self, kind: str, uid: str) -> None:
        self.version += 1
        body = self.objects[kind].pop(uid)
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        await self._record("DELETED", kind, body)

    async def _record(self, word: str, kind: str, body: dict[str, Any]) -> None:
        self.log.append((self.version, word, kind, json.loads(json.dumps(body))))
        async with self._news:
            self._news.notify_all()

    def forget(self) -> None:
        """Compact: watches from before now are answered 410."""
        self.oldest = self.version
        self.log.clear()

    def cut(self, tail: bytes = b"") -> None:
        """Cut every connection, after `tail` (half a line, say)."""
        for writer in list(self._writers):
            if tail:
                writer.write(b"%x\r\n%s\r\n" % (len(tail), tail))
            if writer.transport is not None:
                writer.transport.abort() if not tail else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                headers = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                if not await self._answer(line.decode().split()[1], headers, writer):
                    break
        finally:
            self._writers.discard(writer)

    async def _answer(self, target: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.requests.append(target)
        if headers.get("authorization") != f"Bearer {self.token}":
            return await self._send(writer, 401, status(401, "Unauthorized"))
        if parts.path not in PLURALS:
            code, body = self._document(parts.path, headers)
            tag = f'"{hash(json.dumps(body))}"' if parts.path == "/apis" else ""
            if tag and headers.get("if-none-match") == tag:
                writer.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
                return True
            return await self._send(writer, code, body, tag)
        kind = PLURALS[parts.path]
        if kind in self.forbidden:
            return await self._send(writer, 403, status(403, f"{parts.path} is forbidden"))
        if kind in self.absent:
            return await self._send(writer, 404, status(404, "not found"))
        if "sendInitialEvents" in query and self.streams == "no":
            return await self._send(writer, 422, status(422, "sendInitialEvents is forbidden"))
        if "watch" in query:
            self.lists += "sendInitialEvents" in query and self.streams == "yes"
            since = None if "sendInitialEvents" in query else int(query["resourceVersion"])
            return await self._watch(kind, since, writer)
        return await self._list(kind, query, writer)

    async def _list(self, kind: str, query: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        if "fieldSelector" in query:
            name = query["fieldSelector"].removeprefix("metadata.name=")
            some = [each for each in self.objects[kind].values() if each["metadata"]["name"] == name]
            return await self._send(writer, 200, {"metadata": {"resourceVersion": "1"}, "items": some})
        if "continue" in query and self.expired_pages:
            self.expired_pages -= 1
            return await self._send(writer, 410, status(410, "the provided continue parameter is too old"))
        self.lists += "continue" not in query
        start = int(query.get("continue", "0"))
        everything = list(self.objects[kind].values())
        size = min(self.page, int(query["limit"])) if "limit" in query else len(everything)
        some = everything[start : start + size]
        meta = {"resourceVersion": str(self.version)}
        if start + size < len(everything):
            meta["continue"] = str(start + size)
        return await self._send(writer, 200, {"kind": f"{kind}List", "metadata": meta, "items": some or None})

    def _document(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Version and discovery, as the real one tells them."""
        if path == "/version":
            return 200, {"gitVersion": self.git_version}
        offered: dict[str, dict[str, list[str]]] = {}
        for kind, entry in KINDS.items():
            for version in entry.versions if entry.group and kind not in self.absent else ():
                offered.setdefault(entry.group, {}).setdefault(version, []).append(entry.plural)
        if (
            path == "/apis"
            and self.discovery == "aggregated"
            and "APIGroupDiscoveryList" in headers["accept"]
        ):
            return 200, {
                "kind": "APIGroupDiscoveryList",
                "items": [_group(*each) for each in offered.items()],
            }
        if path == "/apis" and self.discovery != "none":
            groups = [{"name": name, "versions": _named(versions)} for name, versions in offered.items()]
            return 200, {"kind": "APIGroupList", "groups": groups}
        _, _, group, version = [*path.split("/"), "", "", ""][:4]
        if version in offered.get(group, ()) and self.discovery != "none":
            resources = [_resource(plural, "name") for plural in offered[group][version]]
            return 200, {"kind": "APIResourceList", "resources": resources}
        return 404, status(404, "not found")

    async def _watch(self, kind: str, since: int | None, writer: asyncio.StreamWriter) -> bool:
        if since is not None and since < self.oldest:
            return await self._send(writer, 410, status(410, "too old resource version"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if since is None:
            if self.streams == "old etcd":
                await self._line(writer, {"type": "ERROR", "object": status(500, OLD_ETCD)})
                return False
            since = await self._state(kind, writer)
        while True:
            if not self.stalled:
                for version, word, what, body in list(self.log):
                    if version > since and what == kind:
                        await self._line(writer, {"type": word, "object": body})
                since = self.version
                if self.bookmarks:
                    mark = {"kind": kind, "metadata": {"resourceVersion": str(since)}}
                    await self._line(writer, {"type": "BOOKMARK", "object": mark})
            if since < self.oldest:
                await self._line(writer, {"type": "ERROR", "object": status(410, "compacted")})
            async with self._news:
                await self._news.wait()

    async def _state(self, kind: str, writer: asyncio.StreamWriter) -> int:
        """The complete state as events, and its version."""
        since = self.version
        for body in list(self.objects[kind].values()):
            await self._line(writer, {"type": "ADDED", "object": body})
        meta: dict[str, Any] = {"resourceVersion": str(since)}
        if self.streams == "yes":
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        await self._line(writer, {"type": "BOOKMARK", "object": {"kind": kind, "metadata": meta}})
        return since

    async def _line(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        data = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        for piece in (data[:7], data[7:]):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()

    async def _send(
        self, writer: asyncio.StreamWriter, code: int, body: dict[str, Any], tag: str = ""
    ) -> bool:
        data = json.dumps(body).encode()
        more = f"ETag: {tag}\r\n".encode() if tag else b""
        writer.write(b"HTTP/1.1 %d x\r\n%sContent-Length: %d\r\n\r\n%s" % (code, more, len(data), data))
        await writer.drain()
        return True


def _resource(plural: str, field: str) -> dict[str, Any]:
    return {field: plural, "verbs": ["get", "list", "watch"]}


def _named(versions: dict[str, list[str]]) -> list[dict[str, str]]:
    return [{"version": version} for version in versions]


def _group(name: str, versions: dict[str, list[str]]) -> dict[str, Any]:
    described = [
        {"version": version, "resources": [_resource(plural, "resource") for plural in plurals]}
        for version, plurals in versions.items()
    ]
    return {"metadata": {"name": name}, "versions": described}


def status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


@pytest.fixture
def faulty_api() -> type[FaultyApi]:
    """The class; a test enters it inside its own event loop."""
    return FaultyApi
