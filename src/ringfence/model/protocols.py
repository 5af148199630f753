"""IP protocol numbers and TCP flags by name (IANA registries; RFC 9293)."""

from __future__ import annotations

ICMP, IPIP, TCP, UDP, IPV6, GRE, ESP, AH, ICMPV6, SCTP = 1, 4, 6, 17, 41, 47, 50, 51, 58, 132

PROTOCOL_NAMES = {
    ICMP: "ICMP",
    2: "IGMP",
    IPIP: "IPIP",
    TCP: "TCP",
    UDP: "UDP",
    IPV6: "IPv6",
    GRE: "GRE",
    ESP: "ESP",
    AH: "AH",
    ICMPV6: "ICMPv6",
    89: "OSPF",
    103: "PIM",
    112: "VRRP",
    SCTP: "SCTP",
    136: "UDPLite",
}
PROTOCOL_NUMBERS = {name.upper(): number for number, name in PROTOCOL_NAMES.items()}

PORTS = frozenset({TCP, UDP, SCTP, 136})
"""Protocols whose first four octets are a source and a destination port."""

FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_FLAG_ORDER = (1, 4, 3, 2, 0, 5, 6, 7)
"""SYN ACK PSH RST FIN URG ECE CWR: the order people read them in."""


def protocol_name(number: int) -> str:
    """`TCP` for 6; a number without a name here is shown as the number."""
    return PROTOCOL_NAMES.get(number, str(number))


def flag_names(bits: int) -> str:
    """`SYN ACK PSH FIN` for the low eight bits of a flag union."""
    return " ".join(FLAG_NAMES[i] for i in _FLAG_ORDER if bits >> i & 1)
