"""Finds the compiled kernel programs; compiles them once where only their source is there.

In order: `RINGFENCE_BPF_DIR`, the objects a wheel carries, the cache of this user, a compiler run. A node
needs no compiler: wheels carry the objects.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from ringfence.model.problems import Problem

PACKAGED = Path(__file__).parent / "objects"
SOURCES = Path(__file__).parents[3] / "bpf"
FLAGS = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror")
PROGRAMS = ("tap", "process", "tcp", "drops", "asked")


def object_bytes(program: str) -> bytes:
    """The compiled object of one program, `tap` or `process`. Raises Problem when there is no way to it."""
    override = os.environ.get("RINGFENCE_BPF_DIR")
    for folder in [Path(override)] if override else [PACKAGED]:
        path = folder / f"{program}.bpf.o"
        if path.is_file():
            return path.read_bytes()
    if override:
        fix = f"put {program}.bpf.o there, or unset the variable"
        raise Problem("kernel program not found", f"RINGFENCE_BPF_DIR={override}", fix)
    return _cached(program).read_bytes()


def compile_program(source: Path, target: Path) -> None:
    """Compile one program for the kernel; the object appears whole or not at all."""
    clang = shutil.which("clang")
    if clang is None:
        fix = "install clang (Debian: apt-get install clang libbpf-dev), or use a wheel that carries it"
        raise Problem("kernel program is not compiled", str(source), fix)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.tmp")
    # Debian keeps asm/ headers in a folder named after the machine, which `-target bpf` does not look in.
    include = f"/usr/include/{platform.machine()}-linux-gnu"
    # Paths of this machine stay out of the debug information: the same source gives the same bytes.
    maps = f"-fdebug-prefix-map={source.parent}=bpf"
    command = [clang, *FLAGS, maps, "-idirafter", include, "-c", source.name, "-o", str(partial)]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), "clang failed")
        raise Problem("kernel program does not compile", str(source), first)
    partial.replace(target)


def _cached(program: str) -> Path:
    source = SOURCES / f"{program}.bpf.c"
    if not source.is_file():
        fix = "set RINGFENCE_BPF_DIR to a folder that holds it, or reinstall from a wheel that carries it"
        raise Problem("kernel program not found", f"{program}.bpf.o", fix)
    folder = _cache_root() / _fingerprint()
    target = folder / f"{program}.bpf.o"
    if not target.is_file():
        compile_program(source, target)
    return target


def _cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ringfence" / "bpf"


def _fingerprint() -> str:
    """A hash of every source, the flags and the compiler, so that a stale object is never used."""
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    if shutil.which("clang"):
        digest.update(subprocess.run(["clang", "--version"], capture_output=True, check=False).stdout)
    return digest.hexdigest()[:16]
