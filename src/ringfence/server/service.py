"""What the routes work with: the server's parts behind one value, and its clock."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ringfence.inventory.inventory import decode_value
from ringfence.model.objects import Change, Node
from ringfence.server.accounts import Accounts
from ringfence.server.answers import Answers
from ringfence.server.book import Book
from ringfence.server.captures import Captures
from ringfence.server.catalog import Catalog
from ringfence.server.completeness import Completeness, completeness, narrowed, node_shown
from ringfence.server.enrolment import Enrolment
from ringfence.server.externals import Externals
from ringfence.server.imports import Imports
from ringfence.server.ingest import Ingest
from ringfence.server.modes import resolver
from ringfence.server.orders import Book as OrderBook
from ringfence.server.refusals import NotFound
from ringfence.server.resolve import AgentState
from ringfence.server.scopes import Scopes
from ringfence.server.search import Search
from ringfence.server.settle import Settler
from ringfence.server.sight import Sight, View
from ringfence.server.times import moment, span
from ringfence.store.accounts import AccountStore
from ringfence.store.audit import AuditStore
from ringfence.store.catalog import CatalogStore
from ringfence.store.facts import Facts
from ringfence.store.queries import Queries
from ringfence.store.settled import Settled


class KindState(msgspec.Struct, frozen=True):
    """How following one kind goes: `starting`, `current`, `behind`, `forbidden` or `absent`. `since` is UTC ns."""

    state: str
    detail: str = ""
    since: int = 0


class ConnectorReport(msgspec.Struct, frozen=True):
    """A connector's word on how it follows its cluster."""

    cluster: str
    version: str = ""
    """Of Ringfence."""
    server_version: str | None = None
    """Of the Kubernetes API; None while it is not known."""
    supported: bool | None = None
    """Whether that version is in the compatibility matrix; None while it is not known."""
    states: dict[str, KindState] = {}
    problems: dict[str, int] = {}
    """What could not be read of objects, by text, with how often."""
    lists: int = 0
    lag: int | None = None
    """Nanoseconds since the oldest change that waits to be told; 0 when none waits."""


class Service:
    """One running server, as its routes see it."""

    def __init__(
        self,
        facts: Facts,
        queries: Queries,
        book: Book,
        ingest: Ingest,
        enrolment: Enrolment,
        settled: Settled,
        clock: Callable[[], int],
    ) -> None:
        self._facts, self._queries, self._clock = facts, queries, clock
        self.book, self.ingest, self.enrolment = book, ingest, enrolment
        self.answers = Answers(queries, book)
        self.settler = Settler(self.answers, queries, book, settled, clock)
        self.imports = Imports(book, settled, clock)
        self.scratch = tempfile.mkdtemp(prefix="ringfence-")
        """A folder for files that are on their way in; gone when the server ends."""
        store = CatalogStore(facts.engine)
        self.catalog = Catalog(store, book, clock)
        self.scopes = Scopes(store, self.catalog, clock)
        self.externals = Externals(book, self.learn, clock)
        self.ending = threading.Event()
        """Set once the server is about to end."""
        self.epoch = secrets.token_hex(8)
        """Of this life of the server: generations of policy objects begin anew with it."""
        self.catalog.start()
        self.orders = OrderBook(facts, clock, resolver(book, self.catalog))
        self.captures = Captures(book, self.catalog, self.orders, clock)
        self.orders.start()
        self.sight = Sight(store, book, self.catalog)
        self.accounts = Accounts(AccountStore(facts.engine), clock, self.sight.tree)
        self.accounts.start()
        self.search = Search(queries.engine, self.settler, self.sight, clock)
        self.audit = AuditStore(facts.engine)
        self.settler.start()

    def release(self) -> None:
        """The server is about to end: nobody is kept waiting, and captures end."""
        self.ending.set()
        self.orders.close()
        self.captures.close()

    def close(self) -> None:
        """End what runs in the background, and remove what was on its way in."""
        self.settler.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def now(self) -> int:
        """UTC nanoseconds."""
        return self._clock()

    def learn(self, changes: Sequence[Change]) -> int:
        """Keep inventory changes, then use them; how many said something new. Raises Problem before keeping."""
        for change in changes:
            decode_value(change)
        fresh = self._facts.add_changes(changes)
        self.book.apply(fresh)
        return len(fresh)

    def agents(self) -> dict[tuple[str, str], AgentState]:
        """Every agent's last word, by (cluster, node)."""
        return {key: msgspec.json.decode(text, type=AgentState) for key, text in self._facts.agents().items()}

    def clusters(self, only: str | None = None, view: View | None = None) -> tuple[str, ...]:
        """Clusters with any fact, or with any that a view shows; or one of them. Raises NotFound."""
        known = tuple(one for one in self.book.clusters() if view is None or one in view.clusters)
        if only is not None and only not in known:
            raise NotFound(f"no cluster `{only[:60]}`", "cluster", f"known: {', '.join(known) or 'none yet'}")
        return known if only is None else (only,)

    def heard(self, report: ConnectorReport) -> None:
        """Keep a connector's last word."""
        self._facts.heard(report.cluster, msgspec.json.encode(report), self._clock())

    def connectors(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """(when heard, report) by cluster."""
        return {
            cluster: (seen, msgspec.json.decode(report))
            for cluster, (seen, report) in self._facts.connectors().items()
        }

    def save_checkpoint(self, cluster: str, body: bytes) -> None:
        """Keep what a cluster's connector needs to go on after a restart."""
        self._facts.save_checkpoint(cluster, body, self._clock())

    def checkpoint(self, cluster: str) -> bytes | None:
        """The last checkpoint of a cluster's connector."""
        return self._facts.checkpoint(cluster)

    def completeness(self, since: int, until: int, view: View | None = None) -> Completeness:
        """How complete a time is, as far as a view shows."""

        def nodes_of(cluster: str) -> frozenset[str]:
            return frozenset(
                node.name for node in self.book.objects(cluster, until, "Node") if isinstance(node, Node)
            )

        found = completeness(self._queries, self.agents(), since, until, self._clock(), nodes_of)
        return found if view is None else narrowed(found, node_shown(view))

    def span(self, since: str | None, until: str | None) -> tuple[int, int]:
        """[since, until) in UTC nanoseconds."""
        return span(since, until, self._clock())

    def moment(self, text: str, where: str) -> int:
        """One time in UTC nanoseconds."""
        return moment(text, self._clock(), where)

    def not_found(self, what: str, where: str, fix: str) -> NotFound:
        """A Problem for 404."""
        return NotFound(what, where, fix)
