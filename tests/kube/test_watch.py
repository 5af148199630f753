"""Following a cluster through every fault: nothing lost, nothing invented, judged against a full list afterwards."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ringfence.inventory.inventory import Inventory
from ringfence.kube.access import direct
from ringfence.kube.client import Api
from ringfence.kube.decode import KINDS
from ringfence.kube.watch import Follower, Pace
from ringfence.model.objects import Change

PACE = Pace(first=0.01, longest=0.05, forbidden=0.05, discovery=0.05, silence=0.5)


def pod(name: str, address: str | None = None, **labels: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": labels}
    meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": meta, "spec": {"nodeName": "n1"}, "status": {"podIP": address, "phase": "Running"}}


class Told:
    """What a follower told, with a clock that only moves when asked."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._ticks = itertools.count(2_000_000_000_000_000_000)

    def put(self, changes: list[Change]) -> None:
        self.changes += changes

    async def room(self) -> None:
        pass

    def clock(self) -> int:
        return next(self._ticks)

    def inventory(self) -> Inventory:
        inventory = Inventory()
        inventory.apply(self.changes)
        return inventory

    def now(self, kind: str = "Pod") -> dict[str, Any]:
        found = self.inventory().objects("c", self.clock(), kind)
        return {value.uid: value for value in found if value.name}


async def nothing(api: Any) -> None:
    """No preparation."""


def following(
    faulty_api: Any,
    tmp_path: Path,
    body: Callable[[Any, Follower, Told], Coroutine[Any, Any, None]],
    before: Callable[[Any], Coroutine[Any, Any, None]] = nothing,
    pace: Pace = PACE,
) -> None:
    """Run `body` beside a follower of a faulty API, which `before` has prepared."""
    token = tmp_path / "token"
    token.write_text("secret\n")

    async def run() -> None:
        told = Told()
        async with faulty_api() as api, Api(direct(api.url, str(token)), timeout=2, rest=0.1) as client:
            await before(api)
            follower = Follower(client, "c", told, told.clock, pace)
            task = asyncio.ensure_future(follower.run())
            try:
                await asyncio.wait_for(body(api, follower, told), 120)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_pages_then_events(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        api.page = 2
        await until(lambda: follower.standing.states["Pod"].name == "current")
        for number in range(5):
            await api.put("Pod", pod(f"p{number}", f"10.0.0.{number}"))
        await until(lambda: len(told.now()) == 5)
        await api.delete("Pod", "uid-p1")
        await api.put("Pod", pod("p0", "10.0.0.0", v="2"))
        await until(lambda: len(told.now()) == 4 and told.now()["uid-p0"].labels == (("v", "2"),))
        await until(lambda: all(state.name == "current" for state in follower.standing.states.values()))
        assert follower.standing.lists == len(KINDS)
        count = len(told.changes)
        await api.put("Pod", pod("p0", "10.0.0.0", v="2"))  # nothing we keep has changed
        await api.put("Pod", pod("p9"))
        await until(lambda: len(told.now()) == 5)
        assert len(told.changes) == count + 1

    following(faulty_api, tmp_path, body)


def test_a_connection_cut_in_mid_line_resumes_without_a_list(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await api.put("Pod", pod("a", "10.0.0.1"))
        await until(lambda: "uid-a" in told.now())
        lists = follower.standing.lists
        api.cut(b'{"type":"ADDED","object":{"metadata":{"name":"half"')
        await api.put("Pod", pod("b", "10.0.0.2"))
        await until(lambda: set(told.now()) == {"uid-a", "uid-b"})
        assert follower.standing.lists == lists

    following(faulty_api, tmp_path, body)


def test_a_forgotten_version_lists_again_and_tells_what_is_gone(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await api.put("Pod", pod("a", "10.0.0.1"))
        await api.put("Pod", pod("b", "10.0.0.2"))
        await until(lambda: len(told.now()) == 2)
        api.stalled = True
        await api.delete("Pod", "uid-a")
        await api.put("Pod", pod("c", "10.0.0.1"))
        api.version += 1
        api.forget()
        api.stalled = False
        api.cut()
        await until(lambda: set(told.now()) == {"uid-b", "uid-c"})
        assert sum(change.uid == "uid-b" for change in told.changes) == 1

    following(faulty_api, tmp_path, body)


def test_a_stalled_watch_is_noticed(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: follower.standing.states["Pod"].name == "current")
        api.stalled = True
        await api.put("Pod", pod("a", "10.0.0.1"))
        await until(lambda: "nothing came" in follower.standing.states["Pod"].detail)
        api.stalled = False
        await until(lambda: "uid-a" in told.now())

    following(faulty_api, tmp_path, body)


def test_a_forbidden_kind_is_reported_and_the_others_go_on(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        api.forbidden, api.absent = {"Node"}, {"CronJob"}
        api.cut()
        await api.put("Pod", pod("a", "10.0.0.1"))
        await until(lambda: "uid-a" in told.now())
        await until(lambda: follower.standing.states["Node"].name == "forbidden")
        assert "/api/v1/nodes is forbidden" in follower.standing.states["Node"].detail
        await until(lambda: follower.standing.states["CronJob"].name == "absent")
        api.forbidden = set()
        await until(lambda: follower.standing.states["Node"].name == "current")

    following(faulty_api, tmp_path, body)


def test_a_new_token_is_read_when_the_old_one_expires(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: follower.standing.states["Pod"].name == "current")
        api.token = "renewed"
        api.cut()
        await until(lambda: follower.standing.states["Pod"].name == "behind")
        (tmp_path / "token").write_text("renewed")
        await api.put("Pod", pod("a", "10.0.0.1"))
        await until(lambda: "uid-a" in told.now())

    following(faulty_api, tmp_path, body)


def test_an_object_with_a_field_of_the_wrong_type_costs_the_field(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        bad = pod("a", "10.0.0.1", v="1")
        bad["spec"]["containers"] = "none"
        bad["metadata"]["annotations"] = {"big": "x" * 10_000_000}
        await api.put("Pod", bad)
        await until(lambda: "uid-a" in told.now())
        assert told.now()["uid-a"].addresses == ("10.0.0.1",)
        assert told.now()["uid-a"].annotations == ()
        assert any("Pod shop/a: spec.containers" in text for text in follower.standing.problems)
        assert any(
            "10,000,000 characters" in text and "Pod shop/a" in text for text in follower.standing.problems
        )
        assert follower.standing.states["Pod"].name == "current"

    following(faulty_api, tmp_path, body)


def test_an_owner_that_comes_late_corrects_its_pods(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        owned = pod("a", "10.0.0.1")
        owned["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "j-1", "controller": True}]
        await api.put("Pod", owned)
        await until(lambda: told.now().get("uid-a") is not None)
        assert told.now()["uid-a"].workload == "Job/j-1"
        meta = {"name": "j-1", "namespace": "shop", "uid": "uid-j"}
        meta["ownerReferences"] = [{"kind": "CronJob", "name": "j", "controller": True}]  # type: ignore[assignment]
        await api.put("Job", {"metadata": meta})
        await until(lambda: told.now()["uid-a"].workload == "CronJob/j")
        assert told.now("Workload") == {}

    following(faulty_api, tmp_path, body)


@pytest.mark.parametrize("streams", ["no", "old etcd", "ignored"])
def test_pages_where_the_server_cannot_stream(faulty_api: Any, tmp_path: Path, streams: str) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: {"uid-p0", "uid-p4"} <= set(told.now()))
        await follower.tried()
        await api.put("Pod", pod("new"))
        await until(lambda: "uid-new" in told.now())
        pages = [target for target in api.requests if "/pods?" in target and "limit=" in target]
        assert len(pages) == 3
        asked = [target for target in api.requests if "sendInitialEvents" in target]
        assert len(asked) <= len(KINDS)

    async def before(api: Any) -> None:
        api.streams, api.page = streams, 2
        for number in range(5):
            await api.put("Pod", pod(f"p{number}"))

    following(faulty_api, tmp_path, body, before)


def test_an_old_server_is_not_asked_for_streams(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: {state.name for state in follower.standing.states.values()} == {"current"})
        assert not [target for target in api.requests if "sendInitialEvents" in target]
        assert api.lists == len(KINDS)

    async def before(api: Any) -> None:
        api.git_version, api.discovery = "v1.25.3", "plain"

    following(faulty_api, tmp_path, body, before)


def test_a_page_that_expires_asks_for_everything_at_once(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: len(told.now()) == 5)
        await until(lambda: follower.standing.states["Pod"].name == "current")
        pods = [target for target in api.requests if "/pods" in target and "watch" not in target]
        assert pods == ["/api/v1/pods?limit=500", "/api/v1/pods?limit=500&continue=2", "/api/v1/pods"]

    async def before(api: Any) -> None:
        api.streams, api.page, api.expired_pages = "no", 2, 1
        for number in range(5):
            await api.put("Pod", pod(f"p{number}"))

    following(faulty_api, tmp_path, body, before)


@pytest.mark.parametrize("discovery", ["aggregated", "plain"])
def test_absent_kinds_cost_nothing_and_are_found_when_they_come(
    faulty_api: Any, tmp_path: Path, discovery: str
) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await follower.tried()
        assert {
            kind for kind, state in follower.standing.states.items() if state.name == "absent"
        } == api.absent
        assert not [target for target in api.requests if "clusternetworkpolicies" in target]
        api.absent = set()
        meta = {"name": "p", "uid": "uid-p"}
        await api.put("ClusterNetworkPolicy", {"metadata": meta, "spec": {"priority": 1}})
        await until(lambda: "uid-p" in told.now("NetworkPolicy"))

    async def before(api: Any) -> None:
        api.discovery, api.absent = discovery, {"ClusterNetworkPolicy", "Route", "HTTPRoute"}

    following(faulty_api, tmp_path, body, before)


def test_without_discovery_every_kind_is_tried(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await follower.tried()
        assert follower.standing.states["Route"].name == "absent"
        assert follower.standing.states["HTTPRoute"].name == "current"

    async def before(api: Any) -> None:
        api.discovery, api.absent = "none", {"Route"}

    following(faulty_api, tmp_path, body, before)


def test_a_kind_that_goes_takes_its_objects_along(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: "uid-r" in told.now("Route"))
        api.absent = {"HTTPRoute"}
        api.cut()
        await until(lambda: "uid-r" not in told.now("Route"))
        api.absent = set()
        await until(lambda: "uid-r" in told.now("Route"))

    async def before(api: Any) -> None:
        await api.put("HTTPRoute", {"metadata": {"name": "r", "namespace": "shop", "uid": "uid-r"}})

    following(faulty_api, tmp_path, body, before)


def test_a_kind_missing_for_a_moment_loses_nothing(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: "uid-a" in told.now())
        api.absent = {"Pod"}
        api.cut()
        await until(lambda: follower.standing.states["Pod"].name == "absent")
        api.absent = set()
        await until(lambda: follower.standing.states["Pod"].name == "current")
        assert [change.gone for change in told.changes if change.uid == "uid-a"] == [False]

    async def before(api: Any) -> None:
        await api.put("Pod", pod("a"))

    following(faulty_api, tmp_path, body, before, PACE._replace(forbidden=0.5))


def test_versions_that_go_back_are_noticed(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: set(told.now()) == {"uid-a", "uid-b"})
        await until(lambda: follower.standing.states["Pod"].name == "current")
        # As after the restore of a backup: one pod is not there, and versions are those of then.
        del api.objects["Pod"]["uid-b"]
        api.version = 50
        api.log.clear()
        api.cut()
        await until(lambda: set(told.now()) == {"uid-a"})

    async def before(api: Any) -> None:
        await api.put("Pod", pod("a"))
        await api.put("Pod", pod("b"))

    following(faulty_api, tmp_path, body, before)


def test_an_event_too_large_is_named_and_the_watch_goes_on(
    faulty_api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: "uid-a" in told.now())
        lists = follower.standing.lists
        await api.put("Pod", pod("a", "10.0.0.1", note="x" * 5_000_000))
        await api.put("Pod", pod("b", "10.0.0.2"))
        await until(lambda: "uid-b" in told.now())
        assert any("too large" in text and "Pod shop/a" in text for text in follower.standing.problems)
        assert told.now()["uid-a"].addresses == ()
        assert follower.standing.lists == lists
        # Also in a complete state it is still there, whatever it looks like.
        api.version += 1
        api.forget()
        api.cut()
        await until(lambda: follower.standing.lists > lists)
        await until(lambda: follower.standing.states["Pod"].name == "current")
        assert set(told.now()) == {"uid-a", "uid-b"}

    async def before(api: Any) -> None:
        await api.put("Pod", pod("a"))

    monkeypatch.setattr("ringfence.kube.client.LONGEST_LINE", 100_000)
    following(faulty_api, tmp_path, body, before)


def test_a_service_that_changes_its_selector_and_a_pod_that_ends(faulty_api: Any, tmp_path: Path) -> None:
    async def body(api: Any, follower: Follower, told: Told) -> None:
        await until(lambda: "uid-s" in told.now("Service"))
        meta = {"name": "s", "namespace": "shop", "uid": "uid-s"}
        await api.put("Service", {"metadata": meta, "spec": {"selector": {"app": "new"}}})
        await until(lambda: told.now("Service")["uid-s"].selector == (("app", "new"),))
        ending = pod("a", "10.0.0.1")
        ending["metadata"] |= {"deletionTimestamp": "2026-01-01T00:01:00Z", "deletionGracePeriodSeconds": 30}
        await api.put("Pod", ending)
        await until(lambda: told.now()["uid-a"].deleted == 1767225630 * 10**9)
        assert told.now()["uid-a"].addresses == ("10.0.0.1",)
        done = pod("a", "10.0.0.1")
        done["status"]["phase"] = "Succeeded"
        await api.put("Pod", done)
        await until(lambda: told.now()["uid-a"].addresses == ())

    async def before(api: Any) -> None:
        meta = {"name": "s", "namespace": "shop", "uid": "uid-s"}
        await api.put("Service", {"metadata": meta, "spec": {"selector": {"app": "old"}}})
        await api.put("Pod", pod("a", "10.0.0.1"))

    following(faulty_api, tmp_path, body, before)


async def fault(api: Any, which: int) -> None:
    match which:
        case 0:
            api.cut()
        case 1:
            api.cut(b'{"type":"MODIFIED","obj')
        case 2:
            api.version += 1
            api.forget()
            api.cut()
        case 3:
            api.stalled = not api.stalled
        case 4:
            api.bookmarks = not api.bookmarks
        case 5:
            await asyncio.sleep(0.02)
        case _:
            pass


@pytest.mark.parametrize("seed", range(6))
def test_random_faults_lose_and_invent_nothing(faulty_api: Any, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)

    async def body(api: Any, follower: Follower, told: Told) -> None:
        api.page = 3
        for step in range(150):
            name = f"p{choose.randrange(12)}"
            if choose.random() < 0.3 and f"uid-{name}" in api.objects["Pod"]:
                await api.delete("Pod", f"uid-{name}")
            else:
                await api.put("Pod", pod(name, f"10.0.0.{choose.randrange(30)}", step=str(step)))
            await fault(api, choose.randrange(12))
        api.stalled = False
        wanted = {
            uid: (body["status"]["podIP"], body["metadata"]["labels"]["step"])
            for uid, body in api.objects["Pod"].items()
        }

        def have() -> dict[str, tuple[str, str]]:
            return {uid: (v.addresses[0], dict(v.labels)["step"]) for uid, v in told.now().items()}

        api.cut()
        await until(lambda: have() == wanted)

    following(faulty_api, tmp_path, body)
