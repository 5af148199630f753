"""`ringfence inventory status`: whether what the inventory says of each cluster is current, and why not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ringfence.cli.client import Client
from ringfence.cli.output import Output, emit, emit_table

SILENCE = 60
"""Seconds without a word after which a connector counts as unseen: whatever it said last may be wrong by now."""

NAMED = 20
"""Things that could not be read which a table names, the most frequent first."""

GOOD = ("current", "absent")
"""States in which nothing is missed; a kind that the cluster does not have is no gap."""


def ask(server: str | None, token: str | None) -> list[dict[str, Any]]:
    """Every connector's last word."""
    return list(Client(server, token).get("/v1/connectors")["connectors"])


def show_status(connectors: list[dict[str, Any]], output: Output) -> bool:
    """Print it, bad news first; whether everything is current."""
    judged = sorted(
        (_judged(each) for each in connectors), key=lambda each: (each["current"], each["cluster"])
    )
    if output is not Output.table:
        emit(judged, output)
    elif not judged:
        print("no connector has reported; start one a cluster: `ringfence connector --cluster NAME`")
    else:
        _tables(judged)
    return bool(judged) and all(each["current"] for each in judged)


def _judged(report: dict[str, Any]) -> dict[str, Any]:
    """A report with what it means: which kinds are not current, and whether the connector is still there."""
    unseen = report["silent"] > SILENCE
    bad = sorted(kind for kind, state in report["states"].items() if state["state"] not in GOOD)
    return {
        **report,
        "unseen": unseen,
        "not_current": bad,
        "current": not unseen and not bad and bool(report["states"]),
    }


def _tables(judged: list[dict[str, Any]]) -> None:
    columns = ("CLUSTER", "CONNECTOR", "SEEN", "BEHIND BY", "KUBERNETES", "NOT CURRENT", "UNREADABLE")
    emit_table(None, columns, map(_cluster, judged))
    print()
    rows = [row for each in judged for row in _kinds(each)]
    emit_table(None, ("CLUSTER", "KIND", "STATE", "SINCE", "DETAIL"), rows)
    problems = [(each["cluster"], count, text) for each in judged for text, count in each["problems"].items()]
    if problems:
        print()
        problems.sort(key=lambda row: (-row[1], row[0], row[2]))
        emit_table(None, ("CLUSTER", "TIMES", "COULD NOT BE READ"), problems[:NAMED])
    if len(problems) > NAMED:
        print(f"and {len(problems) - NAMED} more; -o json has them all")


def _cluster(report: dict[str, Any]) -> tuple[object, ...]:
    state = "unseen" if report["unseen"] else "current" if report["current"] else "not current"
    supported = {True: "", False: " (not a tested version)", None: " (not known)"}[report["supported"]]
    version = (report["server_version"] or "unknown") + (supported if report["server_version"] else "")
    bad = ", ".join(report["not_current"]) or "-"
    seen = f"{report['silent']} s ago"
    return report["cluster"], state, seen, _lag(report["lag"]), version, bad, sum(report["problems"].values())


def _kinds(report: dict[str, Any]) -> list[tuple[object, ...]]:
    states = sorted(report["states"].items(), key=lambda each: (each[1]["state"] in GOOD, each[0]))
    return [
        (report["cluster"], kind, state["state"], _time(state["since"]), state["detail"])
        for kind, state in states
    ]


def _lag(nanoseconds: int | None) -> str:
    return "unknown" if nanoseconds is None else f"{nanoseconds / 1e9:.1f} s"


def _time(nanoseconds: int) -> str:
    if not nanoseconds:
        return "unknown"
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
