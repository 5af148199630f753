"""Read a capture to its end, or to where it is damaged, and count its flows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ringfence.capture.decode.heard import Listener
from ringfence.capture.packets import payloads, pcap, pcapng
from ringfence.capture.packets.decode import find_rows
from ringfence.capture.packets.feed import Feed
from ringfence.capture.packets.frames import Frames, Stop
from ringfence.capture.packets.sources import open_capture
from ringfence.flows.captured import Captured, Counting
from ringfence.flows.heard import plain_key
from ringfence.flows.names import Asking, Names, name
from ringfence.flows.terms import Dictionaries
from ringfence.model.problems import Problem


class Reading(NamedTuple):
    """What a capture held. `frames` were read, of which `without_ip` carry no IP header that was captured."""

    captured: Captured
    dictionaries: Dictionaries
    """What `names` and `tls` of the flows point at."""
    frames: int
    without_ip: int
    foreign: dict[int, int]
    """Frames by link type, for link types that are not read."""
    problem: Problem | None
    """Where reading stopped short."""


def read_capture(name: str) -> Reading:
    """Count the flows of a pcap or pcapng file (`-`: standard input), gzip or zstd or plain.

    Raises Problem when it cannot be opened or is no capture; damage further on is told in the result.
    """
    with open_capture(name) as stream:
        feed = Feed(stream)
        feed.more(0)
        counting, listener = Counting(), Listener()
        frames = without_ip = 0
        foreign: dict[int, int] = {}
        problem = None
        for piece in pieces(feed, name):
            if isinstance(piece, Stop):
                problem = _problem(piece, name)
                break
            frames += len(piece.at)
            rows = find_rows(piece, fast=True)
            if rows is None:
                foreign[piece.link] = foreign.get(piece.link, 0) + len(piece.at)
                continue
            packets = rows.packets(piece.time)
            without_ip += len(piece.at) - int((packets.depth == 0).sum())
            counting.add(packets)
            for quotes in rows.quotes:
                counting.quoted(quotes)
            payloads.listen(piece, rows, listener)
    captured = counting.finish()
    return Reading(captured, _named(captured, listener), frames, without_ip, foreign, problem)


def _named(captured: Captured, listener: Listener) -> Dictionaries:
    """Fill in what DNS and TLS said: a file is one window in which every flow begins."""
    heard, flows = listener.take(), captured.flows
    if not len(flows) or not (len(heard.messages) or len(heard.hellos)):
        return Dictionaries((), ())
    nobody = np.zeros(len(flows), np.uint32)
    asking = Asking(flows, plain_key(flows), nobody, np.ones(len(flows), np.bool_))
    # No name is too old for a flow of its own file: each is asked for as of the flow's own beginning.
    return name(asking, heard, np.zeros(1, np.uint32), Names(), int(flows["first"].min()))[0]


def pieces(feed: Feed, name: str) -> Iterator[Frames | Stop]:
    """What the file holds, some frames at a time. Raises Problem when it is no capture."""
    head = feed.buffer[: min(4, feed.filled)].tobytes()
    if head in pcap.MAGICS:
        if feed.filled < pcap.GLOBAL:
            raise Problem("cut short in its header", name, "record it again")
        return pcap.frames(feed)
    if head == pcapng.MAGIC:
        return pcapng.frames(feed)
    if feed.damage:
        raise Problem(f"cannot be unpacked ({feed.damage})", name, "record or pack it again")
    what = "an empty file" if not feed.filled else "not a capture"
    raise Problem(what, name, "name a pcap or pcapng file, plain or packed with gzip or zstd")


def _problem(stop: Stop, name: str) -> Problem:
    where = f"{name} at octet {stop.octet}, after packet {stop.packet}"
    return Problem(f"damaged capture ({stop.what})", where, "the flows before it are shown; record it again")
