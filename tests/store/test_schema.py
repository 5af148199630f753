"""One list of columns: every field the wire carries has its column, and the page names every column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ringfence.model.columns import SIGHTING, TRANSLATION
from ringfence.store.rows import arrow_schema
from ringfence.store.schema import (
    SETTINGS,
    SETTLED,
    SIGHTINGS,
    TABLES,
    TRANSLATIONS,
    ddl,
)

SQL = {"|u1": "UInt8", "<u2": "UInt16", "<u4": "UInt32", "<u8": "UInt64", "<i8": "Int64"}


@pytest.mark.parametrize(("table", "dtype"), [(SIGHTINGS, SIGHTING), (TRANSLATIONS, TRANSLATION)])
def test_every_field_is_kept_in_its_type(table, dtype):
    kept = {field for column in table.columns for field in column.source}
    assert kept == set(dtype.names)
    for column in table.columns:
        if len(column.source) == 1 and "String" not in column.sql:
            assert SQL[dtype[column.name].str] == column.sql, column.name


@pytest.mark.parametrize("table", [*TABLES, *SETTLED], ids=lambda table: table.name)
def test_every_table_is_sound(table):
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert (names[0] == "segment") == (table in TABLES)
    assert {table.time, *table.order} - {"", "intDiv(minute, 3600000000000)"} <= set(names)
    assert all(column.meaning for column in table.columns)
    assert isinstance(arrow_schema(table), pa.Schema)
    assert all(f"{name} = {value}" in ddl(table, "x") for name, value in SETTINGS.items())


def test_the_page_names_every_column(repo):
    page = (repo / "docs" / "design" / "store.md").read_text()
    for table in (*TABLES, *SETTLED):
        section = page.split(f"## `{table.name}`", 1)[1].split("\n## ", 1)[0]
        for column in table.columns:
            assert f"| `{column.name}` | {column.sql} | {column.meaning} |" in section
