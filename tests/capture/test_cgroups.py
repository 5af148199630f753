"""Pods and containers by cgroup: paths as real runtimes make them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.capture.decode.cgroups import container_id, pod_uid

UID = "0a1b2c3d-1111-2222-3333-445566778899"
UNDER = UID.replace("-", "_")
ID = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899"
OTHER = "ab" * 32
STATIC = "5f7a3d1c9b2e4f60817263544a5b6c7d"
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDER}.slice"
PATHS = {
    "containerd, systemd, v2": (f"0::{SLICE}/cri-containerd-{ID}.scope\n", UID, ID),
    "containerd, cgroupfs, v2": (f"0::/kubepods/burstable/pod{UID}/{ID}\n", UID, ID),
    "containerd, cgroupfs, v1": (
        f"12:pids:/kubepods/besteffort/pod{UID}/{ID}\n11:memory:/kubepods/besteffort/pod{UID}/{ID}\n"
        f"1:name=systemd:/kubepods/besteffort/pod{UID}/{ID}\n",
        UID,
        ID,
    ),
    "containerd, systemd, v1": (
        f"11:cpu,cpuacct:{SLICE}/cri-containerd-{ID}.scope\n0::/system.slice/containerd.service\n",
        UID,
        ID,
    ),
    "guaranteed pods have no class in the path": (
        f"0::/kubepods.slice/kubepods-pod{UNDER}.slice/cri-containerd-{ID}.scope\n",
        UID,
        ID,
    ),
    "containerd with another driver than the kubelet's": (
        f"0::/system.slice/containerd.service/kubepods-burstable-pod{UNDER}.slice:cri-containerd:{ID}\n",
        UID,
        ID,
    ),
    "systemd inside a container": (
        f"0::{SLICE}/cri-containerd-{ID}.scope/system.slice/sshd.service\n",
        UID,
        ID,
    ),
    "CRI-O, systemd": (f"0::{SLICE}/crio-{ID}.scope\n", UID, ID),
    "CRI-O, systemd, crun": (f"0::{SLICE}/crio-{ID}.scope/container\n", UID, ID),
    "CRI-O, cgroupfs": (f"8:freezer:/kubepods/burstable/pod{UID}/crio-{ID}\n", UID, ID),
    "CRI-O's monitor is not in the container": (f"0::{SLICE}/crio-conmon-{ID}.scope\n", UID, None),
    "Docker, systemd, by cri-dockerd": (f"0::{SLICE}/docker-{ID}.scope\n", UID, ID),
    "Docker, cgroupfs, by dockershim": (f"4:cpuset:/kubepods/burstable/pod{UID}/{ID}\n", UID, ID),
    "Docker without Kubernetes, systemd": (f"0::/system.slice/docker-{ID}.scope\n", None, ID),
    "Docker without Kubernetes, cgroupfs, v1": (f"9:devices:/docker/{ID}\n8:pids:/docker/{ID}\n", None, ID),
    "Podman": (f"0::/machine.slice/libpod-{ID}.scope/container\n", None, ID),
    "Podman's monitor": (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", None, None),
    "static pod": (f"0::/kubepods/burstable/pod{STATIC}/{ID}\n", STATIC, ID),
    "kind: a node that is a container": (
        f"0::/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDER}.slice/"
        f"cri-containerd-{ID}.scope\n",
        UID,
        ID,
    ),
    "seen from another cgroup namespace": (f"0::/../../pod{UID}/{ID}\n", UID, ID),
    "the kubelet itself": ("0::/system.slice/kubelet.service\n", None, None),
    "a shell": ("0::/user.slice/user-1000.slice/session-3.scope\n", None, None),
    "a hash in a service's name": (f"0::/system.slice/run-r{STATIC}.scope\n", None, None),
    "more digits than an id has": (f"0::/docker/{ID}00\n", None, None),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_of_real_runtimes(name: str) -> None:
    text, uid, container = PATHS[name]
    assert (pod_uid(text), container_id(text)) == (uid, container)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for found in (pod_uid(text), container_id(text)):
        assert found is None or found.replace("-", "_") in text or found in text
