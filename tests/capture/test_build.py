"""The kernel programs: they compile to the same bytes anywhere, and their structs are the ones Python reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ringfence.capture import libbpf
from ringfence.capture.build import PROGRAMS, SOURCES, compile_program, object_bytes
from ringfence.capture.layout import LAYOUT_TABLE
from ringfence.model.problems import Problem

needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")


@needs_clang
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_source_gives_the_same_bytes(program: str, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "bpf"
    shutil.copytree(SOURCES, other)
    for number, source in enumerate((SOURCES, other)):
        compile_program(source / f"{program}.bpf.c", tmp_path / f"{number}.o")
    content = (tmp_path / "0.o").read_bytes()
    assert content == (tmp_path / "1.o").read_bytes()
    assert os.fsencode(SOURCES.parent) not in content


@pytest.mark.real
def test_structs_are_the_ones_python_reads() -> None:
    loaded = libbpf.Object(object_bytes("tap"), "tap")
    try:
        # Behind the ports of tunnels, two octets each, and how many packets one stands for (counters.py).
        table = loaded.variables(".rodata")[16 : 16 + 4 * len(LAYOUT_TABLE)].view(np.uint32)
        assert tuple(table.tolist()) == LAYOUT_TABLE
    finally:
        loaded.close()


def test_missing_pieces_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFENCE_BPF_DIR", str(tmp_path))
    with pytest.raises(Problem, match="kernel program not found"):
        object_bytes("tap")
    monkeypatch.delenv("RINGFENCE_BPF_DIR")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="install clang"):
        compile_program(SOURCES / "tap.bpf.c", tmp_path / "tap.bpf.o")


@needs_clang
def test_a_source_that_does_not_compile_is_named(tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text("int x = ;\n")
    with pytest.raises(Problem, match=r"does not compile: .*bad\.bpf\.c"):
        compile_program(source, tmp_path / "bad.bpf.o")
    assert not (tmp_path / "bad.bpf.o").exists()
