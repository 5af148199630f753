"""What a batch must keep before a server believes a word of it. Pure; every defect is a `Problem`.

A batch is written by a process on a node that may be broken or hostile: ranges, indexes into dictionaries,
lengths of names and counts are checked here once, so that nothing behind needs to.
"""

from __future__ import annotations

import ipaddress
import string

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.hops import named
from ringfence.model.batches import BatchHeader, Loss, ProcessInfo
from ringfence.model.columns import LAYOUT, Direction, Drop, Kind, Link, Role, Table, Way
from ringfence.model.problems import Problem

MAX_NAME = 253
"""Longest name of a cluster, node, interface or pod (a DNS name's limit, RFC 1035)."""
MAX_TEXT = 4096
MAX_WINDOWS = 10_000
MAX_ALPN = 64
"""Most protocols of one ClientHello."""
MAX_TERMS = 100_000
"""Most entries of one dictionary."""
MAX_SAMPLE = 1 << 20
"""The coarsest sampling: one packet in so many."""
MAX_COUNT = 1 << 60
"""Largest counter: sums of a few rows stay within 64 bits."""
MAX_TIME = 1 << 62
"""Nanoseconds; the year 2116."""
LONGEST_WINDOW = 3_600_000_000_000
FIX = "upgrade the agent, or look for what else sends with its token"

_EPOCH = frozenset(string.ascii_letters + string.digits + "_-")
_CEILINGS = (("kind", len(Kind)), ("direction", len(Direction)), ("role", len(Role)), ("drop", len(Drop)))
_COUNTERS = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")


def check_batch(header: BatchHeader, sightings: Table, translations: Table, hops: Table) -> None:
    """Raise Problem unless every value lies where the layout says it lies."""
    _check_names(header)
    _check_numbers(header)
    _check_dictionaries(header)
    _check_sightings(header, sightings)
    _check_translations(translations)
    _check_hops(sightings, hops)


def _need(holds: bool | np.bool_, what: str, where: str) -> None:
    if not holds:
        raise Problem(what, where, FIX)


def _plain(text: str, limit: int = MAX_NAME) -> bool:
    return 0 < len(text) <= limit and text.isprintable()


def _check_names(header: BatchHeader) -> None:
    for name in ("cluster", "node", "epoch", "mode"):
        _need(_plain(getattr(header, name)), f"bad {name}", "header")
    # The key of high-water marks is built with these; a space in one would make two keys look alike.
    for name in ("cluster", "node", "epoch"):
        _need(" " not in getattr(header, name), f"{name} has a space", "header")
    # An agent names spool files by its epoch.
    _need(set(header.epoch) <= _EPOCH, "epoch has other characters than a-z A-Z 0-9 _ -", "header")
    _need(len(header.version) <= MAX_NAME, "bad version", "header")
    _need(header.layout == LAYOUT, f"header has layout {header.layout}", "header")


def _check_numbers(header: BatchHeader) -> None:
    _need(1 <= header.sequence < MAX_COUNT, "bad sequence", "header")
    _need(0 <= header.sent < MAX_TIME, "bad time of sending", "header")
    _need(0 < header.window_length <= LONGEST_WINDOW, "bad window length", "header")
    _need(len(header.windows) <= MAX_WINDOWS, "too many windows", "header")
    _need(all(0 <= window < MAX_TIME for window in header.windows), "bad window", "header")
    _need(len(set(header.windows)) == len(header.windows), "a window twice", "header")
    _need(1 <= header.sample <= MAX_SAMPLE, "bad sample", "header")
    if header.open_window is not None:
        _need(0 <= header.open_window < MAX_TIME, "bad open window", "header")
        _need(header.open_window not in header.windows, "an open window that is closed", "header")
    _need(0 <= header.packets < MAX_COUNT, "bad packets", "header")
    _need(0 <= header.records < MAX_COUNT, "bad records", "header")


def _check_dictionaries(header: BatchHeader) -> None:
    for name in ("taps", "pods", "processes", "names", "tls", "addresses", "losses", "notes"):
        _need(len(getattr(header, name)) <= MAX_TERMS, f"too many {name}", "header")
    for tap in header.taps:
        # Taps are stored as `at/interface` with spaces between: Linux forbids both in interface names.
        # One without a name is a place that no interface holds: the tap before went, and ids are indexes.
        named = not tap.interface or _plain(tap.interface)
        plain = named and _plain(tap.at) and not set("/ ") & set(tap.interface + tap.at)
        _need(plain and len(tap.pod or "") <= MAX_NAME, "bad tap", "header")
    _need(all(_plain(pod) for pod in header.pods), "bad pod", "header")
    _need(all(map(_is_process, header.processes)), "bad process", "header")
    _need(all(_plain(names, MAX_TEXT) for names in header.names), "bad names", "header")
    for tls in header.tls:
        texts = (*((tls.server_name,) if tls.server_name is not None else ()), *tls.alpn)
        _need(len(tls.alpn) <= MAX_ALPN and all(map(_plain, texts)), "bad tls", "header")
    _need(all(len(note) <= MAX_TEXT for note in header.notes), "note too long", "header")
    _need(all(_is_address(address) for address in header.addresses), "bad address", "header")
    _need(all(_is_count(loss) for loss in header.losses), "bad loss", "header")


def _is_process(process: ProcessInfo) -> bool:
    texts = (
        process.name,
        process.exe or "",
        process.parent or "",
        process.container or "",
        process.pod or "",
    )
    fits = all(len(text) <= MAX_TEXT for text in texts)
    return fits and 0 <= process.pid < 1 << 32 and 0 <= (process.parent_pid or 0) < 1 << 32


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_count(loss: Loss) -> bool:
    numbers = (loss.packets, loss.octets, loss.events)
    return _plain(loss.stage) and all(0 <= number < MAX_COUNT for number in numbers)


def _check_sightings(header: BatchHeader, table: Table) -> None:
    where = "sightings"
    begun = () if header.open_window is None else (header.open_window,)
    windows = np.array(sorted((*header.windows, *begun)), np.int64)
    _need(_is_in(table["window"], windows).all(), "a window that the batch does not tell of", where)
    first_window = table["first_window"]
    _need(((first_window >= 0) & (first_window <= table["window"])).all(), "bad first window", where)
    _need(
        ((table["first"] >= 0) & (table["first"] <= table["last"]) & (table["last"] < MAX_TIME)).all(),
        "bad times",
        where,
    )
    for name, ceiling in _CEILINGS:
        _need((table[name] < ceiling).all(), f"bad {name}", where)
    for name in _COUNTERS:
        _need((table[name] < MAX_COUNT).all(), f"bad {name}", where)
    for name, terms in (
        ("consumer_pod", header.pods),
        ("provider_pod", header.pods),
        ("process", header.processes),
        ("provider_process", header.processes),
        ("names", header.names),
        ("tls", header.tls),
        ("taps", header.taps),
    ):
        _need((table[name] <= len(terms)).all(), f"{name} beyond its dictionary", where)


def _check_translations(table: Table) -> None:
    where = "translations"
    _need(((table["seen"] >= 0) & (table["seen"] < MAX_TIME)).all(), "bad times", where)
    for name in ("dnat", "snat", "dumped"):
        _need((table[name] <= 1).all(), f"bad {name}", where)
    _need((table["link"] < len(Link)).all(), "bad link", where)


def _check_hops(sightings: Table, table: Table) -> None:
    """All taps that sightings name have their hop, or none has. No tap counted less than nothing."""
    where = "hops"
    if not len(table):
        return
    sizes = named(sightings)
    _need(len(table) == sizes.sum(), "another number of hops than taps", where)
    for name, ceiling in (("role", len(Role)), ("way", len(Way)), ("mixed", 2)):
        _need((table[name] < ceiling).all(), f"bad {name}", where)
    for name in _COUNTERS:
        # Within the limit first: a sum of two numbers below it does not overflow.
        less = table[name]
        _need(((less > -MAX_COUNT) & (less < MAX_COUNT)).all(), f"bad {name}", where)
        total = np.repeat(sightings[name].astype(np.int64), sizes) + less
        _need(((total >= 0) & (total < MAX_COUNT)).all(), f"bad {name}", where)


def _is_in(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values are in `known` (sorted)."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    return np.asarray(known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values)
