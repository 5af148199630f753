"""Times as people write them: RFC 3339, or how long ago (`15m`, `2h`, `1d`), against a given now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ringfence.model.problems import Problem

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = (datetime(2200, 1, 1, tzinfo=UTC) - EPOCH).days * 86_400 * SECOND
"""Times after this mean this: signed 64 bits of nanoseconds end in 2262, and what is added to a time must fit."""
DEFAULT_SINCE = "15m"

_AGO = re.compile(r"(\d{1,9})(ms|s|m|h|d|w)")


def moment(text: str, now: int, where: str) -> int:
    """UTC nanoseconds of `text`. `now` itself is `now`. Raises Problem naming `where`."""
    text = text.strip()
    if text == "now":
        return now
    if ago := _AGO.fullmatch(text):
        unit = SECOND // 1000 if ago[2] == "ms" else UNITS[ago[2]] * SECOND
        return max(0, now - int(ago[1]) * unit)
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise Problem(
            f"not a time: `{text[:40]}`", where, "write 15m, 2h, 1d or 2026-01-01T00:00:00Z"
        ) from None
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return min(max(0, (value - EPOCH) // timedelta(microseconds=1) * 1000), LAST)


def span(since: str | None, until: str | None, now: int) -> tuple[int, int]:
    """[since, until) in UTC nanoseconds; by default the last 15 minutes. Raises Problem."""
    begin = moment(since or DEFAULT_SINCE, now, "since")
    end = moment(until or "now", now, "until")
    if begin >= end:
        raise Problem("an empty time: since is not before until", "since, until", "give an earlier since")
    return begin, end
