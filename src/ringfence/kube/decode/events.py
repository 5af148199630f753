"""Watch events and pages of lists, many at once: each object's text is read once.

A block is read as a whole by its kind's typed decoder. Only a block that holds something wrong is read again,
line by line, so that one bad object costs itself.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ringfence.kube.decode import decode
from ringfence.kube.decode.kinds import KINDS, Item, item_of
from ringfence.model.problems import Problem

INITIAL_END = "k8s.io/initial-events-end"
"""The annotation of the bookmark after the last of the initial events (Kubernetes API concepts, streaming lists)."""

_OBJECTS = frozenset({"ADDED", "MODIFIED", "DELETED"})
"""Words of events that carry an object."""

_HEAD = re.compile(
    rb'"metadata":\{"name":"([^"\\]*)"(?:,"generateName":"[^"\\]*")?(?:,"namespace":"([^"\\]*)")?'
    rb'(?:,"uid":"([^"\\]*)")?'
)


class News(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch. `word` is its type; `item` is there for objects that could be read.

    `code` and `text` are those of an ERROR; `initial_end` marks the bookmark that ends the initial events.
    """

    word: str
    item: Item | None = None
    version: str = ""
    initial_end: bool = False
    code: int = 0
    text: str = ""


class Page(NamedTuple):
    """Part of a list: its items, the list's version, and the token of the next part ('' at the end)."""

    items: list[Item]
    version: str
    following: str


class _Code(msgspec.Struct):
    code: int = 0
    message: str | None = None


class _Line(msgspec.Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _ListMeta(msgspec.Struct):
    resourceVersion: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


def events(kind: str, block: bytes) -> tuple[list[News], list[Problem]]:
    """What the whole lines of `block` tell, in order, and what could not be read of them."""
    found: list[News] = []
    problems: list[Problem] = []
    try:
        told = event_decoder(kind).decode_lines(block)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _one_by_one(kind, block)
    for position, event in enumerate(told):
        word = event.type
        if word in _OBJECTS and event.object is not None:
            item, bad = item_of(event.object, kind, kind)
            if bad:
                problems += bad
            found.append(News(word, item, item.version if item is not None else ""))
        elif word == "BOOKMARK":
            found.append(_bookmark(event.object))
        else:
            found.append(_error([line for line in block.split(b"\n") if line.strip()][position]))
    return found, problems


def _one_by_one(kind: str, block: bytes) -> tuple[list[News], list[Problem]]:
    found: list[News] = []
    problems: list[Problem] = []
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line, type=_Line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            found.append(News("ERROR", text=f"not an event: {error}"))
            break
        if event.type == "BOOKMARK":
            found.append(_bookmark(_shape_or_none(kind, event.object)))
        elif event.type in _OBJECTS:
            item, bad = decode(event.object, kind, "")
            problems += bad
            found.append(News(event.type, item, item.version if item is not None else ""))
        else:
            found.append(_error(line))
    return found, problems


def page(kind: str, body: bytes) -> tuple[Page, list[Problem]]:
    """One page of a list. Raises msgspec.MsgspecError when it is none."""
    problems: list[Problem] = []
    items: list[Item] = []
    try:
        listed = _list_decoder(kind).decode(body)
    except msgspec.ValidationError:
        listed = _raw_list().decode(body)
    for entry in listed.items or ():
        if isinstance(entry, msgspec.Raw):
            if bytes(entry) == b"null":
                continue
            item, bad = decode(entry, kind, "")
        elif entry is None:
            continue
        else:
            item, bad = item_of(entry, kind, kind)
        problems += bad
        if item is not None:
            items.append(item)
    meta = listed.metadata or _ListMeta()
    return Page(items, meta.resourceVersion or "", meta.continue_ or ""), problems


def named_in(head: bytes) -> tuple[str, str]:
    """`namespace/name` and the UID of the object that an event's text begins with; empty where it does not say."""
    match = _HEAD.search(head)
    if match is None:
        return "", ""
    name, namespace, uid = ((part or b"").decode("utf-8", "replace") for part in match.groups())
    return f"{namespace}/{name}".lstrip("/"), uid


def _bookmark(shaped: Any) -> News:
    meta = shaped.metadata if shaped is not None else None
    if meta is None:
        return News("BOOKMARK")
    ends = (meta.annotations or {}).get(INITIAL_END) == "true"
    return News("BOOKMARK", None, meta.resource_version or "", ends)


def _shape_or_none(kind: str, raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw, type=KINDS[kind].shape)
    except msgspec.MsgspecError:
        return None


def _error(line: bytes) -> News:
    """An ERROR event carries a Status; its code says what to do."""
    try:
        status = msgspec.json.decode(msgspec.json.decode(line, type=_Line).object, type=_Code)
    except msgspec.MsgspecError:
        status = _Code()
    return News("ERROR", code=status.code, text=status.message or "the watch reported an error")


@lru_cache(maxsize=64)
def event_decoder(kind: str) -> msgspec.json.Decoder[Any]:
    """Reads lines of a watch as `type` and `object`, the latter in the kind's shape."""
    fields: list[Any] = [("type", str, ""), ("object", KINDS[kind].shape | None, None)]
    return msgspec.json.Decoder(msgspec.defstruct(f"{kind}Event", fields, gc=False))


@lru_cache(maxsize=64)
def _list_decoder(kind: str) -> msgspec.json.Decoder[Any]:
    return _lists(f"{kind}List", list[KINDS[kind].shape | None] | None)  # type: ignore[misc]


@lru_cache(maxsize=1)
def _raw_list() -> msgspec.json.Decoder[Any]:
    return _lists("RawList", list[msgspec.Raw] | None)


def _lists(name: str, items: Any) -> msgspec.json.Decoder[Any]:
    fields: list[Any] = [("metadata", _ListMeta | None, None), ("items", items, None)]
    return msgspec.json.Decoder(msgspec.defstruct(name, fields))
