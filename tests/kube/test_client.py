"""Blocks become blocks of whole lines, each octet once; lines too long are passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from hypothesis import given
from hypothesis import strategies as st

from ringfence.kube.client import Long, whole_lines


def lines_of(blocks: list[bytes], longest: int = 1000) -> list[bytes | Long]:
    async def source() -> AsyncGenerator[bytes, None]:
        for block in blocks:
            yield block

    async def run() -> list[bytes | Long]:
        return [block async for block in whole_lines(source(), lambda: longest)]

    return asyncio.run(run())


def cut(whole: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=8), st.data())
def test_whole_lines_whatever_the_cuts(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines) + data.draw(st.sampled_from([b"", b"half"]))
    found = lines_of(cut(whole, data))
    assert all(isinstance(block, bytes) and block.endswith(b"\n") for block in found)
    assert b"".join(found).split(b"\n")[:-1] == lines  # type: ignore[arg-type]


@given(st.data())
def test_a_line_too_long_costs_itself(data: st.DataObject) -> None:
    large = b'{"type":"ADDED","object":{"metadata":{"name":"big"' + b"x" * 500
    blocks = [b"before\n", *(large[i : i + 50] for i in range(0, len(large), 50)), b"\n", b"after\n"]
    found = lines_of(blocks, 100)
    assert [block for block in found if isinstance(block, bytes)] == [b"before\n", b"after\n"]
    (long,) = [block for block in found if isinstance(block, Long)]
    assert large.startswith(long.head)
    # Cut otherwise, neither neighbour is ever lost, and no part of the line is taken for one.
    whole = b"".join(blocks)
    again = b"".join(block for block in lines_of(cut(whole, data), 100) if isinstance(block, bytes))
    assert again.startswith(b"before\n")
    assert again.endswith(b"after\n")
    assert again in (b"before\nafter\n", whole)
