"""Who is who: sign-in and out, users, grants, API tokens. Secrets go out once and are kept nowhere."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from ringfence.flows.present import rfc3339
from ringfence.model.problems import Problem
from ringfence.server.access import FREE, PEOPLE, at_root, note, principal
from ringfence.server.accounts import ability_name, grants_body
from ringfence.server.rights import OWNER, Grant, ability_of
from ringfence.server.service import Service
from ringfence.store.accounts import Credential, Granted
from ringfence.store.audit import verify

MAX_BODY = 64 << 10

UserName = Annotated[str, PathParameter(description="name of a user")]
OfUser = Annotated[str, QueryParameter(description="name of a user")]
OnScope = Annotated[str, QueryParameter(name="scope", description="name of a scope; `/` is all")]


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name and its password."""

    user: str
    password: str


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password that was, and the one that is to be."""

    old: str
    new: str


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user; without `password` a service account, which has API tokens alone."""

    name: str
    password: str | None = None


class UserEdit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a user; null is left as it is."""

    password: str | None = None
    disabled: bool | None = None


class GrantWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An ability in a scope and below it."""

    user: str
    scope: str
    ability: str


class ScopeAbility(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One grant of a token."""

    scope: str
    ability: str


class TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An API token: of its maker, or of the service account `user`. `grants` null: all that its user may.
    `seconds` null: until it is revoked."""

    name: str
    user: str | None = None
    grants: tuple[ScopeAbility, ...] | None = None
    seconds: int | None = None


@post("/v1/login", opt=FREE, status_code=200, request_max_body_size=MAX_BODY)
async def sign_in(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[SignIn],
) -> dict[str, Any]:
    """A session for a name and its password: `token` is shown once. 401 in the same words whatever was wrong; 429
    with `Retry-After` after several wrong passwords."""
    # A password typed in place of a name stays out of the log.
    note(request, user=data.user if service.accounts.knows(data.user) else "unknown")
    given = (data.user, data.password, _address(request))
    token, expires = await asyncio.to_thread(service.accounts.sign_in, *given)
    return {"token": token, "user": data.user, "expires": rfc3339(expires)}


@post("/v1/logout", opt=PEOPLE, status_code=200)
async def sign_out(request: Request, service: NamedDependency[Service]) -> dict[str, Any]:  # type: ignore[type-arg]
    """End the session, or the API token, that asks."""
    await asyncio.to_thread(service.accounts.sign_out, principal(request))
    return {"ended": True}


@get("/v1/whoami", opt=PEOPLE, sync_to_thread=False)
def whoami(request: Request) -> dict[str, Any]:  # type: ignore[type-arg]
    """Who asks, and what he may: `grants`, each of which holds in the scopes below its own too."""
    who = principal(request)
    return {"name": who.name, "user": who.user, "grants": grants_body(who.rights.grants)}


@put("/v1/password", opt=PEOPLE, request_max_body_size=MAX_BODY)
async def password(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[NewPassword],
) -> dict[str, Any]:
    """Change the password of the user who signed in; his other sessions end."""
    given = (principal(request), data.old, data.new, _address(request))
    await asyncio.to_thread(service.accounts.change_password, *given)
    return {"changed": True}


@get("/v1/users", opt=at_root(OWNER))
async def users(service: NamedDependency[Service]) -> dict[str, Any]:
    """Every user with his grants."""
    return {"users": [{**one, "made": rfc3339(one["made"])} for one in service.accounts.users()]}


@post("/v1/users", opt=at_root(OWNER), status_code=200, request_max_body_size=MAX_BODY)
async def add_user(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[NewUser],
) -> dict[str, Any]:
    """Add a user, who may nothing until something is granted."""
    note(request, user=data.name[:100], service=data.password is None)
    await asyncio.to_thread(service.accounts.add_user, data.name, data.password)
    return {"name": data.name, "service": data.password is None}


@put("/v1/users/{name:str}", opt=at_root(OWNER), request_max_body_size=MAX_BODY)
async def set_user(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    name: UserName,
    data: JSONBody[UserEdit],
) -> dict[str, Any]:
    """Give a user another password, or let him in no more (or again); his sessions end at once."""
    note(request, disabled=data.disabled, password="changed" if data.password is not None else "as it was")
    await asyncio.to_thread(service.accounts.set_user, name, data.password, data.disabled)
    return {"name": name}


@get("/v1/grants", opt=PEOPLE)
async def grants(request: Request, service: NamedDependency[Service]) -> dict[str, Any]:  # type: ignore[type-arg]
    """One's own grants, and those in scopes one owns."""
    return {"grants": [_grant_body(one) for one in service.accounts.grants(principal(request))]}


@put("/v1/grants", opt=PEOPLE, request_max_body_size=MAX_BODY)
async def grant(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[GrantWish],
) -> dict[str, Any]:
    """Give a user an ability in a scope one owns, in place of what he had there. Nobody gives more than he has."""
    note(request, user=data.user[:100], scope=data.scope[:253], ability=data.ability[:20])
    given = (principal(request), data.user, data.scope, ability_of(data.ability))
    return _grant_body(await asyncio.to_thread(service.accounts.grant, *given))


@delete("/v1/grants", opt=PEOPLE, status_code=200)
async def take(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    user: OfUser,
    place: OnScope,
) -> dict[str, Any]:
    """Take a user's grant on a scope one owns. The last owner of `/` stays."""
    await asyncio.to_thread(service.accounts.take, principal(request), user, place)
    return {"user": user, "scope": place}


@get("/v1/tokens", opt=PEOPLE)
async def tokens(request: Request, service: NamedDependency[Service]) -> dict[str, Any]:  # type: ignore[type-arg]
    """One's own API tokens, or all for an owner of `/`; never their secrets."""
    return {"tokens": [_token_body(one) for one in service.accounts.tokens(principal(request))]}


@post("/v1/tokens", opt=PEOPLE, status_code=200, request_max_body_size=MAX_BODY)
async def make_token(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[TokenWish],
) -> dict[str, Any]:
    """Make an API token; `token` is shown once. It never reaches further than its user does."""
    given = [Grant(one.scope, ability_of(one.ability)) for one in data.grants or ()]
    wanted = None if data.grants is None else given
    note(request, name=data.name[:100], user=(data.user or "")[:100], grants=grants_body(given))
    asked = (principal(request), data.user, data.name, wanted, data.seconds)
    secret, made = await asyncio.to_thread(service.accounts.make_token, *asked)
    return {"token": secret, **_token_body(made)}


@delete("/v1/tokens", opt=PEOPLE, status_code=200)
async def revoke(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    number: Annotated[int, QueryParameter(description="number of a token, as the list shows it", ge=1)],
) -> dict[str, Any]:
    """Revoke an API token: it is refused from the next request on."""
    ended = await asyncio.to_thread(service.accounts.revoke, principal(request), number)
    return _token_body(ended)


@get("/v1/audit", opt=at_root(OWNER, export=True), sync_to_thread=True)
def audit(
    service: NamedDependency[Service],
    after: Annotated[
        int | None, QueryParameter(description="entries behind this number; by default the last ones", ge=0)
    ] = None,
    limit: Annotated[int, QueryParameter(description="most entries to answer", ge=1, le=10_000)] = 100,
) -> dict[str, Any]:
    """The audit log, oldest first, and its head: keep that elsewhere, and `verify` tells whether the end was cut off."""
    if after is None:
        found = service.audit.latest(limit)[::-1]
    else:
        found = list(service.audit.entries(after, limit))
    number, head = service.audit.head()
    rows = [
        {
            **msgspec.structs.asdict(one),
            "at": rfc3339(one.at),
            "details": msgspec.json.decode(one.details),
            "previous": one.previous.hex(),
            "hash": one.hash.hex(),
        }
        for one in found
    ]
    return {"entries": rows, "head": {"number": number, "hash": head.hex()}}


@get("/v1/audit/verify", opt=at_root(OWNER), sync_to_thread=True)
def verify_audit(
    service: NamedDependency[Service],
    head: Annotated[str | None, QueryParameter(description="a head that was kept, 64 digits")] = None,
) -> dict[str, Any]:
    """Whether the log is as it was written: `broken` is the first entry that is not, and why."""
    number, last = service.audit.head()
    broken = verify(service.audit.entries(), _head(head))
    body = None if broken is None else msgspec.structs.asdict(broken)
    return {"broken": body, "head": {"number": number, "hash": last.hex()}}


def _head(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise Problem("not a head", "head", "write the 64 digits that `ringfence audit list` shows")
    return found


def _address(request: Request[Any, Any, Any]) -> str:
    return request.client.host if request.client else ""


def _grant_body(one: Granted) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(one),
        "ability": ability_name(one.ability),
        "at": rfc3339(one.at),
    }


def _token_body(one: Credential) -> dict[str, Any]:
    granted = None
    if one.grants is not None:
        granted = [{"scope": scope, "ability": ability_name(ability)} for scope, ability in one.grants]
    return {
        "number": one.number,
        "user": one.user,
        "name": one.name,
        "grants": granted,
        "made": rfc3339(one.made),
        "expires": None if one.expires is None else rfc3339(one.expires),
        "by": one.by,
    }
