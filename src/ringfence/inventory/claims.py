"""Who says an address is theirs, from when to when; and of several, whose it was.

A pod's news arrive after the fact: its address is reported only once its containers run, and its end only once
the API server has forgotten it, when the address may already serve another pod. So a claim is *certain* from
the news of the address, and *possible* from the pod's creation on; and a claim that begins later beats one
that has not ended yet.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ringfence.inventory.history import Span
from ringfence.model.addresses import pack
from ringfence.model.objects import Node, Object, Pod, Service

FOREVER = (1 << 63) - 1
"""The end of a claim that nobody ended, UTC nanoseconds."""

Packed = tuple[int, int]
"""An address as `model.addresses` halves."""

FIRM, BORROWED = 1, 0
"""Ranks of claims. A service's external address may really be a node's (service load-balancers that announce
node addresses do that), so there it stands back."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """`source` held `address` certainly in [certain, until), and possibly already in [possible, certain)."""

    address: Packed
    source: str
    possible: int
    certain: int
    until: int
    rank: int = FIRM


class Held(NamedTuple):
    """From `start` until the next, `source` held the address; None when nobody did."""

    start: int
    source: str | None


def claims(source: str, history: Sequence[Span]) -> list[Claim]:
    """Every claim an object's history makes. Addresses that are none are passed over; `kube` reported them.

    The first addresses of a life are possible from its beginning on, later ones from the news of them.
    """
    made: list[Claim] = []
    open_since: dict[tuple[Packed, int], tuple[int, int]] = {}
    born: int | None = None
    had = False
    before: Object | None = None
    for span in history:
        if (
            isinstance(before, Pod)
            and isinstance(span.value, Pod)
            and before.addresses == span.value.addresses
        ):
            continue
        before = span.value
        current = _addresses(span.value)
        if span.value is None:
            born = None
        elif born is None:
            born, had = span.start, False
        ended = [key for key in open_since if key not in current]
        made += [_closed(source, key, open_since.pop(key), span.start) for key in ended]
        for key in current:
            if key not in open_since:
                open_since[key] = (span.start if had or born is None else born, _certain(span))
        had = had or bool(current)
    made += [_closed(source, key, since, FOREVER) for key, since in open_since.items()]
    return made


def _closed(source: str, key: tuple[Packed, int], since: tuple[int, int], until: int) -> Claim:
    possible, certain = since
    return Claim(key[0], source, possible, min(certain, until), until, key[1])


def _certain(span: Span) -> int:
    """A pod that was listed with its address held it no earlier than its kubelet took it up."""
    started = span.value.started if isinstance(span.value, Pod) else None
    return max(span.start, started or span.start)


def _addresses(value: Object | None) -> dict[tuple[Packed, int], None]:
    match value:
        case Pod():
            ranked = [(text, FIRM) for text in value.addresses]
        case Node():
            ranked = [(text, FIRM) for text in value.addresses]
        case Service():
            ranked = [(text, FIRM) for text in value.cluster_ips]
            ranked += [(text, BORROWED) for text in value.external_ips + value.load_balancer_ips]
        case _:
            ranked = []
    packed = ((packed_or_none(text), rank) for text, rank in ranked)
    return {(address, rank): None for address, rank in packed if address is not None}


def packed_or_none(text: str) -> Packed | None:
    """The halves of an address that can name one machine of a cluster; None for any other text.

    Loopback, link-local, multicast and unspecified addresses are the same on many machines (RFC 4291, 5735).
    """
    try:
        hi, lo = pack(text)
    except ValueError:
        return None
    return None if is_ambiguous(hi, lo) else (hi, lo)


def is_ambiguous(hi: int, lo: int) -> bool:
    """Whether an address names no one machine: loopback, link-local, multicast, broadcast, unspecified."""
    if hi == 0 and lo >> 32 == 0xFFFF:
        first = lo >> 24 & 0xFF
        return first in (0, 127) or first >= 224 or lo >> 16 & 0xFFFF == 0xA9FE
    return (hi == 0 and lo <= 1) or hi >> 56 == 0xFF or hi >> 54 == 0xFE80 >> 6


def holders(rivals: Sequence[Claim]) -> list[Held]:
    """Who held one address when, of all `rivals` for it, in time order.

    Certain claims beat possible ones; of two certain ones the firm, then the one that began later wins; of two
    possible ones the one that becomes certain sooner. Ties go by name, so that order of arrival never matters.
    """
    if len(rivals) == 1:
        # Nearly every address has had one holder.
        (only,) = rivals
        ended = [] if only.until == FOREVER else [Held(only.until, None)]
        return [Held(only.possible, only.source), *ended] if only.possible < only.until else []
    starts = sorted(rivals, key=lambda claim: claim.possible)
    times = sorted({time for claim in rivals for time in (claim.possible, claim.certain, claim.until)})
    certain: list[tuple[int, int, str, int]] = []
    possible: list[tuple[int, int, str, int]] = []
    waiting = sorted(rivals, key=lambda claim: claim.certain, reverse=True)
    starts.reverse()
    held: list[Held] = []
    for time in times:
        while starts and starts[-1].possible <= time:
            claim = starts.pop()
            heapq.heappush(possible, (claim.certain, -claim.rank, claim.source, claim.until))
        while waiting and waiting[-1].certain <= time:
            claim = waiting.pop()
            heapq.heappush(certain, (-claim.rank, -claim.certain, claim.source, claim.until))
        while certain and certain[0][3] <= time:
            heapq.heappop(certain)
        while possible and (possible[0][0] <= time or possible[0][3] <= time):
            heapq.heappop(possible)
        winner = certain[0][2] if certain else possible[0][2] if possible else None
        if time < FOREVER and (not held or held[-1].source != winner):
            held.append(Held(time, winner))
    return held
