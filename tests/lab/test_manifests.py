from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.lab import manifests
from ringfence.model.problems import Problem

GOOD = """
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {containers: [{name: a, image: a}]}
"""


def test_lists_are_taken_apart_and_other_kinds_left_out(tmp_path: Path) -> None:
    items = "".join(
        "\n- " + GOOD.strip().replace("\n", "\n  ").replace("name: a", f"name: {n}") for n in "abb"
    )
    (tmp_path / "a.yaml").write_text(
        f"kind: List\napiVersion: v1\nitems:{items}\n---\n---\nkind: ConfigMap\nmetadata: {{name: x}}\n"
    )
    assert [d["kind"] for d in manifests.read(tmp_path)] == ["Pod", "Pod"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{GOOD}---\nkind: [\n", "document 2"),
        (f"{GOOD}---\njust words\n", "document 2"),
        (f"{GOOD}---\nkind: Service\nmetadata: {{}}\n", "Service without a name"),
        (f"{GOOD}---\nkind: Service\nmetadata: {{name: x}}\n", "Service without a spec"),
        (f"{GOOD}---\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{}}\n", "Deployment without containers"),
        (f"{GOOD}---\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{template: 3}}\n", "without containers"),
        (f"{GOOD}---\nkind: Service\nmetadata: {{name: x}}\nspec: {{ports: [{{port: eighty}}]}}\n", "bad port"),
        (f"{GOOD}---\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{template: {{spec: {{containers: [x]}}}}}}\n", "bad containers"),
        (f"{GOOD}---\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{replicas: many, template: {{spec: {{containers: []}}}}}}\n", "bad replicas"),
        (f"{GOOD}---\nkind: Pod\nmetadata: {{name: ../x}}\nspec: {{containers: []}}\n", "bad name"),
        ("kind: ConfigMap\nmetadata: {name: x}\n", "nothing to run"),
        ("", "nothing to run"),
    ],
)  # fmt: skip
def test_a_broken_document_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(Problem) as caught:
        manifests.read(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(Problem):
        manifests.read(tmp_path)


def test_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such manifests"):
        manifests.read(tmp_path / "nowhere")
