"""Write the reference pages that can be read off the code: `make docs`. A test fails when they are stale."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import typer

from ringfence.cli import build
from ringfence.model import columns
from ringfence.store.search.fields import named_fields

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by `make docs` from the code; edit the code. -->\n"
SETTINGS = (
    ("agent", "ringfence.agent.settings", "AgentSettings"),
    ("server", "ringfence.server.app", "ServerSettings"),
    ("connector", "ringfence.kube.settings", "ConnectorSettings"),
    ("lab", "ringfence.lab.settings", "LabSettings"),
)
TABLES = ("TAP_COUNT", "TRANSLATION", "SIGHTING", "FLOW")


def pages() -> dict[Path, str]:
    """Every generated page by its path."""
    folder = ROOT / "docs" / "reference"
    return {
        folder / "cli.md": _cli(),
        folder / "settings.md": _settings(),
        folder / "columns.md": _columns(),
        folder / "search.md": _search(),
    }


def _cli() -> str:
    """One section a verb, the text of its `--help` as data: usage, what it does, its options."""
    parts = [NOTE, "# Command line\n"]
    for path, command in verbs(typer.main.get_command(build()), ("ringfence",)):
        epilog = f"\n\n{command.epilog}" if command.epilog else ""
        parts.append(f"## {' '.join(path)}\n\n{textwrap.dedent(command.help or '').strip()}{epilog}\n")
        rows = [_option(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def verbs(command: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """Every command below `command`, itself included, depth first."""
    found = [(path, command)]
    for name, child in getattr(command, "commands", {}).items():
        found += verbs(child, (*path, name))
    return found


def _option(parameter: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = (parameter.metavar or parameter.name).upper()
    text = getattr(parameter, "help", None) or ""
    return f"| `{names}` | {' '.join(text.split()).replace('|', chr(92) + '|')} |"


def _settings() -> str:
    parts = [
        NOTE,
        "# Settings\n",
        "Each role takes these as flags and, with `--config FILE`, from one YAML mapping; flags win.\n",
    ]
    for role, module, name in SETTINGS:
        struct = getattr(importlib.import_module(module), name)
        parts.append(f"## {role}\n\n| setting | default | meaning |\n|---|---|---|")
        parts += [f"| `{field}` | {default} | {text} |" for field, default, text in documented(struct)]
        parts.append("")
    return "\n".join(parts)


def documented(struct: type) -> list[tuple[str, str, str]]:
    """(field, default, docstring under it) of a settings struct."""
    body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
            texts[ast.unparse(statement.target)] = " ".join(ast.literal_eval(after.value).split())
    return [
        (field.name, _default(field), texts.get(field.name, "")) for field in msgspec.structs.fields(struct)
    ]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT:
        return "" if field.default_factory is msgspec.NODEFAULT else "empty"
    return "none" if field.default is None else f"`{field.default!r}`".replace("'", "")


def _columns() -> str:
    source = inspect.getsource(columns)
    parts = [NOTE, "# Columns\n", f"Layout version {columns.LAYOUT}. Little-endian, no padding.\n"]
    for name in TABLES:
        dtype = getattr(columns, name)
        doc = source.split(f"{name} = np.dtype", 1)[1].split('"""', 2)[1]
        parts.append(f"## {name}\n\n{doc}\n\n| column | type |\n|---|---|")
        parts += [f"| `{column}` | {kind} |" for column, kind in _kinds(dtype)]
        parts.append("")
    return "\n".join(parts)


SEARCH = """# Searches

`ringfence flows list --where`, `top`, `follow` and `export`, and `where` of the same routes ([api.md](api.md)), take a
condition in [CEL](https://cel.dev), as [filters](filters.md) do, over the fields below. A flow is found where the condition is
true; where it is an error, because a fact that it reads is absent, the flow is not found: `has(tls.server_name)` asks
whether it is there. What a field of sums tells is read off all minutes of the flow in the asked time together, every other
field off each minute. `timestamp("2026-11-26T06:00:00Z")` and `duration("90s")` write times and lengths; the clock cannot be asked.

Searches read flows as they were settled, about a minute after they were seen, and those seen since as they are known so far.

```
consumer.namespace == "shop" && port in [443, 8443] && octets > 1000000
has(drop_reason) && drop_reason == "policy"
opened_by.labels["app"] == "web" && ip(provider.ip).family() == 4
```

Where the engine is asked otherwise than the specification of CEL says, the page on [filters](filters.md) lists it.

| field | type | meaning |
|---|---|---|
"""


def _search() -> str:
    rows = [
        f"| `{name}` | {field.type.name}{', of sums' if field.sums else ''} | {field.meaning} |"
        for name, field in named_fields().items()
    ]
    return NOTE + "\n" + SEARCH + "\n".join(rows) + "\n"


def _kinds(dtype: object) -> list[tuple[str, str]]:
    fields = dtype.fields or {}  # type: ignore[attr-defined]
    return [(str(name), str(kind[0]).replace("<", "")) for name, kind in fields.items()]


def main() -> int:
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
