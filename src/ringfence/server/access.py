"""Who may call what: bearer tokens by role, checked before any route runs. On everywhere but /v1/health.

Roles: `admin` may do everything, `agent` may only ingest (agents and connectors). Only hashes are kept.
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

ADMIN, AGENT = "admin", "agent"
AGENT_FILE = "agent.token"

SIGN_IN = Problem("no valid token", "the Authorization header", "send `Authorization: Bearer TOKEN`")
FORBIDDEN = Problem("this token may not do that", "the Authorization header", "use an admin token")


class Unauthorized(Exception):
    """No token, or one nobody knows: 401."""


class Forbidden(Exception):
    """A token whose role does not reach: 403."""


class Tokens:
    """The tokens of one server. Look-ups are by hash, so their timing tells nothing of a token."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._roles: dict[bytes, str] = {}

    def open(self, data: Path, given: str | None, fresh: bool, now: int) -> str | None:
        """Make what is missing; returns a new admin token to show once, or None.

        The agent token is written to `data`/agent.token, readable by its owner alone. `given` is an admin token
        chosen outside; `fresh` replaces the admin token.
        """
        self._roles = self._facts.roles()
        file = data / AGENT_FILE
        if not file.exists() or self._roles.get(token_digest(file.read_text().strip())) != AGENT:
            self._facts.drop_tokens(AGENT)
            self._facts.add_token(token := secrets.token_urlsafe(32), AGENT, now)
            write_private(file, token + "\n")
        shown = None
        if given is not None or fresh or ADMIN not in self._roles.values():
            shown = given or secrets.token_urlsafe(32)
            self._facts.drop_tokens(ADMIN)
            self._facts.add_token(shown, ADMIN, now)
        self._roles = self._facts.roles()
        return shown if given is None else None

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
