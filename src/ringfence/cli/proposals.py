"""What `policy discover` and `netpol generate` share: reading flow files, writing policies, the table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ringfence.cli.output import Output, emit, emit_lines, emit_table
from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from ringfence.discovery.recorded import RecordedFlow

MOST_QUESTIONS = 50
"""Open questions the table shows; every one is in `-o json`."""

CAPTURES = (
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
    b"\x0a\x0d\x0d\x0a",
)
"""How pcap and pcapng files begin."""


def read_flows(paths: Sequence[Path]) -> list[RecordedFlow]:
    """Flows of all files, as `flows read` and `flows list` print them. Raises Problem at the first bad one."""
    return [flow for path in paths for flow in _read(path)]


def _read(path: Path) -> list[RecordedFlow]:
    where = "standard input" if str(path) == "-" else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        fix = "name files that `ringfence flows read -o json` or `flows list -o json` wrote"
        raise Problem(f"cannot read flows ({error.strerror})", where, fix) from None
    if data.startswith(CAPTURES):
        fix = f"read it first: ringfence flows read {where} --inventory DIR -o jsonl > flows.jsonl"
        raise Problem("a packet capture, not flows", where, fix)
    return list(_decoded(data, where))


def _decoded(data: bytes, where: str) -> Iterator[RecordedFlow]:
    """One document (a list, or `flows` inside an object), or one flow a line."""
    import msgspec

    from ringfence.discovery.recorded import RecordedFlow

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
        try:
            yield msgspec.convert(item, RecordedFlow)
        except msgspec.ValidationError as error:
            raise Problem(f"not a flow ({error})", f"{where} flow {number}", _FIX) from None


_FIX = "compare it with docs/reference/flow.md"


def _flow(line: bytes, where: str) -> RecordedFlow:
    import msgspec

    from ringfence.discovery.recorded import RecordedFlow

    try:
        return msgspec.json.decode(line, type=RecordedFlow)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(f"not a flow ({error})", where, _FIX) from None


def write(policies: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """One YAML file a policy. Raises Problem when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for policy in policies:
            # The name comes from a server or from manifests: whatever it says, it stays in the folder.
            (folder / file_of(policy)).write_text(policy["yaml"], encoding="utf-8")
    except OSError as error:
        raise Problem(
            f"cannot write policies ({error.strerror})", str(folder), "name another --out"
        ) from None


def file_of(policy: Mapping[str, Any]) -> str:
    """The name of a policy's file: no folder in it, whatever the policy is called."""
    return Path(f"{policy['namespace']}.{policy['name']}.yaml".replace("/", "-")).name


def show(answer: Mapping[str, Any], out: Path | None, output: Output) -> None:
    """Write the policies where asked to, then print the answer."""
    policies = answer["policies"]
    if out is not None:
        write(policies, out)
    if output is Output.yaml:
        sys.stdout.write("---\n".join(policy["yaml"] for policy in policies))
    elif output is Output.jsonl:
        emit_lines(policies)
    elif output is Output.json:
        emit(answer, output)
    else:
        _table(answer, out)


def _table(answer: Mapping[str, Any], out: Path | None) -> None:
    emit_table(
        "proposed policies (nothing is applied)",
        ("namespace", "workload", "rules", "evidence", "file"),
        [_row(policy, out) for policy in answer["policies"]],
    )
    show_questions(answer["unresolved"])
    for note in answer.get("notes", ()):
        typer.echo(f"note: {note}")
    if out is None:
        typer.echo("note: no file was written; --out DIR writes them, -o yaml prints them")


def show_questions(asked: Sequence[Mapping[str, Any]]) -> None:
    """What a person must decide, then each reason once with its explanation."""
    if not asked:
        return
    typer.echo()
    emit_table(
        f"unresolved: {len(asked)} to decide",
        QUESTION[:-1],
        [question(item)[:-1] for item in asked[:MOST_QUESTIONS]],
    )
    for reason, (why, decide) in sorted({q["reason"]: (q["why"], q["decide"]) for q in asked}.items()):
        typer.echo(f"{reason}: {why}; {decide}")
    if len(asked) > MOST_QUESTIONS:
        typer.echo(f"and {len(asked) - MOST_QUESTIONS} more: -o json lists all")


def _row(policy: Mapping[str, Any], out: Path | None) -> tuple[str, ...]:
    seen = policy["connections"]
    evidence = f"{seen} connections" if seen else "none seen"
    file = str(out / file_of(policy)) if out is not None else "-"
    return policy["namespace"], ", ".join(policy["workloads"]), str(policy["rules"]), evidence, file


QUESTION = ("namespace", "workload", "direction", "peer", "port", "until then", "reason", "decide")


def question(item: Mapping[str, Any]) -> tuple[str, ...]:
    """One unresolved item as the cells of QUESTION."""
    peer = item["peer"]
    named = "/".join(part for part in (peer["namespace"], peer["workload"]) if part)
    port = f"{item['protocol']} {', '.join(map(str, item['ports']))}".strip()
    return (
        item["namespace"] or "",
        item["workload"] or "",
        item["direction"],
        peer["address"] or named,
        port,
        "admitted" if item["admitted"] else "not admitted",
        item["reason"],
        item["decide"],
    )
