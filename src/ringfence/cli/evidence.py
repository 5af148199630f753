"""The evidence of `netpol generate`: flows as the other verbs print them, and captures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from ringfence.discovery.recorded import RecordedFlow
    from ringfence.model.flows import Flow

STDIN = "-"
_FIX = "compare it with docs/reference/flow.md"


class Evidence(NamedTuple):
    """Flows of all files, and what of the captures among them could not be read."""

    flows: list[RecordedFlow]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def read_evidence(paths: Sequence[Path], manifests: str | None) -> Evidence:
    """Flows of all files: JSON as `flows read` and `flows list` print it, or captures and logs as `flows read` takes them.

    Captures are named by `manifests`. Raises Problem at the first file that is neither; a capture that is damaged
    gives its flows up to there and a problem. What a policy dropped is no evidence that it should pass.
    """
    found = _read_all(paths, manifests)
    passed = [flow for flow in found.flows if flow.drop_reason != "policy"]
    dropped = len(found.flows) - len(passed)
    notes = (f"{dropped} flows that a policy dropped are no evidence",) if dropped else ()
    return Evidence(passed, found.problems, (*found.notes, *notes))


def _read_all(paths: Sequence[Path], manifests: str | None) -> Evidence:
    from ringfence.cli.offline import origin_of, read_files
    from ringfence.imports.read import OWN

    captures = [str(path) for path in paths if _is_capture(path) or origin_of(str(path)) not in (None, OWN)]
    printed = [flow for path in paths if str(path) not in captures for flow in _read(path)]
    flows = [flow for flow in printed if flow is not None]
    answer = read_files(captures, manifests if captures else None, "start", None)
    whole = [flow for flow in answer.flows if flow.start and flow.consumer.ip and flow.provider.ip]
    left = len(printed) - len(flows) + len(answer.flows) - len(whole)
    notes = (f"{left} flows without an address or a time are no evidence",) if left else ()
    return Evidence([*flows, *_as_recorded(whole)], answer.problems, (*answer.notes, *notes))


def _as_recorded(flows: Sequence[Flow]) -> list[RecordedFlow]:
    """By way of the contract's JSON, so that a capture and what `flows read` prints of it say the same."""
    import msgspec

    from ringfence.discovery.recorded import RecordedFlow

    return msgspec.json.decode(msgspec.json.encode(flows), type=list[RecordedFlow])


def _is_capture(path: Path) -> bool:
    """By how the file begins, packed ones too: flows in JSON begin with text."""
    from ringfence.capture.packets import pcap, pcapng
    from ringfence.capture.packets.sources import GZIP, ZSTD

    beginnings = (*pcap.MAGICS, pcapng.MAGIC, GZIP, ZSTD)
    try:
        if str(path) == STDIN:
            # Looked at, not taken: whoever reads it starts at its first octet.
            head = sys.stdin.buffer.peek(4)  # type: ignore[union-attr]
        else:
            with path.open("rb") as file:
                head = file.read(4)
    except (OSError, ValueError):
        return False
    return bool(head.startswith(beginnings))


def _read(path: Path) -> list[RecordedFlow | None]:
    """Flows that were printed; None for each without an address or a time."""
    where = "standard input" if str(path) == STDIN else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except OSError as error:
        fix = "name captures, or files that `ringfence flows read -o json` or `flows list -o json` wrote"
        raise Problem(f"cannot read flows ({error.strerror})", where, fix) from None
    return list(_decoded(data, where))


def _decoded(data: bytes, where: str) -> Iterator[RecordedFlow | None]:
    """One document (a list, or `flows` inside an object), or one flow a line."""
    import msgspec

    try:
        whole = msgspec.json.decode(data)
    except msgspec.DecodeError:
        whole = None
    except UnicodeDecodeError:
        raise Problem("not text", where, "name files of flows in JSON") from None
    if whole is None:
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield _flow(line, f"{where} line {number}")
        return
    flows = whole if isinstance(whole, list) else whole.get("flows") if isinstance(whole, dict) else None
    if flows is None and isinstance(whole, dict) and "flow_id" in whole:
        flows = [whole]
    if not isinstance(flows, list):
        raise Problem("no flows in this document", where, "name what `ringfence flows read -o json` printed")
    for number, item in enumerate(flows, 1):
        yield _converted(item, f"{where} flow {number}")


def _converted(item: Any, where: str) -> RecordedFlow | None:
    import msgspec

    from ringfence.discovery.recorded import RecordedFlow

    try:
        return msgspec.convert(item, RecordedFlow)
    except msgspec.ValidationError as error:
        if _is_left_out(item):
            return None
        raise Problem(f"not a flow ({error})", where, _FIX) from None


def _is_left_out(item: Any) -> bool:
    """Whether it is a flow of another tool's log (`origin`) that left an address or the time out."""
    try:
        told = [item["start"], item["end"], *(item[side]["ip"] for side in ("consumer", "provider"))]
        return bool(item["origin"]) and None in told
    except (KeyError, TypeError):
        return False


def _flow(line: bytes, where: str) -> RecordedFlow | None:
    import msgspec

    from ringfence.discovery.recorded import RecordedFlow

    try:
        return msgspec.json.decode(line, type=RecordedFlow)
    except msgspec.ValidationError:
        return _converted(msgspec.json.decode(line), where)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(f"not a flow ({error})", where, _FIX) from None
