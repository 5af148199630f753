"""What the demo says at its end: one document from the API's answers, and the same for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from ringfence.cli.map import show as show_edges
from ringfence.cli.output import emit_table
from ringfence.cli.proposals import file_of, show_questions, write
from ringfence.flows.golden import GOLDEN, Golden, golden_of
from ringfence.model.edges import Edge

Ask = Callable[[str, dict[str, str]], Any]
"""GET a path of the API with parameters."""


class Report(msgspec.Struct, frozen=True):
    """The demo's document; keys are stable (docs/reference/demo.md)."""

    mode: str
    """`live`, or `replay` where root or network namespaces are missing."""
    server: str
    since: str
    until: str
    categories: dict[str, Any]
    other_categories: dict[str, int]
    edges: list[Any]
    policies: list[Any]
    unresolved: list[Any]
    completeness: Any
    agents: list[Any]


def connections_of(ask: Ask, window: dict[str, str]) -> list[dict[str, Any]]:
    """Every connection of the window, legs included."""
    answer = ask("/v1/connections", window | {"limit": "100000"})
    return list(answer["connections"])


def categories(connections: list[dict[str, Any]], overlay: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Per golden category: connections seen, how many have every leg, and one example; and the rest by name."""
    found: dict[str, list[dict[str, Any]]] = {golden.name: [] for golden in GOLDEN}
    others: dict[str, int] = {}
    for connection in connections:
        golden = golden_of(connection["category"], connection.get("placement"), _overlay(connection))
        if golden is None:
            others[connection["category"]] = others.get(connection["category"], 0) + 1
        else:
            found[golden.name].append(connection)
    table = {golden.name: _golden_row(golden, found[golden.name], overlay) for golden in GOLDEN}
    return table, dict(sorted(others.items()))


def _overlay(connection: dict[str, Any]) -> str:
    return next((leg["tunnel"] for leg in connection["legs"] if leg["leg"] == "outer"), None) or "none"


def _golden_row(golden: Golden, seen: list[dict[str, Any]], overlay: str) -> dict[str, Any]:
    whole = [each for each in seen if set(golden.legs) <= {leg["leg"] for leg in each["legs"]}]
    example = next(iter(whole or seen), None)
    return {
        "title": golden.title,
        "connections": len(seen),
        "legs_linked": len(whole),
        "legs": list(golden.legs),
        "example": example,
        "note": None if seen else _why_none(golden, overlay),
    }


def _why_none(golden: Golden, overlay: str) -> str:
    if golden.overlay not in (None, "none" if overlay == "routed" else overlay):
        return f"the nodes of this lab are joined by {overlay}; see --overlay"
    return "none seen in this window"


def write_policies(folder: Path, policies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write each proposed policy to `folder`; returns what was written where."""
    write(policies, folder)
    return [
        {
            "namespace": policy["namespace"],
            "workload": policy["workload"],
            "rules": policy["rules"],
            "file": str(folder / file_of(policy)),
        }
        for policy in policies
    ]


def show(report: Report) -> None:
    """The report for people."""
    show_edges(msgspec.convert(report.edges, list[Edge]), "\nThe map: who talked to whom")
    _show_categories(report)
    emit_table(
        f"\nProposed policies{_folder(report)} (nothing is enforced)",
        ("namespace", "workload", "rules", "file"),
        (
            (each["namespace"], each["workload"], each["rules"], Path(each["file"]).name)
            for each in report.policies
        ),
    )
    print()
    show_questions(report.unresolved)
    emit_table(
        "\nAgents and completeness",
        ("node", "windows closed", "lost"),
        _agent_rows(report),
    )


def _folder(report: Report) -> str:
    return f", written to {Path(report.policies[0]['file']).parent}" if report.policies else ""


def _show_categories(report: Report) -> None:
    rows: list[tuple[Any, ...]] = []
    for row in report.categories.values():
        legs = [_leg(leg) for leg in row["example"]["legs"]] if row["example"] else [row["note"]]
        rows.append((row["title"], row["connections"], row["legs_linked"], legs[0]))
        rows += [("", "", "", leg) for leg in legs[1:]]
    emit_table(
        "\nGolden categories", ("category", "connections", "all legs linked", "one example, leg by leg"), rows
    )
    emit_table("\nOther categories", ("category", "connections"), report.other_categories.items())


def _leg(leg: dict[str, Any]) -> str:
    ends = " → ".join(_end(leg[side]) for side in ("consumer", "provider"))
    counted = (
        "unseen"
        if leg["consumer_octets"] is None
        else f"{leg['consumer_octets']}/{leg['provider_octets']} octets"
    )
    taps = " ".join(f"{tap['node']}:{tap['interface']}" for tap in leg["taps"])
    snat = " + snat" if leg["snat"] and leg["leg"] == "post-dnat" else ""
    return f"{leg['leg']}{snat}: {ends} {leg['protocol']} ({counted}) {taps}"


def _end(end: dict[str, Any]) -> str:
    address = f"[{end['ip']}]" if ":" in end["ip"] else end["ip"]
    return address if end["port"] is None else f"{address}:{end['port']}"


def _agent_rows(report: Report) -> Iterable[tuple[Any, ...]]:
    for node in report.completeness["nodes"]:
        lost = (
            ", ".join(f"{loss['stage']}: {loss['packets']} packets" for loss in node["losses"]) or "nothing"
        )
        yield node["node"], f"{node['windows_closed']} of {node['windows_expected']}", lost
