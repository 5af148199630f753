"""Decoded batches become one segment: flow ids settled, dictionaries resolved, rows in Arrow. Pure but for state.

The only state is `Conversations`; everything else is a function of the batches and the time they came.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa

from ringfence.flows.conversations import I64, U64, Claims, Conversations, conversation_key, pods_at
from ringfence.flows.hops import kept as hops_of
from ringfence.flows.keys import flow_id, text_hash, tuple_hash
from ringfence.model.batches import BatchHeader, Loss
from ringfence.model.columns import Table
from ringfence.store import rows as make
from ringfence.store.facts import Mark, Report
from ringfence.store.journal import Segment, to_bytes
from ringfence.store.schema import RETENTION_DAYS, TABLES
from ringfence.wire.codec import Batch

RETENTION = RETENTION_DAYS * 86_400_000_000_000
AHEAD = 600_000_000_000
"""Nanoseconds by which an agent's clock may run ahead before its rows are refused."""
OUTSIDE = "outside-retention"


class AgentState(msgspec.Struct, frozen=True):
    """The last word of one agent. Times are UTC nanoseconds; `skew` is server minus agent at sending."""

    cluster: str
    node: str
    epoch: str
    sequence: int
    version: str
    mode: str
    window_length: int
    seen: int
    skew: int
    taps: int
    notes: tuple[str, ...]


def build_segment(number: int, batches: Sequence[tuple[Batch, int]], state: Conversations) -> Segment:
    """The segment of `batches`, each with the time it was received, in the order of their acceptance."""
    parts: dict[str, list[pa.Table]] = {table.name: [] for table in TABLES}
    kept = [_within(batch, received) for batch, received in batches]
    settled = _settled(
        [(batch.header, rows) for (batch, _), (rows, *_) in zip(batches, kept, strict=True)], state
    )
    for (batch, received), (rows, losses, hops), (tuples, first) in zip(batches, kept, settled, strict=True):
        header = batch.header
        cluster = text_hash(header.cluster)
        ids = flow_id(cluster, rows["zone"], tuples, rows["inner"], first)
        moment = batch.translations["seen"]
        translations = batch.translations[(moment > received - RETENTION) & (moment < received + AHEAD)]
        windows = [w for w in header.windows if received - RETENTION < w < received + AHEAD]
        parts["sightings"].append(make.sightings_table(header, rows, number, ids, tuples, first, hops))
        parts["translations"].append(make.translations_table(header, translations, number))
        parts["windows"].append(make.windows_table(header, windows, number))
        parts["batches"].append(make.batches_table(header, len(rows), number, received))
        parts["losses"].append(make.losses_table(header, losses, number, received))
    tables = {name: to_bytes(_joined(tables)) for name, tables in parts.items()}
    headers = [(batch.header, received) for batch, received in batches]
    return Segment(number, tables, _marks(headers), _agents(headers), _reports(headers))


def _within(batch: Batch, received: int) -> tuple[Table, list[Loss], Table]:
    """The rows whose window a store keeps, what was lost, the rest included, and the hops of those rows."""
    rows, losses = batch.sightings, list(batch.header.losses)
    window = rows["window"]
    good = (window > received - RETENTION) & (window < received + AHEAD)
    if not good.all():
        bad = rows[~good]
        packets, octets = (
            int(bad[f"consumer_{unit}"].sum() + bad[f"provider_{unit}"].sum())
            for unit in ("packets", "octets")
        )
        losses.append(Loss(OUTSIDE, packets, octets, len(bad)))
    return rows[good], losses, hops_of(rows, batch.hops, good)


def _settled(batches: Sequence[tuple[BatchHeader, Table]], state: Conversations) -> list[tuple[U64, I64]]:
    """(tuple hashes, where the flows begin) per batch; the conversations of all of them are settled together."""
    tuples = [tuple_hash(rows) for _, rows in batches]
    claims = [_claims(head, rows, each) for (head, rows), each in zip(batches, tuples, strict=True)]
    first = state.settle(Claims(*map(np.concatenate, zip(*claims, strict=True))))
    ends = np.cumsum([len(rows) for _, rows in batches])[:-1]
    return list(zip(tuples, np.split(first, ends), strict=True))


def _claims(head: BatchHeader, rows: Table, tuples: U64) -> Claims:
    names = np.array([text_hash(uid) for uid in head.pods], np.uint64)
    return Claims(
        conversation_key(head.cluster, rows, tuples),
        rows["first_window"],
        rows["window"],
        np.full(len(rows), head.window_length, np.int64),
        rows["first"],
        *pods_at(rows, names),
    )


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of many, dictionaries made one."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _marks(headers: Sequence[tuple[BatchHeader, int]]) -> tuple[Mark, ...]:
    """The highest sequence of each epoch; batches come in order, so the last one wins."""
    highest = {(h.cluster, h.node, h.epoch): h.sequence for h, _ in headers}
    return tuple(Mark(*key, sequence) for key, sequence in highest.items())


def _agents(headers: Sequence[tuple[BatchHeader, int]]) -> tuple[tuple[str, str, bytes], ...]:
    states = {}
    for head, received in headers:
        state = AgentState(
            head.cluster,
            head.node,
            head.epoch,
            head.sequence,
            head.version,
            head.mode,
            head.window_length,
            received,
            received - head.sent,
            len(head.taps),
            head.notes,
        )
        states[head.cluster, head.node] = msgspec.json.encode(state)
    return tuple((*key, state) for key, state in states.items())


def _reports(headers: Sequence[tuple[BatchHeader, int]]) -> tuple[Report, ...]:
    """Node addresses from the first window they were reported in; ingest drops those that say nothing new."""
    found: dict[tuple[str, str, tuple[str, ...]], Report] = {}
    for head, received in headers:
        addresses = tuple(sorted(head.addresses))
        if addresses:
            at = min((*head.windows, received))
            found.setdefault(
                (head.cluster, head.node, addresses), Report(head.cluster, head.node, at, addresses)
            )
    return tuple(found.values())
