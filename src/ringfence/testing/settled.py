"""Rows of the settled tables for tests: what is not said has a plain value."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ringfence.model.columns import MEASURED, UNKNOWN_U4
from ringfence.store.rows import arrow_schema
from ringfence.store.schema import ENDPOINTS, FLOWS, TableDef

MINUTE = 60_000_000_000


def flow_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `flows`; addresses are given as text."""
    usual = {
        "protocol": 6,
        "opener": 1,
        "counted": 1,
        "connections": 1,
        "consumer_ip": "10.0.0.1",
        "provider_ip": "10.0.0.2",
        **dict.fromkeys(MEASURED, UNKNOWN_U4),
    }
    whole = [{**usual, **row} for row in rows]
    for row in whole:
        row.setdefault("connection_id", row["flow_id"])
        for name in ("consumer_ip", "provider_ip", "opened_from", "served_at"):
            row[name] = octets(row.get(name, "::"))
    return _table(FLOWS, whole)


def endpoint_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `endpoints`; labels are given as a mapping."""
    return _table(ENDPOINTS, [{**row, "labels": sorted(row.get("labels", {}).items())} for row in rows])


def octets(address: str) -> bytes:
    """An address as the table keeps it."""
    found = ipaddress.ip_address(address)
    return ipaddress.ip_address(f"::ffff:{found}").packed if found.version == 4 else found.packed


def _table(table: TableDef, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema = arrow_schema(table)
    columns = [
        pa.array([row.get(field.name, _nothing(field.type)) for row in rows], field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _nothing(kind: pa.DataType) -> Any:
    return "" if pa.types.is_string(kind) or pa.types.is_dictionary(kind) else 0
