"""Offers the API server on loopback to the nodes: forward.py NETNS ADDRESS PORT LOCAL_PORT.

Listens inside a network namespace and connects in this one; a socket stays in the namespace it was made in.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


def listener(netns: str, address: str, port: int) -> socket.socket:
    """A listening socket of another namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(netns, os.O_RDONLY)
    if libc.setns(there, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns", netns)
    made = socket.create_server((address, port))
    if libc.setns(here, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns", "back")
    return made


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Octets one way, and their end."""
    with contextlib.suppress(OSError):
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()
        writer.write_eof()


async def main() -> None:
    """Until killed."""
    netns, address, port, target = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            back, forth = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(pump(reader, forth), pump(back, writer))
            forth.close()
        writer.close()

    server = await asyncio.start_server(serve, sock=listener(netns, address, port))
    await server.serve_forever()


asyncio.run(main())
