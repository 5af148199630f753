from __future__ import annotations

from ringfence.lab.store import ObjectStore


def _pod(name: str, **labels: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "labels": labels}}


async def _run() -> None:
    store = ObjectStore(memory=3)
    start = store.version
    store.put(_pod("x"))
    store.put(_pod("x"))
    store.put(_pod("x", a="b"))
    store.delete("pods", ("a", "x"))
    store.delete("pods", ("a", "x"))
    events = store.since(start, "pods")
    assert events is not None
    assert [event.type for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert [int(event.object["metadata"]["resourceVersion"]) for event in events] == [
        event.version for event in events
    ]
    assert store.since(start, "services") == []
    store.put(_pod("y"))
    assert store.since(start, "pods") is None
    assert store.since(start + 1, "pods") is not None
    store.forget()
    assert store.since(store.version - 1, "pods") is None
    assert store.since(store.version, "pods") == []


def test_one_order_of_changes_and_a_bounded_memory() -> None:
    import asyncio

    asyncio.run(_run())
