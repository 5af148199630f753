"""Container images made of local files, byte for byte the same each time: no registry is asked."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from testbed.places import cache, digest, say

EPOCH = "2026-01-01T00:00:00Z"


class File(NamedTuple):
    """One entry of a layer: bytes, or a link's target."""

    name: str
    body: bytes = b""
    link: str = ""
    mode: int = 0o755


def make(binaries: Path, packages: Path) -> Path:
    """The folder of image archives: toolbox (busybox, its libraries, our talk), pause and coredns."""
    target = cache() / f"images-{digest(binaries.name, packages.name, Path(__file__).read_bytes())}"
    if target.exists():
        return target
    say("making images")
    partial = target.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    path = ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]
    shell = {"Env": path, "Cmd": ["sh"], "WorkingDir": "/"}
    _archive(partial, "localhost/toolbox:1", [*_busybox(packages), _program(binaries, "talk")], shell)
    _archive(partial, "localhost/pause:1", [_program(binaries, "pause")], {"Entrypoint": ["/bin/pause"]})
    _archive(
        partial, "localhost/coredns:1", [_program(binaries, "coredns")], {"Entrypoint": ["/bin/coredns"]}
    )
    partial.rename(target)
    return target


def _program(binaries: Path, name: str) -> File:
    return File(f"bin/{name}", (binaries / name).read_bytes())


def _busybox(packages: Path) -> list[File]:
    """Busybox with a link for each of its commands, and the C library it was linked with."""
    program = packages / "bin" / "busybox"
    commands = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = [File("bin/busybox", program.read_bytes())]
    files += [File(f"bin/{name}", link="busybox") for name in sorted(commands) if name != "busybox"]
    libraries = sorted((packages / "lib").rglob("*.so*"))
    files += [_same(path, packages) for path in libraries if "gconv" not in path.parts]
    files += [_same(path, packages) for path in sorted((packages / "lib64").iterdir())]
    files.append(File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644))
    files.append(File("etc/nsswitch.conf", b"hosts: files dns\n", mode=0o644))
    return files


def _same(path: Path, root: Path) -> File:
    name = str(path.relative_to(root))
    if path.is_symlink():
        return File(name, link=str(path.readlink()))
    return File(name, path.read_bytes())


def _archive(folder: Path, reference: str, files: list[File], config: dict[str, Any]) -> None:
    """A docker-archive (image specification v1.2) with one layer."""
    layer = _tar(files)
    digested = hashlib.sha256(layer).hexdigest()
    described = {
        "architecture": "amd64",
        "os": "linux",
        "created": EPOCH,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digested}"]},
        "history": [{"created": EPOCH, "created_by": "testbed"}],
    }
    body = json.dumps(described).encode()
    name = f"{hashlib.sha256(body).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digested}/layer.tar"]}]
    entries = [
        File(name, body),
        File(f"{digested}/layer.tar", layer),
        File("manifest.json", json.dumps(manifest).encode()),
    ]
    (folder / f"{reference.split('/')[-1].replace(':', '-')}.tar").write_bytes(_tar(entries))


def _tar(files: list[File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory in ("tmp", "root", "var", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            archive.addfile(entry)
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.mode, entry.size = file.mode, len(file.body)
            if file.link:
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, file.link, 0
            archive.addfile(entry, io.BytesIO(file.body) if not file.link else None)
    return buffer.getvalue()
