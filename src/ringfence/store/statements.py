"""The questions in the engine's language. What each answers is said in `queries`, which asks them.

Places `{name:Type}` are filled by the engine; no text of a user is ever part of a statement.
"""

from __future__ import annotations

from ringfence.model.columns import MEASURED, UNKNOWN_U4
from ringfence.store.engine import DATABASE
from ringfence.store.shared import EXTENTS_OF, FLOW_AT_THE_TIME, HIGH_POD, LOW_POD

MARGIN = 60_000_000_000
"""Nanoseconds around the asked time in which a flow's nodes are looked for, so that a straggler outside a
boundary does not change who counts."""
COUNTS = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
FLAGS = ("consumer_flags", "provider_flags")
COUNTED = ("retransmits", "zero_windows")
"""Of MEASURED what adds up over windows."""
TEXTS = ("process", "provider_process", "names", "tls")
"""Facts of the beginning of a flow, empty where nobody knew them."""

_INSIDE = "(window >= {since:Int64} AND window < {until:Int64})"
_WHOLE = "segment <= {segment:UInt64}"
_OF_CLUSTER = "({cluster:String} = '' OR cluster = {cluster:String})"

# Each column of a turned row is read from the other side, so that a node that learnt the direction late (its
# first windows say otherwise) still adds up. `reversed` says how a row stands against the canonical order.


def _sides(name: str) -> tuple[str, str]:
    other = name.replace("consumer", "*").replace("provider", "consumer").replace("*", "provider")
    return name, other


def _summed(how: str, name: str, then: str = "") -> str:
    mine, other = _sides(name)
    inner = f"if(reversed = orientation, {mine}, {other})"
    return f"{how}({inner}{then}) AS {name}_"


def _counted(name: str) -> str:
    """The sum of what was counted; unknown where nobody counted."""
    total = f"toUInt32(least(sumIf(toUInt64({name}), {name} != {UNKNOWN_U4}), {UNKNOWN_U4 - 1}))"
    return f"if(min({name}) = {UNKNOWN_U4}, {UNKNOWN_U4}, {total}) AS {name}_"


_ROW = ", ".join(
    [
        *(_summed("sumIf", name, f", {_INSIDE}") for name in COUNTS),
        *(_summed("groupBitOr", name) for name in FLAGS),
        *(_summed("any", f"{side}_{part}") for side in ("consumer", "provider") for part in ("ip", "port")),
        *(_summed("max", f"{side}_pod") for side in ("consumer", "provider")),
    ]
)


def _source(flow: str = "") -> str:
    """Sightings of and around the asked time, each with the orientation of its (flow, node); `flow` overrules ids."""
    columns = f"* REPLACE ({flow} AS flow_id)" if flow else "*"
    return f"""
    SELECT *, argMax(reversed, direction) OVER (PARTITION BY cluster, flow_id, node) AS orientation
    FROM (
        SELECT {columns} FROM {DATABASE}.sightings
        WHERE window >= {{since:Int64}} - {MARGIN} AND window < {{until:Int64}} + {MARGIN} AND {_WHOLE} AND {_OF_CLUSTER}
    )
"""


_RENAMED_FACTS = ", ".join(f"{name}_ AS {name}" for name in (*MEASURED, *TEXTS))
_RENAMED = ", ".join(
    f"{name}_ AS {name}"
    for name in (
        *COUNTS,
        *FLAGS,
        *(f"{side}_{part}" for side in ("consumer", "provider") for part in ("ip", "port", "pod")),
    )
)


def _seen_in(source: str) -> str:
    """What each node saw of each flow in all."""
    return f"""
SELECT flow_id, cluster, node, tuple_hash_ AS tuple_hash, began, inside, first_ AS first, last_ AS last,
    earliest_ AS earliest, latest_ AS latest, role_ AS role,
    direction_ AS direction, orientation AS reversed, protocol_ AS protocol, kind_ AS kind, zone_ AS zone,
    inner_ AS inner, drop_ AS drop, sample_ AS sample, taps_ AS taps, {_RENAMED_FACTS}, {_RENAMED}
FROM (
    SELECT flow_id, cluster, node, orientation, any(tuple_hash) AS tuple_hash_, min(first_window) AS began,
        countIf({_INSIDE}) AS inside,
        if(inside > 0, minIf(first, {_INSIDE}), min(first)) AS first_,
        if(inside > 0, maxIf(last, {_INSIDE}), max(last)) AS last_,
        argMax(role, direction) AS role_, max(direction) AS direction_, any(protocol) AS protocol_,
        any(kind) AS kind_, any(zone) AS zone_, any(inner) AS inner_, min(rtt_us) AS rtt_us_,
        min(first) AS earliest_, max(last) AS latest_,
        if(min(srtt_us) = {UNKNOWN_U4}, {UNKNOWN_U4}, argMaxIf(srtt_us, last, srtt_us != {UNKNOWN_U4})) AS srtt_us_,
        {", ".join(map(_counted, COUNTED))}, max(drop) AS drop_, max(sample) AS sample_,
        {", ".join(f"max({name}) AS {name}_" for name in TEXTS)}, argMax(taps, length(taps)) AS taps_, {_ROW}
    FROM ({source}) GROUP BY cluster, flow_id, node, orientation
) ORDER BY flow_id, node
"""


def _gaps_in(source: str) -> str:
    """What each node saw of each flow in windows that others never closed."""
    return f"""
SELECT flow_id, cluster, node, window, min(first_) AS first, max(last_) AS last,
    {", ".join(f"min({name}_) AS {name}" for name in MEASURED)}, max(drop_) AS drop, max(sample_) AS sample,
    {", ".join(f"sum({name}_) AS {name}" for name in COUNTS)},
    {", ".join(f"groupBitOr({name}_) AS {name}" for name in FLAGS)}
FROM (
    SELECT flow_id, cluster, node, window, first AS first_, last AS last_, drop AS drop_, sample AS sample_,
        {", ".join(f"{name} AS {name}_" for name in MEASURED)},
        {", ".join("if(reversed = orientation, {0}, {1}) AS {0}_".format(*_sides(name)) for name in (*COUNTS, *FLAGS))}
    FROM ({source}) WHERE {_INSIDE} AND window IN (SELECT arrayJoin({{holes:Array(Int64)}}))
) GROUP BY cluster, flow_id, node, window
"""


SEEN, IN_GAPS = _seen_in(_source()), _gaps_in(_source())
SEEN_SHARED, IN_GAPS_SHARED = (made(_source(FLOW_AT_THE_TIME)) for made in (_seen_in, _gaps_in))
EXTENTS = EXTENTS_OF.format(source=f"({_source()})")


def _hops_in(flow: str = "") -> str:
    """What each tap counted of each of these flows; ends in canonical order (low, high), whatever a row's direction.

    Roles become ends (0 low, 1 high, 2 between). `told` is 0 where some rows do not say what the tap counted.
    """
    columns = f"* REPLACE ({flow} AS flow_id)" if flow else "*"
    turned = "if(reversed = 0, {0}, {1})"
    counts = ", ".join(
        f"sum({turned.format(*pair)}) AS {end}_{unit}"
        for unit in ("packets", "octets")
        for end, pair in (("low", (f"c_{unit}", f"p_{unit}")), ("high", (f"p_{unit}", f"c_{unit}")))
    )
    of_tap = ", ".join(
        f"toInt64({name}) + hop_less[4 * i - {4 - place}] AS {short}"
        for place, (name, short) in enumerate(
            zip(COUNTS, ("c_packets", "c_octets", "p_packets", "p_octets"), strict=True), start=1
        )
    )
    return f"""
SELECT flow_id, node, tap, min(known) AS told, min(first_) AS first, max(last_) AS last,
    argMax(end, (known, c_packets + p_packets)) AS end,
    argMax(if(reversed = 1 AND way IN (1, 2), 3 - way, way), (known, c_packets + p_packets)) AS way, {counts}
FROM (
    SELECT flow_id, node, reversed, names[i] AS tap, length(hop_ways) = length(names) AS has,
        toUInt8(if(has, bitTest(hop_ways[i], 4) = 0, length(names) = 1)) AS known,
        if(has, bitAnd(hop_ways[i], 3), role) AS stands, if(stands = 2, 2, bitXor(stands, reversed)) AS end,
        bitAnd(bitShiftRight(hop_ways[i], 2), 3) AS way,
        first + 1000 * toInt64(hop_times[2 * i - 1]) AS first_, last - 1000 * toInt64(hop_times[2 * i]) AS last_,
        {of_tap}
    FROM (
        SELECT {columns}, splitByChar(' ', taps) AS names FROM {DATABASE}.sightings
        WHERE {_INSIDE} AND {_WHOLE} AND {_OF_CLUSTER} AND taps != ''
    ) ARRAY JOIN arrayEnumerate(names) AS i
    WHERE flow_id IN ({{flows:Array(UInt64)}})
) GROUP BY flow_id, node, tap ORDER BY flow_id, node, tap
"""


EXTENT = f"""
SELECT count() AS rows, min(window) AS first, max(window) AS last FROM {DATABASE}.sightings
WHERE {_INSIDE} AND {_WHOLE} AND flow_id IN ({{flows:Array(UInt64)}})
"""
"""When these flows were seen. Reads two columns of the asked time, not all of it."""
HOPS, HOPS_SHARED = _hops_in(), _hops_in(FLOW_AT_THE_TIME)
TRANSLATIONS = f"""
SELECT DISTINCT * EXCEPT (segment, node, cluster) FROM {DATABASE}.translations
WHERE seen >= {{since:Int64}} AND seen < {{until:Int64}} AND {_WHOLE} AND {_OF_CLUSTER} ORDER BY seen
"""
WINDOWS = f"""
SELECT cluster, node, window, max(length) AS length FROM {DATABASE}.windows
WHERE {_INSIDE} AND {_WHOLE} AND {_OF_CLUSTER} GROUP BY cluster, node, window ORDER BY cluster, node, window
"""
_REPORTED = "at >= {since:Int64} AND at < {until:Int64}"
LOSSES = f"""
SELECT cluster, node, stage, sum(l.packets) AS packets, sum(l.octets) AS octets, sum(l.events) AS events
FROM {DATABASE}.losses AS l WHERE {_REPORTED} AND {_WHOLE} GROUP BY cluster, node, stage ORDER BY cluster, node, stage
"""
BATCHES = f"""
SELECT cluster, node, epoch, count() AS stored, min(sequence) AS lowest, max(sequence) AS highest,
    sum(rows) AS rows, sum(records) AS records, sum(packets) AS packets, max(received) AS last_received
FROM {DATABASE}.batches WHERE received >= {{since:Int64}} AND received < {{until:Int64}} AND {_WHOLE}
GROUP BY cluster, node, epoch ORDER BY cluster, node, epoch
"""
CONVERSATIONS = f"""
SELECT cluster, zone, inner, tuple_hash, first_window, max(window) AS last_window,
    max({LOW_POD}) AS low_pod, max({HIGH_POD}) AS high_pod
FROM {DATABASE}.sightings WHERE window >= {{since:Int64}} AND {_WHOLE}
GROUP BY cluster, zone, inner, tuple_hash, first_window
"""

COUNT = f"SELECT count() AS rows FROM {DATABASE}.sightings WHERE {_INSIDE} AND {_WHOLE}"
NEXT_WINDOW = f"""
SELECT window FROM {DATABASE}.sightings WHERE window >= {{since:Int64}} AND {_WHOLE} ORDER BY window LIMIT 1
"""
LATE = f"""
SELECT DISTINCT window FROM {DATABASE}.windows
WHERE segment > {{after:UInt64}} AND segment <= {{segment:UInt64}} AND window < {{until:Int64}}
"""
_WITHIN = "arrayExists((low, high) -> {0} >= toIPv6(low) AND {0} <= toIPv6(high), {{low:Array(String)}}, {{high:Array(String)}})"
MINUTES_OF = f"""
SELECT DISTINCT minute FROM {DATABASE}.flows WHERE minute > {{since:Int64}} AND minute < {{until:Int64}}
    AND ({_WITHIN.format("consumer_ip")} OR {_WITHIN.format("provider_ip")})
"""
