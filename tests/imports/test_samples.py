"""Other tools' published samples, field by field, and Zeek's logs beside our own reading of the same packets."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ringfence.cli.offline import Answer, read_files
from ringfence.model.flows import Flow

pytestmark = pytest.mark.shared


def read(file: Path, format: str = "auto") -> Answer:
    answer = read_files([str(file)], None, "start", None, format)
    assert not answer.problems
    return answer


def counters(flow: Flow) -> tuple[int | None, ...]:
    return flow.consumer_packets, flow.consumer_octets, flow.provider_packets, flow.provider_octets


def test_hubble(shared_data: Path) -> None:
    asked, denied = read(shared_data / "flows/hubble-docs/events.jsonl").flows
    assert (asked.protocol, asked.icmp, asked.direction) == ("ICMPv6", "133/0", "icmp")
    assert (asked.consumer.ip, asked.provider.ip) == ("fe80::64d8:8aff:fe72:fc14", "ff02::2")
    assert (denied.consumer.namespace, denied.consumer.name, denied.consumer.kind) == (
        "default",
        "xwing",
        "pod",
    )
    assert (denied.provider.name, denied.provider.port) == ("deathstar-7848d6c4d5-th9v2", 80)
    assert (denied.direction, denied.consumer_flags, denied.drop_reason) == ("syn", "SYN", "policy")
    assert (asked.drop_reason, asked.origin) == ("kernel", "hubble")
    assert denied.start == "2023-08-21T12:12:18.510175Z"
    assert counters(denied) == (None,) * 4, "an event tells of one packet; Cilium leaves others out"


def test_calico(shared_data: Path) -> None:
    flows = {flow.consumer.ip: flow for flow in read(shared_data / "flows/calico-docs/flows.jsonl").flows}
    allowed = flows["192.168.47.9"]
    assert counters(allowed) == (6, 388, 5, 1113), "in is into the reporter, which is the destination"
    assert (allowed.start, allowed.end) == ("2020-08-11T17:14:43.000000Z", "2020-08-11T17:19:43.000000Z")
    assert (allowed.consumer.name, allowed.consumer.port) == ("access-6b687c8dcb-zn5s2", 42106)
    assert allowed.consumer.labels == {"app": "access", "pod-template-hash": "6b687c8dcb"}
    assert (allowed.provider.namespace, allowed.provider.port) == ("policy-demo", 80)
    assert (allowed.drop_reason, allowed.consumer_flags, allowed.direction) == (None, None, "conntrack")
    ssh = flows["10.0.0.1"]
    assert (ssh.consumer.port, ssh.start, ssh.duration_us) == (None, None, None), "nobody told"
    outside = flows["34.0.113.100"]
    assert (outside.consumer.kind, outside.consumer.name) == ("external", None)


def test_netobserv(shared_data: Path) -> None:
    answer = read(shared_data / "flows/netobserv/flow_records.json")
    flows = {(flow.consumer.ip, flow.consumer.port, flow.provider.ip): flow for flow in answer.flows}
    scrape = flows["10.128.0.29", 55984, "10.129.0.28"]
    assert (scrape.consumer.workload, scrape.provider.workload) == (
        "StatefulSet/prometheus-k8s",
        "Deployment/telemeter-client",
    )
    assert {flow.provider.cluster for flow in answer.flows} == {"test-cluster", None}
    service = flows["10.128.0.7", 48974, "172.30.0.1"]
    assert (service.provider.kind, service.provider.service) == ("service", "default/kubernetes")
    assert len({flow.flow_id for flow in answer.flows}) == len(answer.flows)


def test_what_has_no_addresses_is_counted(shared_data: Path) -> None:
    answer = read(shared_data / "flows/netobserv/flow_records_sent.json")
    assert any("lines passed over: records without IP addresses" in note for note in answer.notes)


def test_an_answer_without_records_has_no_flows(shared_data: Path) -> None:
    assert read(shared_data / "flows/netobserv/flow_records_dropped.json").flows == []


OTHERWISE = {
    "dhcp/dhcp.pcap": "Zeek takes the well-known port for the server's; the first packet was the server's",
    "mpls-in-vlan.pcap": "the same",
    "globus-url-copy.pcap": "Zeek was told to stop counting GridFTP's data",
}


def test_zeek_s_logs_say_what_its_packets_say(shared_data: Path) -> None:
    """Who, how many packets and octets, both ways, by our own reading of the trace that Zeek read."""
    zeek = shared_data / "pcap" / "zeek"
    with (zeek / "oracle-agreement.tsv").open() as table:
        rows = [
            row for row in csv.DictReader(table, delimiter="\t") if row["flow_set_agreement"] == "same-flows"
        ]
    compared, different = 0, set()
    for row in rows:
        log = zeek / "baseline" / row["zeek_test"] / "conn.log"
        if not log.exists():
            continue
        compared += 1
        logged = {_told(flow) for flow in read(log).flows}
        seen = {_told(flow) for flow in read(zeek / "traces" / row["trace"]).flows if flow.tunnel is None}
        if logged != seen:
            different.add(row["trace"])
    assert compared >= 20
    assert different == set(OTHERWISE)


def _told(flow: Flow) -> tuple[object, ...]:
    ends = [(end.ip, end.port) for end in (flow.consumer, flow.provider)]
    return *ends, flow.protocol, *counters(flow)


def test_every_conn_log_of_zeek_is_read_or_refused_by_name(shared_data: Path) -> None:
    logs = sorted((shared_data / "pcap/zeek/baseline").glob("*/conn.log"))
    assert len(logs) > 50
    named = [log for log in logs if {"id.orig_h", "id.resp_h", "proto"} <= set(log.read_text().split())]
    told = []
    for log in logs:
        answer = read_files([str(log)], None, "start", None)
        assert answer.flows or all("no line names the fields" in str(each) for each in answer.problems)
        assert not any("broken" in note for note in answer.notes), answer.notes
        told += [log] if answer.flows else []
    assert told == named
    assert len(named) > 30
