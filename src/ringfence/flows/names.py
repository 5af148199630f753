"""Which names a consumer had learnt for its provider when it connected, what it asked for by TLS, and how long DNS took.

Goals: a flow gets the names that *its own* consumer had been answered *before* the flow began, and keeps them however
long it lives; never a name that somebody else asked for. The memory is columns sorted by key, so that a window of
10^5 flows costs a few sorts; only distinct sets of names become text.

A name counts while its TTL runs, and for GRACE longer where no other does: programs keep addresses past their TTL
(a proxy resolves its upstream once, at start), and what they connected to is still what they had learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.heard import NO_TAP, NODE, Heard, plain_key
from ringfence.flows.keys import hash_words
from ringfence.flows.terms import Dictionaries, size_of
from ringfence.model.batches import TlsInfo
from ringfence.model.columns import UNKNOWN_U4, Table
from ringfence.model.distinct import distinct
from ringfence.model.protocols import UDP

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
Mask = NDArray[np.bool_]

SECOND = 1_000_000_000
GRACE = 3600 * SECOND
"""How long a name may still be given after its TTL ran out."""
SHORTEST = 5 * SECOND
"""A TTL of 0 means "use it now" (RFC 1035 section 3.2.1); connecting takes a moment."""
PATIENCE = 30 * SECOND
"""How late an answer may come: resolvers give up after 5 to 30 s."""
IDLE = 7_200 * SECOND
"""How long names of a silent flow are kept, as its direction is (`memory.IDLE_TCP`)."""
MOST = 1 << 17
"""Rows of each table kept at most: of more, those learnt or heard of longest ago go (4 MB each)."""
MOST_OCTETS = 12 << 20
"""Memory that texts take at most: of more, the older half of what points at them is forgotten, and again."""
MOST_NAMES = 8
"""Names given to one flow at most: the latest learnt."""
MAX_TEXT = 4096
"""Octets of one flow's names (`wire.checks`)."""

LEARNT = np.dtype([("key", "<u8"), ("name", "<u8"), ("since", "<i8"), ("latest", "<i8"), ("until", "<i8")])
"""One name of one address as one consumer learnt it: first, last, and until when its TTL runs."""
GIVEN = np.dtype([("key", "<u8"), ("names", "<u8"), ("tls", "<u8"), ("last", "<i8")])
"""What a live conversation was given; `names` and `tls` are hashes, 0 for none."""
QUESTION = np.dtype(
    [
        ("key", "<u8"),  # what an answer must repeat: the flow, its number, what was asked; and the tap
        ("flow", "<u8"),
        ("time", "<i8"),
        ("tap", "<u4"),
        ("response", "u1"),
        ("message", "<u4"),  # index into `Heard.messages` of this window
    ]
)


class Names(NamedTuple):
    """What is remembered between windows. Tables are sorted by key."""

    learnt: Table = np.zeros(0, LEARNT)
    given: Table = np.zeros(0, GIVEN)
    waiting: Table = np.zeros(0, QUESTION)
    texts: Mapping[int, str] = {}
    """Names, and sets of names with spaces between, by their hash."""
    infos: Mapping[int, TlsInfo] = {}
    """TLS facts by their hash."""


class Asking(NamedTuple):
    """The flows of one window, aligned: which conversation, who its consumer is, and whether it began in it."""

    table: Table
    """Columns of TUPLE, `first`, `rtt_us`, `names` and `tls`; the last three are filled in."""
    key: U64
    who: U32
    """A stable name of the consumer's pod, or NODE, 0 where its address must do."""
    begins: Mask
    """Whether it was opened in this window: what was learnt before then are its names."""
    borrowed: Mask | None = None
    """Whose consumer's address was lent by source translation: who uses it learnt nothing by it."""


def name(
    asking: Asking, heard: Heard, tap_who: U32, known: Names, now: int, unasked: bool = True
) -> tuple[Dictionaries, Names]:
    """Fill `names`, `tls` and, for DNS, `rtt_us` of the flows; `tap_who` names each tap's pod (0: none).

    `now` is UTC nanoseconds. Flows that began earlier keep what they were given then. `unasked`: also answers to
    questions that were not heard count; without, nobody tells a pod a name that does not answer what it asked.
    """
    tables = (known.learnt, known.given, known.waiting, heard.answers, heard.messages, heard.hellos)
    if not any(map(len, tables)):
        return Dictionaries((), ()), known
    known, asked = _timed(asking, known, heard, tap_who, now)
    known = _learn(known, heard if unasked else _asked_for(heard, asked), tap_who, now)
    mine, texts = _names_at(asking, known)
    given, infos = _give(asking, known, mine, heard, now)
    at = _find(given["key"], asking.key)
    hit = at >= 0
    dictionaries = Dictionaries((), ())
    columns = []
    for column, terms in (("names", {**known.texts, **texts}), ("tls", {**known.infos, **infos})):
        hashes = (
            np.where(hit, given[column][at], np.uint64(0)) if len(given) else np.zeros(len(at), np.uint64)
        )
        used = distinct(hashes[hashes > 0])
        asking.table[column] = np.where(hashes > 0, np.searchsorted(used, hashes) + 1, 0)
        columns.append(tuple(terms[value] for value in used.tolist()))
    dictionaries = Dictionaries(*columns)  # type: ignore[arg-type]
    return dictionaries, _tidy(known, given, {**known.texts, **texts}, {**known.infos, **infos})


def _tidy(known: Names, given: Table, texts: Mapping[int, str], infos: Mapping[int, TlsInfo]) -> Names:
    """Without the terms that nothing points at any more, once they are many; and within MOST_OCTETS."""
    many = len(texts) + len(infos) > 2 * (len(known.learnt) + len(given)) + 1024
    known = known._replace(given=given, texts=texts, infos=infos)
    most = MOST
    while many or _octets(known) > MOST_OCTETS:
        known = _pruned(known)
        many, most = False, most // 2
        if _octets(known) > MOST_OCTETS:
            learnt, given = _newest(known.learnt, "latest", most), _newest(known.given, "last", most)
            known = known._replace(learnt=learnt, given=given)
    return known


def _octets(known: Names) -> int:
    return sum(map(size_of, known.texts.values())) + sum(map(size_of, known.infos.values()))


def _pruned(known: Names) -> Names:
    used = {*known.learnt["name"].tolist(), *known.given["names"].tolist()}
    texts = {value: text for value, text in known.texts.items() if value in used}
    used = set(known.given["tls"].tolist())
    infos = {value: info for value, info in known.infos.items() if value in used}
    return known._replace(texts=texts, infos=infos)


def _consumer_key(who: U32, hi: U64, lo: U64, other_hi: U64, other_lo: U64) -> U64:
    """One word for (consumer, provider's address): the pod where one is known, else the consumer's address."""
    by_pod = who > 0
    hi, lo = np.where(by_pod, np.uint64(0), hi), np.where(by_pod, np.uint64(0), lo)
    return hash_words(who.astype(np.uint64), hi, lo, other_hi, other_lo)


def _asked_for(heard: Heard, asked: Mask) -> Heard:
    """Only the answers that came with these messages."""
    return heard._replace(answers=heard.answers[asked[heard.answers["message"]]])


def _learn(known: Names, heard: Heard, tap_who: U32, now: int) -> Names:
    """The memory with what was answered added and what is too old taken out."""
    learnt = known.learnt[known.learnt["until"] + GRACE > now]
    answers = heard.answers
    if not len(answers):
        return known._replace(learnt=learnt)
    used = distinct(answers["name"])
    hashes = np.zeros(len(heard.names), np.uint64)
    hashes[used] = [_hash(heard.names[index]) for index in used.tolist()]
    fresh = np.zeros(len(answers), LEARNT)
    ends = (answers[column] for column in ("consumer_hi", "consumer_lo", "address_hi", "address_lo"))
    fresh["key"] = _consumer_key(_of_tap(tap_who, answers["tap"]), *ends)
    fresh["name"] = hashes[answers["name"]]
    fresh["since"] = fresh["latest"] = answers["time"]
    fresh["until"] = answers["time"] + np.maximum(answers["ttl"].astype(np.int64) * SECOND, SHORTEST)
    texts = dict(known.texts) | {int(hashes[index]): heard.names[index] for index in used.tolist()}
    return known._replace(learnt=_newest(_joined(np.concatenate([learnt, fresh])), "latest"), texts=texts)


def _of_tap(tap_who: U32, tap: U32) -> U32:
    """The pod of each tap (NODE for NO_TAP), 0 also for a tap that is not known any more."""
    who = np.append(tap_who, np.uint32(0))[np.minimum(tap, len(tap_who))]
    return np.where(tap == NO_TAP, NODE, who).astype(np.uint32)


def _joined(rows: Table) -> Table:
    """One row for each (key, name)."""
    rows = rows[np.lexsort((rows["name"], rows["key"]))]
    starts = np.flatnonzero(_changes(rows["key"], rows["name"]))
    whole = rows[starts].copy()
    for column, keep in (("since", np.minimum), ("latest", np.maximum), ("until", np.maximum)):
        whole[column] = keep.reduceat(rows[column], starts)
    return whole


def _hash(text: str) -> int:
    """One word for a text, never 0. Not `text_hash`: texts of strangers are long and not worth keeping for it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) or 1


def _newest(rows: Table, column: str, most: int | None = None) -> Table:
    """The `most` (MOST) rows with the latest time, in the same order."""
    most = MOST if most is None else most
    if len(rows) <= most:
        return rows
    if not most:
        return rows[:0]
    kept = np.argpartition(rows[column], len(rows) - most)[len(rows) - most :]
    return rows[np.sort(kept)]


def _changes(*columns: NDArray[np.generic]) -> Mask:
    changed = np.zeros(len(columns[0]), np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _names_at(asking: Asking, known: Names) -> tuple[U64, dict[int, str]]:
    """For each flow that begins the hash of its set of names, and the texts of those sets."""
    found = np.zeros(len(asking.key), np.uint64)
    wanted = asking.begins if asking.borrowed is None else asking.begins & ~asking.borrowed
    rows = np.flatnonzero(wanted)
    if not len(rows) or not len(known.learnt):
        return found, {}
    table, learnt = asking.table[rows], known.learnt
    ends = [table[column] for column in ("consumer_hi", "consumer_lo", "provider_hi", "provider_lo")]
    by_pod = _consumer_key(asking.who[rows], *ends)
    # What was answered before its pod was known, at that address, will do where the pod's own memory has nothing.
    by_address = _consumer_key(np.zeros(len(rows), np.uint32), *ends)
    key = np.where(_find(learnt["key"], by_pod) >= 0, by_pod, by_address)
    low, high = (np.searchsorted(learnt["key"], key, side) for side in ("left", "right"))
    row, entry = _expanded(low, high)
    row, entry = _valid(row, entry, learnt, table["first"])
    if not len(row):
        return found, {}
    # Names in their own order, so that equal sets are equal words.
    order = np.lexsort((learnt["name"][entry], row))
    row, entry = row[order], entry[order]
    starts = np.flatnonzero(_changes(row))
    words = hash_words(learnt["name"][entry], np.ones(len(entry), np.uint64))
    sizes = np.diff(np.r_[starts, len(row)])
    sets = np.where(sizes > 1, np.add.reduceat(words, starts), learnt["name"][entry[starts]])
    found[rows[row[starts]]] = sets
    return found, _texts(sets, starts, sizes, learnt, entry, known.texts)


def _expanded(low: I64, high: I64) -> tuple[I64, I64]:
    """Every (row, entry) with entry in [low, high) of its row."""
    sizes = high - low
    row = np.repeat(np.arange(len(low)), sizes)
    begin = np.cumsum(sizes) - sizes
    return row, np.arange(len(row)) - begin[row] + low[row]


def _valid(row: I64, entry: I64, learnt: Table, first: I64) -> tuple[I64, I64]:
    """The pairs that count: learnt before the flow began; in their TTL if any name is; the latest of too many."""
    before = learnt["since"][entry] <= first[row]
    row, entry = row[before], entry[before]
    alive = first[row] < learnt["until"][entry]
    some = np.zeros(len(first), np.bool_)
    some[row[alive]] = True
    kept = alive | ~some[row]
    row, entry = row[kept], entry[kept]
    order = np.lexsort((-learnt["latest"][entry], row))
    row, entry = row[order], entry[order]
    starts = np.flatnonzero(_changes(row)) if len(row) else np.zeros(0, np.int64)
    rank = np.arange(len(row)) - np.repeat(starts, np.diff(np.r_[starts, len(row)]))
    return row[rank < MOST_NAMES], entry[rank < MOST_NAMES]


def _texts(
    sets: U64, starts: I64, sizes: I64, learnt: Table, entry: I64, texts: Mapping[int, str]
) -> dict[int, str]:
    """The text of each distinct set of more than one name, the latest learnt first."""
    found = {}
    several = np.flatnonzero(sizes > 1)
    _, chosen = np.unique(sets[several], return_index=True)
    for at in several[chosen].tolist():
        mine = entry[starts[at] : starts[at] + sizes[at]]
        mine = mine[np.argsort(-learnt["latest"][mine], kind="stable")]
        found[int(sets[at])] = _fitting([texts[value] for value in learnt["name"][mine].tolist()])
    return found


def _fitting(names: list[str]) -> str:
    """As many of the names as fit one text."""
    text = names[0][:MAX_TEXT]
    for each in names[1:]:
        if len(text) + 1 + len(each) > MAX_TEXT:
            break
        text += " " + each
    return text


def _give(
    asking: Asking, known: Names, mine: U64, heard: Heard, now: int
) -> tuple[Table, dict[int, TlsInfo]]:
    """What each live conversation has now been given, sorted by key; and new TLS facts by their hash."""
    begun = distinct(asking.key[asking.begins])
    old = known.given[(_find(begun, known.given["key"]) < 0) & (known.given["last"] + IDLE > now)].copy()
    old["last"][_find(distinct(asking.key), old["key"]) >= 0] = now
    fresh = np.zeros(int((mine > 0).sum()), GIVEN)
    fresh["key"], fresh["names"], fresh["last"] = asking.key[mine > 0], mine[mine > 0], now
    hellos, infos = _hellos(heard, now)
    rows = np.concatenate([old, fresh, hellos])
    rows = rows[np.argsort(rows["key"], kind="stable")]
    starts = np.flatnonzero(_changes(rows["key"])) if len(rows) else np.zeros(0, np.int64)
    whole = rows[starts].copy()
    if len(rows):
        for column in ("names", "tls"):
            whole[column] = _last_set(rows[column], starts)
    return _newest(whole, "last"), infos


def _last_set(values: U64, starts: I64) -> U64:
    """The last of each group's values that is not 0."""
    place = np.maximum.reduceat(np.where(values > 0, np.arange(len(values)), -1), starts)
    return np.where(place >= 0, values[place], np.uint64(0))


def _hellos(heard: Heard, now: int) -> tuple[Table, dict[int, TlsInfo]]:
    hashes = [_hash("\0".join((info.server_name or "", *info.alpn))) for info in heard.tls]
    rows = np.zeros(len(heard.hellos), GIVEN)
    order = np.argsort(heard.hellos["time"], kind="stable")
    hellos = heard.hellos[order]
    rows["key"], rows["last"] = plain_key(hellos), now
    if len(rows):
        rows["tls"] = np.array(hashes, np.uint64)[hellos["tls"]]
    return rows, dict(zip(hashes, heard.tls, strict=True))


def _find(keys: U64, wanted: U64) -> I64:
    """Place of each wanted key in sorted `keys`, -1 where it is not."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _timed(asking: Asking, known: Names, heard: Heard, tap_who: U32, now: int) -> tuple[Names, Mask]:
    """Fill `rtt_us` of DNS flows: from the first question to its answer. The memory with what still waits, and which
    messages answered a question that was heard."""
    rows = np.concatenate([known.waiting, _messages(heard)])
    rows = rows[np.lexsort((rows["response"], rows["time"], rows["key"]))]
    asked_for = np.zeros(len(heard.messages), np.bool_)
    if not len(rows):
        return known, asked_for
    # A stretch is one question, asked once or again, and the answer that ends it.
    ends = rows["response"] == 1
    begins = _changes(rows["key"])
    begins[1:] |= ends[:-1]
    starts = np.flatnonzero(begins)
    last = np.r_[starts[1:], len(rows)] - 1
    asked = ~ends[starts]
    took = rows["time"][last] - rows["time"][starts]
    answered = np.flatnonzero(asked & ends[last] & (took <= PATIENCE))
    _fill_times(asking, rows[starts[answered]], took[answered], tap_who)
    asked_for[rows["message"][last[answered]]] = True
    waiting = rows[starts[asked & ~ends[last]]]
    waiting = _newest(waiting[waiting["time"] + PATIENCE > now], "time")
    return known._replace(waiting=waiting), asked_for


def _messages(heard: Heard) -> Table:
    """QUESTION rows of this window."""
    messages = heard.messages
    rows = np.zeros(len(messages), QUESTION)
    used = distinct(messages["name"])
    hashes = np.zeros(len(heard.names), np.uint64)
    hashes[used] = [_hash(heard.names[index]) for index in used.tolist()]
    rows["flow"] = plain_key(messages)
    number, tap = (messages[column].astype(np.uint64) for column in ("number", "tap"))
    rows["key"] = hash_words(rows["flow"], number << np.uint64(32) | tap, hashes[messages["name"]])
    for column in ("time", "tap", "response"):
        rows[column] = messages[column]
    rows["message"] = np.arange(len(messages))
    return rows


def _fill_times(asking: Asking, asked: Table, took: I64, tap_who: U32) -> None:
    """The shortest of each flow, at the asker's own tap where that saw it: others do not see all of the way."""
    if not len(asked):
        return
    elsewhere = _of_tap(tap_who, asked["tap"]) == 0
    order = np.lexsort((took, elsewhere, asked["flow"]))
    best = order[_changes(asked["flow"][order])]
    at = _find(asked["flow"][best], asking.key)
    rows = np.flatnonzero((at >= 0) & (asking.table["protocol"] == UDP))
    micros = np.clip(took[best] // 1000, 0, UNKNOWN_U4 - 1)
    asking.table["rtt_us"][rows] = micros[at[rows]]
