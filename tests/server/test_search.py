"""Searches over the API: what a page, a facet, a histogram, a hint, an export and a stream say of the same flows."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ringfence.server.follow import follow_flows
from ringfence.server.refusals import Refusal
from ringfence.server.rights import ALL_RIGHTS
from ringfence.server.search import Question
from ringfence.store.settled import MINUTE
from ringfence.testing.batches import SECOND, sighting

from .conftest import Api
from .test_flows import teach


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Six connections of front to carts: larger and later, the last two on another port. Tests only ask."""
    now = time.time_ns() // SECOND * SECOND
    api = Api(tmp_path_factory.mktemp("site"), time.time_ns)
    teach(api, now)
    start = now - 5 * MINUTE
    for n in range(6):
        window = (start + n * 20 * SECOND) // SECOND * SECOND
        port = 80 if n < 4 else 8080
        api.send(sighting(window, ports=(41000 + n, port), packets=(n + 1, 1)), (window,))
    yield api
    api.close()


def pages(api, **asked):
    found, cursor = [], None
    for _ in range(20):
        answer = api.get("/v1/flows", **asked, **({"cursor": cursor} if cursor else {}))
        found += answer["flows"]
        cursor = answer["cursor"]
        if cursor is None:
            return found
    raise AssertionError("endless pages")


WHERE = 'consumer.workload == "Deployment/front" && provider.workload == "Deployment/carts"'


def test_a_search_finds_what_the_exact_answer_has(site):
    exact = {flow["flow_id"]: flow for flow in site.get("/v1/flows", since="15m")["flows"]}
    found = {flow["flow_id"]: flow for flow in site.get("/v1/flows", since="15m", where="true")["flows"]}
    assert len(found) == 6
    assert found == {name: {**flow, "taps": []} for name, flow in exact.items()}


def test_conditions_on_facts_and_on_sums(site):
    def ports(where):
        return sorted(flow["consumer"]["port"] for flow in site.get("/v1/flows", where=where)["flows"])

    assert ports(WHERE) == [41000 + n for n in range(6)]
    assert ports(f"{WHERE} && port == 8080") == [41004, 41005]
    assert ports("consumer_packets > 3") == [41003, 41004, 41005]
    assert ports("port == 80 && consumer_packets > 3") == [41003]
    assert ports("port == 8080 || consumer_packets < 2") == [41000, 41004, 41005]
    assert ports('provider.namespace == "nowhere"') == []


@pytest.mark.parametrize(
    "sort", [None, "start", "-octets", "octets", "-end", "port", "-provider_packets", "rtt_us"]
)
def test_pages_are_whole_and_in_order(site, sort):
    asked: dict[str, Any] = {"where": WHERE, **({"sort": sort} if sort else {})}
    whole = site.get("/v1/flows", **asked)["flows"]
    assert len(whole) == 6
    assert pages(site, **asked, limit=2) == whole
    assert pages(site, **asked, limit=1) == whole
    if sort in ("start", "octets"):
        assert [flow["consumer"]["port"] for flow in whole] == [41000 + n for n in range(6)]
    if sort in (None, "-octets", "-end"):
        assert [flow["consumer"]["port"] for flow in whole] == [41005 - n for n in range(6)]


def test_the_plain_filters_hold_in_a_search_too(site):
    assert len(site.get("/v1/flows", since="2h", where="true", namespace="shop")["flows"]) == 6
    assert len(site.get("/v1/flows", since="2h", where="true", workload="Deployment/front")["flows"]) == 6
    assert site.get("/v1/flows", since="2h", where="true", namespace='x" || true || "')["flows"] == []
    one = site.get("/v1/flows", since="2h", where="true", limit=1)["flows"][0]
    assert site.get("/v1/flows", since="2h", where="true", connection=one["connection_id"])["flows"] == [one]


def refused(api, path, status=400, **asked):
    headers = {"Authorization": f"Bearer {api.admin}"}
    answer = api.client.get(path, params=asked, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_errors_name_the_place_and_the_fix(site):
    assert "column" in str(refused(site, "/v1/flows", where='consumer.namespce == "shop"'))
    assert refused(site, "/v1/flows", sort="names")["where"] == "sort"
    assert refused(site, "/v1/flows", cursor="x")["what"] == "not a cursor"
    cursor = site.get("/v1/flows", where="true", limit=1)["cursor"]
    assert refused(site, "/v1/flows", cursor=cursor, sort="octets")["what"] == "a cursor of another order"
    assert refused(site, "/v1/flows", where="true", fold="true")["where"] == "fold"
    assert refused(site, "/v1/flows/facets", field="consumer")["what"] == "`consumer` is an end"
    assert refused(site, "/v1/flows/facets", field="labels")["where"] == "field"
    assert refused(site, "/v1/flows/facets", field="port", by="size")["where"] == "by"
    assert refused(site, "/v1/flows/hints", field="octet")["where"] == "field"
    assert refused(site, "/v1/flows/export", format="xls")["where"] == "format"
    assert refused(site, "/v1/flows/export", fields="port,nothing")["where"] == "fields"
    assert refused(site, "/v1/flows/follow", where="port ==")["where"].startswith("where")


def test_facets_and_the_histogram_add_up_to_the_flows(site):
    flows = site.get("/v1/flows", where="true")["flows"]
    octets = sum(flow["consumer_octets"] + flow["provider_octets"] for flow in flows)
    found = site.get("/v1/flows/facets", field="port", by="octets")["values"]
    assert {row["value"]: row["flows"] for row in found} == {80: 4, 8080: 2}
    assert sum(row["weight"] for row in found) == octets
    by = site.get("/v1/flows/facets", field="port", by="connections", where="consumer_packets > 3")["values"]
    assert [(row["value"], row["weight"]) for row in by] == [(8080, 2), (80, 1)]
    (one,) = site.get("/v1/flows/facets", field="served_by.workload")["values"]
    assert (one["value"], one["weight"]) == ("Deployment/carts", octets)
    for field in ("served_by.workload", "opened_by.namespace", "served_by.port", "protocol", "category"):
        for by in ("octets", "packets", "connections"):
            # What rollups answer is what the rows do: the second condition is one that rollups cannot be asked.
            rolled, raw = (
                site.get("/v1/flows/facets", field=field, by=by, where=where)["values"]
                for where in ('served_by.namespace == "shop"', 'served_by.namespace == "shop" && port > 0')
            )
            assert [(row["value"], row["weight"]) for row in rolled] == [
                (row["value"], row["weight"]) for row in raw
            ]
            assert {row["flows"] for row in rolled} == {None}
    (absent,) = site.get("/v1/flows/facets", field="tls.server_name")["values"]
    assert absent["value"] is None
    bars = site.get("/v1/flows/histogram", since="15m")
    assert bars["step"] == 60
    assert sum(bar["octets"] for bar in bars["bars"]) == octets
    assert sum(bar["connections"] for bar in bars["bars"]) == 6
    raw = site.get("/v1/flows/histogram", since="15m", where="port > 0")
    assert [{**bar, "flows": None} for bar in raw["bars"]] == bars["bars"]
    assert bars["bars"] == sorted(bars["bars"], key=lambda bar: bar["start"])


def test_hints_are_names_values_and_label_keys(site):
    names = [hint["text"] for hint in site.get("/v1/flows/hints", begins="consumer.n")["hints"]]
    assert names == ["consumer.namespace", "consumer.name", "consumer.node"]
    (value,) = site.get("/v1/flows/hints", field="consumer.workload", begins="Dep")["hints"]
    assert (value["text"], value["rows"]) == ("Deployment/front", 6)
    assert [hint["text"] for hint in site.get("/v1/flows/hints", field="port")["hints"]] == ["80", "8080"]
    assert [hint["text"] for hint in site.get("/v1/flows/hints", field="consumer.labels")["hints"]] == ["app"]


def exported(api, form, **asked):
    headers = {"Authorization": f"Bearer {api.admin}"}
    answer = api.client.get("/v1/flows/export", params={"format": form, **asked}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_every_format_of_an_export_holds_the_same(site):
    fields = "start,consumer.ip,consumer.port,port,octets,names,consumer.labels,snat,duration"
    lines = [json.loads(line) for line in exported(site, "jsonl", fields=fields).splitlines()]
    assert [line["consumer.port"] for line in lines] == [41000 + n for n in range(6)]
    assert all(line["consumer.labels"] == {"app": "front"} and line["snat"] is False for line in lines)
    parquet = pq.read_table(io.BytesIO(exported(site, "parquet", fields=fields)))
    arrow = pa.ipc.open_stream(exported(site, "arrow", fields=fields)).read_all()
    assert parquet.column_names == fields.split(",")
    assert parquet.to_pylist() == arrow.to_pylist()
    assert parquet["octets"].to_pylist() == [line["octets"] for line in lines]
    csv = pyarrow.csv.read_csv(io.BytesIO(exported(site, "csv", fields=fields)))
    assert csv["port"].to_pylist() == [80] * 4 + [8080] * 2
    assert json.loads(csv["consumer.labels"][0].as_py()) == {"app": "front"}
    some = exported(site, "jsonl", fields="port", where="consumer_packets > 4").splitlines()
    assert some == [b'{"port":8080}'] * 2
    assert exported(site, "csv", fields="port", where="port == 1") == b'"port"\n'
    assert len(exported(site, "parquet", where="port == 1")) > 100
    whole = [json.loads(line) for line in exported(site, "jsonl").splitlines()]
    assert len(whole) == 6
    told = [row for row in site.get("/v1/audit")["entries"] if "/v1/flows/export" in row["what"]]
    assert "done" in {row["outcome"] for row in told}


def test_following_shows_each_flow_once(site):
    now = time.time_ns() // SECOND * SECOND
    headers = {"Authorization": f"Bearer {site.admin}"}

    def follow(seconds):
        asked = {"where": "port == 99", "seconds": seconds}
        answer = site.client.get("/v1/flows/follow", params=asked, headers=headers)
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.text.splitlines()]

    first = follow(1)
    assert ["heartbeat" in line for line in first] == [True, False]
    for n in range(2):
        site.send(sighting(now - SECOND, ports=(42000 + n, 99)), (now - SECOND,), epoch=f"e{n + 5}")
    found = follow(3)
    assert [line["consumer"]["port"] for line in found if "flow_id" in line] in (
        [42000, 42001],
        [42001, 42000],
    )
    assert found[-1] == {"ended": "the asked time is over"}


def test_a_stream_ends_when_its_rights_do(site):
    """The last test here: rights are asked again at each look, and the server ends what it holds when it ends."""
    service = site.server.service
    asked = Question(0, 0, None, ALL_RIGHTS)

    def gone():
        raise Refusal("this token is no longer good", "the request", "sign in again")

    async def lines(rights):
        found = follow_flows(service.search, asked, service.now, rights, service.ending)
        return [json.loads(line) async for line in found]

    assert "no longer good" in asyncio.run(lines(gone))[-1]["ended"]
    service.release()
    assert asyncio.run(lines(lambda: ALL_RIGHTS)) == [{"ended": "the server is about to end"}]
