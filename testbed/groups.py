"""Control groups of nodes' kubelets, one tree a node, in both versions of the interface (cgroups(7))."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
COPIED = ("cpuset.cpus", "cpuset.mems")
"""Version 1 makes these empty in a new group, and an empty one holds no process."""


def group(tag: str, node: str) -> str:
    """The name of a node's tree."""
    return f"{tag}-{node}"


def make_groups(tag: str, node: str) -> None:
    """A node's tree under every controller."""
    for root in _roots():
        folder = root / group(tag, node)
        folder.mkdir(exist_ok=True)
        for name in COPIED:
            if (root / name).exists():
                (folder / name).write_text((root / name).read_text())


def remove_groups(tag: str) -> None:
    """Every node's tree, deepest first. Processes that are just ending are waited for."""
    for root in [*_roots(), ROOT / "unified"]:
        for tree in root.glob(f"{tag}-node*"):
            for attempt in range(50):
                folders = sorted((each for each in tree.rglob("*") if each.is_dir()), reverse=True)
                for folder in [*folders, tree]:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                if not tree.exists():
                    break
                time.sleep(0.02 * (attempt + 1))


def _roots() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [
        each for each in ROOT.iterdir() if each.is_dir() and each.name != "unified" and not each.is_symlink()
    ]
