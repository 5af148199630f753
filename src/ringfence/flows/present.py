"""Columns become the contract's JSON values. Only for answers: a bounded number of rows, never a hot path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ringfence.flows.community import community_id
from ringfence.flows.handshakes import drops
from ringfence.flows.link import Legs
from ringfence.model.addresses import unpack
from ringfence.model.columns import (
    DIRECTION_NAMES,
    DROP_NAMES,
    KIND_NAMES,
    LEG_NAMES,
    LINK_NAMES,
    MEASURED,
    UNKNOWN_U4,
    Kind,
    Table,
)
from ringfence.model.endpoints import Endpoint
from ringfence.model.flows import Flow, FlowEnd, Process, Tap, Tls
from ringfence.model.protocols import ICMP, ICMPV6, PORTS, TCP, flag_names, protocol_name

COUNTERS = (
    *("consumer_packets", "consumer_octets", "consumer_flags"),
    *("provider_packets", "provider_octets", "provider_flags"),
    *MEASURED,
)


class Facts(NamedTuple):
    """What is known of the beginning of a flow."""

    process: Process | None = None
    provider_process: Process | None = None
    provider_names: tuple[str, ...] = ()
    tls: Tls | None = None


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(nanoseconds: int) -> str:
    """UTC with microseconds, `Z` at the end."""
    seconds, micros = divmod(nanoseconds // 1000, 1_000_000)
    return f"{_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Flows of one answer share few seconds, and formatting a date is what `rfc3339` costs."""
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def hexadecimal(identifier: int) -> str:
    """A 64-bit id as 16 hexadecimal digits."""
    return f"{identifier:016x}"


def present(
    flows: Table,
    legs: Legs,
    consumers: Sequence[Endpoint],
    providers: Sequence[Endpoint],
    categories: Sequence[str],
    taps: Sequence[tuple[Tap, ...]],
    facts: Sequence[Facts],
) -> Iterator[Flow]:
    """One `Flow` per row; every sequence is aligned with `flows`."""
    names = flows.dtype.names or ()
    columns = (flows[name].tolist() for name in names)
    part = zip(
        legs.connection.tolist(), legs.leg.tolist(), legs.snat.tolist(), legs.link.tolist(), strict=True
    )
    reasons = drops(flows).tolist()
    ends = zip(consumers, providers, categories, taps, facts, reasons, strict=True)
    for values, (connection, leg, snat, link), (consumer, provider, category, seen, known, reason) in zip(
        zip(*columns, strict=True), part, ends, strict=True
    ):
        row = dict(zip(names, values, strict=True))
        yield Flow(
            flow_id=hexadecimal(row["flow_id"]),
            connection_id=hexadecimal(connection),
            leg=LEG_NAMES[leg],
            snat=snat,
            category=category,
            link=LINK_NAMES[link],
            **_times(row),
            protocol=protocol_name(row["protocol"]),
            direction=DIRECTION_NAMES[row["direction"]],
            consumer=end_of(row, "consumer", consumer),
            provider=end_of(row, "provider", provider),
            **_counters(row),
            drop_reason=DROP_NAMES[reason] if reason and not row["unseen"] else None,
            **known._asdict(),
            tunnel=None if row["kind"] == Kind.PLAIN else KIND_NAMES[row["kind"]],
            vni=row["zone"] if row["kind"] in (Kind.VXLAN, Kind.GENEVE) else None,
            icmp=_icmp(row),
            taps=seen,
            counts=not row["unseen"],
            verdict=None,
            sample=row["sample"] if row["sample"] > 1 else None,
            community_id=community_id(row),
        )


def without_port(flow: Flow, connections: int) -> Flow:
    """A conversation (a row of `folded.fold_ports`) of so many connections: port 0 means that there were several."""
    port = flow.consumer.port or None
    opened_by = flow.opened_by
    if opened_by is not None and port is None:
        opened_by = msgspec.structs.replace(opened_by, port=None)
    consumer = msgspec.structs.replace(flow.consumer, port=port)
    community = flow.community_id if port is not None else None
    return msgspec.structs.replace(
        flow, consumer=consumer, opened_by=opened_by, connections=connections, community_id=community
    )


def _times(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "start": rfc3339(row["first"]),
        "end": rfc3339(row["last"]),
        "duration_us": (row["last"] - row["first"]) // 1000,
    }


def end_of(row: dict[str, Any], side: str, endpoint: Endpoint) -> FlowEnd:
    """One end (`consumer` or `provider`) of a row of FLOW, in plain values."""
    # A tunnel's sender port is entropy, folded away at the tap: 0 there means "not one port".
    port = row[side + "_port"] if row["protocol"] in PORTS else None
    return FlowEnd(
        ip=unpack(row[side + "_hi"], row[side + "_lo"]),
        port=None if port == 0 and row["kind"] != Kind.PLAIN else port,
        kind=endpoint.kind,
        cluster=endpoint.cluster,
        namespace=endpoint.namespace,
        name=endpoint.name,
        workload=endpoint.workload,
        node=endpoint.node,
        service=endpoint.service,
        labels=dict(endpoint.labels) if endpoint.labels else None,
    )


def _counters(row: dict[str, Any]) -> dict[str, Any]:
    if row["unseen"]:
        return dict.fromkeys(COUNTERS)
    has_flags = row["protocol"] == TCP
    return {
        "consumer_packets": row["consumer_packets"],
        "consumer_octets": row["consumer_octets"],
        "consumer_flags": flag_names(row["consumer_flags"]) if has_flags else None,
        "provider_packets": row["provider_packets"],
        "provider_octets": row["provider_octets"],
        "provider_flags": flag_names(row["provider_flags"]) if has_flags else None,
        **{name: _known(row[name]) for name in MEASURED},
    }


def _known(value: int) -> int | None:
    return None if value == UNKNOWN_U4 else value


def _icmp(row: dict[str, Any]) -> str | None:
    """`type/code` of the asker's message."""
    if row["protocol"] not in (ICMP, ICMPV6) or row["kind"] != Kind.PLAIN:
        return None
    return f"{row['provider_port'] >> 8}/{row['provider_port'] & 0xFF}"
