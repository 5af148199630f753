"""Linked flows become rows of settled flows (`store.schema.FLOWS`). Pure; columns throughout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringfence.discovery.edges import connections_of
from ringfence.flows.handshakes import drops
from ringfence.model.columns import Leg
from ringfence.model.endpoints import Endpoint
from ringfence.server.answers import Linked
from ringfence.store.rows import addresses, arrow_schema
from ringfence.store.schema import ENDPOINTS, FLOWS

U64 = NDArray[np.uint64]
NAMED = {"pod": "workload", "node": "node", "service": "service"}
MOST_ADDRESSES = 10_000
"""Addresses without a name that one minute of a cluster keeps whole in rollups; with more, their networks are kept."""
PLAIN = (
    "flow_id", "first", "last", "kind", "direction", "zone", "consumer_port", "provider_port", "protocol",
    "consumer_packets", "consumer_octets", "provider_packets", "provider_octets", "consumer_flags",
    "provider_flags", "rtt_us", "srtt_us", "retransmits", "zero_windows", "unseen", "sample",
)  # fmt: skip


class Described(NamedTuple):
    """The version (`endpoints.version`) of each endpoint, and whether it is a party by name."""

    versions: U64
    named: NDArray[np.bool_]


class Dimension:
    """Versions of endpoints by content, remembered: each endpoint is hashed once in a process."""

    def __init__(self) -> None:
        self._version: dict[Endpoint, int] = {}

    def describe(self, endpoints: Sequence[Endpoint], used: NDArray[np.int64]) -> Described:
        """Versions of the `used` ones (indexes); the others read 0."""
        versions = np.zeros(len(endpoints), np.uint64)
        named = np.zeros(len(endpoints), np.bool_)
        for index in used.tolist():
            one = endpoints[index]
            version = self._version.get(one)
            if version is None:
                version = self._version[one] = version_of(one)
            versions[index], named[index] = version, has_name(one)
        return Described(versions, named)


def version_of(endpoint: Endpoint) -> int:
    """A 64-bit hash of what an endpoint is: the same content has the same version on every server and in every life."""
    return _hash(msgspec.json.encode(endpoint))


def has_name(endpoint: Endpoint) -> bool:
    """Whether an endpoint is a party by its name; others are told apart by address."""
    return endpoint.kind in NAMED or bool(endpoint.name)


def party_of(endpoint: Endpoint) -> tuple[str, int]:
    """(kind of party, hash of the party): the same for all versions of one workload, node, service or named external."""
    kind = NAMED.get(endpoint.kind, endpoint.kind)
    name = endpoint.workload if kind in ("workload", "node") else endpoint.service or endpoint.name
    return kind, _hash(msgspec.json.encode((kind, endpoint.cluster, endpoint.namespace, name)))


def endpoint_rows(endpoints: Sequence[Endpoint], versions: U64) -> pa.Table:
    """Rows of `endpoints`: one for each of these."""
    texts = {
        name: [getattr(one, name) or "" for one in endpoints]
        for name in ("kind", "cluster", "namespace", "name", "workload", "node", "service", "uid")
    }
    parties = [party_of(one) for one in endpoints]
    made: dict[str, Any] = {
        **texts,
        "version": versions,
        "labels": [list(one.labels) for one in endpoints],
        "party": np.array([party for _, party in parties], np.uint64),
        "party_kind": [kind for kind, _ in parties],
    }
    return _table(ENDPOINTS, made)


class Told(NamedTuple):
    """What an import says beside its flows, aligned with them; see the columns of `flows`."""

    origin: str
    untold: NDArray[np.uint16]
    connections: NDArray[np.uint32]


def flow_rows(
    part: Linked, minute: int | NDArray[np.int64], dimension: Dimension, told_by: Told | None = None
) -> tuple[pa.Table, pa.Table]:
    """(rows of `flows` without settlement, rows of the `endpoints` they name) of one cluster's minute, or of the minute
    that each row is of. `told_by` is None for flows that our agents saw."""
    flows, legs, ends = part.flows, part.legs, part.ends
    openers, servers = legs.opener.copy(), legs.server.copy()
    told, numbers = connections_of(flows, legs)
    # A further end of a connection stands for itself: its own consumer, or its own provider.
    openers[told.row], servers[told.row] = told.opener, told.server
    opened_by, served_by = ends.consumer[openers], ends.provider[servers]
    used = np.unique(np.r_[ends.consumer, ends.provider].astype(np.int64))
    described = dimension.describe(ends.endpoints, used)
    versions = described.versions
    made: dict[str, Any] = {
        **{name: flows[name] for name in PLAIN},
        "minute": np.broadcast_to(np.int64(minute), len(flows)),
        "cluster": _same(part.cluster, len(flows)),
        "connection_id": legs.connection,
        "leg": legs.leg,
        "snat": legs.snat.astype(np.uint8),
        "link": legs.link,
        "category": _texts(part.categories),
        "placement": _texts([place or "" for place in part.placements]),
        "service": _services(part),
        "consumer_ip": addresses(flows["consumer_hi"], flows["consumer_lo"]),
        "provider_ip": addresses(flows["provider_hi"], flows["provider_lo"]),
        "consumer_version": versions[ends.consumer],
        "provider_version": versions[ends.provider],
        "opened_by": versions[opened_by],
        "served_by": versions[served_by],
        "opened_from": _nameless(flows, "consumer", openers, described.named[opened_by], True),
        "served_at": _nameless(flows, "provider", servers, described.named[served_by], False),
        "served_port": flows["provider_port"][servers],
        "drop": np.where(flows["unseen"] == 1, 0, drops(flows)).astype(np.uint8),
        "opened": _began(part, minute),
        "node": _picked(flows["node"], part.stored.nodes),
        "process": _picked(flows["process"], _json(part.stored.processes)),
        "provider_process": _picked(flows["provider_process"], _json(part.stored.processes)),
        "names": _picked(flows["names"], part.stored.names),
        "tls": _picked(flows["tls"], _json(part.stored.tls)),
        "origin": _same(told_by.origin if told_by else "", len(flows)),
        "untold": told_by.untold if told_by else np.zeros(len(flows), np.uint16),
        "connections": told_by.connections if told_by else np.ones(len(flows), np.uint32),
        **_marks(len(flows), told, numbers, legs.leg != Leg.OUTER),
    }
    endpoints = [ends.endpoints[index] for index in used.tolist()]
    return _table(FLOWS, made), endpoint_rows(endpoints, versions[used])


def _marks(
    size: int, told: Any, numbers: dict[str, NDArray[Any]], plain: NDArray[np.bool_]
) -> dict[str, Any]:
    """Which rows stand for a connection, which rows' counters are one's, and what is known of it."""
    made = {
        name: np.zeros(size, np.uint8)
        for name in ("opener", "counted", "answered", "guessed", "refused", "hidden")
    }
    made["opener"][told.row] = 1
    made["counted"][told.counted] = 1
    for name, kept in (
        ("answered", "answered"),
        ("guessed", "guessed"),
        ("refused", "refused"),
        ("hidden", "snat"),
    ):
        made[name][told.row] = numbers[kept] > 0
    return made


def _nameless(
    flows: NDArray[Any], side: str, rows: NDArray[np.int64], named: NDArray[np.bool_], network: bool
) -> pa.Array:
    """Each row's party's address (its network, when asked or when there are too many), zero where it has a name."""
    hi = np.where(named, np.uint64(0), flows[side + "_hi"][rows])
    lo = np.where(named, np.uint64(0), flows[side + "_lo"][rows])
    if not network:
        distinct = np.unique(np.stack([hi, lo], axis=1), axis=0) if len(hi) else np.zeros((0, 2))
        network = len(distinct) > MOST_ADDRESSES
    if network:
        v4 = (hi == 0) & (lo >> np.uint64(32) == 0xFFFF)
        lo = np.where(v4, lo & np.uint64(0xFFFF_FFFF_FFFF_FF00), np.uint64(0))
        hi = np.where(v4, hi, hi & np.uint64(0xFFFF_FFFF_FFFF_0000))
    return addresses(hi, lo)


def _began(part: Linked, minute: int | NDArray[np.int64]) -> NDArray[np.uint8]:
    """1 where the conversation's first packet was in this minute."""
    began = np.broadcast_to(np.int64(minute), len(part.flows)).copy()
    began[: len(part.stored.table)] = np.minimum(part.stored.began, part.stored.table["first"])
    unseen = np.arange(len(part.stored.table), len(part.flows))
    began[unseen] = began[part.legs.server[unseen]]
    return (began[part.legs.opener] >= minute).astype(np.uint8)


def _services(part: Linked) -> pa.Array:
    asked = part.ends.provider[part.legs.opener]
    distinct, inverse = np.unique(asked, return_inverse=True)
    names = [part.ends.endpoints[index].service or "" for index in distinct.tolist()]
    return _dictionary(inverse.ravel(), names)


def _json(values: Sequence[Any]) -> list[str]:
    return [msgspec.json.encode(value).decode() for value in values]


def _picked(index: NDArray[Any], terms: Sequence[str]) -> pa.Array:
    """Terms by index + 1; the empty text for 0."""
    return _dictionary(index, ["", *terms])


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def _same(text: str, size: int) -> pa.Array:
    return _dictionary(np.zeros(size, np.int32), [text])


def _dictionary(index: NDArray[Any], terms: Sequence[str]) -> pa.Array:
    """A dictionary column in which no term stands twice."""
    number = {term: place for place, term in enumerate(dict.fromkeys(terms))}
    code = np.array([number[term] for term in terms], np.int32)
    return pa.DictionaryArray.from_arrays(code[index], pa.array(list(number), pa.string()))


def _table(table: Any, made: dict[str, Any]) -> pa.Table:
    fields = [field for field in arrow_schema(table) if field.name != "settlement"]
    columns = [_column(made[field.name], field.type) for field in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(value, pa.Array):
        return value if value.type == kind else value.cast(kind)
    if isinstance(value, np.ndarray):
        return pa.array(np.ascontiguousarray(value), kind)
    made = pa.array(value, kind.value_type if pa.types.is_dictionary(kind) else kind)
    return made.dictionary_encode() if pa.types.is_dictionary(kind) else made


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
