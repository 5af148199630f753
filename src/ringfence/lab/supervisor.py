"""The process behind a lab: builds it, keeps its objects and serves them, obeys the control socket.

It makes the machine look like what `control` says and never tidies up: `cluster.down` does, from names
alone, the same way after a clean stop, a crash or a `kill -9`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ringfence.lab import apiserver, behaviour, extras, kernel, manifests, network, rules, sockshop
from ringfence.lab.control import ControlPlane
from ringfence.lab.records import LabState, PodRecord
from ringfence.lab.settings import DNS4, OUTSIDE4, LabSettings, NodePlan, plan_nodes
from ringfence.lab.store import key_of
from ringfence.model.problems import Problem

READY_SECONDS = 30.0
"""How long a process may take to listen before the lab is given up."""


def now() -> str:
    """The lab's clock, as Kubernetes writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251 - this process owns the lab's clock


class Supervisor:
    """One lab's memory and hands.

    Goal: one place that changes the lab, so that objects, rules and processes agree. Tension: it blocks for
    the tens of milliseconds that `ip` and `iptables-restore` take, and the API waits meanwhile.
    """

    def __init__(self, settings: LabSettings) -> None:
        self.settings = settings
        self.folder = settings.folder()
        self.rng = random.Random(settings.seed if settings.seed is not None else secrets.randbits(64))
        self.nodes = plan_nodes(settings)
        self.control = ControlPlane(settings, self.nodes, self.rng)
        self.calls = extras.calls(settings, self.nodes) if settings.apps else {}
        self.traffic = settings.traffic
        self.token = secrets.token_urlsafe(24)
        self.api = apiserver.ApiServer(self.control.store, self.token)
        self.api_url = ""
        self.chains: dict[tuple[str, int], list[str]] = {}
        self.zygote: asyncio.subprocess.Process | None = None
        self.waiting: dict[str, asyncio.Future[int]] = {}
        self.pids: dict[str, int] = {}

    async def build(self) -> None:
        """Everything, in order; a Problem on the way leaves what was made to `down`."""
        kernel.join_cgroup(kernel.make_cgroup(f"ringfence-{self.settings.name}/supervisor"))
        documents = self._documents()
        self.control.add_nodes(now())
        pods = self.control.apply(documents, now())
        self._build_network()
        self._build_pods(pods)
        self.write_names()
        await self._start_zygote()
        await self._start_pods(pods)
        self.sync()
        await self._start_hosts()
        self.api_url = await self.api.start()
        self.write_state()

    def _documents(self) -> list[manifests.Document]:
        """What to run: the given manifests or the built-in shop, and the extras that do not clash with them."""
        settings, own = self.settings, extras.documents(self.settings)
        if settings.manifests is not None:
            given = manifests.read(Path(settings.manifests))
        else:
            given = sockshop.documents() if settings.apps else []
        taken = {(d["kind"], *key_of(d)) for d in given}
        kept = [d for d in own if (d["kind"], *key_of(d)) not in taken]
        self.calls |= {
            name: found
            for name, found in behaviour.calls_in_environment(given).items()
            if name not in self.calls
        }
        return [*kept[:3], *given, *kept[3:]]

    def _build_network(self) -> None:
        settings, prefix = self.settings, self.settings.prefix()
        spaces = [f"{prefix}fabric", f"{prefix}outside", *(node.netns for node in self.nodes)]
        kernel.ip_batch(None, [f"netns add {space}" for space in spaces])
        kernel.set_sysctls(f"{prefix}fabric", network.FABRIC_SYSCTLS)
        kernel.set_sysctls(f"{prefix}outside", network.HOST_SYSCTLS)
        for node in self.nodes:
            kernel.set_sysctls(node.netns, network.NODE_SYSCTLS)
        kernel.ip_batch(f"{prefix}fabric", network.fabric(settings, self.nodes))
        kernel.ip_batch(f"{prefix}outside", network.outside(settings))
        for node in self.nodes:
            kernel.ip_batch(node.netns, network.node(settings, node, self.nodes))
            kernel.bridge_batch(node.netns, network.forwarding(settings, node, self.nodes))
            for family in self.families():
                kernel.restore(node.netns, family, rules.base(family))
        # The fabric's far end comes up only once the outside host's interface exists on both sides.
        kernel.ip_batch(f"{prefix}fabric", ["link set outside up"])

    def families(self) -> tuple[int, ...]:
        """The address families of this lab."""
        return (4, 6) if self.settings.ipv6 else (4,)

    def _build_pods(self, pods: Sequence[PodRecord]) -> None:
        own = [pod for pod in pods if not pod.host_network]
        kernel.ip_batch(None, [f"netns add {pod.netns}" for pod in own])
        for node in self.nodes:
            mine = [pod for pod in own if pod.node == node.name]
            lines = [
                line
                for pod in mine
                for line in network.pod_port(self.settings, str(pod.veth), pod.netns, pod.addresses[0])
            ]
            kernel.ip_batch(node.netns, lines)
            for pod in mine:
                kernel.ip_batch(pod.netns, network.pod(node, pod.addresses))

    async def _start_zygote(self) -> None:
        self.zygote = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ringfence.lab.zygote",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._listener = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        """Take the zygote's reports; a child that ends is only noted, as a pod's crash would be."""
        assert self.zygote is not None
        assert self.zygote.stdout is not None
        while line := await self.zygote.stdout.readline():
            message = json.loads(line)
            ident = str(message.get("ready") or message.get("failed") or message.get("exit"))
            future = self.waiting.get(ident)
            if "ready" in message and future:
                self.pids[ident] = message["pid"]
                future.set_result(message["pid"])
            elif ("failed" in message or "exit" in message) and future and not future.done():
                why = message.get("why", f"it ended with {message.get('status')}")
                future.set_exception(Problem("a lab process did not start", ident, why))

    def _order(
        self, ident: str, comm: str, netns: str, cgroup: str, spec: dict[str, Any]
    ) -> asyncio.Future[int]:
        """Ask the zygote for a process; the future gives its pid once it listens."""
        assert self.zygote is not None
        assert self.zygote.stdin is not None
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting[ident] = future
        full = {
            "dns": DNS4,
            "ipv6": self.settings.ipv6,
            "traffic": self.traffic,
            "listen": [],
            "calls": [],
            **spec,
        }
        order = {
            "id": ident,
            "comm": comm,
            "netns": str(kernel.NETNS / netns),
            "cgroups": kernel.make_cgroup(cgroup),
            "spec": full,
        }
        self.zygote.stdin.write(json.dumps(order).encode() + b"\n")
        return future

    async def _start_pods(self, pods: Sequence[PodRecord]) -> None:
        futures = [
            self._order(pod.uid, behaviour.command_name(pod), pod.netns, pod.cgroup, self._spec(pod))
            for pod in pods
        ]
        for pod, future in zip(pods, futures, strict=True):
            pid = await asyncio.wait_for(future, READY_SECONDS)
            self.control.started((pod.namespace, pod.name), pid, now())

    def _spec(self, pod: PodRecord) -> dict[str, Any]:
        calls = self.calls.get(f"{pod.namespace}/{behaviour.command_name(pod)}", [])
        if pod.workload == "Pod/intruder":
            calls = extras.intruder_calls(
                sorted(
                    p.addresses[0] for p in self.control.pods.values() if p.namespace == sockshop.NAMESPACE
                )[:8]
            )
        return behaviour.spec(pod, calls, self.settings.rate, str(self.folder / "names.json"))

    async def _start_hosts(self) -> None:
        """The outside host, and a prober a node as kubelet's stand-in."""
        pods = self.control.pods.values()
        echo = next((self.control.node(pod.node) for pod in pods if pod.workload == "Deployment/echo"), None)
        calls = extras.outside_calls(self.nodes, echo) if self.settings.apps else []
        ports = [("TCP", 80), ("TCP", 443), ("TCP", 666), ("UDP", 666)]
        spec: dict[str, Any] = {
            "listen": [{"protocol": protocol, "port": port} for protocol, port in ports],
            "calls": behaviour.paced(calls, self.settings.rate, [OUTSIDE4]),
        }
        top = f"ringfence-{self.settings.name}"
        futures = [
            self._order("outside", "outside", f"{self.settings.prefix()}outside", f"{top}/outside", spec)
        ]
        self.write_probes()
        for node in self.nodes:
            spec = {"probes": str(self._probe_file(node)), "traffic": self._probing()}
            futures.append(
                self._order(f"kubelet-{node.name}", "kubelet", node.netns, f"{top}/{node.name}/kubelet", spec)
            )
        await asyncio.wait_for(asyncio.gather(*futures), READY_SECONDS)

    def _probing(self) -> bool:
        return self.traffic if self.settings.probes is None else self.settings.probes

    def _probe_file(self, node: NodePlan) -> Path:
        return self.folder / f"probes-{node.name}.json"

    def write_probes(self) -> None:
        """Write each node's probes for its prober."""
        for node in self.nodes:
            pods = [p for p in self.control.pods.values() if p.node == node.name and not p.host_network]
            found = [
                probe
                for pod in pods
                for probe in behaviour.probes(pod, self.control.specs[pod.namespace, pod.name])
            ]
            _replace(self._probe_file(node), json.dumps(found))

    def write_names(self) -> None:
        """Write what the resolver answers."""
        _replace(self.folder / "names.json", json.dumps(self.control.names()))

    def sync(self) -> None:
        """Make slices, names and every node's rules follow from the pods and services as they are."""
        self.control.sync_slices(now())
        self.write_names()
        for family in self.families():
            services = self.control.rules(family)
            for node in self.nodes:
                old = self.chains.get((node.name, family), [])
                kernel.restore(node.netns, family, rules.sync(family, node.name, services, old))
                self.chains[node.name, family] = rules.chains(node.name, services)

    def state(self) -> LabState:
        """The lab as it is."""
        return LabState(
            settings=self.settings,
            pid=os.getpid(),
            start_time=kernel.start_time(os.getpid()) or 0,
            api_url=self.api_url,
            token=self.token,
            kubeconfig=str(self.folder / "kubeconfig"),
            nodes=self.nodes,
            pods=tuple(pod for _, pod in sorted(self.control.pods.items())),
            services=self.control.services(),
            outside=f"{self.settings.prefix()}outside",
        )

    def write_state(self) -> None:
        """Write the state file and the kubeconfig; both hold the token, so only root may read them."""
        _replace(
            self.folder / "kubeconfig", apiserver.kubeconfig(self.settings.name, self.api_url, self.token)
        )
        _replace(self.folder / "state.json", msgspec.json.encode(self.state()).decode())

    async def add(self, documents: Sequence[manifests.Document]) -> None:
        """Run more documents: pods, workloads, services."""
        for number, document in enumerate(documents, 1):
            manifests.check(document, f"document {number}")
        before = set(self.control.pods)
        try:
            pods = self.control.apply(documents, now())
            self._build_pods(pods)
            await self._start_pods(pods)
        except Exception:
            for key in set(self.control.pods) - before:
                await self.delete_pod(*key)
            raise
        self._changed()

    async def delete_pod(self, namespace: str, name: str) -> None:
        """End a pod's process, then its namespace, then its object, as a kubelet does."""
        pod = self.control.terminating((namespace, name), now())
        if pod.pid is not None:
            kernel.end({pod.pid})
        kernel.end(kernel.cgroup_processes(pod.cgroup))
        kernel.remove_cgroups(str(Path(pod.cgroup).parent))
        if pod.netns in kernel.namespaces(pod.netns) and not pod.host_network:
            # The link goes at once; the namespace itself only when its last process has.
            kernel.ip_batch(pod.netns, ["link del eth0"])
            kernel.ip_batch(None, [f"netns del {pod.netns}"])
        self.control.remove((namespace, name))
        self._changed()

    def label(self, namespace: str, name: str, labels: dict[str, str | None]) -> None:
        """Set or remove labels of a pod; services follow."""
        self.control.relabel((namespace, name), labels)
        self._changed()

    def set_traffic(self, on: bool) -> None:
        """Start or stop every call of every process."""
        self.traffic = on
        word = signal.SIGUSR1 if on else signal.SIGUSR2
        for ident, pid in self.pids.items():
            if not ident.startswith("kubelet-") or self.settings.probes is None:
                _signal(pid, word)

    def _changed(self) -> None:
        self.sync()
        self.write_probes()
        for ident, pid in self.pids.items():
            if ident.startswith("kubelet-"):
                _signal(pid, signal.SIGHUP)
        self.write_state()

    async def obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One order on the control socket: a line of JSON in, the new state or a problem out."""
        try:
            order = json.loads(await reader.readline())
            await self._do(order)
            answer: dict[str, Any] = {"state": msgspec.to_builtins(self.state())}
        except Problem as problem:
            answer = {"problem": [problem.what, problem.where, problem.fix]}
        except Exception as error:
            traceback.print_exc()
            answer = {"problem": ["the lab failed", type(error).__name__, str(error)]}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def _do(self, order: dict[str, Any]) -> None:
        verb = order["verb"]
        if verb == "add":
            await self.add(order["documents"])
        elif verb == "delete-pod":
            await self.delete_pod(order["namespace"], order["name"])
        elif verb == "label":
            self.label(order["namespace"], order["name"], order["labels"])
        elif verb == "traffic":
            self.set_traffic(order["on"])
        elif verb == "forget":
            self.control.store.forget()
        elif verb != "state":
            raise Problem("unknown order", str(verb), "upgrade the command that sent it")


def _signal(pid: int, word: int) -> None:
    try:
        os.kill(pid, word)
    except ProcessLookupError:
        # A process that ended is the lab's business only when someone asks for its status.
        return


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)


async def serve(settings: LabSettings, report: int) -> None:
    """Build the lab, write one line to `report` (`ready` or a problem), then serve until killed."""
    supervisor = Supervisor(settings)
    try:
        await supervisor.build()
        await asyncio.start_unix_server(supervisor.obey, supervisor.folder / "control.sock", limit=1 << 24)
    except Problem as problem:
        os.write(report, json.dumps([problem.what, problem.where, problem.fix]).encode() + b"\n")
        return
    except Exception as error:
        traceback.print_exc()
        sentence = ["could not build the lab", type(error).__name__, str(error)[:300] or "see the lab's log"]
        os.write(report, json.dumps(sentence).encode() + b"\n")
        return
    os.write(report, b'"ready"\n')
    os.close(report)
    await asyncio.Event().wait()


def main() -> None:
    """`python -m ringfence.lab.supervisor SETTINGS-JSON REPORT-FD`, started by `cluster.up`."""
    settings, report = msgspec.json.decode(sys.argv[1], type=LabSettings), int(sys.argv[2])
    if os.fork() or _unread(report):
        os._exit(0)
    asyncio.run(serve(settings, report))


def _unread(report: int) -> bool:
    """Whether who asked for the lab is gone already: nobody would take it down (POLLERR, poll(2))."""
    poller = select.poll()
    poller.register(report, 0)
    return any(event & select.POLLERR for _, event in poller.poll(0))


if __name__ == "__main__":
    main()
