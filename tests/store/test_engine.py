"""The engine as we rely on it: parameters, tokens, settings, one owner."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.model.addresses import pack
from ringfence.model.problems import Problem
from ringfence.store.engine import DATABASE, SESSION, Engine
from ringfence.store.rows import addresses, halves, windows_table
from ringfence.store.schema import SIGHTINGS, WINDOWS, additions
from ringfence.testing.batches import SECOND, header

RECENT = time.time_ns() // SECOND * SECOND
DAY = 86_400 * SECOND


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("store"))
    engine.open()
    yield engine
    engine.close()


def count(engine):
    return engine.query(f"SELECT count() AS n FROM {DATABASE}.windows")["n"][0].as_py()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_come_back_as_they_went_in(engine, text):
    assert engine.query("SELECT {x:String} AS x", {"x": text})["x"][0].as_py() == text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_come_back_as_they_went_in(engine, texts):
    assert engine.query("SELECT {x:Array(String)} AS x", {"x": texts})["x"][0].as_py() == texts


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_come_back_as_they_went_in(engine, numbers):
    assert engine.query("SELECT {x:Array(Int64)} AS x", {"x": numbers})["x"][0].as_py() == numbers


def test_a_token_inserts_once(engine):
    rows = windows_table(header(1, ()), [RECENT + i for i in range(100)], 1)
    before = count(engine)
    for _ in range(3):
        engine.insert(WINDOWS, rows, "s/1/windows")
    assert count(engine) == before + 100
    engine.insert(WINDOWS, rows, "s/2/windows")
    assert count(engine) == before + 200


def test_a_token_holds_over_several_partitions(engine):
    """Days are partitions: a block of each carries the token."""
    days = [RECENT - i * DAY for i in range(28)]
    rows = windows_table(header(1, ()), days, 3)
    before = count(engine)
    for _ in range(2):
        engine.insert(WINDOWS, rows, "s/3/windows")
    assert count(engine) == before + 28


def test_threads_have_their_own_settled_connections(engine):
    answers = []

    def ask():
        got = {n: engine.query(f"SELECT toString(getSetting('{n}')) AS v")["v"][0].as_py() for n in SESSION}
        answers.append({name: {"true": "1", "false": "0"}.get(value, value) for name, value in got.items()})

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [SESSION] * 3


def test_a_folder_has_one_owner(tmp_path):
    script = (
        "import sys; from pathlib import Path; from ringfence.store.engine import Engine\n"
        "e = Engine(Path(sys.argv[1])); e.open(); print('open', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert owner.stdout.readline() == b"open\n"
        with pytest.raises(Problem, match="in use by another server"):
            Engine(tmp_path).open()
    finally:
        owner.communicate()


def test_an_unusable_folder_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot use the data folder"):
        Engine(tmp_path / "file" / "x").open()


def test_nonsense_is_a_problem(engine):
    with pytest.raises(Problem, match="flow store failed"):
        engine.query("SELECT nonsense")


def test_addresses_survive_the_engine(engine):
    texts = ["10.0.0.1", "2001:db8::1", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
    hi, lo = (np.array(half, np.uint64) for half in zip(*map(pack, texts), strict=True))
    import pyarrow as pa

    column = pa.chunked_array([addresses(hi, lo)])
    back = halves(column)
    assert back[0].tolist() == hi.tolist()
    assert back[1].tolist() == lo.tolist()


def test_a_table_of_an_earlier_version_gets_its_new_columns(engine):
    for column in ("srtt_us", "names", "drop", "hop_ways", "hop_less"):
        engine.command(f"ALTER TABLE {DATABASE}.sightings DROP COLUMN {column}")
    for found in (set(), {column.name for column in SIGHTINGS.columns}, None):
        for statement in additions(SIGHTINGS, DATABASE, found):
            engine.command(statement)
    told = engine.query(
        f"SELECT name, type FROM system.columns WHERE database = '{DATABASE}' AND table = 'sightings'"
    )
    kept = dict(zip(told["name"].to_pylist(), told["type"].to_pylist(), strict=True))
    assert kept == {column.name: column.sql for column in SIGHTINGS.columns}
