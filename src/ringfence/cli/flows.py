"""`ringfence flows`: flows of captures on disk (`read`), and of a server (`list`, `show`)."""

from __future__ import annotations

import gc
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence.cli.flows_online import add_to
from ringfence.cli.output import Output

if TYPE_CHECKING:
    from ringfence.cli.offline import Answer
    from ringfence.model.flows import Flow

app = typer.Typer(
    no_args_is_help=True,
    help="Flows: of captures on disk, or kept by a server.",
    epilog="Example: `ringfence flows read capture.pcap`",
)


class Format(StrEnum):
    """Formats of the contract."""

    auto = "auto"
    pcap = "pcap"
    zeek = "zeek"
    hubble = "hubble"
    calico = "calico"
    netobserv = "netobserv"
    vpc = "vpc"
    ipfix = "ipfix"
    sflow = "sflow"
    ringfence = "ringfence"


class SortBy(StrEnum):
    """What comes first. `octets` and `packets` add both sides up, largest first."""

    start = "start"
    octets = "octets"
    packets = "packets"


@app.callback()
def group() -> None:
    """Flows: of captures on disk, or kept by a server."""


@app.command()
def read(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Captures or flow logs, plain, gzip or zstd; folders of them; -; or udp://HOST:PORT.",
        ),
    ],
    format: Annotated[
        Format, typer.Option(help="What the files are; auto looks at how they begin.")
    ] = Format.auto,
    inventory: Annotated[
        str | None,
        typer.Option(help="Folder or file of manifests, or a `kubectl get -o json` dump: adds names."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most flows to show, of all files together.", min=1)
    ] = None,
    sort: Annotated[SortBy, typer.Option(help="Order within a file.")] = SortBy.start,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Seconds to listen; else until Ctrl-C.", min=0.1)
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.table,
) -> None:
    """Read captures, or other tools' flow logs, and show their flows, both directions together.

    Captures: pcap and pcapng. Logs: Zeek's conn.log (TSV, JSON), Hubble's and NetObserv's JSON, Calico's flow logs, and
    flow logs of AWS, Google Cloud and Azure (`vpc`), NetFlow, IPFIX and sFlow datagrams. What a log does not tell is null. Each file is read as far as it goes and has its own flows. A file that cannot be read to its end is named
    on standard error, and the exit code is 2. At udp://HOST:PORT, NetFlow, IPFIX and sFlow are taken as exporters send
    them, and their flows printed every 15 seconds (`-o jsonl`).

    Example: `ringfence flows read capture.pcap --inventory k8s/ -o jsonl`
    """
    from ringfence.cli.listen import is_socket, listen
    from ringfence.cli.offline import read_files

    if any(map(is_socket, files)):
        for problem in listen(files, seconds, inventory, output):
            print(f"error: {problem}", file=sys.stderr)
        return
    # The answer is many small values that all live until the end: looking for garbage among them only costs.
    gc.disable()
    answer = read_files(files, inventory, sort.value, limit, format.value)
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)
    _print(answer, output)
    sys.stdout.flush()
    for problem in answer.problems:
        print(f"error: {problem}", file=sys.stderr)
    if answer.problems:
        raise typer.Exit(2)


COLUMNS = ("start", "leg", "consumer", "provider", "protocol", "packets", "octets", "direction", "flow id")
SPARE = ("direction", "packets", "start", "octets")


def _print(answer: Answer, output: Output) -> None:
    from ringfence.cli.output import emit, emit_table

    if output is not Output.table:
        emit(answer.flows, output)
        return
    if not (answer.frames or answer.lines) and answer.problems:
        # Nothing could be read: the errors say so, and an empty table would only stand before them.
        return
    emit_table(None, COLUMNS, map(_row, answer.flows), SPARE)
    rest = f"; {answer.left_out} more beyond --limit" if answer.left_out else ""
    of = [f"{answer.frames} packets"] if answer.frames or not answer.lines else []
    of += [f"{answer.lines} lines"] if answer.lines else []
    print(f"\n{len(answer.flows)} flows of {' and '.join(of)}{rest}")


def _pair(consumer: int | None, provider: int | None) -> str:
    """Counters of both ends; `-` where nobody told them."""
    return "/".join("-" if count is None else str(count) for count in (consumer, provider))


def _row(flow: Flow) -> tuple[Any, ...]:
    import msgspec

    from ringfence.cli.flows_online import who

    consumer, provider = msgspec.to_builtins(flow.consumer), msgspec.to_builtins(flow.provider)
    protocol = flow.protocol if flow.tunnel is None else f"{flow.protocol} {flow.tunnel}"
    packets = _pair(flow.consumer_packets, flow.provider_packets)
    octets = _pair(flow.consumer_octets, flow.provider_octets)
    ends = who(consumer), who(provider)
    return flow.start, flow.leg, *ends, protocol, packets, octets, flow.direction, flow.flow_id


add_to(app)
