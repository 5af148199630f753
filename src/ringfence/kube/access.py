"""How to reach a cluster's API: a kubeconfig's context, a pod's service account, or a URL with a token file.

Reads files and runs credential plugins; talks to nobody.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ringfence.model.problems import Problem

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PLUGIN_SECONDS = 60


class Plugin(msgspec.Struct, frozen=True):
    """A credential plugin of a kubeconfig (client-go credential plugins, `exec`)."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    version: str = "client.authentication.k8s.io/v1"


class Access(msgspec.Struct, frozen=True):
    """A server and how to be let in. `authority` is PEM; None trusts the system's authorities."""

    server: str
    authority: str | None = None
    insecure: bool = False
    server_name: str | None = None
    token: str | None = None
    token_file: str | None = None
    basic: tuple[str, str] | None = None
    certificate: str | None = None
    """Client certificate and key, both PEM."""
    key: str | None = None
    plugin: Plugin | None = None


class Credentials(msgspec.Struct, frozen=True):
    """What a request carries right now."""

    headers: dict[str, str] = {}
    certificate: str | None = None
    key: str | None = None


def direct(url: str, token_file: str | None) -> Access:
    """A URL, with the token in a file where one is needed."""
    if not url.startswith(("http://", "https://")):
        raise Problem("not a URL", url, "write http://HOST:PORT or https://HOST:PORT")
    return Access(url.rstrip("/"), token_file=token_file)


def in_cluster(environment: dict[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """The service account of the pod we run in."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (folder / "token").exists():
        raise Problem("no cluster to follow", "connector", "run it in a pod, or give --kubeconfig or --api")
    host = f"[{host}]" if ":" in host else host
    return Access(
        f"https://{host}:{port}", authority=_read(folder / "ca.crt"), token_file=str(folder / "token")
    )


def from_kubeconfig(path: str, context: str | None) -> Access:
    """One context of a kubeconfig; its current one when `context` is None. Raises Problem, naming what lacks."""
    file = Path(path).expanduser()
    document = _document(file)
    name = context or document.get("current-context")
    if not name:
        raise Problem("no context", path, "set current-context in the file or give --context")
    chosen = _named(document, "contexts", "context", name, path)
    cluster = _named(document, "clusters", "cluster", chosen.get("cluster"), path)
    user = _named(document, "users", "user", chosen.get("user"), path) if chosen.get("user") else {}
    if not isinstance(cluster.get("server"), str):
        raise Problem("cluster without a server", f"{path}: {chosen.get('cluster')}", "give it a server URL")
    basic = (user["username"], user.get("password") or "") if user.get("username") else None
    return Access(
        server=cluster["server"].rstrip("/"),
        authority=_pem(cluster, "certificate-authority", file),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name"),
        token=user.get("token"),
        token_file=_beside(file, user["tokenFile"]) if user.get("tokenFile") else None,
        basic=basic,
        certificate=_pem(user, "client-certificate", file),
        key=_pem(user, "client-key", file),
        plugin=_plugin(user.get("exec"), file),
    )


def credentials(access: Access) -> Credentials:
    """Fresh credentials: token files are read and plugins run each time, because both expire."""
    if access.plugin is not None:
        return _from_plugin(access.plugin)
    token = access.token
    if access.token_file is not None:
        token = _read(Path(access.token_file)).strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if access.basic and not token:
        pair = base64.b64encode(":".join(access.basic).encode()).decode()
        headers = {"Authorization": f"Basic {pair}"}
    return Credentials(headers, access.certificate, access.key)


def tls(access: Access, held: Credentials) -> ssl.SSLContext:
    """The TLS context: the cluster's authority, and our certificate where we have one."""
    try:
        context = ssl.create_default_context(cadata=access.authority)
        if access.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if held.certificate and held.key:
            _present(context, held.certificate, held.key)
    except ssl.SSLError as error:
        raise Problem(
            f"bad certificate ({error.reason})", access.server, "check the kubeconfig's certificates"
        ) from None
    return context


def _present(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Python takes client certificates from files only, so both live in a private one for a moment."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{certificate}\n{key}\n")
        file.flush()
        context.load_cert_chain(file.name)


def _document(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(_read(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}: line {mark.line + 1}" if mark else str(file)
        raise Problem("not a kubeconfig", where, "give a kubeconfig in YAML") from None
    if not isinstance(document, dict) or not isinstance(document.get("clusters"), list):
        raise Problem("not a kubeconfig", str(file), "it must hold clusters, contexts and users")
    return document


def _named(document: dict[str, Any], plural: str, field: str, name: Any, path: str) -> dict[str, Any]:
    for entry in document.get(plural) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(field), dict):
            return dict(entry[field])
    known = ", ".join(str(e.get("name")) for e in document.get(plural) or () if isinstance(e, dict)) or "none"
    raise Problem(f"no {field} named {name}", path, f"known: {known}")


def _pem(entry: dict[str, Any], field: str, file: Path) -> str | None:
    """A PEM given inline in base64 (`FIELD-data`) or as a file relative to the kubeconfig (`FIELD`)."""
    if entry.get(f"{field}-data"):
        try:
            return base64.b64decode(entry[f"{field}-data"], validate=False).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Problem("not base64", f"{file}: {field}-data", "copy the value again") from None
    return _read(Path(_beside(file, entry[field]))) if entry.get(field) else None


def _beside(file: Path, name: str) -> str:
    return str(file.parent / name)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not text"
        raise Problem(f"cannot read ({what})", str(file), "check the path and its permissions") from None


def _plugin(entry: Any, file: Path) -> Plugin | None:
    if not isinstance(entry, dict) or not entry.get("command"):
        return None
    command = str(entry["command"])
    # A command with a slash is relative to the kubeconfig, as client-go has it.
    command = _beside(file, command) if os.sep in command else command
    environment = tuple((str(e["name"]), str(e["value"])) for e in entry.get("env") or ())
    return Plugin((command, *map(str, entry.get("args") or ())), environment, str(entry.get("apiVersion")))


def _from_plugin(plugin: Plugin) -> Credentials:
    wish = {"apiVersion": plugin.version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {**os.environ, **dict(plugin.environment), "KUBERNETES_EXEC_INFO": json.dumps(wish)}
    where, fix = plugin.argv[0], "run the credential plugin by hand and see what it says"
    try:
        done = subprocess.run(
            plugin.argv, env=environment, capture_output=True, timeout=PLUGIN_SECONDS, check=False
        )
        status = json.loads(done.stdout)["status"] if done.returncode == 0 else {}
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise Problem(f"credential plugin failed ({type(error).__name__})", where, fix) from None
    if done.returncode:
        raise Problem(f"credential plugin failed (exit {done.returncode})", where, fix)
    token = status.get("token")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Credentials(headers, status.get("clientCertificateData"), status.get("clientKeyData"))
