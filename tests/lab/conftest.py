"""Labs for the tests: one quiet cluster a module, named after this process so that runs do not collide."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from ringfence.lab import cluster
from ringfence.lab.cluster import Lab
from ringfence.lab.records import PodRecord
from ringfence.lab.settings import LabSettings, NodePlan

Up = Callable[..., Lab]


class Entry(NamedTuple):
    """One conntrack entry of the kernel: (consumer, provider, consumer port, provider port) each way."""

    protocol: str
    original: tuple[str, str, int, int]
    reply: tuple[str, str, int, int]


@pytest.fixture(scope="session")
def entries() -> Callable[..., list[Entry]]:
    """The kernel's own list of connections in a node's or pod's namespace: the oracle of these tests."""
    if shutil.which("conntrack") is None:
        give_up = pytest.fail if os.environ.get("REQUIRE_REAL") == "1" else pytest.skip
        give_up("needs the command `conntrack` (package conntrack)")
    return _entries


def _entries(lab: Lab, node: NodePlan | PodRecord, family: str = "ipv4") -> list[Entry]:
    text = lab.exec(node, ["conntrack", "-L", "-f", family]).stdout
    found = []
    for line in text.splitlines():
        tuples = re.findall(r"src=(\S+) dst=(\S+) (?:sport=(\d+) dport=(\d+))?", line)
        both = [(a, b, int(c or 0), int(d or 0)) for a, b, c, d in tuples]
        found.append(Entry(line.split()[0], both[0], both[1]))
    return found


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Builds labs; every one of them is gone after the module."""
    made: list[str] = []

    def build(**settings: object) -> Lab:
        name = f"t{os.getpid()}n{len(made)}"
        made.append(name)
        return cluster.up(LabSettings(name=name, **settings))  # type: ignore[arg-type]

    yield build
    for name in made:
        cluster.down(name)


@pytest.fixture(scope="module")
def lab(up: Up) -> Lab:
    """The shop on two nodes with a routed overlay; nobody calls unless a test does."""
    return up(traffic=False, seed=1)
