"""Labs from the outside: `up`, `down`, `status`, and a `Lab` to look into and to change while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ringfence.lab import extras, kernel, manifests
from ringfence.lab.records import LabState, PodRecord, ServiceRecord
from ringfence.lab.settings import STATE, LabSettings, NodePlan, check
from ringfence.model.problems import Problem

BUILD_SECONDS = 90.0


class Lab:
    """A running lab. Its fields are as of the last order given through this object; `refresh` asks again."""

    def __init__(self, state: LabState) -> None:
        self.state = state

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.state.settings.name

    @property
    def nodes(self) -> tuple[NodePlan, ...]:
        """Nodes with their namespaces and addresses."""
        return self.state.nodes

    @property
    def pods(self) -> tuple[PodRecord, ...]:
        """Pods in the order of namespace and name."""
        return self.state.pods

    @property
    def services(self) -> tuple[ServiceRecord, ...]:
        """Services in the order of namespace and name."""
        return self.state.services

    @property
    def api_url(self) -> str:
        """Where the objects are listed and watched."""
        return self.state.api_url

    @property
    def token(self) -> str:
        """The bearer token of the API."""
        return self.state.token

    @property
    def kubeconfig(self) -> str:
        """Path of a kubeconfig with both."""
        return self.state.kubeconfig

    @property
    def outside(self) -> str:
        """Network namespace of the outside host."""
        return self.state.outside

    def pod(self, name: str, namespace: str | None = None) -> PodRecord:
        """The pod of that name, or the first whose name or workload starts so. Raises Problem when none is."""
        pods = [pod for pod in self.pods if namespace in (None, pod.namespace)]
        for pod in pods:
            if pod.name == name or pod.workload.partition("/")[2] == name:
                return pod
        for pod in pods:
            if pod.name.startswith(f"{name}-"):
                return pod
        raise Problem("no such pod", f"{namespace or '*'}/{name}", "see `ringfence lab status`")

    def service(self, name: str, namespace: str | None = None) -> ServiceRecord:
        """The service of that name. Raises Problem when there is none."""
        for service in self.services:
            if service.name == name and namespace in (None, service.namespace):
                return service
        raise Problem("no such service", f"{namespace or '*'}/{name}", "see `ringfence lab status`")

    def exec(
        self, where: PodRecord | NodePlan | str, argv: Sequence[str], text: str = "", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod (its cgroup too), a node or a namespace by name; captures its output."""
        return subprocess.run(
            self.command(where, argv),
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def command(self, where: PodRecord | NodePlan | str, argv: Sequence[str]) -> list[str]:
        """The same as a command line, for a caller that starts it in its own way."""
        netns = where if isinstance(where, str) else where.netns
        entered = ["nsenter", f"--net={kernel.NETNS / netns}", *argv]
        if not isinstance(where, PodRecord):
            return entered
        folders = [str(root / where.cgroup) for root in kernel.cgroup_roots()]
        script = "".join(f"echo $$ > '{folder}/cgroup.procs' && " for folder in folders) + 'exec "$@"'
        return ["sh", "-c", script, "sh", *entered]

    def call(
        self, where: PodRecord | NodePlan | str, protocol: str, address: str, port: int, *more: str
    ) -> list[dict[str, Any]]:
        """Make exactly these conversations from `where` (see `ringfence.lab.calls`); returns its reports."""
        argv = [sys.executable, "-m", "ringfence.lab.pod", "call", protocol, address, str(port), *more]
        done = self.exec(where, argv)
        if not done.stdout.startswith("["):
            raise Problem("the call did not run", " ".join(argv[3:]), done.stderr.strip()[-300:])
        reports: list[dict[str, Any]] = json.loads(done.stdout)
        return reports

    def add(self, *documents: dict[str, Any]) -> None:
        """Run more Kubernetes documents: pods, workloads, services."""
        self._order(verb="add", documents=list(documents))

    def add_pod(
        self,
        namespace: str,
        name: str,
        *,
        labels: dict[str, str] | None = None,
        ports: Sequence[int] = (),
        udp_ports: Sequence[int] = (),
        node: str | None = None,
        address: str | None = None,
        host_network: bool = False,
    ) -> PodRecord:
        """A bare pod that listens on these ports; `address` asks for one IPv4 address of its node's range."""
        declared = [{"containerPort": port, "protocol": "TCP"} for port in ports]
        declared += [{"containerPort": port, "protocol": "UDP"} for port in udp_ports]
        container = {"name": name, "image": "lab/pod:1", "ports": declared}
        spec: dict[str, Any] = {"containers": [container], "hostNetwork": host_network}
        if node is not None:
            spec["nodeName"] = node
        meta: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels or {}}
        if address is not None:
            meta["annotations"] = {"ringfence.dev/lab-address": address}
        self.add({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        return self.pod(name, namespace)

    def add_intruder(self) -> PodRecord:
        """The pod of `--intruder`, later: it scans the shop's pods and calls user-db while traffic is on."""
        self.add(extras.intruder())
        return self.pod("intruder", "untrusted")

    def add_service(
        self,
        namespace: str,
        name: str,
        selector: dict[str, str],
        ports: Sequence[dict[str, Any]],
        **spec: Any,
    ) -> ServiceRecord:
        """A service; `ports` and `spec` as in Kubernetes."""
        body = {"selector": selector, "ports": [dict(port) for port in ports], **spec}
        meta = {"name": name, "namespace": namespace}
        self.add({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": body})
        return self.service(name, namespace)

    def delete_pod(self, namespace: str, name: str) -> None:
        """End a pod; its address is free at once."""
        self._order(verb="delete-pod", namespace=namespace, name=name)

    def label(self, namespace: str, name: str, **labels: str | None) -> PodRecord:
        """Set labels of a pod (None removes one)."""
        self._order(verb="label", namespace=namespace, name=name, labels=labels)
        return self.pod(name, namespace)

    def start_traffic(self) -> None:
        """Let every process make its calls."""
        self._order(verb="traffic", on=True)

    def stop_traffic(self) -> None:
        """Keep every process from starting further calls."""
        self._order(verb="traffic", on=False)

    def forget(self) -> None:
        """Make the API server forget its changes so far, so that old watches get 410."""
        self._order(verb="forget")

    def refresh(self) -> None:
        """Ask the lab for its state."""
        self._order(verb="state")

    def down(self) -> None:
        """End this lab; nothing of it stays."""
        down(self.name)

    def _order(self, **order: Any) -> None:
        answer = _send(self.name, order)
        if "problem" in answer:
            raise Problem(*answer["problem"])
        self.state = msgspec.convert(answer["state"], LabState)


def _send(name: str, order: dict[str, Any]) -> dict[str, Any]:
    path = STATE / name / "control.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(BUILD_SECONDS)
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps(order).encode() + b"\n")
            line = sock.makefile("rb").readline()
        except OSError as error:
            raise Problem(
                "the lab does not answer", name, f"`ringfence lab down` and up again ({error})"
            ) from None
    if not line:
        raise Problem("the lab does not answer", name, "`ringfence lab down` and up again")
    answer: dict[str, Any] = json.loads(line)
    return answer


def up(settings: LabSettings | None = None) -> Lab:
    """Build a lab and return once every pod answers. On any failure nothing of it is left."""
    settings = settings or LabSettings()
    check(settings)
    kernel.require()
    if settings.manifests is not None:
        # Bad manifests are refused here, before anything is made; the supervisor reads them again.
        manifests.read(Path(settings.manifests))
        settings = msgspec.structs.replace(settings, manifests=str(Path(settings.manifests).resolve()))
    folder, fix = settings.folder(), f"ringfence lab down --name {settings.name}"
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise Problem("a lab of that name is up", settings.name, fix) from None
    if kernel.namespaces(settings.prefix()):
        folder.rmdir()
        raise Problem("a lab of that name is up", settings.name, fix)
    try:
        _start(settings)
        return connect(settings.name)
    except BaseException:
        down(settings.name)
        raise


def _start(settings: LabSettings) -> None:
    """Start the supervisor, detached, and wait for its one line."""
    reading, writing = os.pipe()
    log = settings.folder() / "supervisor.log"
    with open(log, "wb") as output:
        # What is started here forks and ends; the supervisor is nobody's child, so nobody must wait for it.
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ringfence.lab.supervisor",
                msgspec.json.encode(settings).decode(),
                str(writing),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            start_new_session=True,
        )
    os.close(writing)
    with os.fdopen(reading) as report:
        line = report.readline()
    process.wait()
    if not line:
        raise Problem(
            "the lab ended while it was built", str(log), log.read_text()[-300:].strip() or "no output"
        )
    answer = json.loads(line)
    if answer != "ready":
        raise Problem(*answer)


def connect(name: str = "lab") -> Lab:
    """The running lab of that name. Raises Problem when there is none."""
    try:
        text = (STATE / name / "state.json").read_bytes()
    except FileNotFoundError:
        raise Problem("no such lab", name, "start it with `ringfence lab up`") from None
    except PermissionError:
        raise Problem("not root", "ringfence lab", "run as root (the lab's state holds its token)") from None
    return Lab(msgspec.json.decode(text, type=LabState))


def down(name: str = "lab") -> bool:
    """End lab `name` and remove all of it, with or without its state folder. False when there was nothing."""
    check(LabSettings(name=name))
    if os.geteuid() != 0:
        raise Problem("not root", "ringfence lab down", "run as root (it removes network namespaces)")
    folder = STATE / name
    top = f"ringfence-{name}"
    there = folder.exists() or bool(kernel.namespaces(f"rf-{name}-"))
    there = there or any((root / top).exists() for root in kernel.cgroup_roots())
    _end_supervisor(name)
    kernel.sweep(name)
    shutil.rmtree(folder, ignore_errors=True)
    for parent in (STATE, STATE.parent):
        # Other labs and agents keep things here too; only an empty folder goes.
        with contextlib.suppress(OSError):
            parent.rmdir()
    return there


def _end_supervisor(name: str) -> None:
    """Kill the supervisor by pid and start time, or one that has not written them yet by its command line."""
    kernel.end(_starting(name))
    try:
        state = connect(name).state
    except (Problem, msgspec.DecodeError):
        return
    if kernel.start_time(state.pid) == state.start_time:
        kernel.end({state.pid})


def _starting(name: str) -> set[int]:
    """Supervisors of a lab of that name; each has its settings as an argument."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            argv = path.read_bytes().split(b"\0")
            if b"ringfence.lab.supervisor" in argv and any(
                f'"name":"{name}"'.encode() in each for each in argv
            ):
                found.add(int(path.parent.name))
    return found


class Status(msgspec.Struct, frozen=True):
    """One lab, as `ringfence lab status` shows it."""

    name: str
    running: bool
    state: LabState | None
    ended: tuple[str, ...]
    """Pods whose process is gone, as `namespace/name`."""


def status(name: str) -> Status:
    """How a lab is; one whose supervisor is gone is not running."""
    try:
        state = connect(name).state
    except msgspec.DecodeError:
        return Status(name, False, None, ())
    running = kernel.start_time(state.pid) == state.start_time
    gone = tuple(
        f"{p.namespace}/{p.name}" for p in state.pods if p.pid is None or kernel.start_time(p.pid) is None
    )
    return Status(name, running, state, gone)


def names() -> list[str]:
    """Labs that have a state folder."""
    return sorted(path.name for path in STATE.iterdir()) if STATE.is_dir() else []
