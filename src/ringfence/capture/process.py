"""Who opened each TCP conversation (placeholder of the first version)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import TUPLE, Table

OPENED = np.dtype([*TUPLE, ("process", "<u4")])


class Openers:
    """The raw tracepoint and its map."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def start(self) -> list[str]:
        """Attach; the notes say why when that is not possible."""
        return ["processes are not named"]

    def read(self, namespaces: Mapping[int, str | None]) -> tuple[Table, tuple[ProcessInfo, ...]]:
        """What was opened in these namespaces since the last call."""
        return np.zeros(0, OPENED), ()

    def stop(self) -> None:
        """Detach."""
