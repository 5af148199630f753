"""What DNS and TLS said becomes columns of one window's sightings. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.fold import U64, Folded, Mask, Place
from ringfence.flows.heard import NODE, Heard, own
from ringfence.flows.names import Asking, Names, name
from ringfence.flows.terms import Dictionaries, fitted
from ringfence.model.addresses import among
from ringfence.model.batches import Loss
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Table
from ringfence.model.protocols import TCP

MAX_NAMES, MAX_NAME_OCTETS = 20_000, 4 << 20
"""Sets of names, and TLS facts, in one batch, and their texts: strangers write them, and a header is bounded."""
NAMES_CUT = "names-too-many"
"""Name of the loss of names (rows without them) that found no room in a batch."""


class Named(NamedTuple):
    """The batch's dictionaries, what was cut off them, and what to remember."""

    dictionaries: Dictionaries
    cut: tuple[Loss, ...]
    memory: Names


def name_providers(
    folded: Folded,
    place: Place,
    pods: NDArray[np.uint32],
    heard: Heard,
    lent: U64,
    before: tuple[Table, int],
    memory: Names,
    now: int,
) -> Named:
    """Fill `names`, `tls` and DNS' `rtt_us` of the sightings as their consumers had learnt them, in place.

    `pods` are stable names of `consumer_pod`'s numbers; `lent` conversations whose consumer's address came from source
    translation; `before` the conversations remembered until now and the first window told of. A TCP connection whose
    opening was not seen gets no names: what its consumer had learnt then nobody heard.
    """
    rows = folded.sightings
    opened = (rows["consumer_flags"] & FLAG_SYN_ONLY) | (rows["provider_flags"] & FLAG_SYN_ACK)
    asking = Asking(
        rows,
        folded.key,
        _consumers(rows, pods, place),
        _begins(folded, *before) & ((rows["protocol"] != TCP) | (opened != 0)),
        np.isin(folded.key, lent),
    )
    heard = own(heard, place.is_pod, (place.local_hi, place.local_lo), lent)
    dictionaries, memory = name(asking, heard, place.who, memory, now, unasked=False)
    dictionaries, cut = fitted(rows, dictionaries, MAX_NAMES, MAX_NAME_OCTETS)
    return Named(dictionaries, (Loss(NAMES_CUT, events=cut),) if cut else (), memory)


def _consumers(rows: Table, pods: NDArray[np.uint32], place: Place) -> NDArray[np.uint32]:
    """Who learnt names: a pod, the node at any of its addresses, or nobody that is known here (0)."""
    local = among(rows["consumer_hi"], rows["consumer_lo"], place.local_hi, place.local_lo)
    who = pods[rows["consumer_pod"]]
    return np.where(local & (who == 0), NODE, who).astype(np.uint32)


def _begins(folded: Folded, known: Table, window: int) -> Mask:
    """Which conversations were not known before, also where their window was read in parts."""
    rows = folded.sightings
    begins: Mask = rows["first_window"] >= window
    if len(known):
        at = np.minimum(np.searchsorted(known["key"], folded.key), len(known) - 1)
        begins &= (known["key"][at] != folded.key) | (known["first_window"][at] != rows["first_window"])
    return begins
