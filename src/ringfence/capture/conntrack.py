"""Translations and directions from conntrack (placeholder of the first version)."""

from __future__ import annotations

import numpy as np

from ringfence.model.batches import Loss
from ringfence.model.columns import TRANSLATION, TUPLE, Table


class Conntrack:
    """Two sockets of one namespace: events, and dumps."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self) -> None:
        """Subscribe, then dump."""

    def read(self) -> tuple[Table, Table, tuple[Loss, ...]]:
        """Translations, hints, losses since the last call."""
        return np.zeros(0, TRANSLATION), np.zeros(0, np.dtype(TUPLE)), ()

    def close(self) -> None:
        """Close the sockets."""
