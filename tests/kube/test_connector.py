"""The connector whole: from an API's real socket to a server's real socket, both of which may fail."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringfence.inventory.inventory import Inventory
from ringfence.kube.connector import ConnectorSettings, run_connector
from ringfence.kube.watch import Pace
from ringfence.model.objects import Change
from ringfence.model.problems import Problem

PACE = Pace(first=0.01, longest=0.05, forbidden=0.05)


class Ingest:
    """A server that takes changes as the real one does; `refuse` makes it answer that code instead."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.sequences: list[int] = []
        self.refuse = 0
        self.token = "agent"

    async def __aenter__(self) -> Ingest:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                assert line.startswith(b"POST /v1/ingest/changes")
                headers = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers["content-length"]))
                code, answer = self._take(headers, body)
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (code, len(answer), answer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _take(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, b"{}"
        if self.refuse:
            return self.refuse, b"{}"
        told = msgspec.json.decode(body)
        self.sequences.append(told["sequence"])
        self.changes += msgspec.json.decode(msgspec.json.encode(told["changes"]), type=list[Change])
        return 200, msgspec.json.encode({"acknowledged": told["sequence"]})

    def pods(self) -> dict[str, Any]:
        inventory = Inventory()
        inventory.apply(self.changes)
        return {pod.name: pod for pod in inventory.objects("c", 1 << 62, "Pod")}


def pod(name: str) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": "shop",
        "uid": f"uid-{name}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"metadata": meta, "status": {"podIP": "10.0.0.1", "phase": "Running"}}


def settings(tmp_path: Path, api: Any, ingest: Ingest, token: str = "agent") -> ConnectorSettings:
    (tmp_path / "api-token").write_text("secret")
    (tmp_path / "server-token").write_text(token)
    return ConnectorSettings(
        cluster="c",
        server=ingest.url,
        server_token_file=str(tmp_path / "server-token"),
        api=api.url,
        token_file=str(tmp_path / "api-token"),
    )


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_what_changes_is_told_in_order_also_across_a_servers_failure(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        stop, ticks = asyncio.Event(), itertools.count(2 * 10**18)
        async with faulty_api() as api, Ingest() as ingest:
            await api.put("Pod", pod("a"))
            connector = asyncio.ensure_future(
                run_connector(settings(tmp_path, api, ingest), stop, lambda: next(ticks), PACE)
            )
            await until(lambda: "a" in ingest.pods())
            assert ingest.changes[0].at == 1767225600 * 10**9
            ingest.refuse = 503
            await api.put("Pod", pod("b"))
            await api.delete("Pod", "uid-a")
            await asyncio.sleep(0.3)
            ingest.refuse = 0
            await until(lambda: set(ingest.pods()) == {"b"})
            known = [change.known for change in ingest.changes]
            assert known == sorted(known)
            assert ingest.sequences == list(range(1, len(ingest.sequences) + 1))
            stop.set()
            await connector

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_server_that_refuses_the_token_is_a_problem_at_once(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            await api.put("Pod", pod("a"))
            with pytest.raises(Problem, match="refuses the token"):
                await run_connector(
                    settings(tmp_path, api, ingest, "wrong"), asyncio.Event(), lambda: 1, PACE
                )

    asyncio.run(asyncio.wait_for(run(), 120))


def test_one_change_the_server_cannot_take_does_not_hold_up_the_rest(
    faulty_api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        async with faulty_api() as api, Ingest() as ingest:
            take = ingest._take

            def picky(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
                return (400, b"{}") if b"uid-bad" in body else take(headers, body)

            monkeypatch.setattr(ingest, "_take", picky)
            for name in ("a", "bad", "b", "c"):
                await api.put("Pod", pod(name))
            connector = asyncio.ensure_future(
                run_connector(settings(tmp_path, api, ingest), stop, lambda: 2 * 10**18, PACE)
            )
            await until(lambda: set(ingest.pods()) == {"a", "b", "c"})
            stop.set()
            await connector

    asyncio.run(asyncio.wait_for(run(), 120))


def test_settings_that_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    cases = [
        (ConnectorSettings("c", "http://s", api="http://a", kubeconfig="k"), "both"),
        (ConnectorSettings("c", "http://s"), "no cluster to follow"),
        (ConnectorSettings("c", "s", api="http://a"), "not a URL"),
        (
            ConnectorSettings("c", "http://s", api="http://a", server_token_file="/absent"),
            "cannot read the token",
        ),
        (ConnectorSettings("c", "http://s", api="http://a", token_file="/absent"), "cannot read"),
    ]
    for bad, words in cases:
        with pytest.raises(Problem, match=words):
            asyncio.run(run_connector(bad, asyncio.Event()))


def test_the_labs_own_api_server(tmp_path: Path) -> None:
    from ringfence.lab.apiserver import ApiServer
    from ringfence.lab.store import ObjectStore

    async def run() -> None:
        stop, store = asyncio.Event(), ObjectStore()
        api = ApiServer(store, "secret")
        url = await api.start()
        store.put({"apiVersion": "v1", "kind": "Pod", **pod("a")})
        async with Ingest() as ingest:
            wanted = msgspec.structs.replace(
                settings(tmp_path, type("Api", (), {"url": url}), ingest), api=url
            )
            connector = asyncio.ensure_future(run_connector(wanted, stop, lambda: 2 * 10**18, PACE))
            await until(lambda: set(ingest.pods()) == {"a"})
            store.put({"apiVersion": "v1", "kind": "Pod", **pod("b")})
            store.forget()
            store.delete("pods", ("shop", "a"))
            await until(lambda: set(ingest.pods()) == {"b"})
            stop.set()
            await connector
        await api.stop()

    asyncio.run(asyncio.wait_for(run(), 120))
