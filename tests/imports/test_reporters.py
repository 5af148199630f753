"""Who of several tells of the same packets, what a policy decided when, and the wrappings that logs come in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ringfence.model.flows import Flow

from .test_formats import AWS, CUSTOM, GCP, NSG, VNET, counters, ends, read

WEB = {"source_name": "web-*", "source_namespace": "shop", "source_type": "wep", "dest_name": "db-*"}
WEB |= {"dest_namespace": "shop", "dest_type": "wep", "dest_port": 5432, "proto": "tcp", "action": "allow"}
WEB |= {"start_time": 1_700_000_000, "end_time": 1_700_000_015, "bytes_in": 100, "bytes_out": 100}


def lines(*items: Any) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def calico(host: str, reporter: str, packets: int, at: int = 0, **more: Any) -> dict[str, Any]:
    times = {"start_time": 1_700_000_000 + at, "end_time": 1_700_000_015 + at}
    ahead, back = ("packets_out", "packets_in") if reporter == "src" else ("packets_in", "packets_out")
    return WEB | times | {"host": host, "reporter": reporter, ahead: packets, back: 1} | more


def test_hosts_of_an_aggregated_flow_add_up(tmp_path: Path) -> None:
    told = [calico("n1", "src", 10), calico("n2", "src", 5), calico("n3", "dst", 15)]
    (flow,) = read(tmp_path, lines(*told)).flows
    assert (flow.consumer_packets, flow.provider_packets) == (15, 2)


def test_what_was_denied_for_a_time_is_a_flow_of_its_own(tmp_path: Path) -> None:
    told = [calico("n1", "src", 10), calico("n1", "src", 3, at=60, action="deny")]
    flows = read(tmp_path, lines(*told)).flows
    assert [(flow.drop_reason, flow.consumer_packets) for flow in flows] == [(None, 10), ("policy", 3)]
    assert len({flow.flow_id for flow in flows}) == 2


def test_what_the_provider_s_host_denied_is_denied_though_the_consumer_s_let_it_go(tmp_path: Path) -> None:
    told = [calico("n1", "src", 10), calico("n2", "dst", 10, action="deny")]
    (flow,) = read(tmp_path, lines(*told)).flows
    assert (flow.drop_reason, flow.consumer_packets) == ("policy", 10)


def test_connections_that_began_add_up_and_those_that_went_on_do_not(tmp_path: Path) -> None:
    told = [calico("n1", "src", 1, at=at, num_flows=4, num_flows_started=2) for at in (0, 15, 30)]
    assert [flow.connections for flow in read(tmp_path, lines(*told)).flows] == [6]
    told = [calico("n1", "src", 1, at=at, num_flows=4, num_flows_started=0) for at in (0, 15, 30)]
    assert [flow.connections for flow in read(tmp_path, lines(*told)).flows] == [4]


WHISKER = {"start_time": "2025-01-01T00:00:00Z", "end_time": "2025-01-01T00:00:15Z", "action": "Allow"}
WHISKER |= {"source_name": "web-*", "source_namespace": "shop", "source_labels": "app=web | tier=front"}
WHISKER |= {"dest_name": "db-*", "dest_namespace": "shop", "dest_labels": "app=db", "protocol": "tcp"}
WHISKER |= {
    "dest_port": 5432,
    "reporter": "Src",
    "packets_in": 8,
    "packets_out": 10,
    "bytes_in": 1,
    "bytes_out": 2,
}
GOLDMANE = {
    "id": "7",
    "flow": {
        "Key": {
            "sourceName": "web-*",
            "sourceNamespace": "shop",
            "sourceType": "WorkloadEndpoint",
            "destName": "db-*",
            "destNamespace": "shop",
            "destType": "WorkloadEndpoint",
            "destPort": "5432",
            "proto": "tcp",
            "reporter": "Src",
            "action": "Allow",
        },
        "startTime": "1735689600",
        "endTime": "1735689615",
        "sourceLabels": ["app=web", "tier=front"],
        "packetsIn": "8",
        "packetsOut": "10",
        "bytesIn": "1",
        "bytesOut": "2",
        "numConnectionsStarted": "3",
    },
}


@pytest.mark.parametrize("told", [WHISKER, GOLDMANE])
def test_goldmane_s_flows(tmp_path: Path, told: dict[str, Any]) -> None:
    answer = read(tmp_path, lines(told))
    (flow,) = answer.flows
    assert not answer.notes
    assert (counters(flow), flow.start) == ((10, 2, 8, 1), "2025-01-01T00:00:00.000000Z")
    assert (flow.consumer.labels, flow.provider.port) == ({"app": "web", "tier": "front"}, 5432)
    assert (flow.consumer.kind, flow.consumer.ip, flow.protocol) == ("pod", None, "TCP")


def packed(text: str) -> list[str]:
    """A calico log as fluentd, a container runtime, a container's log, Elasticsearch and a list hold it."""
    return [
        f"2025-01-01T00:00:00+00:00\tcalico.flows\t{text}\n",
        f"2025-01-01T00:00:00.1Z stdout F {text}\n",
        lines({"log": text + "\n", "stream": "stdout", "time": "2025-01-01T00:00:00Z"}),
        json.dumps({"hits": {"hits": [{"_source": json.loads(text)}]}}),
        json.dumps([json.loads(text)], indent=1),
        json.dumps(json.loads(text), indent=1),
    ]


@pytest.mark.parametrize("wrapping", range(6))
def test_wrappings_of_json(tmp_path: Path, wrapping: int) -> None:
    answer = read(tmp_path, packed(json.dumps(calico("n1", "src", 10)))[wrapping])
    assert [flow.consumer_packets for flow in answer.flows] == [10]
    assert not answer.notes


def test_azure_s_records_one_a_line_and_both_interfaces(tmp_path: Path) -> None:
    (record,) = VNET["records"]
    sent = record | {"macAddress": "000D3A000001"}
    received = json.loads(json.dumps(sent).replace(",O,E", ",I,E").replace("000001", "000002"))
    flows = read(tmp_path, lines(sent, received)).flows
    assert counters(flows[0]) == (3, 767, 2, 1580)
    assert len(read(tmp_path, lines(*NSG["records"])).flows) == 2
    broken = json.loads(json.dumps(record).replace("10.0.0.6,52", "10.0.0.6.1,52"))
    answer = read(tmp_path, lines(broken))
    assert (len(answer.flows), "source address" in answer.notes[0]) == (1, True)


def test_azure_s_first_version_tells_no_counters(tmp_path: Path) -> None:
    tuples = ["1491143966,10.2.0.4,23.99.34.232,37560,443,T,O,A"]
    flows = {"rule": "R", "flows": [{"mac": "000D3A36C783", "flowTuples": tuples}]}
    (flow,) = read(tmp_path, lines({"records": [{"properties": {"Version": 1, "flows": [flows]}}]})).flows
    assert (counters(flow), flow.drop_reason, flow.start) == (
        (None,) * 4,
        None,
        "2017-04-02T14:39:26.000000Z",
    )


def test_the_consumer_s_reporter_is_counted_for_answers_too(tmp_path: Path) -> None:
    """Google's SRC reports what it sends: of an answer it stands at the provider's end."""

    def entry(src: tuple[str, int], dest: tuple[str, int], reporter: str, packets: int) -> dict[str, Any]:
        told = json.loads(json.dumps(GCP["jsonPayload"])) | {"reporter": reporter, "packets_sent": packets}
        told["connection"] |= {"src_ip": src[0], "src_port": src[1], "dest_ip": dest[0], "dest_port": dest[1]}
        return {"jsonPayload": told}

    a, b = ("10.1.0.5", 40000), ("10.2.0.9", 443)
    told = [entry(a, b, "SRC", 10), entry(a, b, "DEST", 9), entry(b, a, "SRC", 8), entry(b, a, "DEST", 7)]
    (flow,) = read(tmp_path, lines(*told)).flows
    assert (flow.consumer_packets, flow.provider_packets) == (10, 7)


def test_google_s_firewall_log_is_no_flow_log(tmp_path: Path) -> None:
    told = {"jsonPayload": {"connection": GCP["jsonPayload"]["connection"], "disposition": "DENIED"}}
    answer = read(tmp_path, lines(told))
    assert (answer.flows, "Google's firewall log" in answer.notes[0]) == ([], True)


def cloudwatch() -> dict[str, str | bytes]:
    text = [line for line in AWS.splitlines() if line]
    events = [{"timestamp": 1, "message": line} for line in text]
    return {
        "time": "".join(f"2024-01-01T00:00:00.000Z {line}\n" for line in text),
        "stream": "".join(f"2024-01-01T00:00:00+00:00 eni-1-all {line}\n" for line in text),
        "export": "@timestamp,@message\n" + "".join(f'2024-01-01 00:00:00.000,"{line}"\n' for line in text),
        "events": json.dumps({"events": events}, indent=2),
        "subscription": lines({"messageType": "DATA_MESSAGE", "logEvents": events}),
        "insights": json.dumps({"results": [[{"field": "@message", "value": line}] for line in text]}),
        "one a line": lines(*({"@timestamp": "x", "@message": line} for line in text)),
    }


@pytest.mark.parametrize("way", cloudwatch())
def test_aws_lines_that_cloudwatch_wrapped(tmp_path: Path, way: str) -> None:
    answer = read(tmp_path, cloudwatch()[way])
    assert [ends(flow) for flow in answer.flows] == [ends(flow) for flow in read(tmp_path, AWS).flows]
    assert len(answer.notes) == 2, answer.notes


def test_aws_parquet(tmp_path: Path) -> None:
    head, *rows = (line.split() for line in CUSTOM.splitlines())
    columns = {
        name.replace("-", "_"): [int(row[at]) if row[at].isdigit() else row[at] for row in rows]
        for at, name in enumerate(head)
    }
    held = io.BytesIO()
    parquet.write_table(pa.table(columns), held)
    found, text = (read(tmp_path, body).flows for body in (held.getvalue(), CUSTOM))
    assert found == text


SEEN = {"SrcAddr": "10.0.0.1", "DstAddr": "10.0.0.2", "SrcPort": 4000, "DstPort": 80, "Proto": 6, "Flags": 2}
SEEN |= {"Packets": 10, "Bytes": 600, "TimeFlowStartMs": 1708011867121, "TimeFlowEndMs": 1708011867999}
SEEN |= {"AgentIP": "10.9.0.1", "FlowDirection": 1}


def netobserv(folder: Path, *items: dict[str, Any]) -> list[Flow]:
    return read(folder, lines(*(SEEN | item for item in items))).flows


def test_interfaces_in_another_order_are_the_same_reporter(tmp_path: Path) -> None:
    (flow,) = netobserv(tmp_path, {"Interfaces": ["a", "b"]}, {"Interfaces": ["b", "a"]})
    assert flow.consumer_packets == 20
    (flow,) = netobserv(tmp_path, {"Interface": "a"}, {"Interface": "b"})
    assert flow.consumer_packets == 10
    (flow,) = netobserv(
        tmp_path, {"Interfaces": ["a"]}, {"Interfaces": ["a"], "AgentIP": "10.9.0.2", "FlowDirection": 0}
    )
    assert flow.consumer_packets == 10


def test_connections_are_used_where_no_flow_record_tells(tmp_path: Path) -> None:
    kept = {"_HashId": "h", "_RecordType": "heartbeat", "Packets_AB": 3, "Packets_BA": 2}
    ended = kept | {"_RecordType": "endConnection", "Packets_AB": 6, "Packets_BA": 4, "numFlowLogs": 4}
    kept |= {"numFlowLogs": 2, "Bytes_AB": 1, "Bytes_BA": 1}
    (flow,) = netobserv(tmp_path, kept, ended)
    assert counters(flow) == (6, None, 4, None)
    (flow,) = netobserv(tmp_path, kept, ended, {"_HashId": "h", "_RecordType": "flowLog"})
    assert flow.consumer_packets == 10


def test_zeek_s_other_logs_are_named_and_states_tell_who_opened(tmp_path: Path) -> None:
    base = {
        "ts": 1700000000.1,
        "uid": "C",
        "id.orig_h": "10.0.0.1",
        "id.orig_p": 40000,
        "id.resp_h": "10.0.0.2",
    }
    base |= {"id.resp_p": 80, "proto": "tcp"}
    answer = read(
        tmp_path,
        lines(base | {"query": "a.example"}, base | {"conn_state": "S0", "orig_pkts": 1, "resp_pkts": 0}),
    )
    (flow,) = answer.flows
    assert (flow.direction, flow.drop_reason, flow.consumer_flags) == ("syn", "unanswered", "SYN")
    assert any("they are of dns.log, not of conn.log" in note for note in answer.notes)
    (flow,) = read(tmp_path, lines(base | {"conn_state": "REJ", "orig_pkts": 1, "resp_pkts": 1})).flows
    assert flow.drop_reason == "refused"
    (flow,) = read(tmp_path, lines(base | {"conn_state": "OTH"})).flows
    assert flow.direction == "guessed"
