"""`ringfence agent`: capture one node and ship what it sees."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer


def command(
    server: Annotated[
        str | None, typer.Option(help="The server's address for agents, e.g. https://10.0.0.5:8444.")
    ] = None,
    enrol_token_file: Annotated[
        Path | None, typer.Option(help="File with a one-time enrolment token (or RINGFENCE_ENROL_TOKEN).")
    ] = None,
    account_token_file: Annotated[
        Path | None, typer.Option(help="In a cluster: file with the pod's projected service-account token.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="File with the server's authority, for --account-token-file.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="For development: file with an agent token, in place of enrolment.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Name of the cluster this node belongs to.")] = None,
    node: Annotated[
        str | None, typer.Option(help="This node's name in Kubernetes [default: the host name].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder where batches wait for the server.")] = None,
    mode: Annotated[str | None, typer.Option(help="conversation (15 s windows) or detailed (1 s).")] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of one window, in place of the mode's.")
    ] = None,
    netns: Annotated[
        Path | None, typer.Option(help="The node's network namespace, if not the agent's own.")
    ] = None,
    pin_dir: Annotated[Path | None, typer.Option(help="Where kernel maps are pinned.")] = None,
    map_entries: Annotated[int | None, typer.Option(help="Entries of each kernel map.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Also tap interfaces like this; may be repeated.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="How packets are met: auto, tcx, clsact or packet (without eBPF).")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Never tap interfaces like this; may be repeated.")
    ] = None,
    processes: Annotated[
        bool | None, typer.Option(help="Name the processes at both ends of conversations.")
    ] = None,
    socket_links: Annotated[bool | None, typer.Option(help="Follow load balancing at sockets.")] = None,
    names: Annotated[
        bool | None, typer.Option(help="Hear DNS names of providers, and server names of TLS.")
    ] = None,
    facts: Annotated[
        bool | None,
        typer.Option(help="Take what the kernel tells beside the packets: drops, retransmissions."),
    ] = None,
    cpu_limit: Annotated[
        float | None, typer.Option(help="Cores to keep to, 0 for none [default: 90 % of its cgroup's].")
    ] = None,
    memory_limit: Annotated[
        int | None, typer.Option(help="Octets to keep to, 0 for none [default: 90 % of its cgroup's].")
    ] = None,
    keep_counting: Annotated[
        bool | None, typer.Option(help="On a clean stop leave the kernel counting for the next agent.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings; flags win.")] = None,
) -> None:
    """Capture one node's conversations at its taps and ship them to the server.

    Needs CAP_BPF and CAP_NET_ADMIN (root has both); some features need more (docs/reference/agent.md).
    A crash loses nothing: the kernel goes on counting.
    A clean stop (SIGTERM, Ctrl-C) removes everything from the kernel.

    Over its limits it gives up detail, never counts, and says so: first processes and names, then the length of
    windows.

    It shows the server a certificate, got with a one-time token (`ringfence enrol token`) or the pod's own.

    Example: `ringfence agent --server https://10.0.0.5:8444 --enrol-token-file /etc/ringfence/enrol.token`
    """
    # Threads that a library starts when it is loaded would keep rights that the agent gives up later.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ringfence.agent.main import Agent
    from ringfence.agent.settings import AgentSettings
    from ringfence.cli.config import load

    flags = {
        "server": server,
        "enrol_token_file": enrol_token_file and str(enrol_token_file),
        "account_token_file": account_token_file and str(account_token_file),
        "ca_file": ca_file and str(ca_file),
        "token_file": token_file and str(token_file),
        "cluster": cluster,
        "node": node,
        "data": data and str(data),
        "mode": mode,
        "window": window,
        "netns": netns and str(netns),
        "pin_dir": pin_dir and str(pin_dir),
        "map_entries": map_entries,
        "include": include or None,
        "path": path,
        "exclude": exclude or None,
        "processes": processes,
        "socket_links": socket_links,
        "names": names,
        "facts": facts,
        "cpu_limit": cpu_limit,
        "memory_limit": memory_limit,
        "keep_counting": keep_counting,
    }
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Agent(load(AgentSettings, config, flags)).run(stop)
