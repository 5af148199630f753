"""How soon a change in a real cluster is visible in the inventory: 100 changes a second through API server, connector
and server, each asked for over HTTP until it is there. Needs Go once (docs/reference/testbed.md).

    python bench/visibility.py [--rate 100] [--seconds 20]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ringfence.cli.client import Client
from ringfence.cli.stack import Stack
from testbed import __main__ as testbed
from testbed.api import Api
from testbed.places import Home

PODS = 200
TOKEN = "an-admin-token-of-a-benchmark-0003"


class Watcher(threading.Thread):
    """Asks for every pod again and again, and notes when what is awaited is first there."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.awaited: dict[tuple[str, str | None], float] = {}
        self.late: list[float] = []
        self.asked = 0
        self.done = threading.Event()
        self._lock = threading.Lock()

    def wait_for(self, name: str, state: str | None, since: float) -> None:
        """Pod `name` shall carry the label `n: state`; None: it shall be gone."""
        with self._lock:
            self.awaited[name, state] = since

    def run(self) -> None:
        """Until `done`."""
        while not self.done.is_set():
            rows = self._client.get("/v1/inventory", {"kind": "Pod"})["endpoints"]
            now = time.perf_counter()
            states = {row["name"]: dict(row["labels"]).get("n") for row in rows}
            self.asked += 1
            with self._lock:
                for (name, state), since in list(self.awaited.items()):
                    seen = states.get(name)
                    if (state is None and name not in states) or (
                        state is not None and _reached(seen, state)
                    ):
                        del self.awaited[name, state]
                        self.late.append(now - since)


def _reached(seen: str | None, wanted: str) -> bool:
    """Labels only count up, so a later one says that the wanted one was there."""
    return seen is not None and int(seen) >= int(wanted)


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "none"}
    spec = {"nodeName": "bench", "automountServiceAccountToken": False, "containers": [container]}
    return {"metadata": {"name": name, "labels": {"app": "bench", "n": "0"}}, "spec": spec}


def change(api: Api, watcher: Watcher, number: int) -> None:
    """A new label; each tenth time a new pod, and each tenth a deleted one."""
    pods = "/api/v1/namespaces/bench/pods"
    began = time.perf_counter()
    if number % 10 == 0:
        name = f"fresh-{number}"
        api.create(pods, _pod(name))
        watcher.wait_for(name, "0", began)
    elif number % 10 == 5 and number > 505:
        name = f"fresh-{number - 505}"
        api.delete(f"{pods}/{name}")
        watcher.wait_for(name, None, began)
    else:
        name = f"pod-{number % PODS}"
        api.patch(f"{pods}/{name}", {"metadata": {"labels": {"n": str(number)}}})
        watcher.wait_for(name, str(number), began)


def main() -> int:
    """Print the percentiles; 1 when the 99th is over the goal of a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        if testbed.main(["up", "--api-only", "--home", str(home.path)]):
            return 2
        try:
            late, lost = run(home, Path(folder), asked.rate, asked.seconds)
        finally:
            testbed.main(["down", "--home", str(home.path)])
    p50, p99, worst = np.percentile(np.array(late) * 1000, [50, 99, 100])
    print(
        f"{len(late)} changes at {asked.rate}/s: visible after p50 {p50:.0f} ms, p99 {p99:.0f} ms (goal 1,000), "
        f"worst {worst:.0f} ms; never seen: {lost}"
    )
    return 0 if p99 < 1000 and not lost else 1


def run(home: Home, folder: Path, rate: int, seconds: int) -> tuple[list[float], int]:
    """Seconds that each change took to be seen, and how many never were."""
    with Stack(folder / "logs") as stack, Api(home) as api:
        listen = ("server", "--listen", "127.0.0.1:0", "--data", str(folder / "server"))
        stack.start("server", *listen, env={"RINGFENCE_ADMIN_TOKEN": TOKEN})
        stack.wait_for("server", folder / "server" / "ready")
        url = (folder / "server" / "ready").read_text().strip()
        flags = ("--server", url, "--cluster", "bench", "--kubeconfig", str(home.kubeconfig))
        stack.start(
            "connector",
            "connector",
            *flags,
            "--server-token-file",
            str(folder / "server" / "connector.token"),
        )
        api.namespace("bench")
        for number in range(PODS):
            api.create("/api/v1/namespaces/bench/pods", _pod(f"pod-{number}"))
        client = Client(url, TOKEN)
        while len(client.get("/v1/inventory", {"kind": "Pod"})["endpoints"]) < PODS:
            time.sleep(0.1)
        watcher = Watcher(client)
        watcher.start()
        began = time.perf_counter()
        for number in range(rate * seconds):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            change(api, watcher, number)
        spent = time.perf_counter() - began
        print(f"made {rate * seconds / spent:.0f} changes/s", file=sys.stderr)
        deadline = time.monotonic() + 30
        while watcher.awaited and time.monotonic() < deadline:
            time.sleep(0.05)
        watcher.done.set()
        watcher.join()
        return watcher.late, len(watcher.awaited)


if __name__ == "__main__":
    os.environ.pop("RINGFENCE_SERVER", None)
    sys.exit(main())
