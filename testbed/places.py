"""Where things are: the cache that outlives everything, and the home of one running testbed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent
KUBERNETES = re.search(r"k8s.io/kubernetes v(\S+)", (SOURCE / "go.mod").read_text())[1]  # type: ignore[index]


class Failed(Exception):
    """What went wrong, where, and what to do; shown as one line."""

    def __init__(self, what: str, where: str, fix: str) -> None:
        super().__init__(f"{what}: {where}: {fix}")


def say(text: str) -> None:
    """Progress, for people."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def cache() -> Path:
    """The folder that outlives runs: binaries, packages, images, by what they were made from."""
    root = Path(os.environ.get("RINGFENCE_CACHE") or Path.home() / ".cache" / "ringfence")
    return root / "testbed"


def digest(*parts: bytes | str) -> str:
    """A short name for what something is made from."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
        whole.update(b"\0")
    return whole.hexdigest()[:16]


def run(argv: list[str], where: str, fix: str, **more: Any) -> str:
    """The output of a command that must succeed. Raises Failed with its last words."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)
    except OSError as error:
        raise Failed(f"cannot run {argv[0]} ({error.strerror})", where, fix) from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise Failed(f"{Path(argv[0]).name} failed ({words[-1][:300]})", where, fix)
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Home:
    """The folder of one testbed: everything it made is under it or recorded in it."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or cache() / "home").absolute()
        self.tag = "rf" + digest(str(self.path))[:6]
        """Begins the names of links and control groups, so that they are known as ours."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self / "kubeconfig"

    def at(self, number: int) -> str:
        """An address on the nodes' network: 1 is this machine, 2 the fabric, 11 and up are nodes."""
        return f"10.88.{self.facts().get('net', 0)}.{number}"

    def facts(self) -> dict[str, Any]:
        """What `up` decided: ports, nodes, paths of binaries. Empty when there is no testbed."""
        try:
            return dict(json.loads((self / "facts.json").read_text()))
        except (OSError, ValueError):
            return {}

    def remember(self, **facts: Any) -> dict[str, Any]:
        """Add to what was decided."""
        whole = {**self.facts(), **facts}
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self / "facts.partial"
        partial.write_text(json.dumps(whole))
        partial.rename(self / "facts.json")
        return whole
