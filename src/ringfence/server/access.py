"""Who may call what, checked before any route runs: people and connectors by bearer token, agents by certificate.
On everywhere but /v1/health and the sign-in; a route that does not say what it needs is for nobody.

People have rights (`server.rights`) by their session or API token (`server.accounts`). The server's own tokens have
roles: `admin` owns `/`, `connector` may tell of the inventory, `agent` may deliver batches. An agent shows a
certificate on the agents' listener (`server.agents`); a bearer token with that role exists only where the development
switch `agent_tokens` is on. Only hashes of tokens are kept.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from ringfence.inventory.scopes import Tree
from ringfence.model.problems import Problem
from ringfence.server.accounts import Accounts, Principal
from ringfence.server.refusals import Refusal
from ringfence.server.rights import (
    ALL_RIGHTS,
    NO_RIGHTS,
    NONE,
    Ability,
    Rights,
    anywhere,
    everywhere,
)
from ringfence.store.facts import Facts, token_digest

ADMIN, AGENT, CONNECTOR = "admin", "agent", "connector"
FILES = {AGENT: "agent.token", CONNECTOR: "connector.token"}

SIGN_IN = Problem("no valid token", "the Authorization header", "send `Authorization: Bearer TOKEN`")
FORBIDDEN = Problem("this token may not do that", "the Authorization header", "use an admin token")
NO_RIGHT = Problem("you may not do that", "your rights", "see `ringfence whoami`, or ask an owner of `/`")


class Unauthorized(Exception):
    """No token, or one nobody knows: 401."""


class Forbidden(Exception):
    """A token whose rights or role do not reach: 403. `person`: it is no token of the server's own."""

    def __init__(self, person: bool = False) -> None:
        super().__init__()
        self.person = person


class Tokens:
    """The tokens of one server. Look-ups are by hash, so their timing tells nothing of a token."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._roles: dict[bytes, str] = {}

    def open(
        self,
        data: Path,
        given: str | None,
        fresh: bool,
        now: int,
        agents: bool = False,
        connector: str | None = None,
    ) -> str | None:
        """Make what is missing; returns a new admin token to show once, or None.

        The connector's token is written to `data`/connector.token, readable by its owner alone, and with `agents`
        the agents' to `data`/agent.token; without, no token speaks for an agent. `given` and `connector` are tokens
        chosen outside; `fresh` replaces the admin token.
        """
        self._roles = self._facts.roles()
        self._keep(data, CONNECTOR, connector, now)
        if agents:
            self._keep(data, AGENT, None, now)
        else:
            self._facts.drop_tokens(AGENT)
            (data / FILES[AGENT]).unlink(missing_ok=True)
        shown = None
        if given is not None or fresh or ADMIN not in self._roles.values():
            shown = given or secrets.token_urlsafe(32)
            self._facts.drop_tokens(ADMIN)
            self._facts.add_token(shown, ADMIN, now)
        self._roles = self._facts.roles()
        return shown if given is None else None

    def _keep(self, data: Path, role: str, given: str | None, now: int) -> None:
        """A token of `role` in its file, the same as before where there was one."""
        file = data / FILES[role]
        before = file.read_text().strip() if file.exists() else ""
        token = given or (before if self._roles.get(token_digest(before)) == role else None)
        if token is None or token != before or self._roles.get(token_digest(token)) != role:
            token = token or secrets.token_urlsafe(32)
            self._facts.drop_tokens(role)
            self._facts.add_token(token, role, now)
            write_private(file, token + "\n")

    def role(self, header: str | None) -> str | None:
        """The role of an Authorization header's token."""
        token = bearer(header)
        return None if token is None else self._roles.get(token_digest(token))


def signature(header: str | None) -> str:
    """Who acted with a token of the server's own: the first digits of its hash, which tell tokens apart and no more."""
    return "token " + token_digest(bearer(header) or "").hex()[:8]


def bearer(header: str | None) -> str | None:
    """The token of an Authorization header."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


class Needs(NamedTuple):
    """What a route wants of who asks. Of people an `ability`: at `/`, or (`somewhere`) in any scope, the answer being
    narrowed to what is theirs to see; NONE wants a person alone. `machines` are roles that may call it too."""

    ability: int | None = None
    somewhere: bool = False
    machines: tuple[str, ...] = ()
    free: bool = False
    """For everybody, without a token."""
    export: bool = False
    """Whether it hands out data to be kept: it stands in the audit log though it changes nothing."""
    changes: bool | None = None
    """Whether it changes anything; by default whatever is not a GET does."""


def somewhere(ability: Ability, export: bool = False, changes: bool | None = None) -> dict[str, Needs]:
    """`opt` of a route for whoever has the ability in any scope: the route narrows its answer by `rights`."""
    return {"needs": Needs(ability, somewhere=True, export=export, changes=changes)}


def at_root(ability: Ability, *machines: str, export: bool = False) -> dict[str, Needs]:
    """`opt` of a route for whoever has the ability at `/`, and for machines of these roles."""
    return {"needs": Needs(ability, machines=machines, export=export)}


def machines(*roles: str) -> dict[str, Needs]:
    """`opt` of a route for agents or connectors alone."""
    return {"needs": Needs(machines=roles)}


PEOPLE = {"needs": Needs(NONE)}
"""`opt` of a route for any person who signed in, about himself."""
FREE = {"needs": Needs(free=True)}
"""`opt` of a route without a token."""

PRINCIPAL, AGAIN, NOTES = "ringfence.principal", "ringfence.again", "ringfence.notes"
"""Keys of the scope: who asks; a function that asks again; what the audit log is to say."""


def guard(tokens: Tokens, accounts: Accounts, tree: Callable[[], Tree]) -> Callable[[Any, Any], None]:
    """The one check of every route, which says by `opt` what it needs. A route that says nothing is for nobody."""

    def admitted(header: str | None, needs: Needs) -> Principal:
        who = _principal(tokens, accounts, header)
        if who is None:
            raise Unauthorized
        if not _reaches(who, needs, tree):
            raise Forbidden(who.role is None)
        return who

    def check(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        needs: Needs = handler.opt.get("needs", Needs())
        scope: Any = connection.scope
        header = connection.headers.get("authorization")
        if needs.free:
            return
        # Whoever is refused is known to the audit log, too.
        scope[PRINCIPAL] = _principal(tokens, accounts, header)
        scope[PRINCIPAL] = admitted(header, needs)
        scope[AGAIN] = lambda: admitted(header, needs)

    return check


def _principal(tokens: Tokens, accounts: Accounts, header: str | None) -> Principal | None:
    """Whom a request speaks for: one of the server's own tokens, a session or an API token."""
    role = tokens.role(header)
    if role is not None:
        return Principal(signature(header), ALL_RIGHTS if role == ADMIN else NO_RIGHTS, role)
    token = bearer(header)
    return None if token is None else accounts.who(token)


def _reaches(who: Principal, needs: Needs, tree: Callable[[], Tree]) -> bool:
    if who.role in (AGENT, CONNECTOR):
        return who.role in needs.machines
    if needs.ability is None:
        return False
    if needs.ability == NONE:
        return True
    ability = Ability(needs.ability)
    if everywhere(who.rights, ability):
        return True
    return needs.somewhere and anywhere(who.rights, tree(), ability)


def principal(request: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Who asks. Raises Unauthorized where nobody was let in."""
    found = request.scope.get(PRINCIPAL)
    if not isinstance(found, Principal):
        raise Unauthorized
    return found


def rights_of(request: Request[Any, Any, Any]) -> Rights:
    """What who asks may do: the dependency `rights` of every route."""
    return principal(request).rights


def again(request: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Who asks, looked up anew: for requests that last (a stream, a long wait), every few seconds. Raises Refusal
    once the credential is revoked, expired or disabled, or no longer reaches what the route needs."""
    asked = cast("Callable[[], Principal] | None", request.scope.get(AGAIN))
    try:
        if asked is not None:
            return asked()
    except (Unauthorized, Forbidden):
        pass
    raise Refusal("this token is no longer good", "the request", "sign in again")


def note(request: ASGIConnection[Any, Any, Any, Any], **details: Any) -> None:
    """What the audit log is to say of a request beside its route. Never a secret."""
    cast("dict[str, Any]", request.scope).setdefault(NOTES, {}).update(details)


def write_private(file: Path, text: str) -> None:
    """Write a file only its owner can read, in one step."""
    partial = file.with_suffix(".partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(text)
    partial.rename(file)
