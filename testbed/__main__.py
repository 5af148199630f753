"""`python3 -m testbed build|up|down|status|restart|kill|pause|resume|compact`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from testbed import binaries, control, debian, images, nodes, processes
from testbed.places import KUBERNETES, Failed, Home, say


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 not running (status), 2 could not be done."""
    asked = _arguments().parse_args(argv)
    home = Home(asked.home)
    try:
        return int(VERBS[asked.verb](home, asked) or 0)
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 2


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed",
        description=f"A real Kubernetes {KUBERNETES} on this machine.",
        epilog="Example: python3 -m testbed up --api-only; export KUBECONFIG=$(python3 -m testbed status -o kubeconfig)",
    )
    parser.add_argument("verb", choices=sorted(VERBS), help="what to do")
    parser.add_argument("--home", type=Path, help="folder of this testbed [default: one in the cache]")
    parser.add_argument(
        "--api-only", action="store_true", help="etcd and the API server, no nodes: seconds, no root"
    )
    parser.add_argument("--nodes", type=int, default=2, choices=(1, 2, 3), help="real nodes [default: 2]")
    parser.add_argument(
        "--proxy", default="iptables", choices=("iptables", "nftables"), help="kube-proxy's mode"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the API server on loopback [default: a free one]"
    )
    parser.add_argument(
        "--api-flag", action="append", default=[], help="one more flag of the API server, e.g. --v=4"
    )
    parser.add_argument("--hard", action="store_true", help="restart: end it by force")
    parser.add_argument(
        "-o",
        "--output",
        default="table",
        choices=("table", "json", "kubeconfig"),
        help="status: how to print",
    )
    return parser


def _build(_: Home, asked: argparse.Namespace) -> None:
    programs = binaries.build(binaries.API_ONLY if asked.api_only else binaries.WHOLE)
    binaries.etcd()
    if not asked.api_only:
        images.make(programs, debian.unpack(debian.NODES))


def _up(home: Home, asked: argparse.Namespace) -> None:
    if not asked.api_only:
        nodes.prepare(home)
    control.start(home, asked.api_only, asked.port, tuple(asked.api_flag))
    if not asked.api_only:
        nodes.start(home, asked.nodes, asked.proxy)
    say(f"up; export KUBECONFIG={home.kubeconfig}")
    print(home.kubeconfig)


def _down(home: Home, _: argparse.Namespace) -> None:
    nodes.stop(home)
    for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
        processes.stop(home, name, signal.SIGKILL if name == "kube-apiserver" else signal.SIGTERM)
    for name in processes.names(home):
        processes.stop(home, name)
    nodes.remove(home.path)


def _status(home: Home, asked: argparse.Namespace) -> int:
    facts = home.facts()
    running = {name: processes.pid_of(home, name) for name in processes.names(home)}
    if asked.output == "kubeconfig":
        print(home.kubeconfig)
    elif asked.output == "json":
        print(json.dumps({"home": str(home.path), "facts": facts, "processes": running}))
    elif facts:
        print(
            f"Kubernetes {KUBERNETES}  API https://127.0.0.1:{facts['port']}  nodes {facts['nodes']}  {home.path}"
        )
        for name, pid in running.items():
            print(
                f"  {name:<26} {'pid ' + str(pid) if pid else 'ENDED: ' + processes.last_words(home, name)}"
            )
    else:
        print("no testbed is up")
    return 0 if facts and all(running.values()) else 1


VERBS = {
    "build": _build,
    "up": _up,
    "down": _down,
    "status": _status,
    "restart": lambda home, asked: control.restart_api_server(home, asked.hard),
    "kill": lambda home, _: processes.stop(home, "kube-apiserver", signal.SIGKILL),
    "pause": lambda home, _: processes.send(home, "kube-apiserver", signal.SIGSTOP),
    "resume": lambda home, _: processes.send(home, "kube-apiserver", signal.SIGCONT),
    "compact": lambda home, _: say(f"compacted at revision {control.compact(home)}"),
}

if __name__ == "__main__":
    sys.exit(main())
