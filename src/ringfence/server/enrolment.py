"""Who gets a certificate, whose certificate is still good, and which one was copied.

Goals: a node can only be spoken for by what was given to it; whoever is revoked or noticed as a copy is refused from
the next request on, over open connections too; every refusal has a reason that `ringfence enrol list` shows. The
trade-off: a copy locks out the original as well, because nobody can tell them apart; it must enrol again.

One instance in one process: the states are held in memory and written through.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from ringfence.model.problems import Problem
from ringfence.server.authority import Authority, key_digest, pem_of, serial_of
from ringfence.server.clones import Life
from ringfence.server.refusals import Refusal
from ringfence.store.facts import token_digest
from ringfence.store.identities import Certificate, Identities, Offer
from ringfence.wire.checks import MAX_NAME
from ringfence.wire.enrolment import Application, Issued, read_token, write_token

SECOND = 1_000_000_000
LONGEST_TOKEN = 7 * 86_400
"""Seconds a one-time token may be good for."""
KEPT = 30 * 86_400 * SECOND
"""How long what ran out is still listed, nanoseconds."""
ASK = "enrol the agent again: `ringfence enrol token`"


class Reviewer(Protocol):
    """Asks a cluster whom a service-account token belongs to."""

    cluster: str

    def node_of(self, token: str) -> str:
        """The node of the pod it was made for. Raises Problem."""


class Who(msgspec.Struct, frozen=True):
    """For whom a request speaks."""

    cluster: str
    node: str
    serial: str
    connection: int = 0
    """Which connection it came over; numbers are not used again."""


class Enrolment:
    """The certificates of one server's agents. `clock` gives UTC nanoseconds; `life` is seconds of a certificate."""

    def __init__(
        self,
        identities: Identities,
        authority: Authority,
        clock: Callable[[], int],
        life: int,
        reviewer: Reviewer | None = None,
    ) -> None:
        self.authority = authority
        self._identities, self._clock, self._life, self._reviewer = identities, clock, life, reviewer
        self._lock = threading.RLock()
        self._known: dict[str, Certificate] = {}
        self._lives: dict[str, Life] = {}
        self._seen: dict[str, int] = {}
        self._late: dict[str, int] = {}
        self._followed: dict[str, int] = {}
        self._banned: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Read what is known."""
        self._identities.forget(self._clock() - KEPT)
        self._known = {each.serial: each for each in self._identities.certificates()}
        self._banned = self._identities.bans()

    def make_token(self, cluster: str, node: str, seconds: int, by: str) -> tuple[str, int]:
        """A one-time token and when it runs out. One for a node lifts the node's revocation."""
        _check_names(cluster, node or "any")
        if not 1 <= seconds <= LONGEST_TOKEN:
            raise Problem(f"a token for {seconds} s", "seconds", f"use 1 to {LONGEST_TOKEN} seconds")
        now = self._clock()
        token = write_token(secrets.token_bytes(24), self.authority.fingerprint)
        digest = token_digest(read_token(token).secret)
        self._identities.offer(Offer(digest, cluster, node, now, now + seconds * SECOND, by))
        if node:
            self.allow(cluster, node)
        return token, now + seconds * SECOND

    def enrol(self, asked: Application) -> Issued:
        """A first certificate, for a one-time token or a service-account token. Raises Problem or Refusal."""
        _check_names(asked.cluster, asked.node)
        key = key_digest(asked.request)
        if asked.account_token is not None:
            self._review(asked)
            return self._issue(asked, "account")
        if asked.token is None:
            raise Refusal("no token", "the application", ASK)
        offer = self._identities.take(token_digest(asked.token), key, self._clock())
        if offer is None:
            raise Refusal("this token is used, has run out, or was never made", "the token", ASK)
        if offer.cluster != asked.cluster or offer.node not in ("", asked.node):
            raise Refusal("this token is for another node", asked.node, ASK)
        with self._lock:
            held = self._good(asked.cluster, asked.node)
            if not offer.node and any(self._identities_differ(each, asked) for each in held):
                fix = "make a token for this node (`--node`), or revoke its certificate first"
                raise Refusal("this node has a certificate already", asked.node, fix)
            return self._issue(asked, "token")

    def renew(self, who: Who, asked: Application) -> Issued:
        """The next certificate of who speaks. Raises Problem or Refusal."""
        if (asked.cluster, asked.node) != (who.cluster, who.node):
            raise Refusal("a certificate may renew itself only", asked.node, ASK)
        key_digest(asked.request)
        with self._lock:
            following = [each for each in self._known.values() if each.before == who.serial]
            self._mark(
                [each.serial for each in following if each.state == "good"], "renewed", "renewed again"
            )
            return self._issue(asked, "renewal", who.serial)

    def admit(self, serial: str | None, machine: str | None, connection: int = 0) -> Who:
        """For whom a request with this certificate speaks. Raises Refusal; checked at every request."""
        with self._lock:
            now = self._clock()
            held = self._known.get(serial or "")
            if held is None:
                raise Refusal("no certificate of this server", "the connection", ASK)
            if held.state == "renewed":
                self._left_behind(held, connection)
            if held.state != "good":
                raise Refusal(f"this certificate is {held.state} ({held.reason})", held.node, ASK)
            if held.expires <= now:
                raise Refusal("this certificate has run out", held.node, ASK)
            self._same_machine(held, machine)
            self._seen[held.serial] = now
            self._first_use(held, connection)
            return Who(held.cluster, held.node, held.serial, connection)

    def still(self, who: Who) -> None:
        """Raise Refusal where a request that was admitted may no longer go on. One that goes on while its certificate is
        renewed belongs to those that follow it."""
        with self._lock:
            now, held = self._clock(), self._known[who.serial]
            line = self._line(held)
            if not any(each.state == "good" and each.expires > now for each in line):
                state = self._state(line[-1])
                raise Refusal(
                    f"this certificate is {state} ({line[-1].reason or 'no longer good'})", who.node, ASK
                )

    def suspect(self, who: Who, epoch: str, sequence: int) -> None:
        """Raise Refusal where a batch shows that this certificate was copied."""
        with self._lock:
            life = self._lives.setdefault(who.serial, Life())
            if reason := life.suspect(who.connection, epoch, sequence):
                self._copied(self._known[who.serial], reason)

    def took(self, who: Who, epoch: str, sequence: int) -> None:
        """A batch was acknowledged."""
        with self._lock:
            self._lives.setdefault(who.serial, Life()).took(who.connection, epoch, sequence)

    def revoke(self, cluster: str, node: str) -> int:
        """Refuse a node from now on, and give it no certificate until `allow` or a token for it; how many it had."""
        _check_names(cluster, node)
        with self._lock:
            serials = [each.serial for each in self._good(cluster, node)]
            self._mark(serials, "revoked", "by an administrator")
            self._identities.ban(cluster, node, self._clock())
            self._identities.withdraw(cluster, node)
            self._banned.add((cluster, node))
            return len(serials)

    def allow(self, cluster: str, node: str) -> None:
        """Let a revoked node enrol again; its old certificates stay refused."""
        _check_names(cluster, node)
        with self._lock:
            self._identities.unban(cluster, node)
            self._banned.discard((cluster, node))

    def listed(self) -> list[dict[str, Any]]:
        """Each node's newest certificate, and every one that was revoked or copied, by node; times in ns."""
        with self._lock:
            newest = {(each.cluster, each.node): each.serial for each in self._known.values()}
            rows = [
                {
                    **each._asdict(),
                    "state": self._state(each),
                    "seen": self._seen.get(each.serial),
                    "banned": (each.cluster, each.node) in self._banned,
                }
                for each in self._known.values()
                if newest[each.cluster, each.node] == each.serial or each.state in ("revoked", "copied")
            ]
        return sorted(rows, key=lambda row: (row["cluster"], row["node"], row["made"]))

    def _state(self, held: Certificate) -> str:
        return "expired" if held.state == "good" and held.expires <= self._clock() else held.state

    def _review(self, asked: Application) -> None:
        if self._reviewer is None or self._reviewer.cluster != asked.cluster:
            fix = "start the server with --review, or use a one-time token"
            raise Refusal("service-account tokens of this cluster are not taken", asked.cluster, fix)
        node = self._reviewer.node_of(asked.account_token or "")
        if node != asked.node:
            raise Refusal(
                f"this token is of a pod on node {node}", asked.node, "enrol as the node it runs on"
            )

    def _issue(self, asked: Application, how: str, before: str | None = None) -> Issued:
        with self._lock:
            if (asked.cluster, asked.node) in self._banned:
                raise Refusal("this node is revoked", asked.node, "`ringfence enrol allow NODE`")
            now = self._clock()
            signed = self.authority.sign(asked.request, asked.cluster, asked.node, now, self._life)
            machine = asked.machine
            if before is not None:
                machine = self._known[before].machine or machine
            made = Certificate(
                serial_of(signed),
                asked.cluster,
                asked.node,
                how,
                now,
                now + self._life * SECOND,
                machine,
                before,
            )
            self._identities.add(made)
            self._known[made.serial] = made
            if before is not None:
                self._lives[made.serial] = self._lives.setdefault(before, Life())
            return Issued(pem_of(signed), made.serial, self._life)

    def _good(self, cluster: str, node: str) -> list[Certificate]:
        now = self._clock()
        return [
            each
            for each in self._known.values()
            if (each.cluster, each.node) == (cluster, node) and each.state == "good" and each.expires > now
        ]

    def _identities_differ(self, held: Certificate, asked: Application) -> bool:
        """Whether the holder is another than who asks: the same machine may enrol again."""
        return held.machine is None or held.machine != asked.machine

    def _first_use(self, held: Certificate, connection: int) -> None:
        """A certificate in use ends the older ones of its node."""
        older = [each.serial for each in self._good(held.cluster, held.node) if each.made < held.made]
        self._followed |= dict.fromkeys(older, connection)
        self._mark(older, "renewed", "a newer one is in use")

    def _left_behind(self, held: Certificate, connection: int) -> None:
        """Use of a certificate whose successor is in use, over a connection that was made since: once may be two
        connections being made at the same time; twice is a copy."""
        if connection < self._followed.get(held.serial, 0):
            return
        self._late[held.serial] = self._late.get(held.serial, 0) + 1
        if self._late[held.serial] > 1:
            self._copied(held, "used after it was renewed")

    def _same_machine(self, held: Certificate, machine: str | None) -> None:
        if held.machine is None or held.machine == machine:
            return
        if machine is None:
            raise Refusal("no machine id", held.node, "upgrade the agent")
        self._copied(held, f"used by machine {machine[:12]} too")

    def _copied(self, held: Certificate, reason: str) -> None:
        """Refuse the certificate and those that renew it: the one in the wrong hands may be any of them."""
        self._mark([each.serial for each in self._line(held)], "copied", reason)
        raise Refusal(f"this certificate is copied ({reason})", held.node, ASK)

    def _line(self, held: Certificate) -> list[Certificate]:
        """A certificate and those that renew it, oldest first."""
        line = {held.serial: held}
        for each in sorted(self._known.values(), key=lambda one: one.made):
            if each.before in line:
                line[each.serial] = each
        return list(line.values())

    def _mark(self, serials: Iterable[str], state: str, reason: str) -> None:
        changed = [serial for serial in serials if self._known[serial].state != state]
        if changed:
            self._identities.mark(changed, state, reason)
        for serial in changed:
            self._known[serial] = self._known[serial]._replace(state=state, reason=reason)


def _check_names(cluster: str, node: str) -> None:
    """As batches must have them (`wire.checks`)."""
    for where, name in (("cluster", cluster), ("node", node)):
        if not 0 < len(name) <= MAX_NAME or not name.isprintable() or " " in name:
            raise Problem(f"bad {where}", where, "use the name that Kubernetes has for it")
