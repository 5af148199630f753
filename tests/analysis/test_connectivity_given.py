"""Connectivity, exposure and differences equal netpol-analyzer's own expected answers, in its own formats."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.analysis.connectivity import Focus, connectivity
from ringfence.analysis.difference import difference
from ringfence.analysis.paper import Paper, Raw, read
from ringfence.cli import netpol_text as words
from ringfence.kube.plain import load_plain

SHARED = pytest.mark.shared
NAMES = {
    "backend_catalog": ("backend/catalog",),
    "backend_checkout_frontend_webapp": ("backend/checkout", "frontend/webapp"),
    "frontend_webapp": ("frontend/webapp",),
    "checkout_reports": ("checkout", "reports"),
    "backend_recommendation": ("backend/recommendation",),
    "recommendation_catalog": ("recommendation", "catalog"),
}
"""File names write `/` and `,` as `_`."""

OPTIONS = re.compile(
    r"(?:_focus_workload_(?P<workloads>.+?))?(?:_(?P<direction>ingress|egress))?"
    r"(?:_with_(?P<peers>.+?))?(?:_(?P<conn>(?:tcp|udp)-\d+))?"
)


class Case(NamedTuple):
    """One expected file, as options."""

    folder: str
    focus: Focus
    asked: tuple[str, int] | None
    exposure: bool
    format: str


def case_of(name: str, folders: list[str]) -> Case:
    base, what, suffix = re.fullmatch(r"(.*)_(connlist|exposure)_output\.(\w+)", name).groups()  # type: ignore[union-attr]
    folder, options = next(
        (f, m)
        for f in sorted(folders, key=len, reverse=True)
        if base.startswith(f) and (m := OPTIONS.fullmatch(base[len(f) :]))
    )
    focus = Focus(names(options["workloads"]), names(options["peers"]), options["direction"])
    protocol, _, port = (options["conn"] or "").partition("-")
    return Case(folder, focus, (protocol.upper(), int(port)) if port else None, what == "exposure", suffix)


def names(text: str | None) -> tuple[str, ...]:
    return NAMES.get(text, (text,)) if text else ()


@functools.lru_cache
def paper(folder: Path) -> Paper:
    return read(Raw(*one) for one in load_plain(folder).objects)


FORMATS: dict[str, Any] = {
    "txt": words.text,
    "csv": words.as_csv,
    "json": lambda shown: words.as_json(words.plain(shown)),
}


@SHARED
def test_every_expected_list(shared_data: Path) -> None:
    root = shared_data / "netpol/netpol-analyzer"
    folders, wrong, seen = [path.name for path in (root / "tests").iterdir()], [], 0
    for file in sorted((root / "expected/connlist").iterdir()):
        case = case_of(file.name, folders)
        answer = connectivity(paper(root / "tests" / case.folder), focus=case.focus, exposure=case.exposure)
        said = FORMATS[case.format](words.shown(answer, case.asked, case.exposure))
        seen += 1
        if said.rstrip("\n") != file.read_text().rstrip("\n"):
            wrong.append(file.name)
    assert seen >= 200
    assert wrong == []


@SHARED
def test_every_expected_difference(shared_data: Path) -> None:
    root, seen = shared_data / "netpol/netpol-analyzer", 0
    for file in sorted((root / "expected/diff").iterdir()):
        after, before, suffix = re.fullmatch(r"diff_between_(.*)_and_(.*)\.(\w+)", file.name).groups()  # type: ignore[union-attr]
        found = difference(
            connectivity(paper(root / "tests" / before)), connectivity(paper(root / "tests" / after))
        )
        write = {"txt": words.difference_text, "csv": words.difference_csv}[suffix]
        assert write(found).rstrip("\n") == file.read_text().rstrip("\n"), file.name
        seen += 1
    assert seen >= 10


@SHARED
def test_a_folder_does_not_differ_from_itself(shared_data: Path) -> None:
    for folder in sorted((shared_data / "netpol/netpol-analyzer/tests").iterdir()):
        answer = connectivity(paper(folder))
        assert not difference(answer, answer), folder.name


REASONS = {
    "NotSupportedPodResourcesErrorStr": "pods of the same owner",
    "NPWithSameNameError": "already exists",
    "ANPsWithSameNameErr": "already exists",
    "NSWithSameNameError": "already exists",
    "PriorityValueErr": "Invalid Priority Value: 1001",
    "OneFieldSetSubjectErr": "exactly one field must be set in a subject",
    "OneFieldSetRulePeerErr": "exactly one field must be set in a rule peer",
    "UnknownRuleActionErr": "unrecognized action",
    "ANPIngressRulePeersErr": "from field must be defined and contain at least one item",
    "ANPEgressRulePeersErr": "to field must be defined and contain at least one item",
    "BANPNameAssertion": "only one baseline admin network policy with metadata.name=default",
}


@SHARED
def test_every_bad_path_is_refused_for_its_reason(shared_data: Path) -> None:
    root, seen = shared_data / "netpol/netpol-analyzer", 0
    for line in (root / "expected/bad-path.tsv").read_text().splitlines()[1:]:
        folder, _, reason = line.split("\t")
        word = reason.split("(")[0].split(",")[0]
        if word in REASONS:
            problems = [str(problem) for problem in paper(root / "tests" / folder).problems]
            assert any(REASONS[word] in problem for problem in problems), (folder, reason, problems)
            seen += 1
    assert seen >= 16
