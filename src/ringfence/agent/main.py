"""The agent's hands: performs what `step` decides. Owns the clock, the capture and the spool; wiring by hand."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

from ringfence import __version__
from ringfence.agent.budget import window
from ringfence.agent.defects import bare, blind
from ringfence.agent.filling import Filling, is_due, look, pause
from ringfence.agent.identity import Enrol, caller, sender
from ringfence.agent.meter import Limits, give_back, hold_little
from ringfence.agent.orders import Desired, Listener
from ringfence.agent.settings import MODES, AgentSettings, budget, capture_settings, check, length
from ringfence.agent.shipping import Shipper
from ringfence.agent.step import (
    Command,
    Commit,
    Keep,
    Observe,
    Observed,
    Pace,
    State,
    Switch,
    Tick,
    begin,
    step,
)
from ringfence.capture import doors, privilege
from ringfence.capture.helper import SYS_ADMIN, Helper, give_up
from ringfence.capture.kernel import Capture
from ringfence.model.batches import BatchHeader, Loss
from ringfence.model.problems import Problem
from ringfence.wire.codec import encode
from ringfence.wire.spool import Spool

SECOND = 1_000_000_000


class Agent:
    """One node's agent. `run` returns after `stop` was set and everything durable or handed over."""

    def __init__(self, settings: AgentSettings) -> None:
        check(settings)
        self._settings = settings
        self._node = settings.node or socket.gethostname()
        self._capture = Capture(capture_settings(settings))
        self._marker = Path(settings.data) / "kept"
        self._lost: tuple[Loss, ...] = ()
        self._limits = Limits(budget(settings))
        self._pace = Pace(settings.mode, length(settings, settings.mode))

    def run(self, stop: threading.Event) -> None:
        """Capture and ship until `stop`. Raises Problem when it cannot start; nothing is left behind then."""
        hold_little()
        settings = self._settings
        spool = Spool(Path(settings.data) / "spool", settings.spool_cap)
        carrier = sender(settings.server, settings.token_file, self._enrol(), self._log)
        shipper = Shipper(spool, carrier, _epoch, self._log)
        call = caller(settings.server, settings.token_file, self._enrol(), self._log)
        listener = Listener(settings.cluster, self._node, settings.netns, call, self._log)
        helper = self._divide()
        try:
            self._capture.start()
        except BaseException:
            _reunite(helper)
            raise
        try:
            for note in self._capture.notes:
                self._log(note)
            self._log(
                f"capturing on {self._node}, {len(self._capture.taps)} taps, sending to {settings.server}"
            )
            give_back()
            shipper.start()
            listener.start()
            self._loop(stop, shipper, listener.desired)
        finally:
            listener.stop()
            left = shipper.stop(patience=5.0)
            self._capture.stop(keep=settings.keep_counting)
            _reunite(helper)
        if left:
            self._log(f"{left} batches stay in {settings.data} for the next start")

    def _divide(self) -> Helper | None:
        """Leave entering namespaces, and the right to it, to a helper. Nothing where this process has no such right."""
        if not privilege.held("SYS_ADMIN"):
            return None
        helper = Helper()
        doors.use(helper)
        reason = _keeps(self._settings)
        if not reason:
            give_up((SYS_ADMIN,))
        said = f"kept CAP_SYS_ADMIN: {reason}" if reason else "gave up CAP_SYS_ADMIN"
        self._log(f"a helper (process {helper.pid}) enters namespaces; this process {said}")
        return helper

    def _enrol(self) -> Enrol:
        settings = self._settings
        return Enrol(
            server=settings.server,
            cluster=settings.cluster,
            node=self._node,
            folder=str(Path(settings.data) / "identity"),
            enrol_token_file=settings.enrol_token_file,
            account_token_file=settings.account_token_file,
            ca_file=settings.ca_file,
        )

    def _loop(self, stop: threading.Event, shipper: Shipper, desired: Desired) -> None:
        settings = self._settings
        kept, closed = self._kept(shipper)
        state = begin(
            settings.cluster,
            self._node,
            _epoch(),
            __version__,
            *self._pace,
            _now(),
            kept,
            closed if self._capture.adopted else 0,
        )
        filling = Filling(time.monotonic())
        while not stop.is_set():
            # An interface that comes wakes the loop at once, so that a new pod's first packets are seen.
            left = max(0.0, (state.next_close - _now()) / SECOND)
            select.select([self._capture], [], [], min(pause(filling), left))
            self._capture.refresh()
            filling = look(filling, time.monotonic(), self._capture.filled)
            tick = Tick(_now(), filling=is_due(filling))
            state = self._advance(self._paced(state, desired.mode), tick, shipper)
        self._advance(state, Tick(_now(), final=True), shipper)

    def _paced(self, state: State, ordered: str | None) -> State:
        """Follow the mode that is ordered (None: that of the settings), as far as the budget allows."""
        if self._limits.changed():
            self._log("; ".join(self._limits.notes) or "within its budget again: everything is looked up")
            self._capture.look_up(self._limits.level == 0)
        mode = ordered if ordered in MODES else self._settings.mode
        pace = Pace(mode, window(length(self._settings, mode), self._limits.level))
        if pace == self._pace:
            return state
        if mode != self._pace.mode:
            self._log(f"ordered into {mode} mode")
            self._capture.detail(mode == "detailed")
        self._pace = pace
        return step(state, Switch(pace))[0]

    def _advance(self, state: State, tick: Tick, shipper: Shipper) -> State:
        state, commands = step(state, tick)
        for command in commands:
            if isinstance(command, Observe):
                self._count_damaged(shipper.damaged())
                state, asked = self._decided(state, self._observe(command))
                for each in asked:
                    self._perform(each, shipper)
                del command, asked
                give_back()
        return state

    def _decided(self, state: State, event: Observed) -> tuple[State, tuple[Command, ...]]:
        """What to do about what was observed. A defect in that costs facts, or in the worst case this window's counts, both
        counted as lost, and never the agent: its successor would read the same and end the same way."""
        for less in (lambda *both: both, bare, blind):
            try:
                return step(*less(state, event))
            except Exception as defect:
                if os.environ.get("RINGFENCE_DEBUG"):
                    raise
                where = traceback.extract_tb(defect.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                self._log(
                    f"a defect: {type(defect).__name__}: {defect}: {place}: something of this window is counted as "
                    "lost; please report it"
                )
        raise RuntimeError("time itself cannot be told")

    def _observe(self, command: Observe) -> Observed:
        drained = self._capture.drain()
        translations, hints, missed = self._capture.translations()
        processes = self._capture.processes()
        heard, crowded = self._capture.names()
        lost, self._lost = self._lost, ()
        return Observed(
            now=_now(),
            windows=command.windows,
            open_window=command.open_window,
            sample=self._settings.sample,
            counts=drained.counts,
            generation=drained.generation,
            packets=drained.packets,
            taps=drained.taps,
            addresses=self._capture.addresses,
            translations=translations,
            hints=hints,
            processes=processes.opened,
            process_infos=processes.infos,
            ends=processes.ends,
            losses=(*missed, *crowded, *lost),
            notes=(*self._capture.notes, *self._limits.notes),
            kernel_losses=drained.losses,
            accepted=self._capture.accepted(),
            facts=self._capture.facts(),
            asks=self._capture.asks(),
            heard=heard,
        )

    def _perform(self, command: Command, shipper: Shipper) -> None:
        if isinstance(command, Keep):
            self._keep(command, shipper)
        elif isinstance(command, Commit):
            self._capture.commit()

    def _keep(self, command: Keep, shipper: Shipper) -> None:
        """Put the batch on disk. A disk that refuses, or a defect, costs this batch, counted, and not the agent."""
        header = command.header
        try:
            body = encode(header, command.sightings, command.translations, command.hops)
            shipper.keep(body, header.epoch, header.sequence, lambda: self._mark(_mark_of(header)))
        except OSError as error:
            self._log(
                f"cannot keep a batch on disk ({error.strerror}): {self._settings.data}: counted as lost"
            )
            self._lose("spool-write-failed", command)
        except Problem as problem:
            self._log(f"made a batch that no server takes ({problem}): counted as lost; please report it")
            self._lose("batch-invalid", command)

    def _lose(self, stage: str, command: Keep) -> None:
        rows = command.sightings
        octets = int(rows["consumer_octets"].sum() + rows["provider_octets"].sum())
        lost = Loss(stage, command.header.packets, octets, command.header.records)
        self._lost += (lost, *command.header.losses)

    def _count_damaged(self, batches: int) -> None:
        if batches:
            self._log(f"{batches} batches on disk were damaged: set aside in {self._settings.data}/spool")
            self._lost += (Loss("spool-damaged", events=batches),)

    def _kept(self, shipper: Shipper) -> tuple[int, int]:
        """(generation of the newest counts on disk, end of the last window closed), of this boot; 0 when unknown.

        The newest batch in the spool knows it, unless it was sent: then the marker was written before.
        """
        waiting = shipper.newest()
        if waiting:
            return _mark_of(waiting)
        with contextlib.suppress(OSError, ValueError):
            boot, generation, closed = self._marker.read_text().split()
            if boot == _boot():
                return int(generation), int(closed)
        return 0, 0

    def _mark(self, mark: tuple[int, int]) -> None:
        with contextlib.suppress(OSError):
            partial = self._marker.with_suffix(".partial")
            partial.write_text(f"{_boot()} {mark[0]} {mark[1]}\n")
            partial.rename(self._marker)

    def _log(self, text: str) -> None:
        print(f"agent {self._node}: {text}", file=sys.stderr, flush=True)


def _keeps(settings: AgentSettings) -> str:
    """Why this process itself needs CAP_SYS_ADMIN; empty where it does not."""
    if settings.netns is not None:
        return "it works in another namespace (netns)"
    facts = settings.facts or settings.processes or settings.socket_links
    needed = ("BPF",) * (facts or settings.path != "packet") + ("PERFMON",) * facts
    lacking = [f"CAP_{name}" for name in needed if not privilege.owned(name)]
    return f"it stands in for {' and '.join(lacking)}" if lacking else ""


def _reunite(helper: Helper | None) -> None:
    """End the helper."""
    doors.use(None)
    if helper is not None:
        helper.close()


def _mark_of(header: BatchHeader) -> tuple[int, int]:
    """What a batch says of its kernel counts: their generation, and the end of the last window they close."""
    last = max(header.windows, default=None)
    if last is None:
        # Read early: every window was closed before the one that is open.
        return header.generation, header.open_window or 0
    return header.generation, last + header.window_length


def _now() -> int:
    return time.time_ns()  # noqa: TID251 - the agent owns a clock


def _epoch() -> str:
    """A name never used again."""
    return secrets.token_hex(8)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
