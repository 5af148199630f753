"""Typed decoding that gives up a field, not an object: what is wrong is dropped and named.

A field of the wrong type costs that field alone; an object without a usable name costs itself. The way down
is slow (plain dicts) and taken only by objects that are wrong.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeVar

import msgspec

from ringfence.model.problems import Problem

T = TypeVar("T", bound=msgspec.Struct)

MOST = 32
"""Wrong fields dropped from one object before the whole object is."""

_AT = re.compile(r"^(?P<what>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")


class Shaped(NamedTuple):
    """The typed value (None when nothing could be kept) and what had to be dropped."""

    value: Any
    problems: tuple[Problem, ...] = ()


def shape(source: bytes | msgspec.Raw | dict[str, Any], kind: type[T], where: str) -> Shaped:
    """`source` (JSON bytes or plain dicts) as `kind`. Never raises for what the source holds."""
    try:
        try:
            return Shaped(_typed(source, kind))
        except msgspec.ValidationError:
            plain = source if isinstance(source, dict) else msgspec.json.decode(source)
            return _salvage(plain, kind, f"{where}{_name(plain)}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Shaped(None, (Problem(f"not JSON ({error})", where, "fix the document"),))


def _typed(source: bytes | msgspec.Raw | dict[str, Any], kind: type[T]) -> T:
    if isinstance(source, dict):
        return msgspec.convert(source, kind)
    return msgspec.json.decode(source, type=kind)


def _salvage(plain: Any, kind: type[T], where: str) -> Shaped:
    problems: list[Problem] = []
    for _ in range(MOST):
        try:
            return Shaped(msgspec.convert(plain, kind), tuple(problems))
        except msgspec.ValidationError as error:
            match = _AT.match(str(error))
            path = match["path"] if match else "$"
            what = match["what"] if match else str(error)
            problems.append(_problem(what, where, path))
            plain = _without(plain, [_step(step) for step in _STEP.finditer(path)])
            if plain is None:
                break
    return Shaped(None, tuple(problems))


def _name(plain: Any) -> str:
    """` namespace/name` of the object, as far as it says."""
    meta = plain.get("metadata") if isinstance(plain, dict) else None
    parts = [meta.get("namespace"), meta.get("name")] if isinstance(meta, dict) else []
    told = "/".join(part for part in parts if isinstance(part, str) and part)
    return f" {told}" if told else ""


def _problem(what: str, where: str, path: str) -> Problem:
    field = path.removeprefix("$").removeprefix(".") or "the object itself"
    return Problem(
        f"wrong type ({what[:1].lower()}{what[1:]})", f"{where}: {field}", "fix the field; it was left out"
    )


def _step(match: re.Match[str]) -> str | int:
    if match["name"]:
        return match["name"]
    return -1 if match["index"] == "..." else int(match["index"])


def _without(plain: Any, steps: list[str | int]) -> Any:
    """A copy of `plain` with the place that `steps` lead to set to null; None when that is the object itself.

    Step -1 stands for "some value of this mapping", which msgspec does not name: all that are not text go.
    """
    if not steps:
        return None
    step, rest = steps[0], steps[1:]
    if isinstance(plain, list) and isinstance(step, int):
        return [_without(item, rest) if i == step else item for i, item in enumerate(plain)]
    if not isinstance(plain, dict):
        return None
    if step == -1:
        return _texts_only(plain)
    return {key: _without(item, rest) if key == step else item for key, item in plain.items()}


def _texts_only(plain: dict[Any, Any]) -> dict[str, str] | None:
    kept = {key: item for key, item in plain.items() if isinstance(key, str) and isinstance(item, str)}
    return kept if len(kept) < len(plain) else None
