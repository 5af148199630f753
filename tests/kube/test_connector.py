"""The connector whole: from an API's real socket to a server's real socket, both of which may fail."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringfence.inventory.inventory import Inventory
from ringfence.kube.connector import run_connector
from ringfence.kube.settings import ClusterSettings, ConnectorSettings
from ringfence.kube.watch import Pace
from ringfence.model.objects import Change
from ringfence.model.problems import Problem
from tests.kube.serving import Serving

PACE = Pace(first=0.01, longest=0.05, forbidden=0.05)


class Ingest:
    """A server that takes changes, reports and checkpoints as the real one does; `refuse` makes it answer that
    code to changes instead."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.reports: dict[str, dict[str, Any]] = {}
        self.checkpoints: dict[str, bytes] = {}
        self.sequences: list[int] = []
        self.refuse = 0
        self.token = "agent"

    async def __aenter__(self) -> Ingest:
        self._server = await Serving(self._serve).__aenter__()
        self.url = self._server.url
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._server.__aexit__(*details)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            headers = {}
            while header := (await reader.readline()).decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = line.decode().split()
            code, answer = self._answer(method, target, headers, body)
            writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (code, len(answer), answer))

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        cluster = query.removeprefix("cluster=")
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, b"{}"
        match method, path:
            case "POST", "/v1/ingest/changes":
                return self._take(headers, body)
            case "PUT", "/v1/ingest/connector":
                self.reports[cluster] = msgspec.json.decode(body)
                return 200, b"{}"
            case "PUT", "/v1/ingest/checkpoint":
                self.checkpoints[cluster] = body
                return 200, b"{}"
            case "GET", "/v1/ingest/checkpoint":
                return 200, self.checkpoints.get(cluster, b"")
        return 404, b"{}"

    def _take(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if self.refuse:
            return self.refuse, b"{}"
        told = msgspec.json.decode(body)
        self.sequences.append(told["sequence"])
        self.changes += msgspec.json.decode(msgspec.json.encode(told["changes"]), type=list[Change])
        return 200, msgspec.json.encode({"acknowledged": told["sequence"]})

    def pods(self, cluster: str = "c") -> dict[str, Any]:
        inventory = Inventory()
        inventory.apply(self.changes)
        return {pod.name: pod for pod in inventory.objects(cluster, 1 << 62, "Pod")}


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
        checkpoint_seconds=0.05,
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
    a = ConnectorSettings("http://s", "c", api="http://a")
    one, other = ClusterSettings("c", api="http://a"), ClusterSettings("c", api="http://b")
    replace = msgspec.structs.replace
    cases = [
        (replace(a, kubeconfig="k"), "both"),
        (replace(a, api=None), "no cluster to follow"),
        (replace(a, cluster=None), "no cluster: connector"),
        (replace(a, server="s"), "not a URL"),
        (replace(a, api="a"), "not a URL"),
        (replace(a, api="http://"), "not a URL"),
        (replace(a, context="x"), "a context without a kubeconfig"),
        (replace(a, api=None, token_file="x"), "a token file without"),
        (replace(a, server_token_file="/absent"), "cannot read the token"),
        (replace(a, token_file="/absent"), "cannot read"),
        (replace(a, api=None, kubeconfig="/absent"), "cannot read"),
        (replace(a, clusters=(one,)), "both one cluster and"),
        (ConnectorSettings("http://s", clusters=(one, other)), "cluster `c` twice"),
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


class Life:
    """One life of a connector against an API and a server."""

    def __init__(self, wanted: ConnectorSettings) -> None:
        self.stop = asyncio.Event()
        ticks = itertools.count(2 * 10**18 + Life.lives * 10**9)
        Life.lives += 1
        self.task = asyncio.ensure_future(run_connector(wanted, self.stop, lambda: next(ticks), PACE))

    lives = 0

    async def end(self) -> None:
        self.stop.set()
        await self.task

    async def die(self) -> None:
        """As with kill -9: nothing more is sent."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("clean", [True, False])
def test_a_restart_asks_for_no_list_and_misses_nothing(faulty_api: Any, tmp_path: Path, clean: bool) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            wanted = settings(tmp_path, api, ingest)
            for name in ("a", "b"):
                await api.put("Pod", pod(name))
            first = Life(wanted)
            await until(lambda: set(ingest.pods()) == {"a", "b"} and "c" in ingest.checkpoints)
            if clean:
                await first.end()
            else:
                del ingest.checkpoints["c"]
                await until(lambda: "c" in ingest.checkpoints)
                await first.die()
            lists, told = api.lists, len(ingest.changes)
            await api.delete("Pod", "uid-a")
            await api.put("Pod", pod("c"))
            second = Life(wanted)
            await until(lambda: set(ingest.pods()) == {"b", "c"})
            assert api.lists == lists
            await second.end()
            fresh = ingest.changes[told:]
            assert sorted({change.uid for change in fresh}) == ["uid-a", "uid-c"]

    asyncio.run(asyncio.wait_for(run(), 120))


def test_after_a_restart_late_owners_are_still_understood(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            wanted = settings(tmp_path, api, ingest)
            owned = pod("a")
            owned["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "j-1", "controller": True}]
            await api.put("Pod", owned)
            first = Life(wanted)
            await until(lambda: "a" in ingest.pods())
            await first.end()
            second = Life(wanted)
            meta = {"name": "j-1", "namespace": "shop", "uid": "uid-j"}
            meta["ownerReferences"] = [{"kind": "CronJob", "name": "j", "controller": True}]  # type: ignore[assignment]
            await api.put("Job", {"metadata": meta})
            await until(lambda: ingest.pods()["a"].workload == "CronJob/j")
            await second.end()
            another = pod("b")
            another["metadata"]["ownerReferences"] = owned["metadata"]["ownerReferences"]
            await api.put("Pod", another)
            third = Life(wanted)
            await until(lambda: "b" in ingest.pods())
            assert ingest.pods()["b"].workload == "CronJob/j"
            await third.end()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_versions_that_expired_meanwhile_are_compared_with_what_was_told(
    faulty_api: Any, tmp_path: Path
) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            wanted = settings(tmp_path, api, ingest)
            for name in ("a", "b"):
                await api.put("Pod", pod(name))
            first = Life(wanted)
            await until(lambda: set(ingest.pods()) == {"a", "b"})
            await first.end()
            told = len(ingest.changes)
            await api.delete("Pod", "uid-a")
            api.version += 1
            api.forget()
            second = Life(wanted)
            await until(lambda: set(ingest.pods()) == {"b"})
            await second.end()
            assert [change.uid for change in ingest.changes[told:]] == ["uid-a"]

    asyncio.run(asyncio.wait_for(run(), 120))


def test_another_cluster_under_the_same_name_is_asked_for_everything(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with Ingest() as ingest:
            for identity in ("one", "two"):
                async with faulty_api() as api:
                    await api.put(
                        "Namespace", {"metadata": {"name": "kube-system", "uid": f"uid-{identity}"}}
                    )
                    await api.put("Pod", pod(identity))
                    life = Life(settings(tmp_path, api, ingest))
                    await until(lambda wanted={identity}: set(ingest.pods()) == wanted)
                    await life.end()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_damaged_checkpoint_is_ignored_with_a_warning(
    faulty_api: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            await api.put("Pod", pod("a"))
            wanted = settings(tmp_path, api, ingest)
            first = Life(wanted)
            await until(lambda: "a" in ingest.pods())
            await first.end()
            body = bytearray(ingest.checkpoints["c"])
            body[-20] ^= 1
            ingest.checkpoints["c"] = bytes(body)
            ingest.changes.clear()
            second = Life(wanted)
            await until(lambda: "a" in ingest.pods())
            await second.end()

    asyncio.run(asyncio.wait_for(run(), 120))
    assert "a damaged checkpoint" in caplog.text


def test_a_checkpoint_is_kept_only_when_all_before_it_was_acknowledged(
    faulty_api: Any, tmp_path: Path
) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            wanted = settings(tmp_path, api, ingest)
            first = Life(wanted)
            await until(lambda: "c" in ingest.checkpoints)
            ingest.refuse = 503
            await api.put("Pod", pod("a"))
            await until(lambda: api.version > 0 and ingest.reports["c"]["lag"] > 0)
            await first.die()
            ingest.refuse = 0
            second = Life(wanted)
            await until(lambda: "a" in ingest.pods())
            await second.end()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_states_are_reported(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            api.forbidden, api.absent, api.git_version = {"Node"}, {"HTTPRoute"}, "v1.99.0"
            life = Life(settings(tmp_path, api, ingest))
            wanted = {"Pod": "current", "Node": "forbidden", "HTTPRoute": "absent"}

            def states() -> dict[str, str]:
                states = ingest.reports.get("c", {}).get("states", {})
                return {kind: states[kind]["state"] for kind in wanted if kind in states}

            await until(lambda: states() == wanted)
            report = ingest.reports["c"]
            assert (report["server_version"], report["supported"]) == ("v1.99.0", False)
            assert any("compatibility matrix" in text for text in report["problems"])
            assert "nodes is forbidden" in report["states"]["Node"]["detail"]
            assert report["lists"] <= len(report["states"])
            await life.end()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_an_unreachable_cluster_is_behind_and_tried_again(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with Ingest() as ingest:
            async with faulty_api() as api:
                port = api.port
            wanted = settings(tmp_path, api, ingest)
            life = Life(wanted)
            await until(lambda: "c" in ingest.reports)
            await until(lambda: ingest.reports["c"]["states"]["Pod"]["state"] == "behind")
            assert ingest.reports["c"]["states"]["Pod"]["detail"]
            async with faulty_api(port) as api:
                await api.put("Pod", pod("a"))
                await until(lambda: "a" in ingest.pods())
                await life.end()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_several_clusters_and_one_that_fails(faulty_api: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with faulty_api() as one, faulty_api() as two, Ingest() as ingest:
            await one.put("Pod", pod("a"))
            await two.put("Pod", pod("b"))
            base = settings(tmp_path, one, ingest)
            token = str(tmp_path / "api-token")
            late = tmp_path / "late-token"
            wanted = ConnectorSettings(
                base.server,
                server_token_file=base.server_token_file,
                clusters=(
                    ClusterSettings("one", api=one.url, token_file=token),
                    ClusterSettings("two", api=two.url, token_file=str(late)),
                    ClusterSettings("three", api="http://127.0.0.1:9", token_file=token),
                ),
            )
            life = Life(wanted)
            await until(lambda: set(ingest.pods("one")) == {"a"} and {"two", "three"} <= set(ingest.reports))
            await until(lambda: ingest.reports["three"]["states"]["Pod"]["state"] == "behind")
            assert "cannot read" in ingest.reports["two"]["states"]["Pod"]["detail"]
            late.write_text("secret")
            await until(lambda: set(ingest.pods("two")) == {"b"})
            await one.put("Pod", pod("c"))
            await until(lambda: set(ingest.pods("one")) == {"a", "c"})
            await life.end()
            assert set(ingest.checkpoints) >= {"one", "two"}

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_server_that_does_not_know_a_kind_yet_ends_nothing(faulty_api: Any, tmp_path: Path) -> None:
    """Custom resources are found some time after an API server's start; one answer without them proves nothing."""

    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            await api.put("HTTPRoute", {"metadata": {"name": "r", "namespace": "shop", "uid": "uid-r"}})
            first = Life(settings(tmp_path, api, ingest))
            await until(lambda: [change for change in ingest.changes if change.uid == "uid-r"])
            await first.end()
            api.absent = {"HTTPRoute"}
            second = Life(settings(tmp_path, api, ingest))
            await api.put("Pod", pod("a"))
            await until(lambda: "a" in ingest.pods())
            await until(lambda: ingest.reports["c"]["states"]["HTTPRoute"]["state"] == "absent")
            await second.end()
            assert [change.gone for change in ingest.changes if change.uid == "uid-r"] == [False]

    asyncio.run(asyncio.wait_for(run(), 120))


@pytest.mark.parametrize("seed", range(4))
def test_random_restarts_and_faults_of_everybody(
    faulty_api: Any, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connector is stopped or killed, the API forgets or cuts, the server refuses: the sum is what is there."""
    choose = random.Random(seed)
    monkeypatch.setattr("ringfence.kube.connector.FAREWELL", 0.2)

    async def run() -> None:
        async with faulty_api() as api, Ingest() as ingest:
            api.page = 3
            wanted = settings(tmp_path, api, ingest)
            life = Life(wanted)
            for step in range(120):
                name = f"p{choose.randrange(10)}"
                if choose.random() < 0.3 and f"uid-{name}" in api.objects["Pod"]:
                    await api.delete("Pod", f"uid-{name}")
                else:
                    body = pod(name)
                    body["metadata"]["labels"] = {"step": str(step)}
                    await api.put("Pod", body)
                match choose.randrange(16):
                    case 0:
                        await life.end()
                        life = Life(wanted)
                    case 1:
                        await life.die()
                        life = Life(wanted)
                    case 2:
                        api.version += 1
                        api.forget()
                        api.cut()
                    case 3:
                        ingest.refuse = 0 if ingest.refuse else 503
                    case 4:
                        await asyncio.sleep(0.1)
                    case 5:
                        api.cut()
            ingest.refuse = 0
            there = {
                body["metadata"]["name"]: body["metadata"]["labels"]["step"]
                for body in api.objects["Pod"].values()
            }
            await until(lambda: {name: dict(p.labels)["step"] for name, p in ingest.pods().items()} == there)
            await life.end()

    asyncio.run(asyncio.wait_for(run(), 240))
