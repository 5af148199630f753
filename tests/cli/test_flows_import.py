"""`ringfence flows import` against a server: folders, what is kept already, and files that are no logs."""

from __future__ import annotations

import gzip
import json
import time

from ringfence.testing.logs import zeek

SECOND = 1_000_000_000


def test_a_folder_is_kept_once_and_a_stranger_is_named(online, tmp_path):
    now = time.time_ns()
    logs = tmp_path / "logs"
    (logs / "old").mkdir(parents=True)
    (logs / "conn.log").write_bytes(zeek(now - 60 * SECOND, now - 90 * SECOND))
    (logs / "old" / "conn.log.gz").write_bytes(gzip.compress(zeek(now - 300 * SECOND)))
    done = online("flows", "import", str(logs), "--cluster", "lab", "-o", "json")
    assert done.code == 0
    assert [(each["origin"], each["kept"], each["again"]) for each in json.loads(done.out)] == [
        ("zeek", 2, False),
        ("zeek", 1, False),
    ]
    (logs / "readme.txt").write_text("hello\n")
    again = online("flows", "import", str(logs))
    assert again.code == 2
    assert (
        "error: not a flow log that is known by its beginning: readme.txt: say what it is with format"
        in again.err
    )
    assert online("flows", "import", str(tmp_path / "none")).err.startswith("error: no such file")
