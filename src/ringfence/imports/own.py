"""Flows that Ringfence itself printed: `-o json` (one list) or `-o jsonl` (one a line), as they were."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ringfence.imports.records import Tally
from ringfence.model.flows import Flow
from ringfence.model.problems import Problem


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Flow]:
    """Flows of a file. Broken lines are counted; a list is whole or refused. Raises Problem."""
    rest = iter(lines)
    first = next((line for line in rest if line.strip()), b"")
    if first.lstrip().startswith(b"["):
        return _listed(b"".join((first, *rest)), name, tally)
    found: list[Flow] = []
    decoder = msgspec.json.Decoder(Flow)
    for number, line in enumerate((first, *rest), 1):
        if line.strip():
            tally.lines += 1
            try:
                found.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                tally.refuse(number, str(error))
    return found


def _listed(body: bytes, name: str, tally: Tally) -> list[Flow]:
    try:
        found = msgspec.json.decode(body, type=list[Flow])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fix = "give what `ringfence flows ... -o json` or `-o jsonl` printed"
        raise Problem(f"is no list of flows ({error})", name, fix) from None
    tally.lines += len(found)
    return found
