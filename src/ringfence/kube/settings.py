"""What a connector must know, and whether it can work."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ringfence.kube.access import Access, direct, from_kubeconfig, in_cluster
from ringfence.model.problems import Problem


class ClusterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cluster and how to reach it. One of `kubeconfig`, `api`, or neither: in a pod, its service account."""

    cluster: str
    """Name of the cluster; part of every key, so two clusters must not share one."""
    kubeconfig: str | None = None
    """Kubeconfig that names the Kubernetes API and how to be let in."""
    context: str | None = None
    """Context of the kubeconfig; its current one where absent."""
    api: str | None = None
    """The Kubernetes API's URL."""
    token_file: str | None = None
    """File with a bearer token for `api`."""


class ConnectorSettings(msgspec.Struct, frozen=True):
    """What a connector must know: one cluster in the first fields, or several in `clusters`."""

    server: str
    """The Ringfence server, e.g. http://10.0.0.5:8443."""
    cluster: str | None = None
    """Name of the cluster; part of every key, so two clusters must not share one."""
    server_token_file: str | None = None
    """File with the server's connector token; RINGFENCE_CONNECTOR_TOKEN where absent."""
    server_ca_file: str | None = None
    """File with the authority (PEM) of the server's certificate; the system's authorities where absent."""
    kubeconfig: str | None = None
    """Kubeconfig that names the Kubernetes API and how to be let in."""
    context: str | None = None
    """Context of the kubeconfig; its current one where absent."""
    api: str | None = None
    """The Kubernetes API's URL."""
    token_file: str | None = None
    """File with a bearer token for `api`."""
    clusters: tuple[ClusterSettings, ...] = ()
    """Several clusters in one process, in a `--config` file: each with cluster, kubeconfig, context, api, token_file."""
    checkpoint_seconds: float = 120.0
    """How often the server is given what a restart needs. The Kubernetes API forgets after five minutes."""


def clusters_of(settings: ConnectorSettings) -> tuple[ClusterSettings, ...]:
    """Every cluster to follow, each checked as far as that needs no file. Raises Problem."""
    own = ClusterSettings(
        settings.cluster or "", settings.kubeconfig, settings.context, settings.api, settings.token_file
    )
    if settings.clusters and own != ClusterSettings(""):
        raise Problem(
            "both one cluster and `clusters`", "connector", "move it into `clusters`, or leave those out"
        )
    found = settings.clusters or (own,)
    for each in found:
        _check(each)
    names = [each.cluster for each in found]
    for name in names:
        if names.count(name) > 1:
            raise Problem(f"cluster `{name}` twice", "connector", "give every cluster a name of its own")
    return found


def _check(one: ClusterSettings) -> None:
    if not one.cluster:
        raise Problem("no cluster", "connector", "give --cluster, or `clusters:` in a --config file")
    if one.api and one.kubeconfig:
        raise Problem("both --api and --kubeconfig", _where(one), "give one of them")
    if one.context and not one.kubeconfig:
        raise Problem("a context without a kubeconfig", _where(one), "give --kubeconfig")
    if one.token_file and not one.api:
        raise Problem(
            "a token file without --api", _where(one), "give --api, or name the file in the kubeconfig"
        )
    if one.api:
        direct(one.api, None)


def _where(one: ClusterSettings) -> str:
    return f"cluster {one.cluster}"


def access_to(one: ClusterSettings) -> Access:
    """How to reach one cluster. Reads its files; raises Problem."""
    if one.api:
        return direct(one.api, one.token_file)
    if one.kubeconfig:
        return from_kubeconfig(one.kubeconfig, one.context)
    return in_cluster(dict(os.environ))


def server_token(settings: ConnectorSettings) -> str:
    """The token for the Ringfence server; empty where there is none. Raises Problem."""
    if not settings.server_token_file:
        return os.environ.get("RINGFENCE_CONNECTOR_TOKEN", "")
    try:
        return Path(settings.server_token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not text"
        raise Problem(
            f"cannot read the token ({what})", settings.server_token_file, "check --server-token-file"
        ) from None
