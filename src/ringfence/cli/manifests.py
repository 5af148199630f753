"""`ringfence manifests`: the objects that run Ringfence in a cluster, as YAML or as a kustomize base."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ringfence.cli.output import Output, emit

HEAD = """\
# Ringfence, rendered by `ringfence manifests`. Before it is applied, make the tokens of people and of the connector:
#   kubectl -n {namespace} create secret generic ringfence-server \\
#     --from-literal=admin-token="$(openssl rand -hex 32)" --from-literal=connector-token="$(openssl rand -hex 32)"
"""


def command(
    kustomize: Annotated[
        Path | None, typer.Option(help="Write a kustomize base into this folder instead of printing.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of everything.")] = "ringfence",
    cluster: Annotated[str, typer.Option(help="Name of the cluster.")] = "default",
    image: Annotated[str, typer.Option(help="Image of all three roles.")] = "ringfence:latest",
    mode: Annotated[str, typer.Option(help="The agents' mode: conversation or detailed.")] = "conversation",
    storage: Annotated[str, typer.Option(help="Size of the server's volume.")] = "20Gi",
    path: Annotated[
        str, typer.Option(help="How agents meet packets: auto, tcx, clsact, or packet (needs no CAP_BPF).")
    ] = "auto",
    facts: Annotated[
        bool, typer.Option(help="Take drops and retransmissions from the kernel; gives CAP_PERFMON.")
    ] = True,
    processes: Annotated[
        bool, typer.Option(help="Name processes; gives the agent CAP_PERFMON and CAP_SYS_PTRACE.")
    ] = True,
    socket_links: Annotated[
        bool, typer.Option(help="Follow load balancing at sockets; gives the agent CAP_PERFMON.")
    ] = True,
    inside: Annotated[
        bool,
        typer.Option("--inside", help="Enter pods' network namespaces; gives the agent CAP_SYS_ADMIN."),
    ] = False,
    packets: Annotated[
        bool,
        typer.Option("--packets", help="Allow `ringfence capture` on nodes; gives the agent CAP_NET_RAW."),
    ] = False,
    own_seccomp: Annotated[
        bool, typer.Option("--own-seccomp", help="Use our seccomp profile; it must lie on every node.")
    ] = False,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.yaml,
) -> None:
    """Render server, agents (a DaemonSet), connector, accounts and rights, each with exactly what it needs.

    What each capability is for, and what Pod Security says of it: docs/reference/manifests.md.

    Example: `ringfence manifests --cluster prod --image registry.example/ringfence:0.1 | kubectl apply -f -`
    """
    from ringfence.cli.deployment import Wanted, documents

    wanted = Wanted(
        namespace=namespace,
        cluster=cluster,
        image=image,
        mode=mode,
        storage=storage,
        path=path,
        facts=facts,
        processes=processes,
        socket_links=socket_links,
        inside=inside,
        packets=packets,
        own_seccomp=own_seccomp,
    )
    files = documents(wanted)
    if kustomize is not None:
        _write(kustomize, files, namespace)
        return
    everything = [document for group in files.values() for document in group]
    if output in (Output.yaml, Output.table):
        sys.stdout.write(HEAD.format(namespace=namespace) + _yaml(everything))
    else:
        emit(everything, output)


def _write(folder: Path, files: dict[str, list[dict[str, Any]]], namespace: str) -> None:
    """A kustomize base: one file a part, the list of them, and the seccomp profile beside."""
    import msgspec

    from ringfence.cli.deployment import PROFILE
    from ringfence.cli.seccomp import profile
    from ringfence.model.problems import Problem

    base = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    texts = {name: _yaml(group) for name, group in files.items()}
    texts["kustomization.yaml"] = HEAD.format(namespace=namespace) + _yaml([base])
    texts[PROFILE] = msgspec.json.format(msgspec.json.encode(profile()), indent=2).decode() + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise Problem(f"cannot write ({error.strerror})", str(folder), "name another --kustomize") from None
    for name in sorted(texts):
        print(folder / name)


def _yaml(group: list[dict[str, Any]]) -> str:
    import yaml

    return yaml.safe_dump_all(group, sort_keys=False, explicit_start=True)
