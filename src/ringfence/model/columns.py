"""The packed columns that flows travel in: one NumPy structured dtype per table, little-endian, no padding.

Agents, packet files and the server all speak these. `wire.codec` ships SIGHTING, HOP and TRANSLATION as they are
here; `LAYOUT` is the version both ends compare, so bump it with any change (`wire.codec` reads some older ones). `store.schema` pairs every
column with its SQL type, and a test fails when the two differ.

Units: times are UTC nanoseconds; octets are IP-layer octets (IPFIX IE 1, RFC 7012) as on the wire;
packets are wire packets (a super-packet counts as its segments). "Consumer" opened the conversation.
Addresses are `model.addresses` halves.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYOUT = 3
"""Version of the layouts below, sent with every batch."""

Table = NDArray[Any]
"""A structured array of one of the dtypes below."""

MAX_TAPS = 6
"""How many taps of one node a sighting can name; more are counted in the header, not named."""

UNKNOWN_U4 = 0xFFFF_FFFF
"""One of MEASURED that nobody measured. Shown as null, never as 0."""

MEASURED = ("rtt_us", "srtt_us", "retransmits", "zero_windows")
"""What a tap can only sometimes measure."""


class Direction(IntEnum):
    """How it is known who opened the conversation, best last, so that the larger value wins a merge."""

    GUESSED = 0
    """The first packet seen decided; discovery does not trust it alone."""
    ICMP = 1
    """An ICMP type that only an asker sends (echo request, RFC 792)."""
    LISTENER = 2
    """One end had a listening socket on its port when first seen."""
    CONNTRACK = 3
    """Conntrack's original direction, of an entry whose NEW was seen."""
    SYN = 4
    """A SYN without ACK, or a SYN-ACK, was seen (RFC 9293)."""


class Role(IntEnum):
    """Where a tap stands for a flow. The store counts the lowest."""

    CONSUMER = 0
    PROVIDER = 1
    TRANSIT = 2


class Way(IntEnum):
    """How the consumer's packets passed a tap."""

    UNKNOWN = 0
    IN = 1
    """They came in from the interface."""
    OUT = 2
    """They left through it."""
    BOTH = 3
    """They came in and went out again (routed back through the interface they came from)."""


class Kind(IntEnum):
    """What the packets of a flow carried."""

    PLAIN = 0
    VXLAN = 1
    GENEVE = 2
    IPIP = 3
    GRE = 4
    OTHER_TUNNEL = 5


class Leg(IntEnum):
    """The part a flow plays in a connection (design section 3)."""

    DIRECT = 0
    PRE_DNAT = 1
    POST_DNAT = 2
    PRE_SNAT = 3
    POST_SNAT = 4
    OUTER = 5


class Link(IntEnum):
    """How a flow is known to belong to its connection."""

    NONE = 0
    CONNTRACK = 1
    SOCKET = 2
    TUNNEL = 3
    INFERRED = 4


class Drop(IntEnum):
    """Why packets of a flow were dropped, or not answered, as far as somebody said so; the largest wins a merge."""

    NONE = 0
    UNANSWERED = 1
    """Opened, and nothing came back within the window and the one after."""
    REFUSED = 2
    """The provider reset it before it was established (RFC 9293)."""
    UNREACHABLE = 3
    """An ICMP "unreachable" named it (RFC 792, RFC 4443)."""
    KERNEL = 4
    """The node's kernel dropped a packet of it (skb/kfree_skb)."""
    POLICY = 5
    """A rule of ours dropped it."""


DROP_NAMES = ("none", "unanswered", "refused", "unreachable", "kernel", "policy")
LEG_NAMES = ("direct", "pre-dnat", "post-dnat", "pre-snat", "post-snat", "outer")
WAY_NAMES = (None, "in", "out", "both")
LINK_NAMES = ("none", "conntrack", "socket", "tunnel", "inferred")
DIRECTION_NAMES = ("guessed", "icmp", "listener", "conntrack", "syn")
KIND_NAMES = ("plain", "vxlan", "geneve", "ipip", "gre", "tunnel")

FLAG_SYN_ONLY = 0x100
"""In `*_flags`: this side sent a SYN without ACK. The low eight bits are the union of TCP flags."""
FLAG_SYN_ACK = 0x200
"""In `*_flags`: this side sent a SYN with ACK."""
FLAG_UNREACHABLE = 0x400
"""In `flags` of TAP_COUNT: an ICMP error said that a packet of this row did not arrive. Sightings have `drop` for it."""

FLAG_ICMP_CONTROL = 0x01
"""In `*_flags` of ICMPv6 rows: neighbour discovery or multicast listener messages were seen (RFC 4861, RFC 3810)."""
FLAG_ICMP_OTHER = 0x02
"""In `*_flags` of ICMP and ICMPv6 rows: any other message was seen."""

# A 5-tuple, oriented. For protocols without ports, ports are 0; for ICMP and ICMPv6 `consumer_port` is 0
# and `provider_port` is the asker's type << 8 | code.
TUPLE = [
    ("consumer_hi", "<u8"),
    ("consumer_lo", "<u8"),
    ("provider_hi", "<u8"),
    ("provider_lo", "<u8"),
    ("consumer_port", "<u2"),
    ("provider_port", "<u2"),
    ("protocol", "u1"),
]

COUNTERS = [
    ("consumer_packets", "<u8"),
    ("consumer_octets", "<u8"),
    ("provider_packets", "<u8"),
    ("provider_octets", "<u8"),
    ("consumer_flags", "<u2"),
    ("provider_flags", "<u2"),
    ("rtt_us", "<u4"),  # of the handshake
    ("srtt_us", "<u4"),  # the sender's smoothed estimate, its last one in the window (RFC 6298)
    ("retransmits", "<u4"),
    ("zero_windows", "<u4"),  # segments that offered no room
    ("drop", "u1"),
]

SIGHTING = np.dtype(
    [
        ("window", "<i8"),  # start of the window, aligned to UTC
        ("first_window", "<i8"),  # window in which this node first saw the conversation
        ("first", "<i8"),  # first and last packet within this window
        ("last", "<i8"),
        *TUPLE,
        ("kind", "u1"),
        ("direction", "u1"),
        ("role", "u1"),
        ("zone", "<u4"),  # VNI of a tunnel, or a conntrack zone; 0 is none
        ("inner", "<u8"),  # tunnels: tuple_hash of the conversation inside, 0 when not known
        *COUNTERS,
        ("consumer_pod", "<u4"),  # index + 1 into the header's pods (tagged at the tap), 0 is none
        ("provider_pod", "<u4"),
        ("process", "<u4"),  # of the connecting end: index + 1 into the header's processes, 0 is none
        ("provider_process", "<u4"),  # of the accepting end
        ("names", "<u4"),  # index + 1 into the header's names, 0 is none
        ("tls", "<u4"),  # index + 1 into the header's tls, 0 is none
        ("taps", "<u2", (MAX_TAPS,)),  # index + 1 into the header's taps, 0 is none
    ]
)
"""What one node saw of one flow in one window, all its taps folded into one row."""

HOP = np.dtype(
    [
        ("role", "u1"),  # where this tap stands, which may be elsewhere than the node as a whole
        ("way", "u1"),
        ("mixed", "u1"),  # 1: it saw packets of several flows of this tuple; its counters mean nothing
        (
            "after",
            "<u4",
        ),  # microseconds from the sighting's first packet to this tap's; the greatest is "or more"
        ("before", "<u4"),  # microseconds from this tap's last packet to the sighting's
        ("consumer_packets", "<i8"),
        ("consumer_octets", "<i8"),
        ("provider_packets", "<i8"),
        ("provider_octets", "<i8"),
    ]
)
"""What one tap counted of a sighting, one row for each tap that its `taps` name, in their order. Counters are less the
sighting's own (this tap's minus the sighting's), which makes nearly all of them 0 and nearly free on the wire."""

TAP_COUNT = np.dtype(
    [
        ("tap", "<u4"),  # index into the agent's taps
        ("ingress", "u1"),  # 1: seen coming from the interface, 0: seen leaving through it
        ("kind", "u1"),
        ("protocol", "u1"),
        ("src_hi", "<u8"),
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("src_port", "<u2"),  # ICMP: 0
        ("dst_port", "<u2"),  # ICMP: type << 8 | code. Tunnels whose sender's port is entropy: src_port 0
        ("zone", "<u4"),  # VNI
        ("inner", "<u8"),  # tunnels: tuple_hash of the packet inside, 0 when it could not be read
        ("first", "<i8"),
        ("last", "<i8"),
        ("packets", "<u8"),
        ("octets", "<u8"),
        ("flags", "<u2"),
        ("zero_windows", "<u4"),  # TCP segments that offered no room
    ]
)
"""One direction of one tuple at one tap between two drains, all CPUs added up. As on the wire: src and dst."""

TRANSLATION = np.dtype(
    [
        ("seen", "<i8"),  # when the event or dump reached the agent
        *[("pre_" + name, kind) for name, kind in TUPLE[:-1]],
        *[("post_" + name, kind) for name, kind in TUPLE[:-1]],
        ("protocol", "u1"),
        ("zone", "<u4"),
        ("dnat", "u1"),  # 1 when the destination was translated
        ("snat", "u1"),  # 1 when the source was translated
        ("dumped", "u1"),  # 1 when learnt from a dump (its direction may be reversed)
        (
            "link",
            "u1",
        ),  # who said so: Link.CONNTRACK (0 too), SOCKET, or INFERRED for one of several that may be
    ]
)
"""One translation, by conntrack or at the socket: the original tuple and what it became, both oriented as original."""

FLOW = np.dtype(
    [
        ("flow_id", "<u8"),
        ("tuple_hash", "<u8"),
        ("first", "<i8"),
        ("last", "<i8"),
        *TUPLE,
        ("kind", "u1"),
        ("direction", "u1"),
        ("zone", "<u4"),
        ("inner", "<u8"),
        *COUNTERS,
        ("consumer_pod", "<u4"),  # index + 1 into the answer's pods, 0 is none
        ("provider_pod", "<u4"),
        ("process", "<u4"),  # index + 1 into the answer's processes
        ("provider_process", "<u4"),
        ("names", "<u4"),  # index + 1 into the answer's names
        ("tls", "<u4"),  # index + 1 into the answer's TLS facts
        ("node", "<u4"),  # index + 1 into the answer's nodes: whose sighting counts; 0 for files
        ("sample", "<u4"),  # one packet in so many was counted, and told as so many; 0 and 1 are every one
        ("unseen", "u1"),  # 1 for a leg made from conntrack alone: no taps, counters null
    ]
)
"""One flow over the asked time: the counted sighting's numbers, all windows added up."""


def structured(dtype: np.dtype[Any], rows: int) -> Table:
    """An empty (zeroed) table of `rows`, with measured-by-nobody fields set to unknown."""
    table = np.zeros(rows, dtype)
    for name in MEASURED:
        if dtype.names and name in dtype.names:
            table[name] = UNKNOWN_U4
    return table
