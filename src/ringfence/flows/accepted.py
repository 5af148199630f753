"""Who opened a conversation, known of one leg, is known of the others that conntrack joins to it.

Sockets know a conversation as their own end has it: a pod's before source translation, a service's backend after
destination translation. Taps elsewhere see the other tuple.
"""

from __future__ import annotations

import numpy as np

from ringfence.flows.ends import keys_of
from ringfence.model.columns import TUPLE, Table


def through(known: Table, translations: Table) -> Table:
    """TUPLE rows, oriented as opened, of the legs that `translations` (TRANSLATION) join to those of `known`.

    Legs that are in `known` are not told again. A translation's own orientation is not believed: an entry that
    conntrack learnt in the middle of a conversation may be reversed, on both sides of it alike.
    """
    if not len(known) or not len(translations):
        return np.zeros(0, TUPLE)
    keys = keys_of(known)
    order = np.argsort(keys, kind="stable")
    sides = {side: _tuples(translations, side) for side in ("pre_", "post_")}
    found = []
    for side, other in (("pre_", "post_"), ("post_", "pre_")):
        here, there = sides[side], sides[other]
        mine = keys_of(here)
        at = order[np.maximum(np.searchsorted(keys[order], mine, "right") - 1, 0)]
        hit = (keys[at] == mine) & ~np.isin(keys_of(there), keys)
        same = np.ones(len(here), np.bool_)
        for part in ("_hi", "_lo", "_port"):
            same &= here["consumer" + part] == known["consumer" + part][at]
        found.append(_turned(there, ~same)[hit])
    return np.concatenate(found)


def _tuples(translations: Table, side: str) -> Table:
    rows = np.zeros(len(translations), TUPLE)
    for name, _ in TUPLE[:-1]:
        rows[name] = translations[side + name]
    rows["protocol"] = translations["protocol"]
    return rows


def _turned(rows: Table, which: np.ndarray) -> Table:
    """The rows, with the ends of some exchanged."""
    turned = rows.copy()
    for part in ("_hi", "_lo", "_port"):
        turned["consumer" + part] = np.where(which, rows["provider" + part], rows["consumer" + part])
        turned["provider" + part] = np.where(which, rows["consumer" + part], rows["provider" + part])
    return turned
