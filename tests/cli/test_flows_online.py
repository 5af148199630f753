"""`ringfence flows show` against a server: hop by hop, in every format, and what is said of an id that is none."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import yaml

from ringfence.model.batches import TapInfo
from ringfence.model.columns import HOP, Role, Way
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.client import Acknowledged, Sender
from ringfence.wire.codec import encode

TAPS = (TapInfo("veth1", "pod", "u1"), TapInfo("eth0", "node"))


@pytest.fixture
def shown(online) -> Any:
    """A server that has one flow seen at two taps, the second of which lacks a packet; and the flow's id."""
    window = time.time_ns() // SECOND * SECOND - 5 * SECOND
    row = sighting(window)
    row["taps"][:, 1] = 2
    hops = np.zeros(2, HOP)
    hops["role"], hops["way"] = (Role.CONSUMER, Role.TRANSIT), (Way.IN, Way.OUT)
    hops["consumer_packets"][1], hops["consumer_octets"][1] = -1, -100
    # The window after it is missing, which the answer must say.
    batch = header(2, (window,), taps=TAPS, sent=window), row, no_translations(), hops
    token = (online.data / "agent.token").read_text().strip()
    sender = Sender(online.url, token)
    first = encode(header(1, (window - 2 * SECOND,), sent=window), row[:0], no_translations())
    for body in (first, encode(*batch)):
        assert isinstance(sender.send(body), Acknowledged)
    sender.close()
    (flow,) = json.loads(online("flows", "list", "-o", "json").out)
    return flow["flow_id"]


def test_the_table_has_a_row_for_each_tap(online, shown):
    done = online("flows", "show", shown)
    assert done.code == 0
    title, heads, *rows = done.out.splitlines()
    assert title.startswith(f"external-to-external {shown}: ")
    assert heads.split("  ")[0] == "leg"
    assert len(rows) == 2
    assert "node1:veth1 (pod, consumer's end)" in rows[0]
    assert "6/5" in rows[0]
    assert "node1:eth0 (node, between)" in rows[1]
    assert "5/5" in rows[1]
    assert done.err.startswith("note: not complete: ")


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_the_other_formats_say_the_same(online, shown, form, load):
    done = online("flows", "show", shown, "-o", form)
    (leg,) = load(done.out)["connection"]["legs"]
    assert [(tap["way"], tap["consumer_packets"], tap["consumer_octets"]) for tap in leg["taps"]] == [
        ("in", 6, 600),
        ("out", 5, 500),
    ]
    assert load(done.out)["completeness"]["nodes"]
    assert done.err.startswith("note: not complete: ")


@pytest.mark.parametrize(
    ("flow", "words"), [("00000000deadbeef", "no flow 00000000deadbeef"), ("nonsense", "not an id")]
)
def test_an_id_that_is_none(online, shown, flow, words):
    done = online("flows", "show", flow)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {words}")
