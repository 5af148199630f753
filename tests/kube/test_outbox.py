"""Changes wait in order, bounded, until they are dropped."""

from __future__ import annotations

import asyncio

import msgspec

from ringfence.kube.outbox import LARGEST, Outbox
from ringfence.model.objects import Change


def change(number: int, octets: int = 2) -> Change:
    return Change("c", "Pod", f"u{number}", number, number, msgspec.Raw(b'"' + b"x" * (octets - 2) + b'"'))


def test_in_order_until_dropped() -> None:
    async def run() -> None:
        outbox = Outbox(most=3)
        outbox.put([])
        outbox.put([change(1), change(2)])
        assert [each.uid for each in await outbox.first(1)] == ["u1"]
        assert [each.uid for each in await outbox.first(9)] == ["u1", "u2"]
        await asyncio.wait_for(outbox.room(), 1)
        outbox.put([change(3), change(4)])
        full = asyncio.ensure_future(outbox.room())
        gone = asyncio.ensure_future(outbox.gone(2))
        await asyncio.sleep(0)
        assert not full.done()
        outbox.drop(1)
        outbox.drop(1)
        await asyncio.wait_for(asyncio.gather(full, gone), 1)
        assert outbox.lag(10) == 7
        outbox.drop(2)
        assert outbox.lag(10) == 0
        empty = asyncio.ensure_future(outbox.first(1))
        await asyncio.sleep(0)
        assert not empty.done()
        empty.cancel()

    asyncio.run(run())


def test_large_values_are_handed_out_few_at_a_time() -> None:
    async def run() -> None:
        outbox = Outbox()
        outbox.put([change(1, LARGEST + 9), change(2, LARGEST // 2), change(3, LARGEST // 2 + 9)])
        sizes = []
        for _ in range(3):
            some = await outbox.first(9)
            sizes.append(len(some))
            outbox.drop(len(some))
        assert sizes == [1, 1, 1]

    asyncio.run(run())
