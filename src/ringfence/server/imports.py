"""Other people's flows into the store: read, named by the inventory of their time, kept once, with their `origin`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringfence.capture.packets.sources import beginning, open_capture
from ringfence.flows.categories import categories, placements
from ringfence.flows.counted import choose
from ringfence.flows.link import link
from ringfence.imports.pair import Imported
from ringfence.imports.read import OWN, READERS, guess, read_import
from ringfence.model.columns import TRANSLATION, Table, structured
from ringfence.model.endpoints import Endpoint
from ringfence.model.problems import Problem
from ringfence.server.answers import Linked
from ringfence.server.book import Book, Resolved
from ringfence.server.settled_rows import Dimension, Told, flow_rows
from ringfence.store.queries import Evidence, FlowsAnswer
from ringfence.store.schema import RETENTION_DAYS, UNTOLD
from ringfence.store.settled import MINUTE, Settled
from ringfence.store.shared import Shares

Mask = NDArray[np.bool_]
RETENTION = RETENTION_DAYS * 86_400_000_000_000
AHEAD = 600_000_000_000
"""Nanoseconds by which a flow may lie ahead of the server's clock, as for agents."""
HEAD = 1 << 16
AT_ONCE = 200_000
"""Most rows of one insert."""
MOST = 1 << 30
"""Most octets of a file once it is unpacked."""


class Done(msgspec.Struct, frozen=True):
    """What became of a file. `kept` flows are in the store; `again` says that this file was there already."""

    origin: str
    lines: int
    flows: int
    kept: int
    again: bool
    notes: tuple[str, ...]


class Imports:
    """The one verb. Safe from any thread."""

    def __init__(self, book: Book, settled: Settled, clock: Callable[[], int]) -> None:
        self._book, self._settled, self._clock = book, settled, clock

    def take(self, file: Path, name: str, cluster: str, form: str = "auto") -> Done:
        """Keep the flows of a file (compressed or not); `name` is what messages call it. Raises Problem.

        The same content for the same cluster is kept once, whatever it is called.
        """
        origin = _origin(file, name, form)
        with open_capture(str(file)) as stream, BufferedReader(cast("RawIOBase", stream), HEAD) as content:
            reading = read_import(_bounded(content, name), name, origin)
        imported, unfit = _usable(reading.imported, self._clock(), name)
        notes = (*reading.notes, *unfit)
        token = f"{cluster}/{origin}/{_digest(file)}"
        rows, endpoints = flow_rows(
            *self._linked(cluster, imported, origin), Dimension(), _told(imported, origin)
        )
        self._settled.describe(endpoints)
        parts = [rows.slice(start, AT_ONCE) for start in range(0, rows.num_rows, AT_ONCE)]
        fresh = self._settled.add(parts, token)
        return Done(origin, reading.lines, len(reading.imported.flows), rows.num_rows, not fresh, notes)

    def _linked(self, cluster: str, imported: Imported, origin: str) -> tuple[Linked, NDArray[np.int64]]:
        flows, legs = link(imported.flows, structured(TRANSLATION, 0))
        ends = _named(self._book.resolve(cluster, flows, ()), imported)
        probes = np.zeros(len(flows), np.bool_)
        kinds = categories(flows, legs, ends.consumer, ends.provider, ends.endpoints, probes)
        places = placements(flows, legs, ends.consumer, ends.provider, ends.endpoints)
        stored = _stored(flows, imported)
        return Linked(cluster, flows, legs, ends, kinds, places, stored), flows["first"] // MINUTE * MINUTE


def _origin(file: Path, name: str, form: str) -> str:
    if form != "auto" and form not in READERS:
        raise Problem(f"unknown format `{form[:40]}`", "format", f"use auto, {', '.join(READERS)}")
    origin = form if form != "auto" else guess(beginning(str(file), HEAD))
    if origin is None or origin == OWN:
        raise Problem("not a flow log that is known by its beginning", name, "say what it is with format")
    return origin


def _bounded(lines: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The lines of a file that is not larger than a server may hold. Raises Problem."""
    size = 0
    for line in lines:
        size += len(line)
        if size > MOST:
            raise Problem(f"more than {MOST >> 20} MiB unpacked", name, "cut it, and import the parts")
        yield line


def _usable(imported: Imported, now: int, name: str) -> tuple[Imported, list[str]]:
    """The flows a store can keep, and in words how many it cannot, and why."""
    first = imported.flows["first"]
    why = {
        "have no time": first < 0,
        "have no address": imported.nowhere["consumer"] | imported.nowhere["provider"],
        f"are older than {RETENTION_DAYS} days": (first >= 0) & (first < now - RETENTION),
        "lie in the future": first > now + AHEAD,
    }
    keep = ~np.logical_or.reduce(list(why.values()))
    said = [
        f"{name}: {int(mask.sum())} flows {what} and are not kept" for what, mask in why.items() if mask.any()
    ]
    return _picked(imported, keep), said


def _picked(imported: Imported, keep: Mask) -> Imported:
    rows = np.flatnonzero(keep).tolist()
    return imported._replace(
        flows=imported.flows[keep],
        untold={key: mask[keep] for key, mask in imported.untold.items()},
        nowhere={key: mask[keep] for key, mask in imported.nowhere.items()},
        consumers=[imported.consumers[row] for row in rows],
        providers=[imported.providers[row] for row in rows],
        connections=imported.connections[keep],
        names=[imported.names[row] for row in rows],
    )


def _named(ends: Resolved, imported: Imported) -> Resolved:
    """The ends by the inventory; what the tool itself said of one comes first, since it was there at the time."""
    known = list(ends.endpoints)
    number: dict[Endpoint, int] = {}
    sides = []
    for found, told in (
        (ends.consumer.copy(), imported.consumers),
        (ends.provider.copy(), imported.providers),
    ):
        for row, end in enumerate(told):
            if end is None or (end.kind == "unresolved" and known[found[row]].kind != "unresolved"):
                continue
            if end not in number:
                number[end] = len(known)
                known.append(end)
            found[row] = number[end]
        sides.append(found)
    return Resolved(sides[0], sides[1], known)


def _told(imported: Imported, origin: str) -> Told:
    untold = np.zeros(len(imported.flows), np.uint16)
    for place, name in enumerate(UNTOLD):
        untold |= imported.untold[name].astype(np.uint16) << np.uint16(place)
    return Told(origin, untold, np.maximum(imported.connections, 1).astype(np.uint32))


def _stored(flows: Table, imported: Imported) -> FlowsAnswer:
    """What the store would have said beside such flows: no taps, no nodes, the names that the tool told."""
    texts = [" ".join(names) for names in imported.names]
    terms = list(dict.fromkeys(text for text in texts if text))
    place = {text: number + 1 for number, text in enumerate(terms)}
    flows["names"] = [place.get(text, 0) for text in texts]
    flows["node"] = 0
    none = np.zeros(0, np.int64)
    chosen = choose(none.astype(np.uint64), none, *[none.astype(np.uint8)] * 3)
    evidence = Evidence(chosen, none, (), none, pa.chunked_array([pa.array([], pa.string())]))
    return FlowsAnswer(flows, flows["first"].copy(), (), (), (), terms, (), evidence, Shares())


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
