"""Calico's flow logs: Elasticsearch documents of Enterprise and Cloud, and Goldmane's (Calico 3.30 and later).

https://docs.tigera.io/calico-enterprise/latest/observability/elastic/flow/datatypes. `*_in` is into the reporter's
endpoint, so from the source where the destination reports. Several reporters tell of one flow; one is counted. Ends that
are aggregated have several hosts, each of which tells of packets of its own.
Goldmane: https://github.com/projectcalico/calico/blob/master/goldmane/proto/api.proto, as JSON of its messages, and
whisker-backend/pkg/apis/v1/flows.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ringfence.imports.records import (
    NOWHERE,
    Broken,
    End,
    Record,
    Tally,
    address,
    fields,
    labels,
    moment,
    number,
    objects,
    port,
    protocol,
    taken,
    unknown,
    word,
)
from ringfence.model.columns import Direction, Drop, Role
from ringfence.model.endpoints import Endpoint

FIELDS = fields(
    "start_time end_time source_ip source_name source_name_aggr source_namespace source_port source_type"
    " source_labels dest_ip dest_name dest_name_aggr dest_namespace dest_port dest_type dest_labels dest_domains"
    " dest_service_namespace dest_service_name dest_service_port dest_service_port_name dest_service_port_num"
    " proto action reporter policies bytes_in bytes_out packets_in packets_out num_flows num_flows_started"
    " num_flows_completed num_connections_started num_connections_completed num_connections_live"
    " original_source_ips num_original_source_ips host @timestamp cluster id http_requests_allowed_in"
    " http_requests_denied_in process_name num_process_names process_id num_process_ids process_args"
    " num_process_args nat_outgoing_ports transit_policies tcp_mean_send_congestion_window"
    " tcp_min_send_congestion_window tcp_mean_smooth_rtt tcp_max_smooth_rtt tcp_mean_min_rtt tcp_max_min_rtt"
    " tcp_mean_mss tcp_min_mss tcp_total_retransmissions tcp_lost_packets tcp_unrecovered_to generated_time"
    " source_cluster dest_cluster protocol flow"
)
_KINDS = {"wep": "pod", "workloadendpoint": "pod", "hep": "node", "hostendpoint": "node"}
_ROLES = {"src": Role.CONSUMER, "dst": Role.PROVIDER, "fwd": Role.TRANSIT}


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records of flow logs."""
    return taken(objects(lines, tally), decode, tally)


def decode(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
    """One flow as one reporter saw it. Raises Broken."""
    item = _of_goldmane(item)
    unknown(item, FIELDS, tally)
    role = _role(item.get("reporter"))
    into = number(item.get("packets_in"), "packets_in"), number(item.get("bytes_in"), "bytes_in")
    out = number(item.get("packets_out"), "packets_out"), number(item.get("bytes_out"), "bytes_out")
    ahead, back = (out, into) if role == Role.CONSUMER else (into, out)
    first = moment(item.get("start_time"), "start_time")
    last = moment(item.get("end_time"), "end_time")
    return [
        Record(
            source=_end(item, "source"),
            destination=_end(item, "dest"),
            protocol=protocol(item.get("proto", item.get("protocol")), "proto"),
            first=first,
            last=max(first, last),
            both=True,
            opened=True,
            direction=Direction.CONNTRACK,
            packets=ahead[0],
            octets=ahead[1],
            back_packets=back[0],
            back_octets=back[1],
            drop=_drop(item.get("action")),
            # Each end's host is the only one that reports there; those in between each see the same.
            reporter=str(item.get("host", "")) if role == Role.TRANSIT else role.name,
            role=role,
            connections=max(_counted(item, "started"), 0),
            live=max(_counted(item, "live"), number(item.get("num_flows"), "num_flows"), 1),
            names=tuple(sorted(map(str, item.get("dest_domains") or ()))),
        )
    ]


def _of_goldmane(item: dict[str, Any]) -> dict[str, Any]:
    """Goldmane's messages as JSON by the names of flow logs: `{"flow": {"Key": {"sourceName": ...}, "packetsIn": ...}}`."""
    flow = item.get("flow", item)
    key = flow.get("Key", flow.get("key")) if isinstance(flow, dict) else None
    if not isinstance(key, dict):
        return item
    told = {**key, **{name: value for name, value in flow.items() if name not in ("Key", "key")}}
    return {_CAPITAL.sub(lambda letter: "_" + letter[0].lower(), name): value for name, value in told.items()}


_CAPITAL = re.compile("(?<=.)[A-Z]")


def _counted(item: dict[str, Any], what: str) -> int:
    """Connections, by the name of either kind of log."""
    return max(number(item.get(name), name) for name in (f"num_flows_{what}", f"num_connections_{what}"))


def _role(reporter: Any) -> Role:
    """`dst, fwd` saw it at the destination and on its way: the end counts."""
    words = {word.strip().lower() for word in str(reporter or "").split(",")}
    found = [role for word, role in _ROLES.items() if word in words or f"reporter_{word}" in words]
    if not found:
        raise Broken(f"reporter is neither src, dst nor fwd: {str(reporter)[:40]!r}")
    return min(found)


def _drop(action: Any) -> Drop:
    word = str(action or "").lower()
    if word not in ("allow", "deny", "pass", "", "actionunspecified"):
        raise Broken(f"action is neither allow nor deny: {word[:40]!r}")
    return Drop.POLICY if word == "deny" else Drop.NONE


def _end(item: dict[str, Any], side: str) -> End:
    told = {key: word(item.get(f"{side}_{key}")) for key in ("name", "name_aggr", "namespace", "type")}
    kind = (told["type"] or "").lower()
    where = item.get(f"{side}_labels")
    service = (
        f"{word(item.get('dest_service_namespace')) or ''}/{item['dest_service_name']}"
        if side == "dest" and word(item.get("dest_service_name"))
        else None
    )
    nets = {"pub", "pvt"} & {told["name_aggr"], told["name"]}
    public = "pub" in nets or kind in ("ns", "networkset")
    name = None if kind in ("net", "network") or nets else told["name"] or told["name_aggr"]
    endpoint = Endpoint(
        kind=_KINDS.get(kind) or ("external" if public else "pod" if not kind and name else "unresolved"),
        cluster=word(item.get(f"{side}_cluster")) or word(item.get("cluster")),
        namespace=told["namespace"],
        name=name,
        service=service,
        labels=labels(where.get("labels") if isinstance(where, dict) else where),
    )
    text = word(item.get(f"{side}_ip"))
    # Aggregated flows name pods by their prefix and tell no address.
    halves = address(text, f"{side}_ip") if text else (NOWHERE, 0)
    return End(halves, port(item.get(f"{side}_port"), f"{side}_port"), endpoint)
