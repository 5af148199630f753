"""One pod's process: answers on its ports and calls its neighbours. Stdlib only, and small in memory.

Run as `python -m ringfence.lab.pod call …` it makes exactly the conversations asked for and prints them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

from ringfence.lab import talk

Spec = dict[str, Any]
"""`listen`: [{protocol, port}], `calls`: [{to, port, how, every, octets, family, keep}], `dns`: address,
`table`: path of the resolver's names (only for the resolver), `probes`: path of probes (only for a prober),
`traffic`: whether to call from the start, `ipv6`: whether the lab has it."""

PATIENCE = 3.0
"""Seconds a call may take before it is given up."""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer HTTP requests with a small page and any other line with one line, until the caller goes."""
    try:
        while line := await reader.readline():
            if b" HTTP/1." in line:
                writer.write(await _http_answer(reader))
            else:
                writer.write(b"+OK %d\n" % len(line))
            await writer.drain()
    except (OSError, ValueError, asyncio.IncompleteReadError):
        # The caller hung up or sent a line beyond any limit: nothing is owed to it.
        pass
    finally:
        writer.close()


async def _http_answer(reader: asyncio.StreamReader) -> bytes:
    length = 0
    while (header := await reader.readline()) not in (b"\r\n", b"\n", b""):
        if header.lower().startswith(b"content-length:"):
            length = int(header.split(b":", 1)[1])
    await reader.readexactly(length)
    body = b'{"status":"OK"}\n'
    return (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(body) + body
    )


class Datagrams(asyncio.DatagramProtocol):
    """Answers every datagram with its length, or as a resolver where it has a table of names."""

    def __init__(self, names: Names | None) -> None:
        self.names = names

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer; what is no query gets silence, as from a real resolver."""
        if self.names is None:
            self.transport.sendto(b"+OK %d\n" % len(data), addr)
            return
        with contextlib.suppress(ValueError):
            self.transport.sendto(talk.reply(data, self.names.table()), addr)


class Names:
    """The resolver's table, read again whenever its file has changed."""

    def __init__(self, path: str) -> None:
        self.path, self.stamp, self.names = Path(path), -1, {}  # type: ignore[var-annotated]

    def table(self) -> talk.Table:
        """The names as the cluster has them now."""
        stamp = self.path.stat().st_mtime_ns
        if stamp != self.stamp:
            self.stamp, self.names = stamp, json.loads(self.path.read_text())
        return self.names


async def listen(spec: Spec) -> list[Any]:
    """Open every port of the pod, on IPv4 and IPv6; returns what must stay referenced."""
    loop = asyncio.get_running_loop()
    names = Names(spec["table"]) if spec.get("table") else None
    kept: list[Any] = []
    for entry in spec["listen"]:
        host = "::" if spec.get("ipv6", True) else "0.0.0.0"
        if entry["protocol"] == "UDP":
            sock = socket.socket(socket.AF_INET6 if host == "::" else socket.AF_INET, socket.SOCK_DGRAM)
            if host == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((host, entry["port"]))
            kept.append(await loop.create_datagram_endpoint(lambda: Datagrams(names), sock=sock))
        elif entry["protocol"] == "TCP":
            serve = answer if names is None else _resolver(names)
            kept.append(await asyncio.start_server(serve, None if host == "::" else host, entry["port"]))
    return kept


def _resolver(names: Names) -> Any:
    """DNS over TCP: two octets of length before each message (RFC 1035 §4.2.2)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                message = talk.reply(query, names.table())
                writer.write(len(message).to_bytes(2, "big") + message)
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            writer.close()

    return serve


async def resolve(name: str, server: str) -> list[str]:
    """Ask the cluster's DNS for A and AAAA from one socket, as glibc does. Addresses, maybe none."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    found: list[str] = []
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((server, 53))
        idents = random.sample(range(65536), 2)
        for ident, kind in zip(idents, (talk.A, talk.AAAA), strict=True):
            await loop.sock_sendall(sock, talk.question(name, kind, ident))
        for _ in idents:
            found += talk.answers(await asyncio.wait_for(loop.sock_recv(sock, 1500), PATIENCE))[1]
    return found


async def call(entry: Spec, server: str) -> None:
    """Make one call: resolve, connect, say something, hear the answer. Raises OSError where that fails."""
    name = entry["to"]
    if name.replace(".", "").isdigit() or ":" in name:
        addresses = [name]
    else:
        wanted = entry.get("family", 4)
        addresses = [a for a in await resolve(name, server) if (":" in a) == (wanted == 6)]
    if entry.get("every_address"):
        own = set(entry.get("own", ()))
        targets = [address for address in addresses if address not in own]
    else:
        targets = addresses[:1]
    for address in targets:
        await WAYS[entry["how"]](address, entry)


async def _by_tcp(address: str, entry: Spec) -> None:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, entry["port"]), PATIENCE)
    try:
        for turn in range(1 + entry.get("turns", 0)):
            if turn:
                await asyncio.sleep(entry["every"])
            writer.write(_words(entry))
            await writer.drain()
            await asyncio.wait_for(reader.readline(), PATIENCE)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _words(entry: Spec) -> bytes:
    filler: bytes = b"x" * entry.get("octets", 64)
    if entry["how"] == "http":
        host = f"{entry['to']}".encode()
        return b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n" % (host, len(filler)) + filler
    return filler + b"\n"


async def _by_udp(address: str, entry: Spec) -> None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((address, entry["port"]))
        await loop.sock_sendall(sock, b"x" * entry.get("octets", 64))
        await asyncio.wait_for(loop.sock_recv(sock, 2048), PATIENCE)


async def _by_icmp(address: str, entry: Spec) -> None:
    loop = asyncio.get_running_loop()
    six = ":" in address
    family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol) as sock:
        sock.connect((address, 0))
        packet = talk.echo_request(os.getpid() & 0xFFFF, 1, entry.get("octets", 56), 6 if six else 4)
        await loop.sock_sendall(sock, packet)
        await asyncio.wait_for(loop.sock_recv(sock, 2048), PATIENCE)


async def _by_scan(address: str, entry: Spec) -> None:
    """Knock on every port of a list, as a scanner does: a refused or silent port is an answer too."""
    for port in entry["ports"]:
        with contextlib.suppress(OSError, TimeoutError):
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 0.5)
            writer.close()


async def _by_get(address: str, entry: Spec) -> None:
    """A kubelet's HTTP probe: a GET whose answer is read to the end of its first line."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, entry["port"]), PATIENCE)
    host = f"[{address}]" if ":" in address else address
    writer.write(
        f"GET {entry['path']} HTTP/1.1\r\nHost: {host}:{entry['port']}\r\n"
        "User-Agent: kube-probe/1.34\r\nConnection: close\r\n\r\n".encode()
    )
    await asyncio.wait_for(reader.readline(), PATIENCE)
    writer.close()


async def _by_knock(address: str, entry: Spec) -> None:
    """A kubelet's TCP probe: open and close."""
    _, writer = await asyncio.wait_for(asyncio.open_connection(address, entry["port"]), PATIENCE)
    writer.close()


WAYS = {
    "get": _by_get,
    "knock": _by_knock,
    "http": _by_tcp,
    "tcp": _by_tcp,
    "udp": _by_udp,
    "icmp": _by_icmp,
    "scan": _by_scan,
}


class Process:
    """The running pod. SIGUSR1 starts its calls, SIGUSR2 stops them, SIGHUP reads the prober's list again."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.calling = asyncio.Event()
        self.reload = asyncio.Event()
        if spec.get("traffic"):
            self.calling.set()

    async def run(self, ready: Any) -> None:
        """Listen, say so by calling `ready`, then call until killed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self.calling.set)
        loop.add_signal_handler(signal.SIGUSR2, self.calling.clear)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        kept = await listen(self.spec)
        ready()
        async with asyncio.TaskGroup() as group:
            for entry in self.spec["calls"]:
                group.create_task(self._repeat(entry))
            if self.spec.get("probes"):
                group.create_task(self._probe())
            group.create_task(asyncio.Event().wait())
        del kept

    async def _repeat(self, entry: Spec) -> None:
        # A first call at a random moment of the period keeps the pods of a lab out of step.
        await self.calling.wait()
        await asyncio.sleep(random.uniform(0.05, min(entry["every"], 1.5)))
        while True:
            await self.calling.wait()
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                await call(entry, self.spec["dns"])
            await asyncio.sleep(entry["every"] * random.uniform(0.9, 1.1))

    async def _probe(self) -> None:
        """Probe as a kubelet does, each declared probe at its own period, from the node's namespace."""
        while True:
            self.reload.clear()
            entries = json.loads(Path(self.spec["probes"]).read_text())
            tasks = [asyncio.ensure_future(self._repeat(entry)) for entry in entries]
            await self.reload.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """`call` makes conversations and prints them; see `ringfence.lab.calls`."""
    from ringfence.lab.calls import run

    run()


if __name__ == "__main__":
    main()
