"""`ringfence flows list --where`, `top`, `follow`, `export` and `hints` against a server."""

from __future__ import annotations

import json
import time

import pyarrow.parquet as pq

from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.client import Acknowledged, Sender
from ringfence.wire.codec import encode


def test_one_flow_by_every_verb(online, tmp_path):
    window = time.time_ns() // SECOND * SECOND - 5 * SECOND
    sender = Sender(online.url, (online.data / "agent.token").read_text().strip())
    body = encode(header(1, (window,), sent=window), sighting(window), no_translations())
    assert isinstance(sender.send(body), Acknowledged)
    sender.close()
    where = ("--where", "port == 80 && octets > 0")
    (flow,) = json.loads(online("flows", "list", *where, "--sort", "-octets", "-o", "json").out)
    assert online("flows", "list", "--where", "port == 81", "-o", "json").out.strip() == "[]"
    top = online("flows", "top", "port", "--by", "connections")
    assert top.out.splitlines()[1].split() == ["80", "1", "1"]
    (value,) = json.loads(online("flows", "hints", "--field", "port", "-o", "json").out)
    assert (value["text"], value["rows"]) == ("80", 1)
    assert "consumer.namespace" in online("flows", "hints", "consumer.n").out
    followed = online("flows", "follow", *where, "--for", "1", "-o", "jsonl")
    assert [json.loads(line)["flow_id"] for line in followed.out.splitlines()] == [flow["flow_id"]]
    assert "the asked time is over" in followed.err
    assert flow["flow_id"] in online("flows", "follow", "--for", "1").out
    file = tmp_path / "flows.parquet"
    assert online("flows", "export", str(file), "--fields", "flow_id,port", *where).code == 0
    assert pq.read_table(file).to_pylist() == [{"flow_id": flow["flow_id"], "port": 80}]
    assert json.loads(online("flows", "export", "-", "--fields", "port").out) == {"port": 80}
    bad = online("flows", "export", str(tmp_path / "flows.xls"))
    assert (bad.code, "use one of csv" in bad.err) == (2, True)
    assert [one.name for one in tmp_path.iterdir() if "flows" in one.name] == ["flows.parquet"]
    wrong = online("flows", "top", "port", "--where", "prt == 80")
    assert (wrong.code, "column 1" in wrong.err) == (2, True)
