"""Trees of scopes from files."""

from __future__ import annotations

import sys
from pathlib import Path

from ringfence.cli.inventory_rows import finish
from ringfence.inventory.scope_file import read_scopes
from ringfence.inventory.scopes import Tree
from ringfence.model.problems import Problem


def tree_of(file: str) -> Tree:
    """The tree in a file, or on standard input. Every problem is printed; then the exit code is 2."""
    try:
        text = (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode("utf-8")
    except OSError as error:
        raise Problem(f"cannot read ({error.strerror})", file, "name a YAML file of scopes") from None
    except UnicodeDecodeError:
        raise Problem("not text in UTF-8", file, "save it as UTF-8") from None
    tree, problems = read_scopes(text, "standard input" if file == "-" else file)
    finish(problems)
    return tree
