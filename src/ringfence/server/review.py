"""Whom a service-account token belongs to, by asking the cluster that made it (TokenReview, authentication.k8s.io/v1).

The token must be for our audience and of the agents' own service account. The node is the one that the API server
itself wrote into the token of a pod (`authentication.kubernetes.io/node-name`, Kubernetes 1.30 and later), so a
token of one node cannot speak for another.
"""

from __future__ import annotations

import http.client
import os
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ringfence.kube.access import Access, credentials, from_kubeconfig, in_cluster, tls
from ringfence.model.problems import Problem
from ringfence.server.enrolment import ASK
from ringfence.server.refusals import Refusal
from ringfence.wire.enrolment import AUDIENCE

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
NODE = "authentication.kubernetes.io/node-name"
TIMEOUT = 10.0
MAX_TOKEN, MAX_ANSWER = 1 << 16, 1 << 20
IN_CLUSTER = "in-cluster"


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] = []


class _Review(msgspec.Struct, frozen=True):
    status: _Status = _Status()


class TokenReviewer:
    """Asks one cluster's API. `account` is NAMESPACE/NAME of the agents' service account."""

    def __init__(self, cluster: str, access: Access, account: str) -> None:
        namespace, slash, name = account.partition("/")
        if not (slash and namespace and name) or "/" in name:
            raise Problem("not a service account", account, "write NAMESPACE/NAME")
        self.cluster = cluster
        self._access = access
        self._user = f"system:serviceaccount:{namespace}:{name}"

    def node_of(self, token: str) -> str:
        """The node of the pod that the token was made for. Raises Refusal, or Problem where nobody answers."""
        if not token or len(token) > MAX_TOKEN:
            raise Refusal("not a service-account token", "the token", ASK)
        spec = {"token": token, "audiences": [AUDIENCE]}
        status, body = _post(
            self._access,
            PATH,
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec},
        )
        if status not in (200, 201):
            raise Problem(
                f"the cluster does not review tokens (HTTP {status})",
                self._access.server,
                "let the server create tokenreviews (ClusterRole system:auth-delegator)",
            )
        try:
            said = msgspec.json.decode(body, type=_Review).status
        except msgspec.DecodeError as error:
            raise Problem(f"not a TokenReview ({error})", self._access.server, "check --review") from None
        return self._judge(said)

    def _judge(self, said: _Status) -> str:
        if not said.authenticated or AUDIENCE not in said.audiences:
            raise Refusal(
                "the cluster does not know this token", "the token", f"use one for audience `{AUDIENCE}`"
            )
        if said.user.username != self._user:
            raise Refusal("a token of another service account", said.user.username, f"use {self._user}")
        nodes = said.user.extra.get(NODE, [])
        if len(nodes) != 1 or not nodes[0]:
            fix = "use a pod's projected token on Kubernetes 1.30 or later, or a one-time token"
            raise Refusal("this token names no node", "the token", fix)
        return nodes[0]


def access_of(review: str, context: str | None) -> Access:
    """`in-cluster`, or the path of a kubeconfig. Raises Problem."""
    return in_cluster(dict(os.environ)) if review == IN_CLUSTER else from_kubeconfig(review, context)


def publish(access: Access, where: str, authority: str) -> None:
    """Write the authority's certificate into a ConfigMap (NAMESPACE/NAME) that agents mount. Raises Problem."""
    namespace, _, name = where.partition("/")
    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    status, _ = _post(access, path, {"data": {"ca.crt": authority}}, "PATCH", "application/merge-patch+json")
    if status != 200:
        fix = "make the ConfigMap and let the server patch it (`ringfence manifests` does both)"
        raise Problem(f"cannot publish the authority (HTTP {status})", where, fix)


def _post(
    access: Access, path: str, body: Any, method: str = "POST", kind: str = "application/json"
) -> tuple[int, bytes]:
    """One request with fresh credentials: token files are replaced while we run."""
    held, parts = credentials(access), urlsplit(access.server)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = tls(access, held)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=TIMEOUT, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    headers = {**held.headers, "Content-Type": kind, "Accept": "application/json"}
    try:
        connection.request(method, parts.path.rstrip("/") + path, msgspec.json.encode(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise Problem(
            f"no answer from the cluster ({error})", access.server, "check --review, or try again"
        ) from None
    finally:
        connection.close()
