"""When a span of an object's history became known."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ringfence.inventory.history import Span, Statement
from ringfence.model.objects import Object, Pod


def learnt(said: Iterable[Statement], span: Span, known: int | None = None) -> int | None:
    """When the first statement that makes the span was learnt, UTC ns; with `known`, of those learnt by then.

    A statement makes a span from its own time on, or from when it was learnt (`history`). None where the statement
    is forgotten by now.
    """
    wanted = _bare(span.value)
    return min(
        (
            one.known
            for one in said
            if span.start in (one.at, one.known)
            and _bare(one.value) == wanted
            and (known is None or one.known <= known)
        ),
        default=None,
    )


def _bare(value: Object | None) -> Object | None:
    """Without the root owner, which a history takes from later statements."""
    return msgspec.structs.replace(value, workload=None) if isinstance(value, Pod) else value
