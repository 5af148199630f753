"""Flows of captures on disk, with names where manifests give them. The work behind `flows read`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.read import Reading, read_capture
from ringfence.capture.packets.sources import beginning, open_capture
from ringfence.cli.foreign import shown
from ringfence.flows.captured import Captured
from ringfence.flows.categories import categories
from ringfence.flows.link import Legs, link
from ringfence.flows.present import Facts, present
from ringfence.flows.terms import Dictionaries
from ringfence.imports.read import OWN, guess, read_import, read_own
from ringfence.imports.read import Reading as Foreign
from ringfence.inventory.inventory import Inventory
from ringfence.inventory.services import is_probe
from ringfence.model.columns import TRANSLATION, Table, structured
from ringfence.model.endpoints import Endpoint
from ringfence.model.flows import Flow, Tls
from ringfence.model.problems import Problem

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

CLUSTER = ""
"""Manifests do not say which cluster they are of; the name never leaves this file."""


HEAD = 1 << 16
"""Octets of a file's beginning that say what it is."""


class Answer(NamedTuple):
    """Flows of all files, what could not be read (exit code 2), and what is worth knowing besides."""

    flows: list[Flow]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    frames: int
    lines: int
    """Of other tools' logs."""
    left_out: int
    """Flows beyond the limit."""


class Names(NamedTuple):
    """Endpoint versions of both ends of each row, and which rows are kubelets' probes."""

    consumer: I32
    provider: I32
    endpoints: Sequence[Endpoint]
    probe: NDArray[np.bool_]


Naming = Callable[[Table], Names]


def read_files(
    files: Sequence[str], manifests: str | None, sort: str, limit: int | None, format: str = "auto"
) -> Answer:
    """Read every file as far as it goes. Raises Problem only when `manifests` cannot be read at all.

    `format` is `auto`, `pcap`, or one of `imports.read.READERS`. Of a folder all files are read, in the order of their
    paths; those that are neither captures nor flow logs are named in a note.
    """
    naming, problems, notes = naming_of(manifests)
    parts: list[_Part] = []
    strangers: list[str] = []
    for name, inside in _files(files):
        room = None if limit is None else max(0, limit - sum(len(part.flows) for part in parts))
        try:
            part = _part(name, _origin(name, format), naming, sort, room)
        except Problem as problem:
            if inside and problem.what in STRANGE:
                strangers.append(name)
                continue
            # Its traceback would keep the file's whole buffer.
            problems.append(problem.with_traceback(None))
            continue
        parts.append(part)
        problems += [part.problem] if part.problem else []
    return Answer(
        [flow for part in parts for flow in part.flows],
        tuple(problems),
        (*notes, *(note for part in parts for note in part.notes), *_passed_over(strangers)),
        sum(part.frames for part in parts),
        sum(part.lines for part in parts),
        sum(part.total - len(part.flows) for part in parts),
    )


STRANGE = ("not a capture, nor a flow log that is known by its beginning", "holds no flows")
"""What is wrong with files that a folder may hold beside flows."""
_NAMED = 10


def _files(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each file, and whether it was found inside a folder."""
    for name in names:
        if name != "-" and Path(name).is_dir():
            yield from ((str(file), True) for file in sorted(Path(name).rglob("*")) if file.is_file())
        else:
            yield name, False


def _passed_over(files: Sequence[str]) -> list[str]:
    if not files:
        return []
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return [f"{len(files)} files hold no flows and were passed over: {', '.join(files[:_NAMED])}{more}"]


class _Part(NamedTuple):
    """What one file gave: the flows to show of `total`."""

    flows: list[Flow]
    total: int
    frames: int = 0
    lines: int = 0
    notes: Sequence[str] = ()
    problem: Problem | None = None


def _part(name: str, origin: str | None, naming: Naming, sort: str, room: int | None) -> _Part:
    """Read one file. Raises Problem when nothing of it can be read."""
    if origin == OWN:
        with open_capture(name) as stream, _lines(stream) as content:
            own, lines, notes = read_own(content, name)
        return _Part(_sorted(own, sort)[:room], len(own), 0, lines, notes)
    if origin is not None:
        with open_capture(name) as stream, _lines(stream) as content:
            foreign = read_import(content, name, origin)
        rows = foreign.imported.flows
        told = flows_of(foreign, naming, sort, room)
        return _Part(told, len(rows), 0, foreign.lines, foreign.notes)
    try:
        reading = read_capture(name)
    except Problem as problem:
        if problem.what != "not a capture":
            raise
        fix = "name a capture, or another tool's flow log that begins as such (else say which by --format)"
        raise Problem(STRANGE[0], name, fix) from None
    rows, legs = _linked(reading.captured)
    found = _shown(rows, legs, naming(rows), _chosen(rows, sort)[:room], reading.dictionaries)
    return _Part(found, len(rows), reading.frames, 0, _remarks(reading, name), reading.problem)


def _lines(stream: IO[bytes]) -> io.BufferedReader:
    """The same stream, for reading by lines."""
    return io.BufferedReader(cast("io.RawIOBase", stream), HEAD)


def _origin(name: str, format: str) -> str | None:
    """Whose flows a file holds; None for a capture."""
    if format == "auto":
        return origin_of(name)
    return None if format == "pcap" else format


def origin_of(name: str) -> str | None:
    """The same by how a file (`-`: standard input, which is not used up) begins."""
    return guess(beginning(name, HEAD))


def _sorted(flows: list[Flow], sort: str) -> list[Flow]:
    """As `_chosen` orders rows."""
    if sort == "start":
        return sorted(flows, key=lambda flow: flow.start or "")
    return sorted(
        flows, key=lambda flow: -sum(getattr(flow, f"{end}_{sort}") or 0 for end in ("consumer", "provider"))
    )


def flows_of(foreign: Foreign, naming: Naming, sort: str, room: int | None = None) -> list[Flow]:
    """The first flows of another tool's file, at most `room`."""
    rows = foreign.imported.flows
    chosen = _chosen(rows, sort)[:room]
    names = naming(rows)
    versions = names.consumer, names.provider
    ends = [[names.endpoints[version] for version in side.tolist()] for side in versions]
    return list(shown(foreign, chosen.tolist(), (ends[0], ends[1]), names.probe))


def _remarks(reading: Reading, name: str) -> list[str]:
    return [
        f"{name}: {count} packets of link type {kind} passed over; it is not one that is read"
        for kind, count in sorted(reading.foreign.items())
    ]


def _linked(captured: Captured) -> tuple[Table, Legs]:
    """Tunnels tied to what they carry; a capture holds no translations."""
    return link(captured.flows, structured(TRANSLATION, 0), captured.nested)


def _chosen(flows: Table, sort: str) -> I64:
    if sort == "start":
        return np.argsort(flows["first"], kind="stable")
    total = flows[f"consumer_{sort}"].astype(np.int64) + flows[f"provider_{sort}"].astype(np.int64)
    return np.argsort(-total, kind="stable")


def _shown(flows: Table, legs: Legs, names: Names, chosen: I64, dictionaries: Dictionaries) -> list[Flow]:
    """The contract's values of the chosen rows, in that order."""
    kinds = categories(flows, legs, names.consumer, names.provider, names.endpoints, names.probe)
    consumers = [names.endpoints[version] for version in names.consumer[chosen].tolist()]
    providers = [names.endpoints[version] for version in names.provider[chosen].tolist()]
    picked = Legs._make(column[chosen] for column in legs)
    facts, nowhere = _facts(flows[chosen], dictionaries), [()] * len(chosen)
    labels = [kinds[row] for row in chosen.tolist()]
    return list(present(flows[chosen], picked, consumers, providers, labels, nowhere, facts))


def _facts(flows: Table, dictionaries: Dictionaries) -> list[Facts]:
    """The names by which providers were known and what TLS asked for; nothing else is in a capture."""
    names = [(), *(tuple(text.split()) for text in dictionaries.names)]
    asked = [None, *(Tls(info.server_name, info.alpn) for info in dictionaries.tls)]
    pairs = zip(flows["names"].tolist(), flows["tls"].tolist(), strict=True)
    return [Facts(provider_names=names[name], tls=asked[tls]) for name, tls in pairs]


def naming_of(manifests: str | None) -> tuple[Naming, list[Problem], list[str]]:
    """How rows get their names, and what was wrong with the manifests."""
    if manifests is None:
        return _nameless, [], []
    from ringfence.kube.manifests import load

    read = load(manifests)
    inventory = Inventory()
    inventory.add_objects(CLUSTER, read.objects)
    return (lambda flows: _named(inventory, flows)), list(read.problems), list(read.notes)


def _nameless(flows: Table) -> Names:
    """Without manifests nothing is known of any address, not even that it is outside."""
    nobody = np.zeros(len(flows), np.int32)
    return Names(nobody, nobody, [Endpoint("unresolved")], np.zeros(len(flows), np.bool_))


def _named(inventory: Inventory, flows: Table) -> Names:
    consumer, provider = (
        inventory.resolve(CLUSTER, flows[f"{end}_hi"], flows[f"{end}_lo"], flows["first"])
        for end in ("consumer", "provider")
    )
    probe = is_probe(inventory, CLUSTER, consumer, provider, flows["protocol"], flows["provider_port"])
    endpoints = [msgspec.structs.replace(endpoint, cluster=None) for endpoint in inventory.endpoints]
    return Names(consumer, provider, endpoints, probe)
