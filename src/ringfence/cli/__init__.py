"""The command line: parse, call one verb, format. One file a noun; online verbs speak only the HTTP API.

This file assembles the tree and is the one place where a `Problem` becomes a line on stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer

from ringfence import __version__
from ringfence.model.problems import Problem

VERBS: tuple[tuple[str, str], ...] = (
    ("flows", "ringfence.cli.flows"),
    ("lab", "ringfence.cli.lab"),
    ("inventory", "ringfence.cli.inventory"),
    ("scope", "ringfence.cli.scope"),
    ("map", "ringfence.cli.map"),
    ("policy", "ringfence.cli.policy"),
    ("netpol", "ringfence.cli.netpol"),
    ("demo", "ringfence.cli.demo"),
    ("all-in-one", "ringfence.cli.all_in_one"),
    ("server", "ringfence.cli.server"),
    ("agent", "ringfence.cli.agent"),
    ("enrol", "ringfence.cli.enrol"),
    ("connector", "ringfence.cli.connector"),
    ("mode", "ringfence.cli.mode"),
    ("capture", "ringfence.cli.capture"),
    ("manifests", "ringfence.cli.manifests"),
    ("login", "ringfence.cli.login"),
    ("logout", "ringfence.cli.logout"),
    ("whoami", "ringfence.cli.whoami"),
    ("user", "ringfence.cli.user"),
    ("grant", "ringfence.cli.grant"),
    ("token", "ringfence.cli.token"),
    ("audit", "ringfence.cli.audit"),
)
"""Verb and the module that holds it: either `app` (a group of verbs) or `command` (a single one)."""


def build(asked: str | None = None) -> typer.Typer:
    """The command tree. Each module imports what it needs inside its functions, so this is cheap.

    When `asked` names a verb, the tree holds that verb alone: the others' modules are not even imported.
    """
    app = typer.Typer(
        name="ringfence",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help="See every network conversation in a cluster, propose the policy that explains it, prove it.",
        epilog="First steps: `ringfence demo` on a machine with root, or "
        "`ringfence flows read capture.pcap` anywhere.",
    )
    app.callback(invoke_without_command=True)(_root)
    for verb, module_name in [pair for pair in VERBS if pair[0] == asked] or VERBS:
        module = importlib.import_module(module_name)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(name=verb)(module.command)
    return app


def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"ringfence {__version__}")
        raise typer.Exit(0)


def main() -> None:
    """Run the command line. Exit 0 success, 1 the answer is "no", 2 bad input or usage, 70 a defect of ours."""
    try:
        code = build(next(iter(sys.argv[1:]), None))(prog_name="ringfence", standalone_mode=False)
        raise SystemExit(code if isinstance(code, int) else 0)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # The reader went away (`| head`): say nothing, as other filters do.
        sys.stderr.close()
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as defect:
        if hasattr(defect, "format_message"):
            _refuse(defect)
            raise SystemExit(2) from None
        # A defect of ours, not of the input; the whole story only for who asks.
        if os.environ.get("RINGFENCE_DEBUG"):
            raise
        where = f"{type(defect).__name__}: {defect}"
        print(
            f"error: internal error: {where}: please report it; RINGFENCE_DEBUG=1 shows more", file=sys.stderr
        )
        raise SystemExit(70) from None


def _refuse(error: Any) -> None:
    """One line for what the command line's own parser refuses (it ships inside Typer, so it is known by shape)."""
    what = " ".join(error.format_message().split()).removeprefix("Value error, ").rstrip(".")
    path = error.ctx.command_path if getattr(error, "ctx", None) else "ringfence"
    # A group called without a verb has shown its help already, and has nothing more to say.
    if what:
        print(f"error: {what}: {path}: see `{path} --help`", file=sys.stderr)
