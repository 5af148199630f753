"""Other people's flows in the store: named by the inventory of their time, kept once, nothing lost without a word."""

from __future__ import annotations

import gzip
import itertools
from datetime import UTC, datetime
from functools import partial

import pytest

from ringfence.store.settled import MINUTE
from ringfence.testing.batches import SECOND
from ringfence.testing.logs import zeek

from .test_flows import teach


@pytest.fixture
def put(api):
    def put(body, status=200, token=None, **parameters):
        parameters = {"cluster": "lab", "name": "conn.log", **parameters}
        headers = {"Authorization": f"Bearer {token or api.admin}"}
        answer = api.client.post("/v1/imports", params=parameters, content=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    return put


def rows(api, what="*", more=""):
    settled = api.server.service.settler.settled
    source = settled.source(0, 1 << 62)
    return api.server.service._queries._engine.query(
        f"SELECT {what} FROM {source.sql} {more}", source.values
    ).to_pylist()


@pytest.mark.parametrize("pack", [bytes, partial(gzip.compress, mtime=0)], ids=["plain", "gzip"])
def test_a_log_is_kept_once_and_named_as_of_its_time(api, now, put, pack):
    teach(api, now)
    done = put(pack(zeek(now - 60 * SECOND, now - 3 * MINUTE)))
    assert (done["origin"], done["lines"], done["flows"], done["kept"], done["again"]) == (
        "zeek",
        2,
        2,
        2,
        False,
    )
    found = rows(api, more="ORDER BY first DESC")
    assert {row["origin"] for row in found} == {"zeek"}
    assert [row["minute"] for row in found] == [
        at // MINUTE * MINUTE for at in (now - 60 * SECOND, now - 3 * MINUTE)
    ]
    assert [(row["consumer_packets"], row["consumer_octets"], row["provider_packets"]) for row in found] == [
        (6, 330, 5)
    ] * 2
    named = {
        row["version"]: row["workload"] for row in api.server.service.settler.settled.endpoints().to_pylist()
    }
    assert {(named[row["opened_by"]], named[row["served_by"]]) for row in found} == {
        ("Deployment/front", "Deployment/carts")
    }
    again = put(pack(zeek(now - 60 * SECOND, now - 3 * MINUTE)), name="another.log")
    assert again["again"] is True
    assert len(rows(api)) == 2


def test_what_cannot_be_kept_is_counted_and_said(api, now, put):
    day = 86_400 * SECOND
    done = put(zeek(now - 60 * SECOND, now - 40 * day, now + day) + b"broken\tline\n")
    assert (done["flows"], done["kept"]) == (3, 1)
    said = " | ".join(done["notes"])
    assert "1 flows are older than 30 days and are not kept" in said
    assert "1 flows lie in the future and are not kept" in said
    assert "broken" in said


def test_what_a_log_does_not_tell_is_marked(api, now, put):
    when = datetime.fromtimestamp(now / 1e9 - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = (
        f'{{"time":"{when}","verdict":"FORWARDED","IP":{{"source":"10.244.1.5","destination":"10.244.2.7"}},'
        '"l4":{"TCP":{"source_port":41022,"destination_port":80,"flags":{"SYN":true}}},"is_reply":false,'
        '"source":{"namespace":"shop","pod_name":"front-1"},"destination":{"namespace":"shop","pod_name":"carts-1"}}\n'
    )
    done = put(line.encode(), name="hubble.json")
    assert (done["origin"], done["kept"]) == ("hubble", 1)
    (row,) = rows(api)
    assert row["untold"] & 0b1010 == 0b1010  # a Hubble flow has no octets
    assert row["consumer_octets"] == 0


def test_a_file_that_is_none_is_refused_and_nothing_is_left(api, put, tmp_path):
    error = put(b"hello\n", 400)["error"]
    assert (error["what"], error["where"]) == ("not a flow log that is known by its beginning", "conn.log")
    assert "unknown format" in put(b"x", 400, format="nonsense")["error"]["what"]
    assert put(zeek(1), 400, cluster="")["error"]["where"] == "cluster"
    assert put(zeek(1), 401, token="nobody")["error"]
    from pathlib import Path

    assert list(Path(api.server.service.scratch).iterdir()) == []
    assert rows(api) == []


def test_many_threads_may_import_and_settle_at_once(api, now, put):
    from concurrent.futures import ThreadPoolExecutor

    files = [zeek(now - 60 * SECOND, now - (61 + n) * SECOND) for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(put, itertools.chain(files, files)))
    assert sum(not each["again"] for each in done) == 6
    assert len(rows(api)) == 12
