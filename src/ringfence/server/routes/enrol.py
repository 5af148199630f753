"""Enrolment: what agents ask on their listener, and what administrators do on the API."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency

from ringfence.flows.present import rfc3339
from ringfence.model.problems import Problem
from ringfence.server.access import AGENT, FREE, at_root, machines, note, principal
from ringfence.server.agents import speaker
from ringfence.server.enrolment import ASK, Enrolment
from ringfence.server.refusals import Refusal
from ringfence.server.rights import OWNER
from ringfence.wire.enrolment import AUTHORITY_PATH, ENROL_PATH, RENEW_PATH, Application

T = TypeVar("T")
MAX_APPLICATION = 1 << 18
"""Largest body of an application, octets."""


class TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a one-time token is for. Without a node it is for any node of the cluster that has no certificate."""

    cluster: str = "default"
    node: str = ""
    seconds: int = 3600


class NodeName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node."""

    node: str
    cluster: str = "default"


@get(AUTHORITY_PATH, opt=FREE, sync_to_thread=False)
def authority(enrolment: NamedDependency[Enrolment]) -> Response:  # type: ignore[type-arg]
    """The certificate of the server's authority, PEM. No secret: compare its fingerprint with the token's."""
    return Response(enrolment.authority.pem, media_type="application/x-pem-file")


@post(ENROL_PATH, opt=FREE, status_code=200, request_max_body_size=MAX_APPLICATION)
async def enrol(request: Request, enrolment: NamedDependency[Enrolment]) -> Response:  # type: ignore[type-arg]
    """A first certificate, for a one-time token or a pod's service-account token."""
    asked = _application(await request.body())
    return Response(msgspec.to_builtins(await asyncio.to_thread(enrolment.enrol, asked)))


@post(RENEW_PATH, opt=machines(AGENT), status_code=200, request_max_body_size=MAX_APPLICATION)
async def renew(request: Request, enrolment: NamedDependency[Enrolment]) -> Response:  # type: ignore[type-arg]
    """The next certificate of the one that asks."""
    who = speaker(request.scope)
    if who is None:
        raise Refusal("no certificate", "the connection", ASK)
    asked = _application(await request.body())
    return Response(msgspec.to_builtins(await asyncio.to_thread(enrolment.renew, who, asked)))


@post("/v1/enrol/tokens", opt=at_root(OWNER), status_code=200)
async def make_token(request: Request, enrolment: NamedDependency[Enrolment]) -> Response:  # type: ignore[type-arg]
    """A one-time token, shown once: `{"token", "cluster", "node", "expires"}`."""
    wish = _body(await request.body(), TokenWish)
    note(request, cluster=wish.cluster, node=wish.node)
    by = principal(request).name
    token, expires = await asyncio.to_thread(enrolment.make_token, wish.cluster, wish.node, wish.seconds, by)
    shown = {"token": token, "cluster": wish.cluster, "node": wish.node or None, "expires": rfc3339(expires)}
    return Response(shown)


@get("/v1/enrol/agents", opt=at_root(OWNER), sync_to_thread=True)
def agents(enrolment: NamedDependency[Enrolment]) -> dict[str, Any]:
    """Each node's newest certificate, and every one that was revoked or copied."""
    rows = enrolment.listed()
    for row in rows:
        for name in ("made", "expires", "seen"):
            row[name] = None if row[name] is None else rfc3339(row[name])
    return {"agents": rows}


@post("/v1/enrol/revoke", opt=at_root(OWNER), status_code=200)
async def revoke(request: Request, enrolment: NamedDependency[Enrolment]) -> Response:  # type: ignore[type-arg]
    """Refuse a node from its next request on, and give it no certificate: `{"revoked": how many it had}`."""
    named = _body(await request.body(), NodeName)
    note(request, cluster=named.cluster, node=named.node)
    return Response({"revoked": await asyncio.to_thread(enrolment.revoke, named.cluster, named.node)})


@post("/v1/enrol/allow", opt=at_root(OWNER), status_code=200)
async def allow(request: Request, enrolment: NamedDependency[Enrolment]) -> Response:  # type: ignore[type-arg]
    """Let a revoked node enrol again."""
    named = _body(await request.body(), NodeName)
    note(request, cluster=named.cluster, node=named.node)
    await asyncio.to_thread(enrolment.allow, named.cluster, named.node)
    return Response({"allowed": True})


def _application(body: bytes) -> Application:
    return _body(body, Application)


def _body(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Problem(f"not understood ({error})", "the body", "see /v1/schema") from None
