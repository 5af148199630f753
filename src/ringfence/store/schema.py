"""The only list of stored columns: name, SQL type, meaning, and the field of `model.columns` it keeps.

Table definitions, Arrow schemas, query fields and the reference page (`docs/reference/store.md`) are derived from
here. Times are UTC nanoseconds in Int64, addresses IPv6 (IPv4 mapped), texts LowCardinality: resolved from the
batch's dictionaries at ingest, so that a row means the same for ever.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.model.columns import MEASURED, UNKNOWN_U4

RETENTION_DAYS = 30
"""How long sightings and what explains them are kept."""

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
    """One table: its columns, its sort key and the column (nanoseconds) that partitions and expires it."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    time: str


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


def additions(table: TableDef, database: str) -> tuple[str, ...]:
    """Statements that give a table made by an earlier version the columns it lacks; harmless where it has them.

    Rows written before read as "not known".
    """
    unknown = dict.fromkeys(MEASURED, f" DEFAULT {UNKNOWN_U4}")
    return tuple(
        f"ALTER TABLE {database}.{table.name} ADD COLUMN IF NOT EXISTS `{column.name}` {column.sql}"
        f"{unknown.get(column.name, '')}"
        for column in table.columns
    )


def ddl(table: TableDef, database: str) -> str:
    """The CREATE TABLE statement of `table`, harmless when it exists."""
    columns = ", ".join(f"`{column.name}` {column.sql}" for column in table.columns)
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    day = f"toDateTime(intDiv({table.time}, 1000000000), 'UTC')"
    return (
        f"CREATE TABLE IF NOT EXISTS {database}.{table.name} ({columns}) ENGINE = MergeTree "
        f"PARTITION BY toYYYYMMDD({day}) ORDER BY ({', '.join(table.order)}) "
        f"TTL {day} + INTERVAL {RETENTION_DAYS} DAY SETTINGS {settings}"
    )
