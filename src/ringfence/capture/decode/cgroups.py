"""Which pod and which container a process belongs to, from its cgroup's path.

The path shapes come from the kubelet (pkg/kubelet/cm/cgroup_manager_linux.go) and the runtimes, and are the same in
cgroup v1, v2 and hybrid:
cgroupfs `/kubepods/burstable/pod<UID>/<container>`, systemd
`/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID with _>.slice/cri-containerd-<id>.scope`.
A static pod's UID is a 32-digit hash of its file, without dashes, and differs from its mirror pod's UID.

Container ids are 64 hexadecimal digits in every runtime: containerd (`cri-containerd-<id>.scope`, `<id>`, or with a
driver that differs from the kubelet's `kubepods-….slice:cri-containerd:<id>`), CRI-O (`crio-<id>.scope`, `crio-<id>`,
a folder `container` below it with crun), Docker (`docker-<id>.scope`, `docker/<id>`), Podman (`libpod-<id>.scope`).
CRI-O's and Podman's monitor of a container (`…-conmon-<id>.scope`) runs beside it, not in it.
"""

from __future__ import annotations

import re

_POD = re.compile(
    r"(?:^|[/-])pod("
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12}"
    r"|[0-9a-f]{32})(?=[/.:\n]|$)"
)
_CONTAINER = re.compile(r"(?:^|[/:-])(?<!conmon-)([0-9a-f]{64})(?=[/.:\n]|$)")


def pod_uid(text: str) -> str | None:
    """The pod's UID in the text of `/proc/PID/cgroup`, or None. Any hierarchy that names a pod will do."""
    if "pod" not in text:
        return None
    # A node that is itself a container (kind) has its own pods nested: the innermost one is meant.
    found = _innermost(_POD, text)
    return None if found is None else found.replace("_", "-")


def container_id(text: str) -> str | None:
    """The container's id in the text of `/proc/PID/cgroup`, or None. A process of the node has none."""
    return _innermost(_CONTAINER, text)


def _innermost(pattern: re.Pattern[str], text: str) -> str | None:
    """The last match of the first line that has one."""
    for line in text.splitlines():
        found = pattern.findall(line)
        if found:
            return str(found[-1])
    return None
