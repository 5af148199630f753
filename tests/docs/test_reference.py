"""The documents keep up with the code: every verb, setting and column is on its page, and no page is stale."""

from __future__ import annotations

import importlib.util
import re

import pytest

import ringfence.model.batches
import ringfence.model.columns
import ringfence.model.flows


@pytest.fixture(scope="module")
def reference(repo):
    spec = importlib.util.spec_from_file_location("reference", repo / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_page_is_stale(reference):
    stale = [
        path.name for path, text in reference.pages().items() if not path.exists() or path.read_text() != text
    ]
    assert not stale, "run `make docs`"


def test_every_verb_says_what_it_does_with_an_example(reference):
    import typer

    from ringfence.cli import build

    silent = []
    for path, command in reference.verbs(typer.main.get_command(build()), ("ringfence",)):
        is_verb = not getattr(command, "commands", None)
        if not command.help or (is_verb and "Example" not in command.help + (command.epilog or "")):
            silent.append(" ".join(path))
        unexplained = [p.name for p in command.params if p.param_type_name == "option" and not p.help]
        silent += [f"{' '.join(path)} --{name}" for name in unexplained if name != "help"]
    assert not silent


def test_every_setting_is_explained(reference):
    for _, module, name in reference.SETTINGS:
        struct = getattr(importlib.import_module(module), name)
        missing = [field for field, _, text in reference.documented(struct) if not text]
        assert not missing, f"{name}: write a docstring under {missing}"


def test_the_words_of_the_glossary_are_used(repo):
    """User-facing text says consumer and provider, never source and destination."""
    words = re.compile(r"\b(source|destination)\b", re.IGNORECASE)
    for file in sorted((repo / "src" / "ringfence" / "cli").glob("*.py")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            assert not (words.search(line) and "help=" in line), f"{file.name}:{number}: {line.strip()}"


def test_the_contract_of_a_flow_is_documented(repo):
    page = (repo / "docs" / "reference" / "flow.md").read_text()
    for struct in (ringfence.model.flows.Flow, ringfence.model.flows.FlowEnd, ringfence.model.flows.Tap):
        for field in struct.__struct_fields__:
            assert f"`{field}`" in page, f"docs/reference/flow.md: `{field}` is missing"
