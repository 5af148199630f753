"""Times and lengths as expressions write them: `timestamp("2026-11-26T06:00:00Z")`, `duration("1m30s")`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ringfence.inventory.filters.texts import LARGEST

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = r"(\d{1,18})(?:\.(\d{1,9}))?(ns|us|ms|s|m|h)"
_LENGTH = re.compile(rf"([+-]?)((?:{_PART})+)", re.ASCII)


def moment(text: str) -> int:
    """RFC 3339 as UTC nanoseconds. Raises ValueError(reason)."""
    found = _MOMENT.fullmatch(text)
    try:
        whole = datetime.fromisoformat(found[1] + found[3]) if found else None
    except ValueError:
        whole = None
    if found is None or whole is None:
        raise ValueError(f"`{text[:60]}` is no time: write 2026-11-26T06:00:00Z")
    value = (whole - EPOCH) // timedelta(seconds=1) * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))
    if not -LARGEST <= value <= LARGEST:
        raise ValueError(f"`{text[:60]}` is beyond what can be told")
    return value


def length(text: str) -> int:
    """A duration as Go writes it, in nanoseconds. Raises ValueError(reason)."""
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise ValueError(f"`{text[:60]}` is no duration: write 90s, 1m30s or 250ms")
    value = 0
    for number, fraction, unit in re.findall(_PART, found[2], re.ASCII):
        value += (
            int(number) * _UNITS[unit] + int((fraction or "0").ljust(9, "0")) * _UNITS[unit] // 1_000_000_000
        )
    if value > LARGEST:
        raise ValueError(f"`{text[:60]}` is beyond 64 bits")
    return -value if found[1] == "-" else value
