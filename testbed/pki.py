"""Certificates and kubeconfigs of one testbed, made with openssl; they die with its home."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from testbed.places import Home, run

SERVER_NAMES = (
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
    "DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1"
)
FIX = "install openssl 1.1.1 or newer"

CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
}
"""Certificate and subject; groups and names are those that Kubernetes' bootstrap roles expect."""

USERS = (("admin", '"system:masters"'), ("reader", '"readers"'), ("nobody", '"nobodies"'))
"""Users with a token: one that may everything, and two that may nothing until a role is bound to them."""


def make(home: Home) -> None:
    """Everything that is not there yet."""
    folder = home / "pki"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / "ca.crt").exists():
        _authority(folder)
    _signed(
        folder,
        "apiserver",
        "/CN=kube-apiserver",
        "serverAuth",
        f"{SERVER_NAMES},IP:{home.at(1)},IP:{home.at(2)}",
    )
    for name, subject in CLIENTS.items():
        _signed(folder, name, subject, "clientAuth")
    if not (folder / "tokens.csv").exists():
        lines = [f"{secrets.token_hex(16)},{name},{name},{groups}" for name, groups in USERS]
        (folder / "tokens.csv").write_text("\n".join(lines) + "\n")


def kubelet(home: Home, node: str, address: str) -> None:
    """A node's certificate, for both directions between it and the API server."""
    folder = home / "pki"
    names = f"DNS:{node},IP:127.0.0.1,IP:{address}"
    subject = f"/O=system:nodes/CN=system:node:{node}"
    _signed(folder, f"kubelet-{node}", subject, "clientAuth,serverAuth", names)


def token(home: Home, user: str) -> str:
    """The token of one of USERS."""
    rows = [line.split(",") for line in (home / "pki" / "tokens.csv").read_text().splitlines()]
    return next(row[0] for row in rows if row[1] == user)


def kubeconfig(home: Home, path: Path, server: str, user: str, certificate: str | None = None) -> Path:
    """A kubeconfig by certificate, or by the token of one of USERS."""
    folder = home / "pki"
    if certificate:
        secret = (
            f"client-certificate-data: {_encoded(folder / f'{certificate}.crt')}, "
            f"client-key-data: {_encoded(folder / f'{certificate}.key')}"
        )
    else:
        secret = f"token: {token(home, user)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""apiVersion: v1
kind: Config
clusters:
- name: testbed
  cluster: {{server: "{server}", certificate-authority-data: {_encoded(folder / "ca.crt")}}}
users:
- name: {user}
  user: {{{secret}}}
contexts:
- name: testbed
  context: {{cluster: testbed, user: {user}}}
current-context: testbed
"""
    )
    path.chmod(0o600)
    return path


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _authority(folder: Path) -> None:
    _key(folder, "ca")
    _key(folder, "sa")
    use = "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"
    argv = ["openssl", "req", "-x509", "-new", "-key", str(folder / "ca.key"), "-days", "30"]
    argv += ["-subj", "/CN=testbed-ca", "-out", str(folder / "ca.crt")]
    run([*argv, "-addext", "basicConstraints=critical,CA:TRUE", "-addext", use], "openssl", FIX)
    argv = ["openssl", "ec", "-in", str(folder / "sa.key"), "-pubout", "-out", str(folder / "sa.pub")]
    run(argv, "openssl", FIX)


def _key(folder: Path, name: str) -> None:
    argv = [
        "openssl",
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        str(folder / f"{name}.key"),
    ]
    run(argv, "openssl", FIX)
    (folder / f"{name}.key").chmod(0o600)


def _signed(folder: Path, name: str, subject: str, use: str, names: str = "") -> None:
    if (folder / f"{name}.crt").exists():
        return
    _key(folder, name)
    key, request, extra = (folder / f"{name}.{end}" for end in ("key", "csr", "ext"))
    run(["openssl", "req", "-new", "-key", str(key), "-subj", subject, "-out", str(request)], "openssl", FIX)
    lines = ["basicConstraints=CA:FALSE", "keyUsage=critical,digitalSignature,keyEncipherment"]
    lines += [f"extendedKeyUsage={use}", *([f"subjectAltName={names}"] if names else [])]
    extra.write_text("\n".join(lines) + "\n")
    argv = ["openssl", "x509", "-req", "-in", str(request), "-CA", str(folder / "ca.crt")]
    argv += ["-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "30", "-extfile", str(extra)]
    run([*argv, "-out", str(folder / f"{name}.crt")], "openssl", FIX)
    request.unlink()
    extra.unlink()
