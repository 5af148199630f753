"""Names from frames of an AF_PACKET ring: what `bpf/names.h` tells, chosen here among frames that came with their payload."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ringfence.capture.decode import tls
from ringfence.capture.decode.heard import PORT, Half, Listener, Segment
from ringfence.capture.packets.frames import I64, Frames
from ringfence.capture.packets.payloads import segments_of
from ringfence.model.columns import Kind, Table
from ringfence.model.protocols import TCP

TOLD_LATELY = 1_000_000_000
"""Nanoseconds in which another tap's copy of a hello is the same one."""
MOST_GREETINGS = 4096


class Ear:
    """Lets a listener hear each question once: a pod's at its own tap, the node's own where they leave."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._greetings: OrderedDict[tuple[Half, Half, int, int], int] = OrderedDict()
        self.on = False
        self.pods: frozenset[int] = frozenset()
        """Tap ids of pods."""
        self.ours: frozenset[Half] = frozenset()
        """The node's own addresses."""

    def hear(self, frames: Frames, rows: Table, frame: I64, snap: int) -> None:
        """Frames of one kind; `rows` (TAP_COUNT) are those counted, `frame` which frame each is of."""
        ports = (rows["src_port"] == PORT) | (rows["dst_port"] == PORT)
        wanted = (ports | (frames.captured[frame] > snap)) & (rows["kind"] == Kind.PLAIN)
        if not self.on or not wanted.any():
            return
        row_of = np.full(len(frames.at), -1, np.int64)
        row_of[frame] = np.arange(len(frame))
        for place, segment in segments_of(frames, np.sort(frame[wanted])):
            row = rows[row_of[place]]
            told = segment._replace(tap=int(row["tap"]))
            if self._counts(told, bool(row["ingress"])):
                self._listener.hear(told)

    def _counts(self, segment: Segment, coming: bool) -> bool:
        asks = segment.dport == PORT
        if asks or segment.sport == PORT:
            if asks == coming:
                return segment.tap in self.pods
            return (segment.src if asks else segment.dst) in self.ours
        return segment.protocol == TCP and tls.is_hello(segment.payload) and self._is_new(segment)

    def _is_new(self, segment: Segment) -> bool:
        """Whether no tap told this hello lately: one connection passes several."""
        key = (segment.src, segment.dst, segment.sport, segment.dport)
        before = self._greetings.pop(key, segment.time - TOLD_LATELY)
        fresh = segment.time - before >= TOLD_LATELY
        self._greetings[key] = segment.time if fresh else before
        if len(self._greetings) > MOST_GREETINGS:
            self._greetings.popitem(last=False)
        return fresh
