"""What DNS and TLS said at some taps, as columns, and whose questions they were."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, tuple_hash
from ringfence.model.addresses import among
from ringfence.model.batches import TlsInfo
from ringfence.model.columns import TUPLE, Table

U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

NO_TAP = 0xFFFF_FFFF
"""In `tap`: whoever asked is behind none, it is the node itself."""
NODE = 0xFFFF_FFFF
"""The node's stable name where pods have theirs: it may ask from one of its addresses and connect from another."""

MESSAGE = np.dtype(
    [
        ("time", "<i8"),
        *TUPLE,  # the asker as consumer
        ("tap", "<u4"),
        ("number", "<u2"),
        ("response", "u1"),
        ("rcode", "<u2"),
        ("name", "<u4"),  # what was asked: index into `Heard.names`
    ]
)
"""One DNS message at one tap."""
ANSWER = np.dtype(
    [
        ("time", "<i8"),
        ("consumer_hi", "<u8"),
        ("consumer_lo", "<u8"),
        ("tap", "<u4"),
        ("address_hi", "<u8"),
        ("address_lo", "<u8"),
        ("ttl", "<u4"),  # seconds, the shortest of the chain that led here
        ("name", "<u4"),  # index into `Heard.names`
        ("message", "<u4"),  # what it came with: index into `Heard.messages`
    ]
)
"""One address that a consumer was answered."""
HELLO = np.dtype([("time", "<i8"), *TUPLE, ("tls", "<u4")])
"""One ClientHello; `tls` indexes `Heard.tls`."""


class Heard(NamedTuple):
    """What DNS and TLS said at some taps, in no particular order."""

    messages: Table = np.zeros(0, MESSAGE)
    answers: Table = np.zeros(0, ANSWER)
    hellos: Table = np.zeros(0, HELLO)
    names: tuple[str, ...] = ()
    """Lower case, without spaces."""
    tls: tuple[TlsInfo, ...] = ()


def own(heard: Heard, is_pod: Mask, local: tuple[U64, U64], lent: U64) -> Heard:
    """Without questions of others that only pass the node: of those under its addresses (`local`: hi, lo) what it asked
    itself, and at pods' taps (`is_pod` by tap) what pods asked.

    `lent` are conversation keys of what has its consumer's address from source translation: a pod's question, which
    looks like the node's further on. The node's own questions count for no pod, also where they were heard at the tap
    of the pod that answers them: their tap becomes NO_TAP.
    """
    messages = heard.messages
    if not len(messages):
        return heard
    at_pod = np.append(is_pod, False)[np.minimum(messages["tap"], len(is_pod))]
    ours = among(messages["consumer_hi"], messages["consumer_lo"], *local)
    kept = np.where(ours, ~np.isin(plain_key(messages), lent), at_pod)
    came = heard.answers["message"]
    messages, answers = messages.copy(), heard.answers[kept[came]]
    messages["tap"][ours] = NO_TAP
    answers["tap"][ours[came][kept[came]]] = NO_TAP
    answers["message"] = (np.cumsum(kept) - 1)[answers["message"]]
    return heard._replace(messages=messages[kept], answers=answers)


def plain_key(table: Table) -> U64:
    """`taps.conversation_key` of tuples outside tunnels."""
    zero = np.zeros(len(table), np.uint64)
    return hash_words(tuple_hash(table), zero, zero)
