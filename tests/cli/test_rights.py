"""Signing in, users, grants, tokens and the audit log from the command line."""

from __future__ import annotations

import json
import sqlite3
import stat

import pytest

from tests.cli.conftest import verb


@pytest.fixture(autouse=True)
def sessions(tmp_path, monkeypatch):
    monkeypatch.setenv("RINGFENCE_SESSIONS", str(tmp_path / "sessions"))
    for name in ("RINGFENCE_TOKEN", "RINGFENCE_TOKEN_FILE", "RINGFENCE_SERVER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "sessions"


def test_from_a_new_user_to_a_broken_log(online, sessions, tmp_path):
    def mine(*arguments, **more):
        return verb(*arguments, "--server", online.url, **more)

    (tmp_path / "password").write_text("correct horse battery\n")
    word = ("--password-file", str(tmp_path / "password"))
    assert online("user", "add", "anna", *word).code == 0
    assert (
        mine("login", "anna", "--password-file", "-", stdin="wrong horse battery\n").err.count(
            "wrong name or password"
        )
        == 1
    )
    assert mine("whoami").code == 2
    assert mine("login", "anna", *word).code == 0
    (file,) = sessions.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert mine("flows", "list").code == 2
    assert online("grant", "add", "anna", "/", "read").out == "anna has read in / and below\n"
    assert mine("flows", "list").code == 0
    assert json.loads(mine("whoami", "-o", "json").out)["grants"] == [{"scope": "/", "ability": "read"}]
    assert [row["user"] for row in json.loads(mine("grant", "list", "-o", "json").out)] == ["anna"]
    made = json.loads(mine("token", "make", "nightly", "--grant", "/=read", "--for", "1h", "-o", "json").out)
    assert verb("flows", "list", "--server", online.url, "--token", made["token"]).code == 0
    assert made["token"] not in mine("token", "list", "-o", "yaml").out
    assert mine("token", "revoke", str(made["number"])).code == 0
    assert verb("flows", "list", "--server", online.url, "--token", made["token"]).code == 2
    assert mine("token", "make", "x", "--grant", "shop").code == 2
    (tmp_path / "new").write_text("another horse battery\n")
    changed = ("--old-password-file", str(tmp_path / "password"), "--password-file", str(tmp_path / "new"))
    assert mine("user", "password", *changed).code == 0
    assert mine("logout").code == 0
    assert (mine("logout").code, list(sessions.iterdir())) == (1, [])
    assert online("grant", "remove", "anna", "/").code == 0
    assert online("user", "disable", "anna").code == 0
    assert json.loads(online("user", "list", "-o", "json").out)[0]["disabled"] is True
    listed = json.loads(online("audit", "list", "-o", "json").out)
    assert {"POST /v1/login", "PUT /v1/grants"} <= {row["what"] for row in listed["entries"]}
    head = listed["head"]["hash"]
    assert online("audit", "verify", "--head", head).code == 0
    assert online("audit", "verify", "--head", "xy").code == 2
    with sqlite3.connect(online.data / "facts.sqlite") as log:
        log.execute("DROP TRIGGER audit_no_update")
        log.execute("UPDATE audit SET by = 'somebody' WHERE number = 2")
    log.close()
    broken = online("audit", "verify")
    assert (broken.code, broken.out) == (1, "broken at entry 2: its content is not what was written\n")


def test_a_session_that_others_can_read_is_not_used(sessions):
    from ringfence.cli.sessions import keep, kept
    from ringfence.model.problems import Problem

    file = keep("http://x", "secret")
    assert kept("http://x") == "secret"
    assert kept("http://y") is None
    file.chmod(0o644)
    with pytest.raises(Problem, match="others can read this session"):
        kept("http://x")
