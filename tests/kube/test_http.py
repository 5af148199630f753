"""Bodies of answers, cut anywhere: chunked, counted, ended by the connection; and what is no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.kube.http import Broken, Client, target_of, unframed
from tests.kube.serving import Serving

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.data())
def test_chunks_cut_anywhere_give_their_data(chunks: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(b"%x;note=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    blocks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    held, left, found, ended = b"", 0, [], False
    for block in blocks:
        block = held + block
        parts: list[bytes] = []
        if not ended:
            used, left, ended = unframed(block, left, parts)
            held = block[used:]
        found += parts
    assert ended
    assert b"".join(found) == b"".join(chunks)


@pytest.mark.parametrize("bad", [b"zz\r\n", b"-1\r\n", b"1" * 70_000])
def test_what_is_no_chunk(bad: bytes) -> None:
    with pytest.raises(Broken):
        unframed(bad, 0, [])


def test_urls() -> None:
    target = target_of("https://user@api.example:6443/clusters/c1/")
    assert target == ("api.example", 6443, True, "/clusters/c1", "api.example:6443")
    assert target_of("http://[::1]:80").host == "::1"
    assert target_of("https://a").port == 443
    for bad in ("ftp://a", "http://", "http://a:port"):
        with pytest.raises(ValueError, match=r".+"):
            target_of(bad)


def asked(serve: Serve, use: Callable[[Client], Awaitable[None]], seconds: float = 5.0) -> None:
    """Run `use` with a client of a server that answers each connection with `serve`."""

    async def run() -> None:
        async with Serving(serve) as server:
            client = Client(target_of(server.url), {"X-A": "b"}, None, None, seconds)
            try:
                await asyncio.wait_for(use(client), 60)
            finally:
                client.close()

    asyncio.run(run())


def test_a_connection_serves_many_requests() -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while request := await reader.readuntil(b"\r\n\r\n"):
            assert b"X-A: b" in request
            if b"/same" in request:
                writer.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
                continue
            if b"/chunked" in request:
                body = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"
            else:
                body = b"Content-Length: 3\r\n\r\nabc"
            writer.write(b"HTTP/1.1 200 OK\r\n" + body)

    async def use(client: Client) -> None:
        for path in ("/counted", "/chunked", "/same", "/counted"):
            head, body = await client.get(path)
            assert (head.status, body) == ((304, b"") if path == "/same" else (200, b"abc"))

    asked(serve, use)
    assert len(connections) == 1


def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
        if count == 1:
            # It hangs up when it is asked again.
            await reader.readuntil(b"\r\n\r\n")

    async def use(client: Client) -> None:
        for _ in range(3):
            assert (await client.get("/"))[1] == b"x"
            await asyncio.sleep(0.05)

    asked(serve, use)
    assert count == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "was cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "was cut"),
        (b"", "was cut"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (3 << 20), "head of more than"),
    ],
)
def test_what_is_not_as_we_know_it(answer: bytes, words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async def use(client: Client) -> None:
        with pytest.raises(Broken, match=words):
            await client.get("/")

    asked(serve, use)


def test_silence_is_a_timeout_and_ends_only_that_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/watch" in request:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
            await asyncio.sleep(30)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    async def use(client: Client) -> None:
        head, blocks = await client.stream("/watch", 0.1)
        assert head.status == 200
        async with aclosing(blocks):
            assert await anext(blocks) == b"ab"
            with pytest.raises(TimeoutError):
                await anext(blocks)
        assert (await client.get("/"))[1] == b"x"

    asked(serve, use)
