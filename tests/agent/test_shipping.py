"""What leaves the disk and when: never before it is known to be kept, never in a busy loop."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import msgspec

from ringfence.agent.shipping import Shipper
from ringfence.testing.batches import START, header, no_translations, sighting
from ringfence.wire.client import Acknowledged, Unreachable
from ringfence.wire.codec import encode
from ringfence.wire.spool import Spool


class Server:
    """Stands where a Sender stands, and answers as told."""

    def __init__(self, outcome):
        self.outcome, self.asked, self.heard = outcome, 0, threading.Event()

    def send(self, body):
        self.asked += 1
        self.heard.set()
        return self.outcome

    def close(self):
        pass


def batch(generation=7):
    head = msgspec.structs.replace(header(1, (START,), epoch="e1"), generation=generation)
    return encode(head, sighting(START), no_translations())


def shipper(tmp_path: Path, server):
    return Shipper(Spool(tmp_path, 1 << 20), server, lambda: "e2", lambda text: None)


def test_a_crash_before_the_marker_is_written_finds_the_generation_in_the_spool(tmp_path):
    class Killed(BaseException):
        pass

    def die():
        raise Killed

    with contextlib.suppress(Killed):
        shipper(tmp_path, Server(Acknowledged(1))).keep(batch(), "e1", 1, die)
    assert shipper(tmp_path, Server(Acknowledged(1))).newest().generation == 7


def test_nothing_is_sent_before_it_is_known_to_be_kept(tmp_path):
    server = Server(Acknowledged(1))
    ships = shipper(tmp_path, server)
    ships.start()
    ships.keep(batch(), "e1", 1, lambda: order.append(server.asked) if not server.heard.wait(0.3) else None)
    assert server.heard.wait(5)
    assert order == [0]
    assert ships.stop(5.0) == 0
    assert ships.newest() is None


order: list[int] = []


def test_a_stop_while_the_server_is_away_does_not_hammer_it(tmp_path):
    server = Server(Unreachable("connection refused"))
    ships = shipper(tmp_path, server)
    ships.keep(batch(), "e1", 1)
    ships.start()
    assert ships.stop(1.0) == 1
    assert server.asked < 10
