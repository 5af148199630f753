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

PACE = Pace(first=0.01, longest=0.05, forbidden=0.05, silence=0.5)


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


def following(
    faulty_api: Any, tmp_path: Path, body: Callable[[Any, Follower, Told], Coroutine[Any, Any, None]]
) -> None:
    """Run `body` beside a follower of a faulty API."""
    token = tmp_path / "token"
    token.write_text("secret\n")

    async def run() -> None:
        told = Told()
        async with faulty_api() as api, Api(direct(api.url, str(token)), timeout=2, rest=0.1) as client:
            follower = Follower(client, "c", told, told.clock, PACE)
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
