"""Which way packets are met, by what this machine allows, and in words what that way cannot see.

tcx where the kernel has it, clsact else, an AF_PACKET ring where eBPF is not allowed. What decides is tried and not
read from a version: distributions carry features back, and containers take them away.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from ringfence.capture import bpf, netlink
from ringfence.capture.hooks import Clsact, Hook, Tcx, has_tcx
from ringfence.capture.privilege import held, missing
from ringfence.model.problems import Problem

PATHS = ("tcx", "clsact", "packet")
_RETURN = struct.pack("=BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)
"""A tc program that lets everything pass."""

NOTES = {
    "tcx": "packets are met by tcx links, first in the chain",
    "clsact": "packets are met by clsact filters: programs on a tcx chain see them first",
    "packet": "packets are met by an AF_PACKET ring: what it holds is lost when this process dies, packets that a"
    " queueing discipline drops are not seen, and neither are pods without a host end",
}

GUARDED = "; CAP_PERFMON is missing, so the kernel guards the program against speculation and each packet costs more"


def choose(wanted: str, netns: str | None) -> tuple[str, str]:
    """`(path, note)`. Raises Problem when what was asked for cannot be had, or nothing can."""
    if wanted not in ("auto", *PATHS):
        raise Problem("no such capture path", wanted, "give auto, tcx, clsact or packet")
    refused = missing("NET_RAW", "NET_ADMIN") if wanted == "packet" else _refused()
    if wanted == "packet" and not refused:
        return wanted, NOTES[wanted]
    if refused and wanted == "auto" and not missing("NET_RAW", "NET_ADMIN"):
        return "packet", f"eBPF is not allowed ({refused}): {NOTES['packet']}"
    if refused:
        fix = "run as root, or with CAP_BPF and CAP_NET_ADMIN (CAP_NET_RAW and CAP_NET_ADMIN for path packet)"
        raise Problem("no privilege to capture", f"this process: {refused}", fix)
    tcx = has_tcx(netns)
    if wanted == "tcx" and not tcx:
        fix = "take path clsact or auto: tcx needs Linux 6.6 or later"
        raise Problem("this kernel has no tcx", os.uname().release, fix)
    path = "clsact" if wanted == "clsact" or not tcx else "tcx"
    return path, NOTES[path] + ("" if held("PERFMON") else GUARDED)


def hooks(
    route: netlink.Netlink, folder: Path, program: int, path: str, netns: str | None
) -> dict[str, Hook]:
    """The ways to attach there are, so that what an earlier life attached by another way is found too."""
    found: dict[str, Hook] = {"clsact": Clsact(route, program, chosen=path == "clsact")}
    if path == "tcx" or has_tcx(netns):
        found["tcx"] = Tcx(folder, program, chosen=path == "tcx")
    return found


def _refused() -> str | None:
    """Why this process may not load a tc program; None when it may."""
    if not held("NET_ADMIN"):
        return missing("NET_ADMIN", "BPF")
    try:
        os.close(bpf.load_program(_RETURN, "ringfence_probe"))
    except OSError as error:
        return missing("BPF") or error.strerror or "bpf(2) failed"
    return None
