"""Kubernetes' own components, compiled from their published Go modules and cached by what they are made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from testbed.places import KUBERNETES, SOURCE, Failed, cache, digest, run, say

API_ONLY = ("kube-apiserver",)
WHOLE = (
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "coredns",
    "pause",
    "talk",
)


def folder() -> Path:
    """Where these sources' binaries are. The compiler's version is part of the name."""
    sources = sorted(SOURCE.glob("cmd/*/*.go"))
    parts = [(SOURCE / name).read_bytes() for name in ("go.mod", "go.sum")]
    parts += [source.read_bytes() for source in sources]
    return cache() / f"bin-{digest(*parts, _go_version())}"


def build(names: Iterable[str]) -> Path:
    """The folder of binaries, with `names` in it; compiles what is missing (minutes the first time). Raises Failed."""
    target = folder()
    target.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (target / name).exists()]
    for number, name in enumerate(missing, 1):
        say(f"compiling {name} ({number} of {len(missing)}; the first time takes minutes)")
        began = time.monotonic()
        _compile(name, target / name)
        say(f"compiled {name} in {time.monotonic() - began:.0f} s")
    return target


def _compile(name: str, target: Path) -> None:
    flags = ["-s", "-w"]
    major, minor = KUBERNETES.split(".")[:2]
    facts = {
        "gitVersion": f"v{KUBERNETES}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "testbed",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
    }
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        flags += [f"-X {package}.{key}={value}" for key, value in facts.items()]
    _go_build(SOURCE, f"./cmd/{name}", flags, target)


def etcd() -> Path:
    """etcd, from a module of its own: Debian's is too old for the API server to stream complete states (WatchList)."""
    source = SOURCE / "etcd"
    parts = [(source / name).read_bytes() for name in ("go.mod", "go.sum", "main.go")]
    target = cache() / f"etcd-{digest(*parts, _go_version())}" / "etcd"
    if not target.exists():
        say("compiling etcd (half a minute the first time)")
        target.parent.mkdir(parents=True, exist_ok=True)
        _go_build(source, ".", ["-s", "-w"], target)
    return target


def _go_build(source: Path, package: str, flags: list[str], target: Path) -> None:
    partial = target.with_suffix(".partial")
    argv = [
        "go",
        "build",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        " ".join(flags),
        "-o",
        str(partial),
        package,
    ]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no output"]
        raise Failed(f"cannot compile {target.name} ({words[-1][:300]})", str(source), "see `go build` there")
    partial.rename(target)


def _go_version() -> str:
    if shutil.which("go") is None:
        raise Failed("no Go compiler", "go", "install Go 1.24 or newer, or fill the cache on another machine")
    return run(["go", "env", "GOVERSION"], "go", "check the Go installation", cwd=SOURCE)
