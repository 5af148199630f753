"""Hubble's flows as `hubble observe -o json` and its exporter write them (cilium/api/v1/flow/flow.proto).

A line is one event about one packet, and Cilium leaves events out (monitor aggregation): packets and octets are not
known, and many lines are one flow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ringfence.imports.records import (
    FLAG_BITS,
    UNKNOWN,
    Broken,
    End,
    Passed,
    Record,
    Tally,
    address,
    fields,
    moment,
    objects,
    packet_flags,
    port,
    taken,
    unknown,
    word,
)
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Direction, Drop
from ringfence.model.endpoints import Endpoint
from ringfence.model.protocols import ICMP, ICMPV6, PROTOCOL_NUMBERS, TCP

FIELDS = fields(
    "time uuid emitter verdict drop_reason auth_type ethernet IP l4 tunnel source destination Type node_name"
    " node_labels source_names destination_names l7 reply event_type source_service destination_service"
    " traffic_direction policy_match_type trace_observation_point trace_reason file ip_trace_id drop_reason_desc"
    " is_reply debug_capture_point interface proxy_port trace_context sock_xlate_point socket_cookie cgroup_id"
    " Summary extensions egress_allowed_by ingress_allowed_by egress_denied_by ingress_denied_by policy_log"
    " aggregate"
)
_POLICY = ("POLICY_DENIED", "POLICY_DENY", "AUTH_REQUIRED", "133", "181", "189")
_DROPPED = ("DROPPED", "ERROR")


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records of events."""
    return taken(objects(lines, tally), decode, tally)


def decode(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
    """One event. Raises Broken; Passed for what is no flow."""
    flow = _flow(item)
    unknown(flow, FIELDS, tally)
    ip = flow.get("IP")
    if not isinstance(ip, dict):
        raise Passed("events without IP addresses")
    kind, ports, flags = _transport(flow.get("l4"))
    source = End(
        address(ip.get("source"), "IP.source"),
        ports[0],
        _endpoint(flow, "source"),
    )
    destination = End(
        address(ip.get("destination"), "IP.destination"),
        ports[1],
        _endpoint(flow, "destination"),
    )
    when = moment(flow.get("time", item.get("time")), "time")
    record = Record(source, destination, kind, when, when, flags=flags, drop=_drop(flow))
    names = flow.get("source_names" if flow.get("is_reply") else "destination_names") or ()
    return [_opened(record, flow)._replace(names=tuple(sorted(map(str, names))))]


def _flow(item: dict[str, Any]) -> dict[str, Any]:
    """Of `{"flow": ...}` (jsonpb, exporter), or of a line that is the flow itself (json, compact)."""
    flow = item.get("flow")
    if isinstance(flow, dict):
        return flow
    if "IP" in item or "verdict" in item:
        return item
    lost = item.get("lost_events")
    if isinstance(lost, dict):
        raise Passed(f"Hubble lost {lost.get('num_events_lost', 'some')} events before it wrote them")
    kind = next(iter(set(item) - {"node_name", "time"}), "nothing")
    raise Passed(f"they are no flows ({kind})" if kind.isidentifier() else "they are no flows")


def _transport(l4: Any) -> tuple[int, tuple[int, int], int]:
    """Protocol, ports, TCP flags."""
    if not isinstance(l4, dict) or not l4:
        raise Passed("events without a transport protocol")
    name, told = next(iter(l4.items()))
    told = told if isinstance(told, dict) else {}
    kind = {"ICMPV4": ICMP}.get(name.upper()) or PROTOCOL_NUMBERS.get(name.upper())
    if kind is None:
        raise Broken(f"l4 names the protocol {str(name)[:40]!r}, which nobody here knows")
    if kind in (ICMP, ICMPV6):
        number = (int(told.get("type") or 0) & 0xFF) << 8 | int(told.get("code") or 0) & 0xFF
        return kind, (0, number), UNKNOWN
    ports = (
        port(told.get("source_port"), "source_port"),
        port(told.get("destination_port"), "destination_port"),
    )
    return kind, ports, _flags(told.get("flags")) if kind == TCP else UNKNOWN


def _flags(told: Any) -> int:
    if not isinstance(told, dict):
        return UNKNOWN
    return packet_flags(sum(FLAG_BITS.get(name, 0) for name, is_set in told.items() if is_set))


def _opened(record: Record, flow: dict[str, Any]) -> Record:
    """Who opened it: Cilium's connection tracking says which way a packet goes; else a handshake or a question does."""
    if record.flags != UNKNOWN and record.flags & FLAG_SYN_ONLY:
        return record._replace(opened=True, direction=Direction.SYN)
    if record.flags != UNKNOWN and record.flags & FLAG_SYN_ACK:
        return record._replace(answered=True, direction=Direction.SYN)
    # Dropped packets were never tracked: is_reply is false there without having been looked up.
    # Before Cilium 1.9 only `reply` was told, and left out when false.
    reply = flow.get("is_reply", flow.get("reply"))
    if flow.get("verdict") not in _DROPPED and reply is not None:
        return record._replace(opened=not reply, answered=bool(reply), direction=Direction.CONNTRACK)
    return record


def _drop(flow: dict[str, Any]) -> Drop:
    if flow.get("verdict") not in _DROPPED:
        return Drop.NONE
    if flow.get("Type") == "L7":
        # A request that an HTTP or DNS policy denied has no reason; one that failed in the proxy was not dropped.
        return Drop.POLICY if flow["verdict"] == "DROPPED" else Drop.NONE
    reason = str(flow.get("drop_reason_desc") or flow.get("drop_reason") or "")
    return Drop.POLICY if reason in _POLICY else Drop.KERNEL


def _endpoint(flow: dict[str, Any], side: str) -> Endpoint:
    told = flow.get(side)
    told = told if isinstance(told, dict) else {}
    pairs = [str(each) for each in told.get("labels") or ()]
    reserved = {each.removeprefix("reserved:") for each in pairs if each.startswith("reserved:")}
    kept = dict(
        each.removeprefix("k8s:").partition("=")[::2]
        for each in pairs
        if each.startswith("k8s:") and not each.startswith("k8s:io.")
    )
    cluster = told.get("cluster_name") or next(
        (each.partition("=")[2] for each in pairs if each.startswith("k8s:io.cilium.k8s.policy.cluster=")),
        None,
    )
    service = flow.get(f"{side}_service")
    workloads = [each for each in told.get("workloads") or () if isinstance(each, dict)]
    node = _node(flow) if side == _watched(flow) else None
    name = word(told.get("pod_name"))
    kind = "pod" if name else _kind(reserved)
    return Endpoint(
        kind=kind,
        cluster=word(cluster),
        namespace=word(told.get("namespace")),
        name=name or (node if kind == "node" else None),
        workload=next((f"{each.get('kind')}/{each.get('name')}" for each in workloads), None),
        node=node if kind in ("pod", "node") else None,
        service=_service(service),
        labels=tuple(sorted(kept.items())),
    )


def _watched(flow: dict[str, Any]) -> str | None:
    """The end that is on the reporting node. The direction is the connection's, as that node sees it, and a reply goes the
    other way (cilium/pkg/hubble/parser/threefour, decodeTrafficDirection)."""
    ends = {"EGRESS": ("source", "destination"), "INGRESS": ("destination", "source")}
    pair = ends.get(str(flow.get("traffic_direction")))
    return pair[bool(flow.get("is_reply", flow.get("reply")))] if pair else None


def _kind(reserved: set[str]) -> str:
    if reserved & {"host", "remote-node"}:
        return "node"
    return "external" if reserved & {"world", "world-ipv4", "world-ipv6"} else "unresolved"


def _service(told: Any) -> str | None:
    if not isinstance(told, dict) or not told.get("name"):
        return None
    return f"{told.get('namespace', '')}/{told['name']}"


def _node(flow: dict[str, Any]) -> str | None:
    """`cluster/node`, or the node's name alone."""
    return str(flow.get("node_name") or "").rpartition("/")[2] or None
