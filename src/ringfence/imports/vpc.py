"""Flow logs of clouds: AWS VPC (versions 2 to 8, default and custom formats), Google Cloud, Azure (NSG and VNet).

- https://docs.aws.amazon.com/vpc/latest/userguide/flow-log-records.html
- https://cloud.google.com/vpc/docs/about-flow-logs-records
- https://learn.microsoft.com/azure/network-watcher/vnet-flow-logs-overview, nsg-flow-logs-overview

A line of AWS and Google is one way of a conversation at one interface; both may tell of the same packets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

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
    if first.startswith(PARQUET):
        return taken(_parquet(b"".join((first, *rest)), name), decode_aws, tally)
    if first.lstrip()[:1] not in (b"{", b"["):
        return taken(_aws_rows(first, rest, name), decode_aws, tally)
    found: list[Record] = []
    messages: list[bytes] = []
    found += taken(
        objects(chain((first,), rest), tally), lambda item, tally: _item(item, messages, tally), tally
    )
    if messages:
        tally.lines -= len(messages)
        found += taken(_aws_rows(messages[0], messages[1:], name), decode_aws, tally)
    return found


def _item(item: dict[str, Any], messages: list[bytes], tally: Tally) -> Iterable[Record]:
    """Records of one JSON object of whichever cloud; lines of AWS that CloudWatch wrapped are put to `messages`."""
    if isinstance(item.get("records"), list):
        return _records(item["records"], tally)
    if "flowRecords" in item or isinstance(item.get("properties"), dict):
        return _azure(item, tally)
    if (lines := _messages(item)) is not None:
        messages += lines
        tally.lines += len(lines) - 1
        return ()
    return _gcp(item, tally)


def _records(items: list[Any], tally: Tally) -> list[Record]:
    """Of Azure's whole files. A broken one costs no other."""
    tally.lines -= 1
    return taken(enumerate(items, 1), _azure, tally)


def _messages(item: dict[str, Any]) -> list[bytes] | None:
    """Lines of AWS in an export of CloudWatch: of `logs get-log-events`, of a subscription, of Insights; None for others."""
    events = item.get("logEvents", item.get("events", item.get("results")))
    kept = events if isinstance(events, list) else [item] if {"@message", "message"} & item.keys() else None
    return None if kept is None else [_message(each).encode() for each in kept]


def _message(event: Any) -> str:
    """Insights gives lists of fields with their values."""
    if isinstance(event, list):
        event = {each["field"]: each["value"] for each in event}
    return str(event.get("@message", event.get("message", "")))


PARQUET = b"PAR1"


def _parquet(body: bytes, name: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Rows of AWS' Parquet files, whose columns have `_` for `-`."""
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        table = parquet.read_table(BufferReader(body))
    except (ArrowException, OSError) as error:
        raise Problem(
            f"is no Parquet that can be read ({error})", name, "give the file as AWS wrote it"
        ) from None
    names = [each.replace("_", "-") for each in table.column_names]
    if not {"srcaddr", "pkt-srcaddr"} & {*names}:
        raise Problem("has no column srcaddr", name, "give a Parquet file of AWS' VPC flow logs")
    at = 0
    for batch in table.to_batches(max_chunksize=1 << 14):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            at += 1
            told = zip(names, row, strict=True)
            yield at, {key: str(value) for key, value in told if value not in (None, "", "-")}


def _aws_rows(first: bytes, rest: Iterable[bytes], name: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    words = _words(first)
    named = {"srcaddr", "pkt-srcaddr"} & {*words}
    start = 2 if named or words in _HEADS else 1
    names = words if named else [*DEFAULT]
    if start == 1 and len(_ahead(words, len(names))) != len(names):
        fix = "give a file with the line that names its fields, or one of the default format"
        raise Problem(f"{len(words)} fields without names", f"{name}: line 1", fix)
    for count, line in enumerate(rest if start == 2 else chain((first,), rest), start):
        values = _words(line)
        if not values or (start == 2 and values == words):
            continue
        values = _ahead(values, len(names))
        if len(values) != len(names):
            yield count, f"{len(values)} fields, where the format has {len(names)}"
            continue
        yield count, {key: value for key, value in zip(names, values, strict=True) if value != "-"}


def begins(line: bytes) -> bool:
    """Whether a file that begins with this line is AWS': Parquet, named fields, or the default format."""
    if line.startswith(PARQUET):
        return True
    words = _words(line)
    plain = _ahead(words, len(DEFAULT))
    named = bool({"srcaddr", "pkt-srcaddr"} & {*words}) or words in _HEADS
    return named or (len(plain) == len(DEFAULT) and plain[0] == "2")


_HEADS = (["timestamp", "message"], ["@timestamp", "@message"])
"""First lines of CloudWatch's exports."""


def _words(line: bytes) -> list[str]:
    """Fields of a line; names of fields as AWS wrote them, also where a database had them with `_`."""
    words = line.decode(errors="replace").translate(_QUOTES).split()
    known = (
        [word.replace("_", "-") for word in words] if "srcaddr" in line.decode(errors="replace") else words
    )
    return [word.removeprefix("${").removesuffix("}") for word in known]


_QUOTES = {ord('"'): " ", ord(","): " "}


def _ahead(values: list[str], width: int) -> list[str]:
    """Without the time, and the stream's name, that CloudWatch's tools put in front of a line."""
    extra = len(values) - width
    return values[extra:] if extra in (1, 2, 3) and _TIME.match(values[0]) else values


_TIME = re.compile(r"\d{4}-\d\d-\d\d|\d{13}$")


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
    if isinstance(told, dict) and ("disposition" in told or "rule_details" in told):
        raise Passed("entries of Google's firewall log, which tells of rules and not of flows")
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
        # Each of several lists of rules on the way, at a subnet or an interface, logs the same packets.
        where = f"{item.get('macAddress', '')} {item.get('resourceId', item.get('flowLogResourceID', ''))}"
        groups = [
            (f"{flow.get('mac', '')} {where} {rule.get('aclID', '')}".strip(), flow["flowTuples"])
            for rule in told["flows"]
            for flow in (rule.get("flows") or rule.get("flowGroups") or ())
        ]
    except (KeyError, TypeError, AttributeError):
        raise Broken("no flow tuples (expected an NSG or VNet flow log)") from None
    told = [(reporter, str(text)) for reporter, texts in groups for text in texts]
    tally.lines -= 1
    return taken(enumerate(told, 1), _tuple, tally)


def _tuple(item: tuple[str, str], tally: Tally) -> Iterable[Record]:
    """`time,src,dst,sport,dport,protocol,direction,decision or state,...` of either log."""
    reporter, text = item
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
    one = Record(
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
    return [one]
