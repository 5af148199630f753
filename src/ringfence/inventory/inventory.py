"""The inventory: who had this address, in this cluster, at this time.

A pure function of the set of facts it was given. All look-ups are batches; all times are UTC nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.cluster import Cluster
from ringfence.inventory.externals import Externals
from ringfence.inventory.history import Span, Statement
from ringfence.inventory.index import inside
from ringfence.inventory.ranges import KnownRange
from ringfence.inventory.sharing import Shared
from ringfence.inventory.versions import Versions
from ringfence.model.addresses import texts
from ringfence.model.distinct import distinct
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import KINDS, Change, Object
from ringfence.model.problems import Problem

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

Mask = NDArray[np.bool_]

EVERYWHERE = ""
"""The cluster of facts that belong to no cluster and hold for all: what people say of outside addresses."""

ALWAYS = 0
"""`at` of facts that a file states without saying since when."""

_DECODERS = {kind: msgspec.json.Decoder(value) for kind, value in KINDS.items()}


class Inventory:
    """Every cluster's facts. Cluster is part of every key: two clusters with the same addresses never mix."""

    def __init__(self) -> None:
        self._versions = Versions()
        self._clusters: dict[str, Cluster] = {}
        self._externals: Externals | None = None
        self._shared = Shared()

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Every version ever answered, indexed by its number. Numbers stay valid when facts are added."""
        return self._versions.endpoints

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters with any fact."""
        return tuple(sorted(name for name in self._clusters if name != EVERYWHERE))

    def compact(self, before: int) -> int:
        """Forget what no question about a time from `before` (UTC ns) on can see; how many statements that were.

        From then on a question about an earlier time is answered with "could not tell": `unresolved`.
        """
        self._externals = None
        return sum(facts.compact(before) for facts in self._clusters.values())

    def horizon(self, cluster: str) -> int:
        """The time before which nothing is known of a cluster any more; 0 while everything is."""
        return self.cluster(cluster).horizon

    def statement_keys(self) -> Iterator[tuple[str, str, str, int, int]]:
        """(cluster, kind, UID, at, known) of every statement."""
        for name, facts in self._clusters.items():
            for kind, uid, statements in facts.statements():
                yield from ((name, kind, uid, said.at, said.known) for said in statements)

    def settle(self) -> None:
        """Bring look-ups up to date now, so that the next question need not wait for it."""
        for facts in self._clusters.values():
            facts.settle()

    def take_touched(self) -> frozenset[tuple[str, str, str]]:
        """(cluster, kind, UID) of every object that something new was stated of since the last call."""
        return frozenset(
            (name, kind, uid) for name, facts in self._clusters.items() for kind, uid in facts.take_touched()
        )

    def current(self, cluster: str, kind: str, uid: str) -> Object | None:
        """What an object is after everything that was said of it; None when it is gone or unknown."""
        return self.cluster(cluster).current(kind, uid)

    def apply(self, changes: Iterable[Change]) -> None:
        """Add facts, in any order, repeats included. Raises Problem for a change that is not one."""
        for change in changes:
            facts = self.cluster(change.cluster)
            value = self._shared.whole(decode_value(change), facts.latest(change.kind, change.uid))
            if change.kind == "External":
                self._externals = None
            facts.state(change.kind, change.uid, Statement(change.at, change.known, value))

    def add_objects(self, cluster: str, objects: Iterable[Object], at: int = ALWAYS) -> None:
        """Facts that hold from `at` on, as a file of manifests states them."""
        facts = self.cluster(cluster)
        self._externals = None
        for value in objects:
            facts.state(type(value).__name__, value.uid or f"{value.name}", Statement(at, at, value))

    def add_node_addresses(self, cluster: str, node: str, addresses: Iterable[str], at: int) -> None:
        """At `at` the node had exactly these local addresses: its agent's word, bridges and tunnels included."""
        self.cluster(cluster).report(node, addresses, at)

    def add_ranges(self, cluster: str, cidrs: Iterable[str]) -> None:
        """Ranges of addresses that belong to the cluster and that its objects do not show."""
        self.cluster(cluster).tell_ranges(cidrs)

    def cluster(self, name: str) -> Cluster:
        """One cluster's facts, made on first use."""
        if name not in self._clusters:
            self._clusters[name] = Cluster(name, self._versions)
        return self._clusters[name]

    def resolve(
        self,
        cluster: str,
        hi: U64,
        lo: U64,
        at: I64,
        pods: Sequence[str] = (),
        tags: NDArray[np.uint32] | None = None,
    ) -> I32:
        """The endpoint version of each row, an index into `endpoints`; every row has one.

        `tags` are index + 1 into `pods` (UIDs that agents saw at the pod's own interface; 0 is none): a row so
        tagged needs no address. An address nobody is known to have held then is `unresolved` inside the
        cluster's ranges, and where an address names no one machine (loopback, link-local, multicast), and
        `external` elsewhere; where nothing is known of the cluster all are `unresolved`.
        """
        facts = self.cluster(cluster)
        versions = facts.resolve(hi, lo, at)
        if tags is not None and len(pods):
            tagged = self.by_pod(cluster, pods, tags, at)
            versions = np.where(tagged >= 0, tagged, versions)
        forgotten = at < facts.horizon
        if forgotten.any():
            versions[forgotten] = self._versions.number(Endpoint("unresolved", facts.name))
        unknown = versions < 0
        if unknown.any():
            versions[unknown] = self._unknown(facts, hi[unknown], lo[unknown], at[unknown])
        return versions

    def by_pod(self, cluster: str, pods: Sequence[str], tags: NDArray[np.uint32], at: I64) -> I32:
        """The version of each row's tagged pod; -1 for rows without tag and for UIDs nobody told of."""
        facts = self.cluster(cluster)
        versions = np.full(len(tags), -1, np.int32)
        order = np.argsort(tags, kind="stable")
        present, first = np.unique(tags[order], return_index=True)
        bounds = [*first.tolist(), len(order)]
        for tag, begin, end in zip(present.tolist(), bounds[:-1], bounds[1:], strict=True):
            if 0 < tag <= len(pods):
                rows = order[begin:end]
                versions[rows] = facts.of_uid(pods[tag - 1], at[rows])
        return versions

    def by_uid(self, cluster: str, uids: Sequence[str], at: I64) -> I32:
        """As `by_pod`, with one UID per row (an empty one is no tag)."""
        distinct = sorted(set(uids) - {""})
        code = {uid: number + 1 for number, uid in enumerate(distinct)}
        tags = np.fromiter((code.get(uid, 0) for uid in uids), np.uint32, len(uids))
        return self.by_pod(cluster, distinct, tags, at)

    def objects(
        self, cluster: str, at: int, kind: str | None = None, known: int | None = None
    ) -> tuple[Object, ...]:
        """Every object of the cluster at `at`, of one kind (a key of `model.objects.KINDS`) or of all.

        With `known` as it was known then: what was learnt later does not count.
        """
        return tuple(self.cluster(cluster).objects(at, kind, known))

    def ever(self, cluster: str, kind: str, since: int, until: int) -> tuple[Span, ...]:
        """Every value every object of a kind had at some time in [since, until]."""
        return tuple(self.cluster(cluster).ever(kind, since, until))

    def history(self, cluster: str, kind: str, uid: str, known: int | None = None) -> tuple[Span, ...]:
        """What one object was when, by everything learnt, or by what was learnt until `known`."""
        return self.cluster(cluster).history(kind, uid, known)

    def node_addresses(self, cluster: str, at: int) -> dict[str, tuple[str, ...]]:
        """Every local address of each node at `at`, by the node's name, sorted."""
        held = self.cluster(cluster).local_addresses(at)
        return {node: tuple(_texts(sorted(packed))) for node, packed in sorted(held.items())}

    def known_ranges(self, cluster: str) -> tuple[KnownRange, ...]:
        """The cluster's own ranges, each with how it is known."""
        return self.cluster(cluster).known_ranges()

    def _unknown(self, facts: Cluster, hi: U64, lo: U64, at: I64) -> I32:
        """Versions for addresses without a holder. Those nobody named share two: the address itself is in the flow."""
        unresolved = self._versions.number(Endpoint("unresolved", facts.name))
        if not facts.knows_anything():
            return np.full(len(hi), unresolved, np.int32)
        external = self._versions.number(Endpoint("external", facts.name))
        pairs, inverse = np.unique(np.c_[hi, lo], axis=0, return_inverse=True)
        own = inside(facts.ranges(), pairs[:, 0], pairs[:, 1])[inverse.ravel()]
        nobodys = _ambiguous(hi, lo)
        versions = np.where(own | nobodys, unresolved, external).astype(np.int32)
        return self._named(facts, hi, lo, at, own, nobodys, versions)

    def _named(
        self, facts: Cluster, hi: U64, lo: U64, at: I64, own: Mask, nobodys: Mask, versions: I32
    ) -> I32:
        """`versions`, with what people say of addresses where no closer range of the cluster speaks against it."""
        externals = self._said()
        if not externals:
            return versions
        match = externals.match(hi, lo, at)
        for value in distinct(match.value[match.value >= 0]).tolist():
            rows = np.flatnonzero((match.value == value) & ~nobodys)
            inner = [row for row in rows[own[rows]].tolist() if not _closer(facts, hi, lo, match.prefix, row)]
            rows = np.setdiff1d(rows, np.array(inner, np.int64), assume_unique=True)
            said = externals.values[value]
            versions[rows] = self._versions.number(
                Endpoint("external", facts.name, name=said.name, labels=said.labels)
            )
        return versions

    def _said(self) -> Externals:
        if self._externals is None:
            self._externals = Externals(self.cluster(EVERYWHERE).histories("External"))
        return self._externals


def _closer(facts: Cluster, hi: U64, lo: U64, prefix: NDArray[np.int16], row: int) -> bool:
    """Whether what people say of an address inside the cluster's ranges is closer to it than those ranges.

    A guessed range yields to a network of the same size, one that the cluster tells does not.
    """
    own, guessed = facts.closest_range((int(hi[row]), int(lo[row])))
    return int(prefix[row]) >= own if guessed else int(prefix[row]) > own


def decode_value(change: Change) -> Object | None:
    """The object a change carries. Raises Problem when its kind or its value is not known here."""
    decoder = _DECODERS.get(change.kind)
    where = f"change of {change.kind} {change.uid}"
    if decoder is None:
        raise Problem("unknown kind", where, f"send one of {', '.join(KINDS)}")
    if change.gone or change.value is None:
        return None
    try:
        return decoder.decode(change.value)  # type: ignore[return-value]
    except msgspec.MsgspecError as error:
        raise Problem(
            f"not a {change.kind} ({error})", where, "send the object as `ringfence.model` spells it"
        ) from None


def _ambiguous(hi: U64, lo: U64) -> NDArray[np.bool_]:
    """`claims.is_ambiguous` over columns."""
    v4 = (hi == 0) & (lo >> np.uint64(32) == 0xFFFF)
    first = lo >> np.uint64(24) & np.uint64(0xFF)
    local4 = (
        (first == 0) | (first == 127) | (first >= 224) | (lo >> np.uint64(16) & np.uint64(0xFFFF) == 0xA9FE)
    )
    top = hi >> np.uint64(54)
    local6 = ((hi == 0) & (lo <= 1)) | (top >> np.uint64(2) == 0xFF) | (top == 0xFE80 >> 6)
    ambiguous: NDArray[np.bool_] = np.where(v4, local4, local6)
    return ambiguous


def _texts(packed: Iterable[tuple[int, int]]) -> Iterator[str]:
    pairs = list(packed)
    hi = np.fromiter((h for h, _ in pairs), np.uint64, len(pairs))
    lo = np.fromiter((low for _, low in pairs), np.uint64, len(pairs))
    return iter(texts(hi, lo))
