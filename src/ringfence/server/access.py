"""Who may call what, checked before any route runs: people and connectors by bearer token, agents by certificate.
On everywhere but /v1/health.

Roles: `admin` may do everything but speak for a node, `connector` may tell of the inventory, `agent` may deliver
batches. An agent shows a certificate on the agents' listener (`server.agents`); a bearer token with that role exists
only where the development switch `agent_tokens` is on. Only hashes of tokens are kept.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from ringfence.model.problems import Problem
from ringfence.store.facts import Facts, token_digest

ADMIN, AGENT, CONNECTOR = "admin", "agent", "connector"
FILES = {AGENT: "agent.token", CONNECTOR: "connector.token"}

SIGN_IN = Problem("no valid token", "the Authorization header", "send `Authorization: Bearer TOKEN`")
FORBIDDEN = Problem("this token may not do that", "the Authorization header", "use an admin token")


class Unauthorized(Exception):
    """No token, or one nobody knows: 401."""


class Forbidden(Exception):
    """A token whose role does not reach: 403."""


class Refusal(Problem):
    """Somebody who may not, with the reason: 403."""


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
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        return self._roles.get(token_digest(token.strip()))


def signature(header: str | None) -> str:
    """Who acted, as histories show it: the first digits of the token's hash, which tell tokens apart and no more."""
    return "token " + token_digest((header or "").partition(" ")[2].strip()).hex()[:8]


def guard(tokens: Tokens) -> Callable[[ASGIConnection, BaseRouteHandler], None]:  # type: ignore[type-arg]
    """The one check of every route. A route says `roles=(...)`; without, it is for admins; `()` is for all."""

    def check(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        roles = handler.opt.get("roles", (ADMIN,))
        if not roles:
            return
        role = tokens.role(connection.headers.get("authorization"))
        if role is None:
            raise Unauthorized
        if role not in roles:
            raise Forbidden

    return check


def write_private(file: Path, text: str) -> None:
    """Write a file only its owner can read, in one step."""
    partial = file.with_suffix(".partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(text)
    partial.rename(file)
