"""What an API server says of itself: its version, which cluster it is, which kinds it has. Few, cheap requests."""

from __future__ import annotations

import msgspec

from ringfence.kube import discovery
from ringfence.kube.client import ABSENT, FORBIDDEN, NOT_MODIFIED, Api, Refused
from ringfence.kube.discovery import Served


class Kinds:
    """The kinds that a server has, asked for again and again; `ask` answers None when nothing has changed."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._tag = ""

    async def ask(self) -> Served | None:
        """One request, or one a group where the server has no aggregated discovery. Raises Refused."""
        fields = {"Accept": discovery.ACCEPT} | ({"If-None-Match": self._tag} if self._tag else {})
        try:
            head, body = await self._api.get("/apis", fields)
        except Refused as refused:
            if refused.status in (FORBIDDEN, ABSENT):
                return discovery.everything()
            raise
        if head.status == NOT_MODIFIED:
            return None
        try:
            served = discovery.aggregated(body)
            if served is None:
                return await self._one_by_one(body)
        except msgspec.MsgspecError as error:
            raise Refused(0, f"not a discovery document: {error}") from None
        self._tag = head.headers.get("etag", "")
        return served

    async def _one_by_one(self, body: bytes) -> Served:
        resources: dict[discovery.Wanted, frozenset[str]] = {}
        stale: set[str] = set()
        for group, version in discovery.wanted(body):
            try:
                _, answer = await self._api.get(f"/apis/{group}/{version}")
                resources[(group, version)] = discovery.resources_of(answer)
            except Refused as refused:
                if refused.status != ABSENT:
                    stale.add(group)
        return discovery.plain(resources, stale)


class _Version(msgspec.Struct):
    gitVersion: str | None = None


async def version_of(api: Api) -> str | None:
    """`v1.34.9`; empty when the server does not say it; None when it did not answer."""
    try:
        _, body = await api.get("/version")
        return msgspec.json.decode(body, type=_Version).gitVersion or ""
    except Refused as refused:
        return "" if refused.status in (FORBIDDEN, ABSENT) else None
    except msgspec.MsgspecError:
        return ""


class _Meta(msgspec.Struct):
    uid: str | None = None


class _Object(msgspec.Struct):
    metadata: _Meta | None = None


class _Objects(msgspec.Struct):
    items: list[_Object] | None = None


async def identity_of(api: Api) -> str:
    """The UID of `kube-system`, which a cluster keeps for life; empty where it may not be seen. Raises Refused."""
    try:
        _, body = await api.get("/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system")
        found = msgspec.json.decode(body, type=_Objects).items or []
    except Refused as refused:
        if refused.status in (FORBIDDEN, ABSENT):
            return ""
        raise
    except msgspec.MsgspecError:
        return ""
    uids = [each.metadata.uid for each in found if each.metadata and each.metadata.uid]
    # A server that ignores the field selector answers with every namespace, and then we do not know.
    return uids[0] if len(uids) == 1 else ""
