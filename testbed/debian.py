"""Programs from Debian's packages, unpacked into the cache: nothing is installed and nothing starts by itself."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from testbed.places import Failed, cache, digest, run, say

NODES = ("containerd", "runc", "containernetworking-plugins", "busybox", "libc6")


def unpack(packages: tuple[str, ...]) -> Path:
    """The folder with the packages' files. Raises Failed where they cannot be had."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Failed("no apt-get", "this machine", "run the testbed on Debian or Ubuntu")
    target = cache() / f"deb-{digest(*packages)}"
    if target.exists():
        return target
    say(f"fetching {', '.join(packages)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _download(packages, folder)
        partial = Path(folder) / "root"
        for archive in sorted(Path(folder).glob("*.deb")):
            run(["dpkg", "-x", str(archive), str(partial)], str(archive), "try again")
        partial.rename(target)
    return target


def _download(packages: tuple[str, ...], folder: str) -> None:
    # The sandbox user of apt may not write into a private folder; we unpack as ourselves anyway.
    argv = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages]
    fix = "run `apt-get update` as root and try again"
    try:
        run(argv, "Debian's packages", fix, cwd=folder)
    except Failed:
        run(["apt-get", "update", "-qq"], "Debian's packages", fix)
        run(argv, "Debian's packages", fix, cwd=folder)
