"""Flow logs of clouds: AWS VPC (versions 2 to 8, default and custom formats), Google Cloud, Azure (NSG and VNet).

- https://docs.aws.amazon.com/vpc/latest/userguide/flow-log-records.html
- https://cloud.google.com/vpc/docs/about-flow-logs-records
- https://learn.microsoft.com/azure/network-watcher/vnet-flow-logs-overview, nsg-flow-logs-overview

A line of AWS and Google is one way of a conversation at one interface; both may tell of the same packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from ringfence.imports.records import (
    MILLI,
    UNKNOWN,
    Broken,
    End,
    Passed,
    Record,
    Tally,
    address,
    fields,
    moment,
    number,
    objects,
    packet_flags,
    port,
    protocol,
    taken,
    unknown,
    word,
)
from ringfence.model.columns import Direction, Drop, Role
from ringfence.model.endpoints import Endpoint
from ringfence.model.problems import Problem
from ringfence.model.protocols import ICMP, ICMPV6, TCP, UDP

DEFAULT = (
    *("version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol"),
    *("packets", "bytes", "start", "end", "action", "log-status"),
)
"""The format of version 2, which has no line that names its fields."""
FIELDS = fields(
    "vpc-id subnet-id instance-id tcp-flags type pkt-srcaddr pkt-dstaddr region az-id sublocation-type"
    " sublocation-id pkt-src-aws-service pkt-dst-aws-service flow-direction traffic-path reject-reason"
    " resource-id encryption-status ecs-cluster-arn ecs-cluster-name ecs-container-instance-arn"
    " ecs-container-instance-id ecs-container-id ecs-second-container-id ecs-service-name"
    " ecs-task-definition-arn ecs-task-arn ecs-task-id"
) | {*DEFAULT}
GCP = fields(
    "connection src_instance dest_instance src_vpc dest_vpc src_gke_details dest_gke_details src_location"
    " dest_location src_google_service dest_google_service bytes_sent packets_sent rtt_msec start_time end_time"
    " reporter internet_routing_details network_service load_balancing psc rdma"
)


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records of one file. Raises Problem when it is none of these formats."""
    rest = iter(lines)
    first = next((line for line in rest if line.strip()), b"")
    if not first.lstrip().startswith((b"{", b"[")):
        return taken(_aws_rows(first, rest, name), decode_aws, tally)
    try:
        lone = msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _document(b"".join((first, *rest)), name, tally)
    if isinstance(lone, dict) and not ({"records"} & set(lone)):
        return taken(objects(chain((first,), rest), tally), _gcp, tally)
    return _document(first, name, tally)


def _document(body: bytes, name: str, tally: Tally) -> list[Record]:
    """A whole file of JSON: Azure's `{"records": [...]}`, or a list of Google's entries."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"is no JSON ({error})", name, "give the file as the cloud wrote it") from None
    if isinstance(found, dict) and isinstance(found.get("records"), list):
        return taken(enumerate(found["records"], 1), _azure, tally)
    entries = found if isinstance(found, list) else [found]
    return taken(enumerate(entries, 1), _gcp, tally)


def _aws_rows(first: bytes, rest: Iterable[bytes], name: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    words = first.decode(errors="replace").split()
    names, start = (words, 2) if "srcaddr" in words or "pkt-srcaddr" in words else ([*DEFAULT], 1)
    if start == 1 and len(words) != len(DEFAULT):
        fix = "give a file with the line that names its fields, or one of the default format"
        raise Problem(f"{len(words)} fields without names", f"{name}: line 1", fix)
    for count, line in enumerate(rest if start == 2 else chain((first,), rest), start):
        values = line.decode(errors="replace").split()
        if not values or (start == 2 and values == words):
            continue
        if len(values) != len(names):
            yield count, f"{len(values)} fields, where the format has {len(names)}"
            continue
        yield count, {key: value for key, value in zip(names, values, strict=True) if value != "-"}


def decode_aws(item: dict[str, Any] | str, tally: Tally) -> Iterable[Record]:
    """One line of AWS. Raises Broken; Passed for lines without data."""
    if isinstance(item, str):
        raise Broken(item)
    unknown(item, FIELDS, tally)
    if (status := item.get("log-status", "OK")) != "OK":
        why = {"NODATA": "no traffic in the interval (NODATA)", "SKIPDATA": "AWS lost records (SKIPDATA)"}
        raise Passed(why.get(status, "another log-status than OK"))
    kind = protocol(item.get("protocol"), "protocol")
    ends = []
    for side in ("src", "dst"):
        # The packet's own address, where the interface is only on its way.
        field = f"pkt-{side}addr" if f"pkt-{side}addr" in item else f"{side}addr"
        given = None if kind in (ICMP, ICMPV6) else item.get(f"{side}port")
        ends.append(End(address(item.get(field), field), port(given, f"{side}port")))
    first, last = (moment(item.get(name), name) for name in ("start", "end"))
    action = item.get("action", "ACCEPT")
    if action not in ("ACCEPT", "REJECT"):
        raise Broken(f"action is neither ACCEPT nor REJECT: {action[:40]!r}")
    return [
        Record(
            source=ends[0],
            destination=ends[1],
            protocol=kind,
            first=first,
            last=max(first, last),
            packets=number(item.get("packets"), "packets"),
            octets=number(item.get("bytes"), "bytes"),
            # AWS tells ACK only with SYN: 2 is a SYN, 18 a SYN-ACK, also in a union of an interval.
            flags=packet_flags(number(item.get("tcp-flags"), "tcp-flags", 255)) if kind == TCP else UNKNOWN,
            drop=Drop.POLICY if action == "REJECT" else Drop.NONE,
            reporter=item.get("interface-id", ""),
            role={"ingress": Role.PROVIDER}.get(item.get("flow-direction", ""), Role.CONSUMER),
        )
    ]


def _gcp(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
    """One entry of Google's logging, or its payload. Raises Broken."""
    told = item.get("jsonPayload", item)
    if not isinstance(told, dict) or not isinstance(told.get("connection"), dict):
        raise Broken("no connection (expected a VPC flow log's jsonPayload)")
    unknown(told, GCP, tally)
    ends, way = told["connection"], str(told.get("reporter", "SRC"))
    source, destination = (
        End(
            address(ends.get(f"{side}_ip"), f"connection.{side}_ip"),
            port(ends.get(f"{side}_port"), f"connection.{side}_port"),
            _gke(told, side),
        )
        for side in ("src", "dest")
    )
    first, last = (moment(told.get(name), name) for name in ("start_time", "end_time"))
    rtt = number(told.get("rtt_msec"), "rtt_msec")
    return [
        Record(
            source,
            destination,
            protocol=protocol(ends.get("protocol"), "connection.protocol"),
            first=first,
            last=max(first, last),
            packets=number(told.get("packets_sent"), "packets_sent"),
            octets=number(told.get("bytes_sent"), "bytes_sent"),
            rtt_us=rtt * 1000 if rtt > 0 else UNKNOWN,
            reporter=way,
            role=Role.PROVIDER if way.startswith("DEST") else Role.CONSUMER,
        )
    ]


def _gke(told: dict[str, Any], side: str) -> Endpoint | None:
    details = told.get(f"{side}_gke_details")
    if not isinstance(details, dict):
        return None
    pod, cluster = (details.get(name) for name in ("pod", "cluster"))
    pod = pod if isinstance(pod, dict) else {}
    services = [each for each in details.get("service") or () if isinstance(each, dict)]
    service = next((f"{each.get('service_namespace')}/{each.get('service_name')}" for each in services), None)
    return Endpoint(
        kind="pod" if pod.get("pod_name") else "unresolved",
        cluster=word(cluster.get("cluster_name")) if isinstance(cluster, dict) else None,
        namespace=word(pod.get("pod_namespace")),
        name=word(pod.get("pod_name")),
        service=service,
    )


def _azure(item: Any, tally: Tally) -> Iterable[Record]:
    """One record of many tuples. Raises Broken."""
    try:
        told = item.get("flowRecords", item.get("properties"))
        groups = [
            (flow.get("mac", flow.get("macAddress", "")), group["flowTuples"])
            for rule in told["flows"]
            for flow in (rule.get("flows") or rule.get("flowGroups"))
            for group in ((flow,) if "flowTuples" in flow else flow["flows"])
        ]
    except (KeyError, TypeError, AttributeError):
        raise Broken("no flow tuples (expected an NSG or VNet flow log)") from None
    return [_tuple(str(text), str(mac)) for mac, texts in groups for text in texts]


def _tuple(text: str, reporter: str) -> Record:
    """`time,src,dst,sport,dport,protocol,direction,decision or state,...` of either log."""
    words = text.split(",")
    if len(words) < 8:
        raise Broken(f"a flow tuple of {len(words)} fields: {text[:80]!r}")
    vnet = words[7] not in ("A", "D")
    state = words[7] if vnet else (words[8] if len(words) > 8 else "")
    counts = [*words[9:13], *[""] * 4][:4]
    when = moment(words[0], "time", MILLI if len(words[0]) > 11 else MILLI * 1000)
    kind = {"T": TCP, "U": UDP}.get(words[5]) or protocol(words[5], "protocol")
    if kind in (ICMP, ICMPV6):
        words[3] = words[4] = "-"
    return Record(
        End(address(words[1], "source address"), port(words[3], "source port")),
        End(address(words[2], "destination address"), port(words[4], "destination port")),
        protocol=kind,
        first=when,
        last=when,
        both=True,
        opened=True,
        # Azure's own connection tracking: tuples are in the direction of what opened the flow.
        direction=Direction.CONNTRACK,
        packets=number(counts[0], "packets sent"),
        octets=number(counts[1], "bytes sent"),
        back_packets=number(counts[2], "packets received"),
        back_octets=number(counts[3], "bytes received"),
        drop=Drop.POLICY if (words[7] == "D" or (vnet and state == "D")) else Drop.NONE,
        reporter=reporter,
        role=Role.PROVIDER if words[6] == "I" else Role.CONSUMER,
    )
