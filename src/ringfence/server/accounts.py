"""Users, sessions, API tokens and grants as the server uses them: read at every request, changed seldom.

Goals: what is revoked, disabled or expired is refused at the next request; nobody gives more than he has. Look-ups are
by the hash of a secret, in memory, so that their timing tells nothing of a secret and none costs a disk access.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ringfence.inventory.scopes import Tree
from ringfence.model.problems import Problem
from ringfence.server.passwords import Passwords, Throttle
from ringfence.server.refusals import NotFound, Refusal
from ringfence.server.rights import (
    ABILITIES,
    NO_RIGHTS,
    OWNER,
    READ,
    ROOT,
    Ability,
    Grant,
    Rights,
    ability_at,
    everywhere,
    make_rights,
    meet,
    path_of,
    within,
)
from ringfence.store.accounts import AccountStore, Credential, Granted, User
from ringfence.store.facts import token_digest

SECOND = 1_000_000_000
SESSION = 12 * 3600
"""Seconds for which a sign-in is good."""
LONGEST_TOKEN = 10 * 366 * 86_400
MOST_TOKENS = 1000
"""API tokens of one user."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,98}[a-z0-9])?", re.ASCII)
WRONG = Problem(
    "wrong name or password", "the sign-in", "try again, or ask an owner of `/` for a new password"
)


class Wrong(Problem):
    """A sign-in that failed: 401, in the same words whatever was wrong."""


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `name` is for histories; `role` is that of a server's own token; `user` is None with those.

    `session`: signed in by password, not by an API token. `number` is that of the credential.
    """

    name: str
    rights: Rights = NO_RIGHTS
    role: str | None = None
    user: str | None = None
    session: bool = False
    number: int = 0


class State(msgspec.Struct, frozen=True):
    """Everything about accounts at one moment."""

    users: dict[str, User]
    grants: tuple[Granted, ...]
    rights: dict[str, Rights]
    credentials: dict[bytes, Credential]


class Accounts:
    """The accounts of one server. For many threads. `tree` is the last committed scope tree."""

    def __init__(
        self,
        store: AccountStore,
        clock: Callable[[], int],
        tree: Callable[[], Tree],
        passwords: Passwords | None = None,
    ) -> None:
        self._store, self._clock, self._tree = store, clock, tree
        self._passwords, self._throttle = passwords or Passwords(), Throttle()
        self._lock = threading.RLock()
        self._state = State({}, (), {}, {})

    def start(self) -> None:
        """Read what is kept."""
        self._state = self._read()

    def who(self, token: str) -> Principal | None:
        """Whom a session or an API token lets in, with what it may now."""
        state = self._state
        held = state.credentials.get(token_digest(token))
        if held is None or (held.expires is not None and held.expires <= self._clock()):
            return None
        user = state.users.get(held.user)
        if user is None or user.disabled:
            return None
        rights = state.rights.get(user.name, NO_RIGHTS)
        if held.grants is not None:
            rights = meet(rights, _rights(held.grants), self._tree())
        name = f"token {held.name} of {user.name}" if held.name else f"user {user.name}"
        return Principal(name, rights, None, user.name, not held.name, held.number)

    def knows(self, name: str) -> bool:
        """Whether there is a user of this name: for the audit log, never for who asks."""
        return name in self._state.users

    def sign_in(self, name: str, password: str, address: str) -> tuple[str, int]:
        """(a session's secret, when it expires in UTC ns). Raises Wrong, and Patience after many of those."""
        now = self._clock()
        self._throttle.check(name, address, now)
        user = self._state.users.get(name)
        if not self._passwords.right(user.hash if user else None, password) or user is None or user.disabled:
            self._throttle.wrong(name, address, now)
            raise Wrong(WRONG.what, WRONG.where, WRONG.fix)
        self._throttle.right(name, address)
        with self._lock:
            if self._state.users.get(name) != user:
                # Disabled, or given another password, while this one was checked.
                raise Wrong(WRONG.what, WRONG.where, WRONG.fix)
            self._store.forget_sessions(now)
            secret, made = self._add(user.name, "", None, now, now + SESSION * SECOND, f"user {user.name}")
        return secret, made.expires or 0

    def sign_out(self, by: Principal) -> None:
        """End the session, or the API token, that asks. Raises Refusal for a token of the server's own."""
        if by.user is None:
            raise Refusal("not a session", "the token", "the server's own tokens cannot sign out")
        with self._lock:
            self._store.end_credentials([by.number], self._clock())
            self._state = self._read()

    def change_password(self, by: Principal, old: str, new: str, address: str) -> None:
        """A user's own password; ends his other sessions. Raises Wrong."""
        now = self._clock()
        if by.user is None or not by.session:
            raise Refusal("not a user who signed in", "the sign-in", "sign in with name and password")
        self._throttle.check(by.user, address, now)
        if not self._passwords.right(self._state.users[by.user].hash, old):
            self._throttle.wrong(by.user, address, now)
            raise Wrong(WRONG.what, "old", "give the password you signed in with")
        hashed = self._passwords.make(new)
        with self._lock:
            self._put_user(msgspec.structs.replace(self._user(by.user), hash=hashed))
            self._end_sessions(by.user, but=by.number)

    def users(self) -> list[dict[str, Any]]:
        """Every user with his grants, by name."""
        state = self._state
        return [
            {"name": user.name, "service": user.hash is None, "disabled": user.disabled, "made": user.made}
            | {"grants": grants_body(state.rights.get(user.name, NO_RIGHTS).grants)}
            for user in sorted(state.users.values(), key=lambda each: each.name)
        ]

    def add_user(self, name: str, password: str | None) -> None:
        """A user, or without password a service account. Raises Problem."""
        if not _NAME.fullmatch(name):
            fix = "use a-z, 0-9, `.`, `_`, `@` and `-`, at most 100"
            raise Problem("not a name for a user", "name", fix)
        hashed = None if password is None else self._passwords.make(password)
        with self._lock:
            if name in self._state.users:
                raise Problem(f"there is a user `{name}`", "name", "choose another name")
            self._put_user(User(name, hashed, self._clock()))

    def set_user(self, name: str, password: str | None, disabled: bool | None) -> None:
        """Another password, or let him in no more (or again); ends his sessions. Raises NotFound and Problem."""
        self._user(name)
        hashed = None if password is None else self._passwords.make(password)
        with self._lock:
            user = self._user(name)
            if hashed is not None and user.hash is None:
                raise Problem(f"`{name}` is a service account", "password", "make it a token")
            if disabled and self._last_owner(name):
                raise Refusal(f"`{name}` is the last owner of `/`", "disabled", "grant it to another first")
            now_disabled = user.disabled if disabled is None else disabled
            self._put_user(msgspec.structs.replace(user, hash=hashed or user.hash, disabled=now_disabled))
            self._end_sessions(name)

    def grants(self, by: Principal) -> list[Granted]:
        """The grants somebody may look at: his own, and those in scopes he owns."""
        tree = self._tree()
        return [
            grant
            for grant in self._state.grants
            if grant.user == by.user or self._owns(by, tree, grant.scope)
        ]

    def grant(self, by: Principal, user: str, scope: str, ability: Ability) -> Granted:
        """Give an ability, in place of what the user had on this scope. Raises Refusal and NotFound."""
        self._check_owner(by, scope)
        with self._lock:
            self._user(user)
            if ability < OWNER and scope == ROOT and self._last_owner(user):
                raise Refusal(f"`{user}` is the last owner of `/`", "ability", "grant it to another first")
            made = Granted(user, scope, int(ability), self._clock(), by.name)
            self._store.put_grant(made)
            self._state = self._read()
        return made

    def take(self, by: Principal, user: str, scope: str) -> None:
        """Take a grant away. Raises Refusal and NotFound."""
        if not (everywhere(by.rights, OWNER) and not path_of(self._tree(), scope)):
            # A grant on a scope that is gone is the root's business.
            self._check_owner(by, scope)
        with self._lock:
            if not any((one.user, one.scope) == (user, scope) for one in self._state.grants):
                raise NotFound(f"no grant of `{user[:60]}` on `{scope[:60]}`", "user, scope", "see `ringfence grant list`")  # fmt: skip
            if scope == ROOT and self._last_owner(user):
                raise Refusal(f"`{user}` is the last owner of `/`", "scope", "grant it to another first")
            self._store.drop_grant(user, scope)
            self._state = self._read()

    def tokens(self, by: Principal) -> list[Credential]:
        """The API tokens somebody may look at: his own, and all for an owner of `/`."""
        every = everywhere(by.rights, OWNER)
        held = (one for one in self._state.credentials.values() if one.name)
        return sorted((one for one in held if every or one.user == by.user), key=lambda each: each.number)

    def make_token(
        self,
        by: Principal,
        user: str | None,
        name: str,
        grants: Sequence[Grant] | None,
        seconds: int | None,
    ) -> tuple[str, Credential]:
        """(an API token's secret, shown once; what is kept of it). `user` is the maker himself, or a service account.

        Raises Refusal for whoever may not, and for grants that are not the maker's.
        """
        if not _NAME.fullmatch(name):
            raise Problem(
                "not a name for a token", "name", "use a-z, 0-9, `.`, `_`, `@` and `-`, at most 100"
            )
        if seconds is not None and not 1 <= seconds <= LONGEST_TOKEN:
            raise Problem(f"a token for {seconds} s", "seconds", f"use 1 to {LONGEST_TOKEN}")
        if by.role is None and not by.session:
            raise Refusal("a token may not make tokens", "the token", "sign in with name and password")
        owner = self._for(by, user)
        if grants is not None and not within(grants, by.rights, self._tree()):
            raise Refusal("more than its maker may", "grants", "leave out what you have not got yourself")
        with self._lock:
            if (
                sum(one.user == owner and bool(one.name) for one in self._state.credentials.values())
                >= MOST_TOKENS
            ):
                raise Problem(f"{MOST_TOKENS} tokens of one user", owner, "revoke some")
            now = self._clock()
            expires = None if seconds is None else now + seconds * SECOND
            kept = None if grants is None else tuple((one.scope, int(one.ability)) for one in grants)
            return self._add(owner, name, kept, now, expires, by.name)

    def revoke(self, by: Principal, number: int) -> Credential:
        """End an API token at once. Raises NotFound for one that somebody may not look at."""
        with self._lock:
            found = next((one for one in self.tokens(by) if one.number == number), None)
            if found is None:
                raise NotFound(f"no token {number}", "number", "see `ringfence token list`")
            self._store.end_credentials([number], self._clock())
            self._state = self._read()
        return found

    def _for(self, by: Principal, user: str | None) -> str:
        """Whose a new token is."""
        if user is None or user == by.user:
            if by.user is None:
                fix = "name a service account: `ringfence user add NAME --service`"
                raise Problem("a token of nobody", "user", fix)
            return by.user
        if not everywhere(by.rights, OWNER):
            raise Refusal("a token of somebody else", "user", "ask an owner of `/`")
        if self._user(user).hash is not None:
            raise Refusal("a token of another person", "user", "name a service account")
        return user

    def _check_owner(self, by: Principal, scope: str) -> None:
        """Raise Refusal for who does not own a scope, and NotFound where he does not even see it."""
        tree = self._tree()
        if not path_of(tree, scope) or ability_at(by.rights, tree, scope) < READ:
            raise NotFound(f"no scope `{scope[:60]}`", "scope", "see `ringfence scope tree`; `/` is all")
        if not self._owns(by, tree, scope):
            raise Refusal("only owners of a scope grant in it", f"scope {scope[:60]}", "ask one of them")

    def _owns(self, by: Principal, tree: Tree, scope: str) -> bool:
        return everywhere(by.rights, OWNER) or ability_at(by.rights, tree, scope) >= OWNER

    def _last_owner(self, name: str) -> bool:
        """Whether nobody but this user, of those who can sign in, owns `/`."""
        state = self._state
        owners = {
            user.name
            for user in state.users.values()
            if user.hash is not None
            and not user.disabled
            and everywhere(state.rights.get(user.name, NO_RIGHTS), OWNER)
        }
        return owners == {name}

    def _user(self, name: str) -> User:
        found = self._state.users.get(name)
        if found is None:
            raise NotFound(f"no user `{name[:60]}`", "user", "see `ringfence user list`")
        return found

    def _put_user(self, user: User) -> None:
        self._store.put_user(user)
        self._state = self._read()

    def _end_sessions(self, name: str, but: int = 0) -> None:
        held = self._state.credentials.values()
        ended = [one.number for one in held if one.user == name and not one.name and one.number != but]
        self._store.end_credentials(ended, self._clock())
        self._state = self._read()

    def _add(
        self,
        user: str,
        name: str,
        grants: tuple[tuple[str, int], ...] | None,
        now: int,
        expires: int | None,
        by: str,
    ) -> tuple[str, Credential]:
        secret = secrets.token_urlsafe(32)
        made = Credential(0, token_digest(secret), user, name, grants, now, expires, None, by)
        made = msgspec.structs.replace(made, number=self._store.add_credential(made))
        self._state = self._read()
        return secret, made

    def _read(self) -> State:
        grants = tuple(self._store.grants())
        by_user: dict[str, list[Grant]] = {}
        for one in grants:
            by_user.setdefault(one.user, []).append(Grant(one.scope, Ability(one.ability)))
        rights = {user: make_rights(held) for user, held in by_user.items()}
        return State(
            self._store.users(), grants, rights, {one.digest: one for one in self._store.credentials()}
        )


def grants_body(grants: Iterable[Grant]) -> list[dict[str, str]]:
    """Grants as answers show them."""
    return [{"scope": one.scope, "ability": one.ability.name.lower()} for one in grants]


def ability_name(number: int) -> str:
    """An ability as people write it."""
    return next(name for name, ability in ABILITIES.items() if ability == number)


def _rights(grants: Iterable[tuple[str, int]]) -> Rights:
    return make_rights(Grant(scope, Ability(ability)) for scope, ability in grants)
