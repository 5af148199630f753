"""`--config FILE` for every role: one YAML document with the fields of that role's settings, checked strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from ringfence.model.problems import Problem

S = TypeVar("S", bound=msgspec.Struct)


def load(settings: type[S], file: Path | None, flags: dict[str, Any]) -> S:
    """Settings from `file` (if any) with `flags` that were given (not None) on top.

    Raises Problem naming the file, the field and the fix for anything unknown, missing or of the wrong type.
    """
    fields = _read(file) if file else {}
    known = {field.encode_name for field in msgspec.structs.fields(settings)}
    for name in fields:
        if name not in known:
            raise Problem(f"unknown setting `{name}`", str(file), f"use one of: {', '.join(sorted(known))}")
    fields |= {name: value for name, value in flags.items() if value is not None}
    for field in msgspec.structs.fields(settings):
        if field.required and field.encode_name not in fields:
            name = field.encode_name
            fix = f"give --{name.replace('_', '-')}, or `{name}: VALUE` in a --config file"
            raise Problem(f"no {name.replace('_', ' ')}", str(file or "the command line"), fix)
    try:
        return msgspec.convert(fields, settings, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(f"bad setting: {error}", str(file or "the command line"), "see --help") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        raise Problem("cannot read the settings", str(file), str(error.strerror)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f"{file}:{where.line + 1}" if where else str(file)
        raise Problem("not YAML", line, "write one `name: value` a line") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Problem("not a mapping", str(file), "write one `name: value` a line")
    return {str(name): value for name, value in document.items()}
