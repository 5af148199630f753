"""`ringfence enrol`: the verbs over a server that runs, and an agent that follows them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ringfence.agent.identity import Enrol, Identity
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.client import Acknowledged, Refused, Sender
from ringfence.wire.codec import encode
from tests.cli.conftest import Online


def test_an_agent_is_let_in_listed_shut_out_and_let_in_again(online: Online, tmp_path: Path) -> None:
    made = online("enrol", "token", "--node", "node9", "--cluster", "lab", "--for", "10m", "-o", "json")
    document = json.loads(made.out)
    assert (made.code, document["node"], document["cluster"]) == (0, "node9", "lab")
    (tmp_path / "token").write_text(document["token"])
    url = (online.data / "ready-agents").read_text().strip()
    given = Enrol(
        server=url,
        cluster="lab",
        node="node9",
        folder=str(tmp_path / "identity"),
        enrol_token_file=str(tmp_path / "token"),
    )
    sending = Sender(url, Identity(given, lambda _: None, time.time_ns), 5)
    window = time.time_ns() // SECOND * SECOND

    def send(epoch: str) -> object:
        head = header(1, (window,), node="node9", epoch=epoch, sent=time.time_ns())
        return sending.send(encode(head, sighting(window), no_translations()))

    try:
        assert send("e1") == Acknowledged(1)
        table = online("enrol", "list")
        (line,) = [each for each in table.out.splitlines() if "node9" in each]
        assert "good" in line.split()
        done = online("enrol", "revoke", "node9", "--cluster", "lab")
        assert (done.code, done.out) == (0, "1 certificate of node9 revoked\n")
        assert isinstance(send("e2"), Refused)
        (row,) = [
            each for each in json.loads(online("enrol", "list", "-o", "json").out) if each["node"] == "node9"
        ]
        assert (row["state"], row["reason"], row["banned"]) == ("revoked", "by an administrator", True)
        assert online("enrol", "allow", "node9", "--cluster", "lab").out == "node9 may enrol again\n"
        again = online("enrol", "token", "--cluster", "lab")
        assert again.out.count("\n") == 1
        (tmp_path / "token").write_text(again.out)
        assert send("e3") == Acknowledged(1)
    finally:
        sending.close()


def test_revoking_who_has_nothing_says_so(online: Online) -> None:
    done = online("enrol", "revoke", "nobody")
    assert (done.code, done.out) == (1, "0 certificates of nobody revoked\n")


@pytest.mark.parametrize("valid", ["", "1", "1w", "8d", "0s", "-1h"])
def test_a_time_that_is_none_is_refused(online: Online, valid: str) -> None:
    done = online("enrol", "token", "--for", valid)
    assert done.code == 2
    assert done.err.startswith("error: ")
