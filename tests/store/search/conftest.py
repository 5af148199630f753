"""One engine for all tests of searches, with settled rows in it."""

from __future__ import annotations

import pytest

from ringfence.store.engine import Engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("store"))
    engine.open()
    yield engine
    engine.close()
