"""`ringfence demo`: the main job on real traffic, in one go."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ringfence.cli.output import Output, emit

if TYPE_CHECKING:
    from ringfence.cli.demo_report import Report
    from ringfence.cli.demo_run import Demo, DemoSettings


def command(
    headless: Annotated[
        bool, typer.Option("--headless", help="End by itself after --for, for scripts; print one document.")
    ] = False,
    seconds: Annotated[
        int, typer.Option("--for", help="Seconds of traffic to learn from.", min=5, max=86_400)
    ] = 60,
    listen: Annotated[
        str, typer.Option(help="Address of the API, HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:8443",
    data: Annotated[
        Path | None, typer.Option(help="Keep the server's data here [default: a folder removed at the end].")
    ] = None,
    policies: Annotated[Path, typer.Option(help="Where the proposed policies are written.")] = Path(
        "ringfence-demo/policies"
    ),
    overlay: Annotated[str, typer.Option(help="How the lab's nodes are joined: routed or vxlan.")] = "vxlan",
    intruder: Annotated[
        bool, typer.Option("--intruder", help="Add a pod that scans and calls user-db.")
    ] = False,
    manifests: Annotated[
        Path | None, typer.Option(help="Kubernetes YAML to run in place of the built-in Sock Shop.")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Replay the recorded capture even where live is possible.")
    ] = False,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="table, json, jsonl or yaml.")
    ] = Output.table,
) -> None:
    """Run the Sock Shop on a lab cluster, watch it, and propose the policy that explains it.

    Starts a lab of network namespaces, a server on its embedded store, one agent a node and a connector; learns for
    --for seconds; then prints the map, the connections of each golden category leg by leg, the proposed policies,
    what is unresolved, and how complete the data is. Nothing is enforced and nothing is left behind. In a terminal it
    goes on serving its API until Ctrl-C. Without root it replays a recorded capture and says so.

    Example: `ringfence demo --headless --for 60 -o json > demo.json`
    """
    from ringfence.cli.demo_run import DemoSettings

    for number in ENDINGS:
        signal.signal(number, _interrupt)
    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringfence-demo-")))
        settings = DemoSettings(
            seconds=seconds,
            listen=listen,
            data=folder.absolute(),
            policies=policies,
            overlay=overlay,
            intruder=intruder,
            manifests=manifests,
            replay=replay,
            temporary=data is None,
        )
        _run(settings, stay=not headless and sys.stdin.isatty(), output=output, headless=headless)


def _run(settings: DemoSettings, stay: bool, output: Output, headless: bool) -> None:
    from ringfence.cli.demo_run import running

    say = _progress(headless)
    with running(settings, say) as demo:
        try:
            report = demo.learn()
            _print(report, output)
            if stay:
                _serve(demo, report.server)
        finally:
            _shield()
            say("stopping")


def _serve(demo: Demo, url: str) -> None:
    """Stay until Ctrl-C, which is how this is meant to end."""
    print(f"\nThe API is at {url} until Ctrl-C. From another terminal:", file=sys.stderr)
    print(f"  export RINGFENCE_SERVER={url} RINGFENCE_TOKEN={demo.token}", file=sys.stderr)
    print("  ringfence flows list; ringfence map; ringfence policy discover", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        demo.serve()


def _print(report: Report, output: Output) -> None:
    from ringfence.cli.demo_report import show

    if output is Output.table:
        show(report)
    else:
        emit(msgspec.to_builtins(report), output)


class _progress:
    """Says what is happening: one line that is rewritten in a terminal, one line a change elsewhere."""

    def __init__(self, headless: bool) -> None:
        self._live = sys.stderr.isatty() and not headless
        self._last = 0.0

    def __call__(self, text: str, passing: bool = False) -> None:
        """`passing` lines are rewritten by the next one, or printed every ten seconds where that is impossible."""
        now = time.monotonic()
        if self._live:
            sys.stderr.write(f"\r\x1b[2K{text}" + ("" if passing else "\n"))
            sys.stderr.flush()
        elif not passing or now - self._last > 10:
            self._last = now
            print(text, file=sys.stderr, flush=True)


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a demo: Ctrl-C, a request, a terminal that went away."""


def _interrupt(*_: Any) -> None:
    _shield()
    raise KeyboardInterrupt


def _shield() -> None:
    """From now on nothing interrupts the cleaning up; SIGKILL is the keeper's affair."""
    for number in ENDINGS:
        # A function and not SIG_IGN, which the commands that clean up would inherit.
        signal.signal(number, lambda *_: None)
