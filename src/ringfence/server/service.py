"""What the routes work with: the server's parts behind one value, and its clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ringfence.inventory.inventory import decode_value
from ringfence.model.objects import Change, Node
from ringfence.model.problems import Problem
from ringfence.server.answers import Answers
from ringfence.server.book import Book
from ringfence.server.completeness import Completeness, completeness
from ringfence.server.ingest import Ingest
from ringfence.server.resolve import AgentState
from ringfence.server.times import moment, span
from ringfence.store.facts import Facts
from ringfence.store.queries import Queries


class NotFound(Problem):
    """A Problem that is shown as 404."""


class Service:
    """One running server, as its routes see it."""

    def __init__(
        self, facts: Facts, queries: Queries, book: Book, ingest: Ingest, clock: Callable[[], int]
    ) -> None:
        self._facts, self._queries, self._clock = facts, queries, clock
        self.book, self.ingest = book, ingest
        self.answers = Answers(queries, book)

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

    def completeness(self, since: int, until: int) -> Completeness:
        """How complete a time is."""

        def nodes_of(cluster: str) -> frozenset[str]:
            return frozenset(
                node.name for node in self.book.objects(cluster, until, "Node") if isinstance(node, Node)
            )

        return completeness(self._queries, self.agents(), since, until, self._clock(), nodes_of)

    def span(self, since: str | None, until: str | None) -> tuple[int, int]:
        """[since, until) in UTC nanoseconds."""
        return span(since, until, self._clock())

    def moment(self, text: str, where: str) -> int:
        """One time in UTC nanoseconds."""
        return moment(text, self._clock(), where)

    def not_found(self, what: str, where: str, fix: str) -> NotFound:
        """A Problem for 404."""
        return NotFound(what, where, fix)
