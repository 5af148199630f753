"""`ringfence mode`: the verbs over a server that runs."""

from __future__ import annotations

import json

from tests.cli.conftest import Online


def test_a_mode_is_desired_shown_and_taken_back(online: Online) -> None:
    done = online("mode", "set", "detailed", "--node", "node1", "--cluster", "lab")
    assert (done.code, done.out) == (0, "node node1: detailed; 1 node now: node1\n")
    done = online("mode", "set", "detailed", "--where", 'labels["app"] == "nobody"', "--cluster", "lab")
    assert done.out == 'pods where labels["app"] == "nobody": detailed; 0 nodes now\n'
    rows = json.loads(online("mode", "list", "-o", "json").out)
    assert [(row["node"], row["mode"], row["nodes"]) for row in rows] == [
        (None, "detailed", []),
        ("node1", "detailed", ["node1"]),
    ]
    assert "node node1" in online("mode", "list").out
    done = online("mode", "clear", "--node", "node1", "--cluster", "lab", "-o", "json")
    assert (done.code, json.loads(done.out)["mode"]) == (0, None)
    assert len(json.loads(online("mode", "list", "-o", "json").out)) == 1


def test_what_cannot_be_followed_is_said(online: Online) -> None:
    for arguments, words in (
        (("set", "detailed"), "a mode of nothing"),
        (("set", "conversation", "--namespace", "shop"), "coarser than the rest"),
        (("set", "loud", "--node", "node1"), "use one of: conversation, detailed"),
    ):
        done = online("mode", *arguments)
        assert done.code == 2
        assert words in done.err
