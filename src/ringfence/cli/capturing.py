"""Reads a capture from the server and writes it: to files that rotate, or to a pipe."""

from __future__ import annotations

import http.client
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ringfence.capture.stream import pcapng
from ringfence.capture.stream.joined import Files
from ringfence.capture.stream.pcapng import Blocks, Damage, Statistics
from ringfence.cli.client import Client, part
from ringfence.cli.output import Output, emit
from ringfence.model.problems import Problem

ID_HEADER = "X-Ringfence-Capture"
PIECE = 1 << 18
"""Octets read at once, at most."""


class Sink:
    """Where the file goes. With `octets` or `seconds` it becomes files NAME-00001.EXT, NAME-00002.EXT and so on."""

    def __init__(self, write: str, octets: int = 0, seconds: float = 0) -> None:
        self._write, self._rotates = write, bool(octets or seconds)
        self._files = Files(octets, seconds)
        self._open: IO[bytes] | None = None
        self.names: list[str] = []

    def check(self) -> None:
        """Raise Problem where it is plain that nothing can be written."""
        if self._write == "-" and sys.stdout.isatty():
            fix = "give -w FILE, or a pipe: `| tcpdump -nr -`"
            raise Problem("packets are not for a terminal", "standard output", fix)
        if self._write != "-" and not Path(self._write).absolute().parent.is_dir():
            raise Problem("no such folder", str(Path(self._write).parent), "make it, or name another file")

    def write(self, blocks: list[bytes]) -> None:
        """Whole blocks, at once, so that a reader of a pipe sees them. Raises Problem; BrokenPipeError passes."""
        for fresh, octets in self._files.feed(blocks, time.monotonic()):
            if fresh:
                self._next()
            assert self._open is not None
            self._put(octets)
        if self._open is not None:
            self._put(b"", flush=True)

    @property
    def pipe(self) -> int | None:
        """The descriptor of standard output, where packets go there; None else."""
        return sys.stdout.fileno() if self._write == "-" else None

    def close(self) -> None:
        """Nothing more comes."""
        if self._open is not None and self._write != "-":
            self._open.close()

    def _put(self, octets: bytes, flush: bool = False) -> None:
        assert self._open is not None
        try:
            self._open.write(octets)
            if flush:
                self._open.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Problem(f"cannot write ({error.strerror})", self._write, "free space") from None

    def _next(self) -> None:
        if self._write == "-":
            self._open = sys.stdout.buffer
            return
        self.close()
        path = Path(self._write)
        if self._rotates:
            path = path.with_name(f"{path.stem}-{len(self.names) + 1:05}{path.suffix}")
        try:
            self._open = path.open("wb")
        except OSError as error:
            raise Problem(f"cannot write ({error.strerror})", str(path), "name another file") from None
        self.names.append(str(path))


class Summary:
    """What was said of each interface."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._told: dict[int, Statistics] = {}
        self._written: dict[int, int] = {}

    def see(self, block: bytes) -> None:
        """One block that was written."""
        kind = pcapng.kind_of(block)
        if kind == pcapng.INTERFACE:
            self._names.append(pcapng.read_name(block))
        elif kind == pcapng.PACKET:
            number = pcapng.number_of(block)
            self._written[number] = self._written.get(number, 0) + 1
        elif kind == pcapng.STATISTICS:
            number, told = pcapng.read_statistics(block)
            self._told[number] = told

    @property
    def any(self) -> bool:
        """Whether any tap was there."""
        return bool(self._names)

    def rows(self) -> list[dict[str, Any]]:
        """By interface; what is not known is None."""
        return [
            {
                "interface": name,
                "packets": self._written.get(number, 0),
                "matched": told.accepted if (told := self._told.get(number)) else None,
                "dropped": told.dropped if told else None,
            }
            for number, name in enumerate(self._names)
        ]


def run(client: Client, wish: dict[str, Any], sink: Sink, output: Output) -> None:
    """Capture until the end, and say what became of it. Raises Problem."""
    sink.check()
    answer = client.stream("/v1/captures", wish)
    id_ = answer.headers.get(ID_HEADER, "")
    _end_by_signal(client, id_)
    if sink.pipe is not None:
        _end_with_reader(client, id_, sink.pipe)
    summary = Summary()
    try:
        whole = _copy(answer, sink, summary)
    except BrokenPipeError:
        # The reader has had enough. What is left in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    finally:
        sink.close()
        # The connection is what holds the capture: without it the agents end.
        answer.close()
    notes = client.get(f"/v1/captures/{part(id_)}")["notes"] if whole else ["the server went away"]
    if not summary.any:
        raise Problem("nothing was captured", "; ".join(notes) or "no agent began", "see the agents' logs")
    say(summary.rows(), notes, sink.names, output)
    if not whole:
        raise Problem("the server went away", "the capture", "what was written until then is whole")


def _copy(answer: http.client.HTTPResponse, sink: Sink, summary: Summary) -> bool:
    """Whether the stream came to its own end."""
    blocks = Blocks()
    try:
        while piece := answer.read1(PIECE):
            whole = blocks.feed(piece)
            for block in whole:
                summary.see(block)
            sink.write(whole)
    except BrokenPipeError:
        raise
    except (OSError, http.client.HTTPException):
        return False
    except Damage as damage:
        raise Problem(f"not a capture ({damage})", "the server's answer", "check --server") from None
    return answer.isclosed() and blocks.cut == 0


def _end_by_signal(client: Client, id_: str) -> None:
    """The first Ctrl-C asks for the end, and the counts still come; the second leaves at once."""

    def heard(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_ask_for_the_end, args=(client, id_), daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, heard)


def _end_with_reader(client: Client, id_: str, pipe: int) -> None:
    """A reader that has had enough ends the capture at once, not with the next packet."""

    def watch() -> None:
        poll = select.poll()
        poll.register(pipe, 0)  # nothing but POLLERR: the other end is closed
        if any(event & select.POLLERR for _, event in poll.poll()):
            _ask_for_the_end(client, id_)

    threading.Thread(target=watch, daemon=True).start()


def _ask_for_the_end(client: Client, id_: str) -> None:
    with suppress(Problem):
        client.delete(f"/v1/captures/{part(id_)}")


def say(rows: list[dict[str, Any]], notes: list[str], files: list[str], output: Output) -> None:
    """The summary: on stdout when files hold the packets and a format was asked for; else on stderr, in words."""
    if output is not Output.table and files:
        emit({"interfaces": rows, "files": files, "notes": notes}, output)
        return
    for row in rows:
        dropped = "not known" if row["dropped"] is None else row["dropped"]
        print(
            f"{row['interface']}: {row['packets']} packets, {dropped} dropped by the kernel", file=sys.stderr
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
