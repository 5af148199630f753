"""`ringfence inventory history`: an object's values over time, or an address's holders."""

from __future__ import annotations

import ipaddress
from typing import Any

from ringfence.cli.client import Client
from ringfence.cli.inventory_rows import plain
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

LONGEST = 60
"""Characters of a value that a table shows."""


def ask(name: str, asked: dict[str, str | None], server: str | None, token: str | None) -> dict[str, Any]:
    """The server's answer for a name or an address. Raises Problem where nothing was called so."""
    what = "address" if _is_address(name) else "name"
    answer: dict[str, Any] = Client(server, token).get("/v1/inventory/history", {what: name, **asked})
    if what == "address" and not answer["holders"]:
        raise Problem("no cluster is known yet", name, "start `ringfence connector` first")
    if what == "name" and not answer["objects"]:
        raise Problem(
            "no such object", f"{name} since {asked['since']}", "widen --since, or see `inventory list`"
        )
    return answer


def show_history(answer: dict[str, Any], output: Output) -> None:
    """Print an answer: rows for people, the server's own words for programs."""
    if output is not Output.table:
        emit(answer.get("holders", answer.get("objects")), output)
    elif "holders" in answer:
        columns = ("FROM", "UNTIL", "CLUSTER", "KIND", "NAMESPACE", "NAME", "WORKLOAD", "NODE", "LABELS")
        emit_table(None, columns, map(_holder, answer["holders"]))
    else:
        names = ("FROM", "UNTIL", "KNOWN", "CLUSTER", "OBJECT", "WHAT CHANGED")
        emit_table(None, names, [row for each in answer["objects"] for row in _spans(each)])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _holder(held: dict[str, Any]) -> tuple[object, ...]:
    fields = ("from", "until", "cluster", "kind", "namespace")
    name = held.get("service") or held["name"]
    labels = ",".join(f"{key}={value}" for key, value in held["labels"])
    return (*(held[field] for field in fields), name, held["workload"], held["node"], labels)


def _spans(told: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    before: dict[str, Any] | None = None
    for span in told["spans"]:
        value = plain(span["value"]) if span["value"] else None
        last = value or before or {}
        place = "/".join(filter(None, (last.get("namespace"), last.get("name", told["uid"]))))
        what = f"{told['kind'].lower()} {place}"
        times = (span["from"], span["until"], span["known"])
        rows.append((*times, told["cluster"], what, _change(before, value, span)))
        before = value
    return rows


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None, span: dict[str, Any]) -> str:
    """What happened, in a line."""
    if after is None:
        return "gone"
    if before is None and not span["changed"]:
        return "appeared"
    if before is None:
        return "changed: " + ", ".join(span["changed"])
    return ", ".join(_difference(name, before.get(name), after.get(name)) for name in span["changed"])


def _difference(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        gone = [f"-{key}={before[key]}" for key in before if key not in after]
        new = [f"+{key}={after[key]}" for key in after if before.get(key) != after[key]]
        return f"{name} {' '.join(gone + new)}"
    return f"{name} {_text(before)} -> {_text(after)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return _text(",".join(map(str, value)))
    text = "none" if value in (None, "") else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
