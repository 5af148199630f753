"""The embedded columnar engine: opened once, asserted, inserted into from Arrow, queried into Arrow.

Goals: exactly one server owns a data folder; every thread has its own connection (a shared one makes a small
query wait behind a large one); nobody forks after it is open; values reach SQL only as typed parameters.
What differs between chdb and a ClickHouse server stays in this file.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ringfence.model.problems import Problem
from ringfence.store.schema import SETTINGS, SETTLED, TABLES, TAILS, TableDef, additions, ddl, tail, view

DATABASE = "ringfence"
MEMORY = 2 << 30
"""Cap on the engine's memory, octets."""

SESSION: dict[str, str] = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "max_insert_threads": "1",
    "max_partitions_per_insert_block": "0",
    "min_insert_block_size_rows": "4194304",
    "min_insert_block_size_bytes": "2147483648",
}
"""Settings of every connection, read back. The last three make one insert of one segment one block a partition,
cut the same way each time, which the deduplication token relies on."""

Value = str | int | Sequence[int] | Sequence[str]


class StoreFailed(Problem):
    """The engine could not do something it should: disk full, memory cap, damage."""


class Engine:
    """One embedded engine over `folder`. `open` before use, `close` at the end; safe from any thread."""

    def __init__(self, folder: Path, memory: int = MEMORY) -> None:
        self._folder, self._memory = folder, memory
        self._local = threading.local()
        self._connections: list[Any] = []
        self._guard = threading.Lock()
        self._lock: IO[str] | None = None
        self._pid = 0

    def open(self) -> None:
        """Lock the folder, start the engine, make the tables, read every setting back. Raises Problem."""
        self._lock = _lock(self._folder)
        self._pid = os.getpid()
        try:
            self.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
            self._make_tables()
            self._assert_settings()
        except BaseException:
            self.close()
            raise

    def _make_tables(self) -> None:
        """Make what is missing, tables and columns. Asking first is much cheaper than statements that change nothing."""
        found: dict[str, set[str]] = {}
        columns = self.query(
            "SELECT table, name FROM system.columns WHERE database = {database:String}",
            {"database": DATABASE},
        )
        for table, name in zip(columns["table"].to_pylist(), columns["name"].to_pylist(), strict=True):
            found.setdefault(table, set()).add(name)
        for one in (*TABLES, *SETTLED):
            if one.name not in found:
                self.command(ddl(one, DATABASE))
            for statement in additions(one, DATABASE, found.get(one.name)):
                self.command(statement)
        made = {"minutes_of_flows": view(DATABASE), **{name: tail(name, DATABASE) for name in TAILS}}
        for name, statement in made.items():
            if name not in found:
                self.command(statement)

    def close(self) -> None:
        """Close every connection and release the folder."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def command(self, sql: str) -> None:
        """Run a statement of our own that answers nothing."""
        self._run(sql, "TabSeparated", {})

    def query(self, sql: str, values: Mapping[str, Value] | None = None) -> pa.Table:
        """The answer of a SELECT. `values` fill `{name:Type}` places; user input goes nowhere else."""
        written = {name: parameter(value) for name, value in (values or {}).items()}
        return self._run(sql, "ArrowTable", written)

    def insert(self, table: TableDef, rows: pa.Table, token: str) -> None:
        """Insert `rows` durably; the same `token` again (after a crash) inserts nothing twice.

        `token` is ours, never user input. The engine finds the table by the name of this local variable.
        """
        if not rows.num_rows:
            return
        names = ", ".join(f"`{column.name}`" for column in table.columns)
        incoming = rows.combine_chunks()  # noqa: F841  the engine reads it by its name, in the statement below
        statement = (
            f"INSERT INTO {DATABASE}.{table.name} ({names}) SELECT {names} FROM Python(incoming) "
            f"SETTINGS insert_deduplication_token = '{token}', max_threads = 1"
        )
        try:
            self._connection().query(statement, "TabSeparated")
        except RuntimeError as error:
            raise _problem(error, self._folder) from None

    def _run(self, sql: str, form: str, values: dict[str, str]) -> Any:
        try:
            return self._connection().query(sql, form, params=values)
        except RuntimeError as error:
            raise _problem(error, self._folder) from None

    def _connection(self) -> Any:
        """This thread's own connection."""
        if os.getpid() != self._pid:
            raise RuntimeError("the engine was opened in another process; never fork a server")
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            self._local.connection = connection
            with self._guard:
                self._connections.append(connection)
        return connection

    def _connect(self) -> Any:
        import chdb

        data = self._folder / "flows"
        options = f"max_server_memory_usage={self._memory}&backups.allowed_path={self._folder / 'backups'}"
        try:
            connection = chdb.connect(f"{data}?{options}")
            for name, value in SESSION.items():
                connection.query(f"SET {name} = {value}")
        except RuntimeError as error:
            raise _problem(error, self._folder) from None
        return connection

    def _assert_settings(self) -> None:
        """The engine ignores a misspelt setting in silence, so ask for each one back."""
        wanted = {**SESSION, "max_server_memory_usage": str(self._memory)}
        found = {
            name: str(self.query(f"SELECT toString(getSetting('{name}')) AS v")["v"][0].as_py())
            for name in SESSION
        }
        found = {name: {"true": "1", "false": "0"}.get(value, value) for name, value in found.items()}
        servers = self.query(
            "SELECT name, value FROM system.server_settings WHERE name = 'max_server_memory_usage'"
        )
        found |= dict(zip(servers["name"].to_pylist(), servers["value"].to_pylist(), strict=True))
        for name, value in wanted.items():
            if found.get(name) != value:
                raise Problem(
                    f"the engine has {name} = {found.get(name)}, not {value}", str(self._folder), _FIX
                )
        self._assert_tables()

    def _assert_tables(self) -> None:
        engines = self.query(
            "SELECT name, engine_full FROM system.tables WHERE database = {database:String}",
            {"database": DATABASE},
        )
        full = dict(zip(engines["name"].to_pylist(), engines["engine_full"].to_pylist(), strict=True))
        for table in (*TABLES, *SETTLED):
            for name, value in SETTINGS.items():
                if f"{name} = {value}" not in full.get(table.name, ""):
                    raise Problem(f"table {table.name} lacks {name} = {value}", str(self._folder), _FIX)


_FIX = "use the version of chdb that Ringfence names, and a data folder made by this version"


def parameter(value: Value) -> str:
    """A value as the engine's parameters want it: plain values as escaped text, lists as array literals."""
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, int):
        return str(value)
    return "[" + ",".join(_element(element) for element in value) + "]"


def _element(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.translate(_ESCAPES) + "'"


_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})


def _lock(folder: Path) -> IO[str]:
    """Hold `folder` for this process alone, until the returned file is closed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = open(folder / "lock", "a+")  # noqa: SIM115  held open for as long as the engine
    except OSError as error:
        raise Problem(
            f"cannot use the data folder ({error.strerror})", str(folder), "give --data a writable folder"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise Problem(
            "the data folder is in use by another server", str(folder), "stop it, or give another --data"
        ) from None
    return handle


def _problem(error: RuntimeError, folder: Path) -> StoreFailed:
    """The engine's message in one line."""
    text = " ".join(str(error).split())[:400]
    return StoreFailed(
        f"the flow store failed ({text})", str(folder), "look at the disk's free space and rights"
    )
