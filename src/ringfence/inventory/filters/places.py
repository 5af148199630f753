"""Namespaces or nodes by name, and the labels they lend to the rows in them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters.distinct import ABSENT, Distinct
from ringfence.model.endpoints import Labels

Place = tuple[str, str]
"""(cluster, name)."""


class Places:
    """Goal: a place's new labels cost one entry, not one per row: rows hold the place's code, places their labels'.

    Two objects of one name (the old one's end is not known yet) are told apart by UID; the greater UID counts, so
    that the answer does not depend on who came first.
    """

    def __init__(self) -> None:
        self.names = Distinct()
        self.labels = Distinct(dict)
        self._at: NDArray[np.int32] = np.zeros(64, np.int32)
        self._told: dict[Place, dict[str, Labels]] = {}
        self._by_uid: dict[tuple[str, str], str] = {}

    def codes(self, places: NDArray[np.int32]) -> NDArray[np.int32]:
        """The codes (in `labels`) of a column of places (in `names`)."""
        return self._grown().take(places)

    def code(self, place: int) -> int:
        """The code of one place's labels."""
        return int(self._at[place]) if place < len(self._at) else ABSENT

    def told(self) -> Iterator[tuple[Place, str, Labels]]:
        """(place, UID, labels) of everything that was told and is not gone."""
        for place, by_uid in self._told.items():
            for uid, labels in by_uid.items():
                yield place, uid, labels

    def put(self, cluster: str, name: str, uid: str, labels: Labels) -> list[int]:
        """Say what a place's labels are. Answers the places whose labels are others now."""
        changed = self.drop(cluster, uid) if self._by_uid.get((cluster, uid), name) != name else []
        self._by_uid[cluster, uid] = name
        self._told.setdefault((cluster, name), {})[uid] = labels
        return changed + self._settle((cluster, name))

    def drop(self, cluster: str, uid: str) -> list[int]:
        """Say that a place is gone. Answers the places whose labels are others now."""
        name = self._by_uid.pop((cluster, uid), None)
        if name is None:
            return []
        place = (cluster, name)
        del self._told[place][uid]
        return self._settle(place)

    def _settle(self, place: Place) -> list[int]:
        """Bring `_at` of a place up to date; it is held here while its labels are known."""
        told = self._told[place]
        code = self.names.hold(place)
        before = self.code(code)
        after = self.labels.hold(told[max(told)]) if told else ABSENT
        self._grown()[code] = after
        if before:
            self.labels.release(before)
        if bool(after) == bool(before) or not after:
            self.names.release(code)
        if before and not after:
            self.names.release(code)
        if not told:
            del self._told[place]
        return [code] if before != after else []

    def _grown(self) -> NDArray[np.int32]:
        if len(self.names) > len(self._at):
            wider = np.zeros(2 * len(self.names), np.int32)
            wider[: len(self._at)] = self._at
            self._at = wider
        return self._at
