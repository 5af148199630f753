"""What the server holds for long is kept out of the garbage collector's full passes.

A full pass visits every container there is, while everything else waits: a quarter of a second over 150,000 pods.
What one pass found alive is hardly ever garbage at the next, so each object is visited by one full pass and then set
aside (`gc.freeze`). What is set aside and dies in a cycle stays in memory until `look_again`, which is called rarely.
"""

from __future__ import annotations

import gc

FULL = 2
"""The oldest generation."""


def spare() -> None:
    """Collect, set aside what lives, and do so after every full pass from now on."""
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)
    gc.collect()


def look_again() -> None:
    """Collect among what was set aside, too."""
    gc.unfreeze()
    gc.collect()


def _set_aside(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == FULL:
        gc.freeze()
