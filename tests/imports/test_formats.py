"""Documented lines of formats without public samples, and what each format's odd lines become."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from ringfence.cli.offline import Answer, read_files
from ringfence.model.flows import Flow

AWS = """\
2 123456789010 eni-1235b8ca123456789 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK
2 123456789010 eni-1235b8ca123456789 172.31.16.21 172.31.16.139 22 20641 6 15 2100 1418530010 1418530070 ACCEPT OK
2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530010 1418530070 REJECT OK
2 123456789010 eni-1235b8ca123456789 - - - - - - - 1431280876 1431280934 - NODATA
2 123456789010 eni-11111111aaaaaaaaa - - - - - - - 1431280876 1431280934 - SKIPDATA
2 123456789010 eni-1235b8ca123456789 203.0.113.12 172.31.16.139 0 0 1 4 336 1432917027 1432917142 ACCEPT OK
"""
"""From https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-records-examples.html."""

CUSTOM = """\
version vpc-id subnet-id instance-id interface-id account-id type srcaddr dstaddr srcport dstport pkt-srcaddr pkt-dstaddr protocol bytes packets start end action tcp-flags log-status
3 vpc-abcdefab012345678 subnet-aaaaaaaa012345678 i-01234567890123456 eni-1235b8ca123456789 123456789010 IPv4 52.213.180.42 10.0.0.62 43416 5001 52.213.180.42 10.0.0.62 6 568 8 1566848875 1566848933 ACCEPT 2 OK
3 vpc-abcdefab012345678 subnet-aaaaaaaa012345678 i-01234567890123456 eni-1235b8ca123456789 123456789010 IPv4 10.0.0.62 52.213.180.42 5001 43416 10.0.0.62 52.213.180.42 6 376 7 1566848875 1566848933 ACCEPT 18 OK
3 vpc-abcdefab012345678 subnet-aaaaaaaa012345678 i-01234567890123456 eni-1235b8ca123456789 123456789010 IPv4 10.0.0.62 52.213.180.42 5001 43418 10.0.0.62 52.213.180.42 6 100701 70 1566848875 1566848933 ACCEPT 18 OK
"""
"""From the same page: TCP flag sequence."""

GCP = {
    "jsonPayload": {
        "connection": {
            "src_ip": "10.1.0.5",
            "src_port": 39874,
            "dest_ip": "10.2.0.9",
            "dest_port": 443,
            "protocol": 6,
        },
        "bytes_sent": "1776",
        "packets_sent": "16",
        "rtt_msec": "12",
        "start_time": "2024-05-01T10:00:00.123456789Z",
        "end_time": "2024-05-01T10:00:04.5Z",
        "reporter": "SRC",
        "src_gke_details": {
            "cluster": {"cluster_name": "prod"},
            "pod": {"pod_name": "web-1", "pod_namespace": "shop"},
        },
    }
}
NSG = {
    "records": [
        {
            "time": "2018-11-13T12:00:35.3899262Z",
            "properties": {
                "Version": 2,
                "flows": [
                    {
                        "rule": "DefaultRule_AllowInternetOutBound",
                        "flows": [
                            {
                                "mac": "000D3AF87856",
                                "flowTuples": [
                                    "1542110402,94.102.49.190,10.5.16.4,28746,443,U,I,D,B,,,,",
                                    "1542110437,10.5.16.4,13.67.143.118,59831,443,T,O,A,E,1,66,1,66",
                                ],
                            }
                        ],
                    }
                ],
            },
        }
    ]
}
VNET = {
    "records": [
        {
            "flowRecords": {
                "flows": [
                    {
                        "aclID": "0",
                        "flowGroups": [
                            {
                                "rule": "R",
                                "flowTuples": [
                                    "1663146003606,10.0.0.6,52.239.184.180,23956,443,6,O,E,NX,3,767,2,1580",
                                    "1663146003637,203.0.113.17,10.0.0.6,22730,22,6,I,D,NX,0,0,0,0",
                                ],
                            }
                        ],
                    }
                ]
            }
        }
    ]
}


def read(folder: Path, text: str | bytes, format: str = "auto") -> Answer:
    file = folder / "flows"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_files([str(file)], None, "start", None, format)


def ends(flow: Flow) -> tuple[object, ...]:
    return flow.consumer.ip, flow.consumer.port, flow.provider.ip, flow.provider.port


def counters(flow: Flow) -> tuple[int | None, ...]:
    return flow.consumer_packets, flow.consumer_octets, flow.provider_packets, flow.provider_octets


def test_aws_default_format(tmp_path: Path) -> None:
    answer = read(tmp_path, AWS)
    ssh, rejected, ping = answer.flows
    assert ends(ssh) == ("172.31.16.139", 20641, "172.31.16.21", 22)
    assert counters(ssh) == (20, 4249, 15, 2100)
    assert (ssh.consumer_flags, ssh.direction, ssh.drop_reason) == (None, "guessed", None)
    assert (rejected.drop_reason, counters(rejected)) == ("policy", (20, 4249, 0, 0))
    assert (ping.protocol, ping.consumer.port) == ("ICMP", None)
    assert {note.partition(": ")[2] for note in answer.notes} == {
        "1 lines passed over: AWS lost records (SKIPDATA)",
        "1 lines passed over: no traffic in the interval (NODATA)",
    }


def test_aws_custom_format_tells_who_opened(tmp_path: Path) -> None:
    first, second = read(tmp_path, CUSTOM).flows
    assert ends(first) == ("52.213.180.42", 43416, "10.0.0.62", 5001)
    assert (first.direction, first.consumer_flags, first.provider_flags) == ("syn", "SYN", "SYN ACK")
    assert ends(second) == ("52.213.180.42", 43418, "10.0.0.62", 5001), "a SYN-ACK is the provider's"
    assert counters(second) == (0, 0, 70, 100701)


def test_aws_interfaces_that_see_the_same_packets_are_counted_once(tmp_path: Path) -> None:
    line = AWS.splitlines()[0]
    twice = f"{line}\n{line.replace('eni-1235b8ca123456789', 'eni-2')}\n"
    (flow,) = read(tmp_path, twice).flows
    assert counters(flow) == (20, 4249, 0, 0)


def test_google(tmp_path: Path) -> None:
    other = json.loads(json.dumps(GCP))
    other["jsonPayload"]["reporter"] = "DEST"
    (flow,) = read(tmp_path, "".join(json.dumps(each) + "\n" for each in (GCP, other))).flows
    assert (counters(flow), flow.rtt_us) == ((16, 1776, 0, 0), 12_000)
    assert (flow.start, flow.end) == ("2024-05-01T10:00:00.123456Z", "2024-05-01T10:00:04.500000Z")
    assert (flow.consumer.kind, flow.consumer.namespace, flow.consumer.cluster) == ("pod", "shop", "prod")
    assert len(read(tmp_path, json.dumps([GCP, other], indent=1)).flows) == 1


def test_azure(tmp_path: Path) -> None:
    denied, allowed = read(tmp_path, json.dumps(NSG)).flows
    assert (ends(denied), denied.drop_reason) == (("94.102.49.190", 28746, "10.5.16.4", 443), "policy")
    assert counters(denied) == (None,) * 4
    assert (counters(allowed), allowed.drop_reason) == ((1, 66, 1, 66), None)
    allowed, denied = read(tmp_path, json.dumps(VNET, indent=2)).flows
    assert (counters(allowed), allowed.start) == ((3, 767, 2, 1580), "2022-09-14T09:00:03.606000Z")
    assert denied.drop_reason == "policy"


HUBBLE = [
    '{"flow":{"time":"2024-01-01T00:00:01Z","verdict":"FORWARDED","IP":{"source":"10.0.0.2","destination":"10.0.0.1"},'
    '"l4":{"TCP":{"source_port":80,"destination_port":40000,"flags":{"ACK":true,"PSH":true}}},"is_reply":true,'
    '"source":{"namespace":"shop","pod_name":"carts-1","labels":["k8s:app=carts","k8s:io.cilium.k8s.policy.cluster=c1"],'
    '"workloads":[{"kind":"Deployment","name":"carts"}]},"destination":{"labels":["reserved:world"]},'
    '"node_name":"c1/n1","traffic_direction":"EGRESS","made_up":1}}',
    '{"lost_events":{"source":"PERF_EVENT_RING_BUFFER","num_events_lost":"7"},"node_name":"n1"}',
    '{"node_status":{"state_change":"NODE_CONNECTED"}}',
    "{",
    '{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0","destination":"10.0.0.1"},"l4":{"UDP":{}}}}',
]


def test_hubble_replies_lost_events_and_broken_lines(tmp_path: Path) -> None:
    answer = read(tmp_path, "\n".join(HUBBLE))
    (flow,) = answer.flows
    assert ends(flow) == ("10.0.0.1", 40000, "10.0.0.2", 80)
    assert (flow.direction, flow.provider_flags, flow.consumer_flags) == ("conntrack", "ACK PSH", None)
    assert (flow.provider.workload, flow.provider.labels) == ("Deployment/carts", {"app": "carts"})
    assert (flow.provider.cluster, flow.provider.node, flow.consumer.kind) == ("c1", None, "external")
    said = [note.partition(": ")[2] for note in answer.notes]
    assert "1 lines passed over: Hubble lost 7 events before it wrote them" in said
    assert "1 lines passed over: they are no flows (node_status)" in said
    assert any(text.startswith("line 4 is broken: not a JSON object") for text in said)
    assert "line 5 is broken: IP.source is no address: '10.0.0'" in said
    assert "unknown fields, with how many lines have them: made_up (1)" in said


def test_zeek_json_and_histories(tmp_path: Path) -> None:
    base = {
        "ts": 1700000000.123456,
        "uid": "C",
        "proto": "tcp",
        "duration": 1.5,
        "orig_pkts": 3,
        "resp_pkts": 2,
    }
    base |= {"id.orig_h": "10.0.0.1", "id.orig_p": 40000, "id.resp_h": "10.0.0.2", "id.resp_p": 80}
    lines = [
        base | {"history": "ShADadFf", "orig_ip_bytes": 400, "resp_ip_bytes": 300},
        base | {"history": "^dA", "id.orig_p": 40001},
        base | {"history": "HaD", "id.orig_p": 40002},
        base | {"history": "Sr", "id.orig_p": 40003, "conn_state": "REJ"},
    ]
    whole, flipped, reversed_, refused = sorted(
        read(tmp_path, "".join(json.dumps(line) + "\n" for line in lines)).flows,
        key=lambda flow: max(flow.consumer.port or 0, flow.provider.port or 0),
    )
    assert (counters(whole), whole.duration_us) == ((3, 400, 2, 300), 1_500_000)
    assert (whole.start, whole.direction) == ("2023-11-14T22:13:20.123456Z", "syn")
    assert (flipped.direction, counters(flipped)) == ("guessed", (3, None, 2, None))
    assert (ends(reversed_)[:2], reversed_.direction) == (("10.0.0.2", 80), "syn")
    assert refused.drop_reason == "refused"


def test_zeek_s_fields_without_their_mark(tmp_path: Path) -> None:
    """As `zeek-cut -m` prints them."""
    names = "id.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\n"
    (flow,) = read(tmp_path, names + "10.0.0.1\t40000\t10.0.0.2\t80\ttcp\n").flows
    assert (ends(flow), flow.origin, flow.start) == (("10.0.0.1", 40000, "10.0.0.2", 80), "zeek", None)


def test_calico_counts_one_reporter_and_keeps_ends_without_addresses(tmp_path: Path) -> None:
    base = {
        "start_time": "2025-01-01T00:00:00Z",
        "end_time": "2025-01-01T00:00:15Z",
        "proto": "tcp",
        "action": "Allow",
    }
    base |= {
        "source_name": "web-*",
        "source_namespace": "shop",
        "dest_name": "db-*",
        "dest_namespace": "shop",
    }
    base |= {"dest_port": 5432, "source_type": "WorkloadEndpoint", "dest_type": "WorkloadEndpoint"}
    lines = [
        base | {"reporter": "Src", "packets_out": 10, "bytes_out": 1000, "packets_in": 8, "bytes_in": 800},
        base | {"reporter": "Dst", "packets_in": 10, "bytes_in": 1000, "packets_out": 8, "bytes_out": 800},
        base
        | {"reporter": "Src", "packets_out": 1, "bytes_out": 1, "packets_in": 0, "bytes_in": 0}
        | {"source_name": "intruder-*", "action": "Deny"},
    ]
    intruder, web = sorted(
        read(tmp_path, "".join(json.dumps(line) + "\n" for line in lines)).flows,
        key=lambda flow: flow.consumer.name or "",
    )
    assert (counters(web), web.consumer.ip, web.provider.ip) == ((10, 1000, 8, 800), None, None)
    assert (intruder.drop_reason, intruder.consumer.port) == ("policy", None)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packed_files_and_standard_input(tmp_path: Path, pack) -> None:
    packed = pack(AWS.encode())
    assert len(read(tmp_path, packed).flows) == 3
    done = subprocess.run(
        [sys.executable, "-m", "ringfence", "flows", "read", "-", "-o", "json"],
        input=packed,
        capture_output=True,
        check=True,
    )
    assert len(json.loads(done.stdout)) == 3


def test_a_file_of_another_kind_says_so(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, "#separator \\x09\n#fields\tts\n#path\tdns\n1\n").problems
    assert str(problem) == f"holds no flows: {tmp_path}/flows: a dns.log: give Zeek's conn.log"
    (problem,) = read(tmp_path, "hello world\n", "vpc").problems
    assert "2 fields without names" in str(problem)
    (problem,) = read(tmp_path, "{}\n", "calico").problems
    assert "no line of it can be used" in str(problem)
    (problem,) = read(tmp_path, b"\x1f\x8bcut", "zeek").problems
    assert "cannot read" in str(problem)


EVENT = {
    "time": "2024-01-01T00:00:01Z",
    "verdict": "FORWARDED",
    "IP": {"source": "10.0.1.5", "destination": "10.0.2.9"},
}
EVENT |= {"source": {"pod_name": "web"}, "destination": {"pod_name": "db"}, "node_name": "c1/n1"}


def hubble(folder: Path, *events: dict) -> list[Flow]:
    return read(folder, "".join(json.dumps({"flow": EVENT | event}) + "\n" for event in events)).flows


def test_hubble_s_silence_is_no_drop_and_a_denied_request_is_one(tmp_path: Path) -> None:
    tcp = {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": True}}}
    (flow,) = hubble(tmp_path, {"l4": tcp})
    assert (flow.drop_reason, flow.provider_packets) == (None, None)
    (flow,) = hubble(tmp_path, {"l4": tcp, "verdict": "DROPPED", "Type": "L7", "l7": {}})
    assert flow.drop_reason == "policy"


def test_hubble_s_reporting_node_is_of_the_end_it_watches(tmp_path: Path) -> None:
    back = {"source": EVENT["destination"], "destination": EVENT["source"], "is_reply": True}
    back |= {"IP": {"source": "10.0.2.9", "destination": "10.0.1.5"}, "traffic_direction": "EGRESS"}
    back |= {"l4": {"TCP": {"source_port": 80, "destination_port": 40000}}}
    (flow,) = hubble(tmp_path, back)
    assert (flow.consumer.node, flow.provider.node) == ("n1", None)
    (flow,) = hubble(tmp_path, {"Type": "SOCK", "l4": {"TCP": {"destination_port": 80}}})
    assert (flow.consumer.port, flow.provider.port) == (None, 80)


def test_icmp_without_a_type_stays_without_one(tmp_path: Path) -> None:
    told = {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "protocol": 1}
    entry = {"connection": told, "reporter": "SRC", "bytes_sent": "84", "packets_sent": "1"}
    (flow,) = read(tmp_path, json.dumps({"jsonPayload": entry})).flows
    assert (flow.consumer.ip, flow.direction, flow.icmp) == ("10.0.0.1", "guessed", None)


def test_samples_show_no_silence(tmp_path: Path) -> None:
    one = {
        "SrcAddr": "10.0.0.1",
        "DstAddr": "10.0.0.2",
        "SrcPort": 4000,
        "DstPort": 80,
        "Proto": 6,
        "Flags": 2,
    }
    one |= {
        "Packets": 1,
        "Bytes": 60,
        "Sampling": 50,
        "TimeFlowStartMs": 1708011867121,
        "TimeFlowEndMs": 1708011867121,
    }
    (flow,) = read(tmp_path, json.dumps(one)).flows
    assert (flow.consumer_packets, flow.provider_packets, flow.drop_reason) == (50, None, None)


def test_zeek_s_small_durations_and_counterparts(tmp_path: Path) -> None:
    line = {"ts": 1700000000.5, "id.orig_h": "10.0.0.1", "id.resp_h": "10.0.0.2", "proto": "icmp"}
    line |= {"id.orig_p": 13, "id.resp_p": 14, "duration": 6.890296936035156e-05}
    (flow,) = read(tmp_path, json.dumps(line)).flows
    assert (flow.duration_us, flow.icmp) == (68, "13/0")
