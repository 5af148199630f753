"""Exports: tables become the octets of a file, piece by piece. The columns are named as searches name fields."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from ringfence.flows.present import rfc3339
from ringfence.inventory.filters.fields import BOOL, INT, MAP, STRINGS
from ringfence.model.problems import Problem
from ringfence.store.search.fields import LENGTH, TIME, named_fields


class Format(NamedTuple):
    """A kind of file."""

    name: str
    ending: str
    media: str


FORMATS = {
    one.name: one
    for one in (
        Format("csv", "csv", "text/csv"),
        Format("jsonl", "jsonl", "application/x-ndjson"),
        Format("parquet", "parquet", "application/vnd.apache.parquet"),
        Format("arrow", "arrow", "application/vnd.apache.arrow.stream"),
    )
}
_TYPES = {
    BOOL: pa.bool_(),
    INT: pa.int64(),
    TIME: pa.timestamp("ns", "UTC"),
    LENGTH: pa.int64(),
    STRINGS: pa.list_(pa.string()),
    MAP: pa.map_(pa.string(), pa.string()),
}
"""What columns are; any other is text. `duration` is in nanoseconds."""


def format_of(name: str) -> Format:
    """A format by its name. Raises Problem."""
    if name not in FORMATS:
        raise Problem(f"unknown format `{name[:40]}`", "format", f"use one of {', '.join(FORMATS)}")
    return FORMATS[name]


def fields_of(text: str | None) -> tuple[str, ...]:
    """Names with commas between; every field for None. Raises Problem for a name that is empty or twice there."""
    if text is None:
        return tuple(named_fields())
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise Problem(
            "a name of a field is empty or twice there", "fields", "write consumer.ip,provider.ip,octets"
        )
    return names


def encoded(tables: Iterator[pa.Table], made: Format, fields: Sequence[str]) -> Iterator[bytes]:
    """The file's octets; the head comes with the first table, so that what cannot be asked is told before."""
    types = named_fields()
    schema = pa.schema([(name, _TYPES.get(types[name].type, pa.string())) for name in fields])
    sink = _Sink()
    writer = _writers()[made.name](sink, schema)
    for table in tables:
        writer.write_table(_cast(table, schema))
        yield from sink.taken()
    writer.close()
    yield from sink.taken()


class _Sink(io.RawIOBase):
    """What was written since it was last taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self._parts.append(bytes(data))  # type: ignore[call-overload]
        return len(self._parts[-1])

    def taken(self) -> Iterator[bytes]:
        parts, self._parts = self._parts, []
        if parts:
            yield b"".join(parts)


class _Writer(Protocol):
    def write_table(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


class _Rows:
    """JSON lines, or CSV: times as RFC 3339, names with spaces between and labels as JSON in CSV."""

    def __init__(self, sink: _Sink, schema: pa.Schema) -> None:
        self._sink = sink

    def write_table(self, table: pa.Table) -> None:
        import msgspec

        encoder = msgspec.json.Encoder()
        table = _texts(table)
        for batch in table.to_batches(10_000):
            self._sink.write(encoder.encode_lines(batch.to_pylist(maps_as_pydicts="lossy")))

    def close(self) -> None:
        """Nothing follows."""


class _Csv:
    def __init__(self, sink: _Sink, schema: pa.Schema) -> None:
        self._writer = pyarrow.csv.CSVWriter(sink, _flat(_texts(schema.empty_table())).schema)

    def write_table(self, table: pa.Table) -> None:
        self._writer.write_table(_flat(_texts(table)))

    def close(self) -> None:
        self._writer.close()


def _writers() -> dict[str, Callable[[_Sink, pa.Schema], _Writer]]:
    return {
        "csv": _Csv,
        "jsonl": _Rows,
        "parquet": lambda sink, schema: pq.ParquetWriter(sink, schema, compression="zstd"),
        "arrow": lambda sink, schema: pyarrow.ipc.new_stream(sink, schema),
    }


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = table[field.name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _texts(table: pa.Table) -> pa.Table:
    """Times as text."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            told = [None if at is None else rfc3339(at) for at in table[place].cast(pa.int64()).to_pylist()]
            table = table.set_column(place, field.name, pa.array(told, pa.string()))
    return table


def _flat(table: pa.Table) -> pa.Table:
    """Lists and maps as text."""
    import msgspec

    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            told = [None if each is None else " ".join(each) for each in table[place].to_pylist()]
        elif pa.types.is_map(field.type):
            told = [
                None if each is None else msgspec.json.encode(dict(each)).decode()
                for each in table[place].to_pylist()
            ]
        else:
            continue
        table = table.set_column(place, field.name, pa.array(told, pa.string()))
    return table
