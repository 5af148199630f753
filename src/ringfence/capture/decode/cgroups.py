"""Which pod a process belongs to, from its cgroup's path.

The path shapes come from the kubelet (pkg/kubelet/cm/cgroup_manager_linux.go) and are the same in cgroup
v1, v2 and hybrid:
cgroupfs `/kubepods/burstable/pod<UID>/<container>`, systemd
`/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID with _>.slice/cri-containerd-<id>.scope`.
A static pod's UID is a 32-digit hash of its file, without dashes, and differs from its mirror pod's UID.
"""

from __future__ import annotations

import re

_POD = re.compile(
    r"(?:^|[/-])pod("
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12}"
    r"|[0-9a-f]{32})(?=[/.\n]|$)"
)


def pod_uid(text: str) -> str | None:
    """The pod's UID in the text of `/proc/PID/cgroup`, or None. Any hierarchy that names a pod will do."""
    if "pod" not in text:
        return None
    # A node that is itself a container (kind) has its own pods nested: the innermost one is meant.
    for line in text.splitlines():
        found = _POD.findall(line)
        if found:
            return str(found[-1]).replace("_", "-")
    return None
