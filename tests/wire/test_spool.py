"""The agent's queue: durable, in order, bounded, and honest about what the bound cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.model.problems import Problem
from ringfence.testing.batches import START, header, no_translations, sighting
from ringfence.wire.codec import decode, encode
from ringfence.wire.spool import Spool


def body(sequence: int, epoch: str = "e1") -> bytes:
    return encode(header(sequence, (START,), epoch=epoch), sighting(START), no_translations())


def test_order_across_epochs_and_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    for epoch in ("zz-9", "a-1"):
        for sequence in (1, 2):
            spool.append(body(sequence, epoch), epoch, sequence)
    spool = Spool(tmp_path, 1 << 20)
    seen = []
    while entry := spool.oldest():
        seen.append((entry.epoch, entry.sequence))
        assert spool.acknowledge(entry.epoch, entry.sequence) == 1
    assert seen == [("zz-9", 1), ("zz-9", 2), ("a-1", 1), ("a-1", 2)]
    assert list(tmp_path.iterdir()) == []


def test_the_cap_costs_the_oldest_and_says_so(tmp_path: Path) -> None:
    size = max(len(body(sequence)) for sequence in range(1, 8))
    spool = Spool(tmp_path, size * 3)
    for sequence in range(1, 8):
        spool.append(body(sequence), "e1", sequence)
    assert spool.octets() <= size * 3
    batches = []
    while entry := spool.oldest():
        batches.append(decode(entry.body))
        spool.acknowledge(entry.epoch, entry.sequence)
    assert [batch.header.sequence for batch in batches] == list(range(1, 8))
    lost = [batch for batch in batches if batch.header.losses]
    assert [batch.header.sequence for batch in lost] == [1, 2, 3, 4]
    assert all(not batch.header.windows and not len(batch.sightings) for batch in lost)
    assert sum(loss.packets for batch in lost for loss in batch.header.losses) == 4 * 11


def test_partial_and_damaged_files_are_not_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    for sequence in (1, 2):
        spool.append(body(sequence), "e1", sequence)
    (tmp_path / "0000000000000003-e1-3.partial").write_bytes(body(3)[:50])
    first = min(tmp_path.glob("*.batch"))
    first.write_bytes(first.read_bytes()[:-5])
    spool = Spool(tmp_path, 1 << 20)
    entry = spool.oldest()
    assert entry is not None
    assert entry.sequence == 2
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_renumbered_batches_keep_their_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    for sequence in (7, 8, 9):
        spool.append(body(sequence), "e1", sequence)
    spool.renumber("e1", "e2")
    spool.append(body(4, "e2"), "e2", 4)
    spool = Spool(tmp_path, 1 << 20)
    seen = []
    while entry := spool.oldest():
        seen.append((entry.epoch, entry.sequence))
        spool.acknowledge(entry.epoch, entry.sequence)
    assert seen == [("e2", 1), ("e2", 2), ("e2", 3), ("e2", 4)]


def test_unusable_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Problem, match="cannot use the spool"):
        Spool(tmp_path / "file" / "spool", 1)


WRITER = """
import sys; from pathlib import Path
from ringfence.testing.batches import *; from ringfence.wire.codec import encode; from ringfence.wire.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
for sequence in range(1, 100000):
    spool.append(encode(header(sequence, (START,)), sighting(START), no_translations()), "e1", sequence)
    print(sequence, flush=True)
"""


@pytest.mark.parametrize("told", [3, 17])
def test_what_append_returned_for_survives_kill_9(tmp_path: Path, told: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(told):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait()
    appended = int(rest[-1]) if rest else told
    spool = Spool(tmp_path, 1 << 30)
    sequences = []
    while entry := spool.oldest():
        sequences.append(entry.sequence)
        spool.acknowledge(entry.epoch, entry.sequence)
    assert sequences[:appended] == list(range(1, appended + 1))
    assert len(sequences) - appended in (0, 1)


def test_damaged_files_are_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.append(body(1), "e1", 1)
    spool.append(b"not a batch", "e1", 2)
    spool.acknowledge("e1", 1)
    assert spool.oldest() is None
    assert spool.damaged == 1


def test_a_batch_of_a_process_before_that_no_server_would_take_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = sighting(START)
    wrong["direction"] = 99
    with monkeypatch.context() as unchecked:
        unchecked.setattr("ringfence.wire.codec.check_batch", lambda *_: None)
        refused = encode(header(1, (START,), epoch="e1"), wrong, no_translations())
    with pytest.raises(Problem):
        decode(refused)
    Spool(tmp_path, 1 << 20).append(refused, "e1", 1)
    spool = Spool(tmp_path, 1 << 20)
    spool.append(body(1, "e2"), "e2", 1)
    entry = spool.oldest()
    assert entry is not None
    assert (entry.epoch, spool.damaged) == ("e2", 1)
