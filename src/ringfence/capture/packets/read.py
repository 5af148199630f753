"""Read a capture to its end, or to where it is damaged, and count its flows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ringfence.capture.packets import pcap, pcapng
from ringfence.capture.packets.decode import decode
from ringfence.capture.packets.feed import Feed
from ringfence.capture.packets.frames import Frames, Stop
from ringfence.capture.packets.sources import open_capture
from ringfence.flows.captured import Captured, Counting
from ringfence.model.problems import Problem


class Reading(NamedTuple):
    """What a capture held. `frames` were read, of which `without_ip` carry no IP header that was captured."""

    captured: Captured
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
        counting = Counting()
        frames = without_ip = 0
        foreign: dict[int, int] = {}
        problem = None
        for piece in _pieces(feed, name):
            if isinstance(piece, Stop):
                problem = _problem(piece, name)
                break
            frames += len(piece.at)
            packets = decode(piece)
            if packets is None:
                foreign[piece.link] = foreign.get(piece.link, 0) + len(piece.at)
                continue
            without_ip += len(piece.at) - int((packets.depth == 0).sum())
            counting.add(packets)
    return Reading(counting.finish(), frames, without_ip, foreign, problem)


def _pieces(feed: Feed, name: str) -> Iterator[Frames | Stop]:
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
