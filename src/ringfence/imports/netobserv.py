"""NetObserv's flow records: JSON lines as flowlogs-pipeline writes them, or an answer of Loki that holds them.

https://github.com/netobserv/network-observability-operator/blob/main/docs/flows-format.adoc. A record is one way of a
conversation at one node's interfaces; several nodes and interfaces tell of the same packets, and one is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import msgspec

from ringfence.imports.records import (
    FLAG_BITS,
    MILLI,
    UNKNOWN,
    Broken,
    End,
    Passed,
    Record,
    Tally,
    address,
    decoded,
    fields,
    moment,
    number,
    objects,
    port,
    taken,
    unknown,
    word,
)
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Drop, Role
from ringfence.model.endpoints import Endpoint
from ringfence.model.problems import Problem
from ringfence.model.protocols import ICMP, ICMPV6, TCP

FIELDS = fields(
    "SrcAddr DstAddr SrcPort DstPort Proto Etype Bytes Packets Flags TimeFlowStartMs TimeFlowEndMs TimeReceived"
    " SrcMac DstMac Interface Interfaces IfDirection IfDirections FlowDirection AgentIP Dscp IcmpType IcmpCode"
    " SrcK8S_Name SrcK8S_Namespace SrcK8S_OwnerName SrcK8S_OwnerType SrcK8S_Type SrcK8S_HostIP SrcK8S_HostName"
    " SrcK8S_Zone SrcK8S_NetworkName DstK8S_Name DstK8S_Namespace DstK8S_OwnerName DstK8S_OwnerType DstK8S_Type"
    " DstK8S_HostIP DstK8S_HostName DstK8S_Zone DstK8S_NetworkName K8S_ClusterName K8S_FlowLayer SrcSubnetLabel"
    " DstSubnetLabel TimeFlowRttNs Duplicate Sampling DnsId DnsFlags DnsFlagsResponseCode DnsLatencyMs DnsErrno"
    " DnsName PktDropBytes PktDropPackets PktDropLatestFlags PktDropLatestState PktDropLatestDropCause"
    " NetworkEvents Udns UdnId UdnIds app _HashId _IsFirst _RecordType numFlowLogs XlatSrcAddr XlatDstAddr XlatSrcPort"
    " XlatDstPort XlatIcmpId ZoneId IPSecRetCode IPSecStatus SrcK8S_OwnerKind DstK8S_OwnerKind Bytes_AB Bytes_BA"
    " Packets_AB Packets_BA TimeFlowRttNsMax"
)
_IP = (0x0800, 0x86DD)
_SYN_ACK, _COMBINED = 0x100, {0x200: 0x11, 0x400: 0x14}
"""Flags of the agent's own beside TCP's: SYN-ACK, FIN-ACK and RST-ACK seen in one packet."""


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """Records, one a line, or of one answer of Loki. Raises Problem."""
    whole = iter(lines)
    first = next((line for line in whole if line.strip()), b"")
    lone = decoded(first)
    if isinstance(lone, dict) and "data" in lone:
        return _read(_loki(first, name), tally)
    if first.strip() == b"{":
        # Loki's answer may be printed over many lines.
        body = b"".join((first, *whole))
        one = decoded(body)
        if not isinstance(one, dict) or "SrcAddr" not in one:
            return _read(_loki(body, name), tally)
        return _read(((1, one),), tally)
    return _read(objects(chain((first,), whole), tally), tally)


def _read(items: Iterable[tuple[int, dict[str, Any]]], tally: Tally) -> list[Record]:
    """Flow records; of connections (conversation tracking) that none of them tells of, the last word each."""
    last: dict[str, dict[str, Any]] = {}
    told: set[str] = set()

    def flow(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
        if item.get("_RecordType", "flowLog") != "flowLog":
            return _kept(item, last, tally)
        told.add(str(item.get("_HashId")))
        return decode(item, tally)

    found = taken(items, flow, tally)
    lines = tally.lines
    spare = [(0, item) for key, item in last.items() if key not in told]
    found += taken(spare, conversation, tally)
    tally.lines = lines
    if len(last) > len(spare):
        why = "connections of which flow records tell as well (conversation tracking)"
        tally.passed[why] += len(last) - len(spare)
    return found


def _kept(item: dict[str, Any], last: dict[str, dict[str, Any]], tally: Tally) -> Iterable[Record]:
    """Keep a connection's record if it tells more than those before it: its counters are those since it began."""
    kind, key = str(item["_RecordType"]), str(item.get("_HashId", ""))
    if kind not in ("newConnection", "heartbeat", "endConnection") or not key:
        raise Passed("records of another kind than flows and connections")
    unknown(item, FIELDS, tally)
    before = last.get(key)
    if before is None or _grown(item) >= _grown(before):
        last[key] = item
    return ()


def _grown(item: dict[str, Any]) -> int:
    return number(item.get("numFlowLogs"), "numFlowLogs") + number(item.get("TimeFlowEndMs"), "TimeFlowEndMs")


def conversation(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
    """A connection from conversation tracking: both ways, A being the source as the tracking understood it."""
    (one,) = decode({**item, "_RecordType": "flowLog", "Flags": None}, Tally())
    packets, back_packets, octets, back_octets = (
        _scaled(number(item.get(field), field), one.sample)
        for field in ("Packets_AB", "Packets_BA", "Bytes_AB", "Bytes_BA")
    )
    return [
        one._replace(
            both=True,
            opened=True,
            reporter="tracking",
            packets=packets,
            octets=octets,
            back_packets=back_packets,
            back_octets=back_octets,
        )
    ]


def _loki(body: bytes, name: str) -> Iterable[tuple[int, dict[str, Any]]]:
    """Records of `{"data": {"result": [{"stream": {...}, "values": [[time, record], ...]}]}}`."""
    fix = "give NetObserv's records as JSON lines, or an answer of Loki's query_range"
    try:
        answer = msgspec.json.decode(body)
        streams = answer["data"]["result"]
        pairs = [(stream["stream"], value[1]) for stream in streams for value in stream["values"]]
        records = [{**labels, **msgspec.json.decode(text)} for labels, text in pairs]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"is no JSON ({error})", name, fix) from None
    except (KeyError, TypeError, IndexError):
        raise Problem("is no answer of Loki with streams of records", name, fix) from None
    return enumerate(records, 1)


def decode(item: dict[str, Any], tally: Tally) -> Iterable[Record]:
    """One way of one conversation. Raises Broken; Passed for what has no IP addresses."""
    unknown(item, FIELDS, tally)
    if item.get("Etype", _IP[0]) not in _IP or "SrcAddr" not in item:
        raise Passed("records without IP addresses (ARP and the like)")
    if item.get("Duplicate") in (True, "true"):
        raise Passed("records marked as duplicates")
    kind = number(item.get("Proto"), "Proto", 255)
    if kind == UNKNOWN:
        raise Broken("Proto is not told")
    sample = max(number(item.get("Sampling"), "Sampling"), 1)
    first, last = (
        moment(item.get(f"TimeFlow{end}Ms"), f"TimeFlow{end}Ms", MILLI) for end in ("Start", "End")
    )
    rtt = number(item.get("TimeFlowRttNs"), "TimeFlowRttNs")
    ports = _ports(item, kind)
    return [
        Record(
            source=End(address(item["SrcAddr"], "SrcAddr"), ports[0], _endpoint(item, "Src")),
            destination=End(address(item.get("DstAddr"), "DstAddr"), ports[1], _endpoint(item, "Dst")),
            protocol=kind,
            first=first,
            last=max(first, last),
            packets=_scaled(number(item.get("Packets"), "Packets"), sample),
            octets=_scaled(number(item.get("Bytes"), "Bytes"), sample),
            flags=_flags(item) if kind == TCP else UNKNOWN,
            rtt_us=rtt // 1000 if rtt > 0 else UNKNOWN,
            drop=_drop(item),
            reporter=_reporter(item),
            role={"1": Role.CONSUMER, "0": Role.PROVIDER}.get(str(item.get("FlowDirection")), Role.CONSUMER),
            sample=sample,
        )
    ]


def _scaled(count: int, sample: int) -> int:
    return count if count == UNKNOWN else count * sample


def _reporter(item: dict[str, Any]) -> str:
    """An agent that lists interfaces counts a packet once for all of them; before, it counted for each."""
    node = str(item.get("AgentIP") or f"direction {item.get('FlowDirection')}")
    return f"{node} {'' if item.get('Interfaces') else item.get('Interface') or ''}"


def _ports(item: dict[str, Any], kind: int) -> tuple[int, int]:
    if kind in (ICMP, ICMPV6):
        message = (max(number(item.get(f"Icmp{part}"), f"Icmp{part}", 255), 0) for part in ("Type", "Code"))
        high, low = message
        return 0, high << 8 | low
    return port(item.get("SrcPort"), "SrcPort"), port(item.get("DstPort"), "DstPort")


def _flags(item: dict[str, Any]) -> int:
    told = item.get("Flags")
    if isinstance(told, list):  # by name, since 1.8
        more = {"SYN_ACK": 0x100, "FIN_ACK": 0x200, "RST_ACK": 0x400}
        told = sum((FLAG_BITS | more).get(str(name).upper(), 0) for name in told)
    bits = number(told, "Flags")
    if bits == UNKNOWN:
        return UNKNOWN
    flags = bits & 0xFF
    for bit, both in _COMBINED.items():
        flags |= both if bits & bit else 0
    if bits & _SYN_ACK:
        return flags | 0x12 | FLAG_SYN_ACK
    # SYN and ACK in a union without SYN-ACK: whoever opened sent both, one after the other.
    return flags | FLAG_SYN_ONLY if flags & 0x02 else flags


def _drop(item: dict[str, Any]) -> Drop:
    events = item.get("NetworkEvents") or ()
    denied = any(isinstance(each, dict) and each.get("Action") == "drop" for each in events)
    if denied:
        return Drop.POLICY
    return Drop.KERNEL if number(item.get("PktDropPackets"), "PktDropPackets") > 0 else Drop.NONE


def _endpoint(item: dict[str, Any], side: str) -> Endpoint:
    told = {key: word(item.get(f"{side}K8S_{key}")) for key in ("Name", "Namespace", "Type", "HostName")}
    owner = item.get(f"{side}K8S_OwnerType"), item.get(f"{side}K8S_OwnerName")
    kind = {"Pod": "pod", "Node": "node", "Service": "service"}.get(str(told["Type"]), "unresolved")
    service = kind == "service"
    return Endpoint(
        kind=kind,
        cluster=word(item.get("K8S_ClusterName")),
        namespace=told["Namespace"],
        name=told["Name"],
        workload=f"{owner[0]}/{owner[1]}" if all(owner) and not service else None,
        node=told["Name"] if kind == "node" else told["HostName"],
        service=f"{told['Namespace'] or ''}/{told['Name']}" if service else None,
    )
