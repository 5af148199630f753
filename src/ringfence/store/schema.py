"""The only list of stored columns: name, SQL type, meaning, and the field of `model.columns` it keeps.

Table definitions, Arrow schemas, query fields and the reference page (`docs/reference/store.md`) are derived from
here. Times are UTC nanoseconds in Int64, addresses IPv6 (IPv4 mapped), texts LowCardinality: resolved from the
batch's dictionaries at ingest, so that a row means the same for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ringfence.model.columns import MEASURED, UNKNOWN_U4

RETENTION_DAYS = 30
"""How long sightings and what explains them are kept, and the settled flows made of them."""
MINUTES_DAYS = 90
HOURS_DAYS = 400
"""How long the rollups are kept."""

DEDUPLICATION_WINDOW = 10_000
"""Blocks per table whose insert tokens the engine remembers; only the last segment ever needs them."""

SETTINGS: dict[str, str] = {
    "fsync_after_insert": "1",
    "fsync_part_directory": "1",
    "non_replicated_deduplication_window": str(DEDUPLICATION_WINDOW),
}
"""Settings of every table (design section 8), read back at start."""

TEXT = "LowCardinality(String)"


class Column(NamedTuple):
    """One column. `source` names the fields of SIGHTING or TRANSLATION it keeps, empty for what a server adds."""

    name: str
    sql: str
    meaning: str
    source: tuple[str, ...] = ()


class TableDef(NamedTuple):
    """One table: its columns, its sort key and the column (nanoseconds) that partitions and expires it.

    `engine` is the family; `indexes` are skipping indexes; `time` is empty for a table that neither is cut by day nor
    expires.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    time: str
    engine: str = "MergeTree"
    days: int = RETENTION_DAYS
    indexes: tuple[str, ...] = ()


def _plain(sql: str, fields: dict[str, str]) -> tuple[Column, ...]:
    """Columns that keep a field under its own name."""
    return tuple(Column(name, sql, meaning, (name,)) for name, meaning in fields.items())


def _address(name: str, meaning: str) -> Column:
    return Column(f"{name}_ip", "IPv6", meaning, (f"{name}_hi", f"{name}_lo"))


SEGMENT = Column("segment", "UInt64", "ingest segment; readers see only whole ones")
WHO = (
    Column("cluster", TEXT, "cluster of the agent"),
    Column("node", TEXT, "node of the agent"),
)
BATCH = (
    Column("epoch", TEXT, "random name of one life of an agent"),
    Column("sequence", "UInt64", "number of the batch in its epoch, from 1, without gaps"),
)

SIGHTINGS = TableDef(
    "sightings",
    "What one node saw of one flow in one window, every tap of the node folded into one row.",
    (
        SEGMENT,
        *WHO,
        Column("flow_id", "UInt64", "hash of cluster, zone, tuple and first window; the same on every node"),
        Column("tuple_hash", "UInt64", "hash of the 5-tuple, independent of direction"),
        *_plain(
            "Int64",
            {
                "window": "start of the window, UTC nanoseconds",
                "first_window": "first window of the flow, as the server knows it; its first packet where another pod "
                "had the address before",
                "first": "first packet in this window, UTC nanoseconds",
                "last": "last packet in this window, UTC nanoseconds",
            },
        ),
        _address("consumer", "address of the side that opened the conversation"),
        _address("provider", "address of the side that was listening"),
        *_plain(
            "UInt16",
            {
                "consumer_port": "port of the consumer, 0 where the protocol has none",
                "provider_port": "port of the provider; ICMP: type << 8 | code of the asker's message",
            },
        ),
        *_plain(
            "UInt8",
            {
                "protocol": "IP protocol number",
                "kind": "what the packets carried: 0 plain, 1 vxlan, 2 geneve, 3 ipip, 4 gre, 5 other tunnel",
                "direction": "how the consumer is known: 0 guessed, 1 icmp, 2 listener, 3 conntrack, 4 syn",
                "role": "where the node stands: 0 consumer's end, 1 provider's end, 2 transit",
            },
        ),
        Column("reversed", "UInt8", "1 when the consumer sorts after the provider by address and port"),
        *_plain("UInt32", {"zone": "VNI of a tunnel or conntrack zone, 0 for none"}),
        *_plain("UInt64", {"inner": "tunnels: hash of the tuple inside, 0 when not known"}),
        *_plain(
            "UInt64",
            {
                "consumer_packets": "wire packets from the consumer",
                "consumer_octets": "IP-layer octets from the consumer",
                "provider_packets": "wire packets from the provider",
                "provider_octets": "IP-layer octets from the provider",
            },
        ),
        *_plain(
            "UInt16",
            {
                "consumer_flags": "union of the consumer's TCP flags; 256 SYN alone, 512 SYN with ACK",
                "provider_flags": "union of the provider's TCP flags; 256 SYN alone, 512 SYN with ACK",
            },
        ),
        *_plain(
            "UInt32",
            {
                "rtt_us": "handshake round trip in microseconds; 4294967295 when nobody measured it",
                "srtt_us": "the sender's last smoothed round trip in microseconds; 4294967295 when nobody measured it",
                "retransmits": "retransmitted packets; 4294967295 when nobody measured them",
                "zero_windows": "segments that offered no room; 4294967295 when nobody counted them",
            },
        ),
        *_plain(
            "UInt8",
            {
                "drop": "why packets were dropped: 0 not known to be, 1 unanswered, 2 refused, 3 unreachable, 4 kernel, "
                "5 policy",
            },
        ),
        *_plain(
            TEXT,
            {
                "consumer_pod": "UID of the consumer's pod, tagged at its tap; empty when not known",
                "provider_pod": "UID of the provider's pod, tagged at its tap; empty when not known",
                "process": "process at the connecting end as JSON (name, pid, exe, pod, container, parent, parent_pid); "
                "empty when not known",
                "provider_process": "process at the accepting end as JSON; empty when not known",
                "names": "DNS names of the provider as the consumer had learnt them, with spaces between",
                "tls": "server_name and alpn of the ClientHello as JSON; empty when not seen",
                "taps": "taps of the node that saw it: `at/interface`, separated by spaces",
            },
        ),
        Column(
            "sample",
            "UInt32",
            "one packet in so many was counted, and told as so many; 0 and 1 are every one",
        ),
        Column(
            "hop_ways",
            "Array(UInt8)",
            "of each tap: its role + 4 * the way of the consumer's packets (0 unknown, 1 in, 2 out, 3 both) + 16 when "
            "its counters mean nothing; empty when not known",
        ),
        Column(
            "hop_times",
            "Array(UInt32)",
            "of each tap: microseconds from `first` to its first packet, and from its last one to `last`",
        ),
        Column(
            "hop_less",
            "Array(Int64)",
            "of each tap: its consumer_packets, consumer_octets, provider_packets, provider_octets, each less the "
            "row's; empty when all its taps counted the same",
        ),
    ),
    ("window", "flow_id", "node"),
    "window",
)

_TUPLE_MEANING = {"pre": "before translation", "post": "after translation"}

TRANSLATIONS = TableDef(
    "translations",
    "One translation, by conntrack or at the socket: the original tuple and what it became.",
    (
        SEGMENT,
        *WHO,
        *_plain("Int64", {"seen": "when the event or dump reached the agent, UTC nanoseconds"}),
        *(
            _address(f"{stage}_{side}", f"address of the {side} {words}")
            for stage, words in _TUPLE_MEANING.items()
            for side in ("consumer", "provider")
        ),
        *(
            column
            for stage, words in _TUPLE_MEANING.items()
            for side in ("consumer", "provider")
            for column in _plain("UInt16", {f"{stage}_{side}_port": f"port of the {side} {words}"})
        ),
        *_plain(
            "UInt8",
            {
                "protocol": "IP protocol number",
                "dnat": "1 when the destination was translated",
                "snat": "1 when the source was translated",
                "dumped": "1 when learnt from a dump, whose direction may be reversed",
                "link": "who said so: 1 (or 0) conntrack, 2 the hooks at sockets, 4 one of several that may be",
            },
        ),
        *_plain("UInt32", {"zone": "conntrack zone"}),
    ),
    ("seen", "node"),
    "seen",
)

WINDOWS = TableDef(
    "windows",
    "Which windows each node closed, also those in which it saw nothing.",
    (
        SEGMENT,
        *WHO,
        Column("window", "Int64", "start of the window, UTC nanoseconds"),
        Column("length", "Int64", "length of the window in nanoseconds"),
        Column("mode", TEXT, "mode of the agent: detailed or conversation"),
    ),
    ("window", "node"),
    "window",
)

BATCHES = TableDef(
    "batches",
    "Every batch that was stored: what an agent says came in and what it sent.",
    (
        SEGMENT,
        *WHO,
        *BATCH,
        Column("sent", "Int64", "when the agent sent it, by its clock, UTC nanoseconds"),
        Column("received", "Int64", "when the server had it, UTC nanoseconds"),
        Column("windows", "UInt32", "windows it closes"),
        Column("rows", "UInt32", "sightings in it"),
        Column("records", "UInt64", "kernel map entries drained for it, before folding"),
        Column("packets", "UInt64", "packets its taps counted, all taps added"),
    ),
    ("received", "node"),
    "received",
)

LOSSES = TableDef(
    "losses",
    "What a stage could not keep, counted.",
    (
        SEGMENT,
        *WHO,
        *BATCH,
        Column("at", "Int64", "when the batch that reports it was received, UTC nanoseconds"),
        Column("stage", TEXT, "which stage lost it, e.g. kernel-map-full, spool-full, outside-retention"),
        Column("packets", "UInt64", "packets lost, where they could be counted"),
        Column("octets", "UInt64", "octets lost, where they could be counted"),
        Column("events", "UInt64", "events or rows lost"),
    ),
    ("at", "node"),
    "at",
)

TABLES: tuple[TableDef, ...] = (SIGHTINGS, TRANSLATIONS, WINDOWS, BATCHES, LOSSES)
"""In the order a segment is written."""


_SETTLEMENT = Column(
    "settlement", "UInt64", "number of the settlement that made it; readers see only what holds"
)
_UNMEASURED = "; 4294967295 when nobody measured"

FLOWS = TableDef(
    "flows",
    "Settled flows: what counts of one flow in one minute, linked, both ends named as of their time.",
    (
        _SETTLEMENT,
        *_plain("Int64", {"minute": "start of the minute, UTC nanoseconds"}),
        WHO[0],
        *_plain(
            "UInt64",
            {
                "flow_id": "as in sightings; of a leg nobody saw, a hash of its tuple and the leg that was seen",
                "connection_id": "the same for every leg of a connection: the opener's flow_id",
            },
        ),
        *_plain(
            "Int64",
            {
                "first": "first packet in this minute, UTC nanoseconds",
                "last": "last packet in this minute, UTC nanoseconds",
            },
        ),
        *_plain(
            "UInt8",
            {
                "leg": "0 direct, 1 pre-dnat, 2 post-dnat, 3 pre-snat, 4 post-snat, 5 outer",
                "snat": "1 when the consumer's address is a translated one",
                "link": "how it is tied to its connection: 0 none, 1 conntrack, 2 socket, 3 tunnel, 4 inferred",
                "direction": "how the consumer is known: 0 guessed, 1 icmp, 2 listener, 3 conntrack, 4 syn",
                "kind": "what the packets carried: 0 plain, 1 vxlan, 2 geneve, 3 ipip, 4 gre, 5 other tunnel",
            },
        ),
        *_plain("UInt32", {"zone": "VNI of a tunnel or conntrack zone, 0 for none"}),
        *_plain(
            TEXT,
            {
                "category": "category of its connection, e.g. pod-to-pod-via-service",
                "placement": "same-node or other-node; empty when not known",
                "service": "namespace/name of the service its connection asked for; empty for none",
            },
        ),
        Column("consumer_ip", "IPv6", "address of the side that opened the conversation"),
        Column("provider_ip", "IPv6", "address of the side that was listening"),
        *_plain(
            "UInt16",
            {
                "consumer_port": "port of the consumer, 0 where the protocol has none",
                "provider_port": "port of the provider; ICMP: type << 8 | code of the asker's message",
            },
        ),
        *_plain("UInt8", {"protocol": "IP protocol number"}),
        *_plain(
            "UInt64",
            {
                "consumer_version": "what the consumer's address was then: `version` of endpoints",
                "provider_version": "what the provider's address was then: `version` of endpoints",
                "opened_by": "version of who opened the connection, before any translation",
                "served_by": "version of who served it, after every translation",
            },
        ),
        Column(
            "opened_from", "IPv6", "network (/24, IPv6 /48) of a consumer without a name; all zero otherwise"
        ),
        Column("served_at", "IPv6", "address of a provider without a name; all zero otherwise"),
        *_plain("UInt16", {"served_port": "port of who served it"}),
        *_plain(
            "UInt8",
            {
                "opener": "1 on the one row that stands for its connection (one more for each further end)",
                "counted": "1 on the one row whose counters are the connection's",
                "opened": "1 where the connection began in this minute",
                "answered": "of the row that stands for it: the provider sent anything",
                "guessed": "of the row that stands for it: its direction is a guess",
                "refused": "of the row that stands for it: nobody used it, it was only reset",
                "hidden": "of the row that stands for it: the provider saw a translated consumer",
            },
        ),
        *_plain(
            "UInt64",
            {
                "consumer_packets": "wire packets from the consumer",
                "consumer_octets": "IP-layer octets from the consumer",
                "provider_packets": "wire packets from the provider",
                "provider_octets": "IP-layer octets from the provider",
            },
        ),
        *_plain(
            "UInt16",
            {
                "consumer_flags": "union of the consumer's TCP flags; 256 SYN alone, 512 SYN with ACK",
                "provider_flags": "union of the provider's TCP flags; 256 SYN alone, 512 SYN with ACK",
            },
        ),
        *_plain(
            "UInt32",
            {
                "rtt_us": f"handshake round trip in microseconds{_UNMEASURED}",
                "srtt_us": f"the sender's last smoothed round trip in microseconds{_UNMEASURED}",
                "retransmits": f"retransmitted packets{_UNMEASURED}",
                "zero_windows": f"segments that offered no room{_UNMEASURED}",
            },
        ),
        *_plain(
            "UInt8",
            {
                "drop": "why packets were dropped: 0 not known to be, 1 unanswered, 2 refused, 3 unreachable, 4 kernel, "
                "5 policy",
                "unseen": "1 for a leg known from a translation alone: its counters mean nothing",
            },
        ),
        *_plain(
            "UInt32",
            {
                "sample": "one packet in so many was counted; 0 and 1 are every one",
                "connections": "how many connections it stands for: more than 1 only where an import added them up",
            },
        ),
        *_plain("UInt16", {"untold": "what an import did not tell, as bits in the order of UNTOLD"}),
        *_plain(
            TEXT,
            {
                "process": "process at the connecting end as JSON; empty when not known",
                "provider_process": "process at the accepting end as JSON; empty when not known",
                "names": "DNS names of the provider as the consumer had learnt them, with spaces between",
                "tls": "server_name and alpn of the ClientHello as JSON; empty when not seen",
                "node": "node whose sighting counts; empty for none",
                "origin": "whose word it is: empty for our agents, else the kind of import, e.g. zeek",
            },
        ),
    ),
    ("intDiv(minute, 3600000000000)", "provider_version", "consumer_version", "flow_id"),
    "minute",
    indexes=(
        "INDEX by_minute minute TYPE minmax GRANULARITY 1",
        "INDEX by_consumer consumer_version TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_flow flow_id TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_connection connection_id TYPE bloom_filter(0.01) GRANULARITY 1",
    ),
)

ENDPOINTS = TableDef(
    "endpoints",
    "Every version of every endpoint: what an address was at a time. Rows are never edited.",
    (
        Column(
            "version",
            "UInt64",
            "hash of everything below, so that the same content is the same version everywhere",
        ),
        *_plain(
            TEXT,
            {
                "kind": "pod, service, node, external or unresolved",
                "cluster": "its cluster; empty for none",
                "namespace": "its namespace; empty for none",
                "name": "its name; empty for none",
                "workload": "root owner as Kind/name; empty for none",
                "node": "node of a pod, a node's own name; empty for none",
                "service": "namespace/name of a service, or of the one a node was asked for; empty for none",
                "uid": "UID of its object; empty when not known",
            },
        ),
        Column("labels", "Map(String, String)", "its labels"),
        Column(
            "party",
            "UInt64",
            "hash of party_kind, cluster, namespace and workload or name: one for all its versions",
        ),
        Column("party_kind", TEXT, "workload, node, service, external or unresolved"),
    ),
    ("version",),
    "",
    engine="ReplacingMergeTree",
)

UNTOLD = (
    "consumer_packets",
    "consumer_octets",
    "provider_packets",
    "provider_octets",
    "consumer_flags",
    "provider_flags",
    "consumer_port",
    "provider_port",
)
"""Columns of `flows` that are 0 where nobody told them; bit `1 << place` of `untold` says so."""

_KEY = (
    _SETTLEMENT,
    WHO[0],
    *_plain(
        "UInt64",
        {
            "opened_by": "version of who opened the connections, before any translation",
            "served_by": "version of who served them, after every translation",
        },
    ),
    Column("opened_from", "IPv6", "network (/24, IPv6 /48) of a consumer without a name; all zero otherwise"),
    Column("served_at", "IPv6", "address of a provider without a name; all zero otherwise"),
    *_plain("UInt8", {"protocol": "IP protocol number"}),
    *_plain("UInt16", {"served_port": "port of who served them"}),
    *_plain(
        TEXT,
        {
            "service": "namespace/name of the service they asked for; empty for none",
            "category": "category of the connections",
            "origin": "whose word it is: empty for our agents",
        },
    ),
)
SUMS: dict[str, str] = {
    "connections": "connections that were alive in it",
    "opened": "of them, those that began in it",
    "answered": "of them, those in which the provider sent anything",
    "guessed": "of them, those whose direction is a guess",
    "refused": "of them, those nobody used: only reset",
    "hidden": "of them, those whose consumer the provider saw by a translated address",
    "denied": "of them, those a policy dropped packets of",
    "consumer_packets": "wire packets from the consumers",
    "consumer_octets": "IP-layer octets from the consumers",
    "provider_packets": "wire packets from the providers",
    "provider_octets": "IP-layer octets from the providers",
    "retransmits": "retransmitted packets, where somebody counted them",
}
"""What rollups add up."""


def _rollup(name: str, span: str, days: int) -> TableDef:
    return TableDef(
        name,
        f"Connections between two endpoints, one row for each {span}, port, service and category.",
        (
            Column(span, "Int64", f"start of the {span}, UTC nanoseconds"),
            *_KEY,
            *(
                Column(each, "SimpleAggregateFunction(sum, UInt64)", meaning)
                for each, meaning in SUMS.items()
            ),
            Column("first", "SimpleAggregateFunction(min, Int64)", "first packet, UTC nanoseconds"),
            Column("last", "SimpleAggregateFunction(max, Int64)", "last packet, UTC nanoseconds"),
        ),
        (span, *(column.name for column in _KEY)),
        span,
        engine="AggregatingMergeTree",
        days=days,
    )


MINUTES = _rollup("minutes", "minute", MINUTES_DAYS)
HOURS = _rollup("hours", "hour", HOURS_DAYS)
SETTLED: tuple[TableDef, ...] = (FLOWS, ENDPOINTS, MINUTES, HOURS)
"""What the settler makes of TABLES (docs/design/store.md)."""
TAILS = ("tail_a", "tail_b")
"""Flows that are not settled yet, in memory, as `flows` has them: one is read while the other is filled."""

_ALIVE = "f.opener * f.connections"
_SUMMED: dict[str, str] = {
    "connections": f"sum({_ALIVE})",
    "opened": f"sumIf({_ALIVE}, f.opened = 1)",
    "answered": f"sumIf({_ALIVE}, f.answered = 1)",
    "guessed": f"sumIf({_ALIVE}, f.guessed = 1)",
    "refused": f"sumIf({_ALIVE}, f.refused = 1)",
    "hidden": f"sumIf({_ALIVE}, f.hidden = 1)",
    "denied": f"sumIf({_ALIVE}, f.drop = 5)",
    "retransmits": f"sumIf(f.retransmits, f.counted = 1 AND f.retransmits != {UNKNOWN_U4})",
}


def rolled_up(source: str) -> str:
    """The SELECT that makes `minutes` rows of `flows` rows; `source` is a table or a parenthesised SELECT."""
    keys = ", ".join(f"f.{column.name} AS {column.name}" for column in (MINUTES.columns[0], *_KEY))
    sums = ", ".join(f"{_SUMMED.get(name, f'sumIf(f.{name}, f.counted = 1)')} AS {name}" for name in SUMS)
    groups = ", ".join(f"f.{column.name}" for column in (MINUTES.columns[0], *_KEY))
    return (
        f"SELECT {keys}, {sums}, min(f.first) AS first, max(f.last) AS last FROM {source} AS f "
        f"WHERE f.opener = 1 OR f.counted = 1 GROUP BY {groups}"
    )


def view(database: str) -> str:
    """The statement of the view that feeds `minutes`."""
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.minutes_of_flows TO {database}.minutes "
        f"AS {rolled_up(f'{database}.flows')}"
    )


def tail(name: str, database: str) -> str:
    """The statement that makes one of TAILS."""
    columns = ", ".join(f"`{column.name}` {column.sql}" for column in FLOWS.columns)
    return f"CREATE TABLE IF NOT EXISTS {database}.{name} ({columns}) ENGINE = Memory"


def additions(table: TableDef, database: str, found: Collection[str] | None) -> tuple[str, ...]:
    """Statements that give a table made by an earlier version the columns it lacks; `found` are those it has.

    None is a table that was just made. Rows written before read as "not known".
    """
    unknown = dict.fromkeys(MEASURED, f" DEFAULT {UNKNOWN_U4}")
    return tuple(
        f"ALTER TABLE {database}.{table.name} ADD COLUMN IF NOT EXISTS `{column.name}` {column.sql}"
        f"{unknown.get(column.name, '')}"
        for column in table.columns
        if found is not None and column.name not in found
    )


def ddl(table: TableDef, database: str) -> str:
    """The CREATE TABLE statement of `table`, harmless when it exists."""
    columns = ", ".join([*(f"`{column.name}` {column.sql}" for column in table.columns), *table.indexes])
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    day = f"toDateTime(intDiv({table.time}, 1000000000), 'UTC')"
    cut = f"PARTITION BY toYYYYMMDD({day}) " if table.time else ""
    expires = f"TTL {day} + INTERVAL {table.days} DAY " if table.time else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {database}.{table.name} ({columns}) ENGINE = {table.engine} "
        f"{cut}ORDER BY ({', '.join(table.order)}) {expires}SETTINGS {settings}"
    )
