"""The audit log is append-only, and shows it when somebody got around that."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy as sa

from ringfence.store.audit import FIRST, AuditStore, verify
from ringfence.store.facts import Facts


@pytest.fixture
def facts(tmp_path):
    facts = Facts(tmp_path)
    facts.open()
    yield facts
    facts.close()


@pytest.fixture
def log(facts):
    log = AuditStore(facts.engine)
    for number in range(1, 6):
        log.add(number, "user a", "PUT /v1/x", f"/v1/x/{number}", "done", {"b": 1, "a": "é"})
    return log


def tamper(facts, statement):
    """What somebody with the file can do who knows of the triggers."""
    with facts.engine.begin() as connection:
        for name in ("update", "delete"):
            connection.execute(sa.text(f"DROP TRIGGER audit_no_{name}"))
        connection.execute(sa.text(statement))


def test_a_whole_log_verifies(log):
    assert verify(log.entries()) is None
    number, head = log.head()
    assert number == 5
    log.add(6, "x", "y", "z", "done", {})
    assert verify(log.entries(), head) is None
    assert verify([]) is None
    assert verify([], FIRST) is None


@pytest.mark.parametrize("what", ["UPDATE audit SET by = 'b'", "DELETE FROM audit"])
def test_entries_are_neither_changed_nor_deleted(log, facts, what):
    with (
        pytest.raises((sa.exc.IntegrityError, sqlite3.Error), match="append-only"),
        facts.engine.begin() as c,
    ):
        c.execute(sa.text(what))
    assert verify(log.entries()) is None


@pytest.mark.parametrize("field", ["at", "by", "what", "target", "outcome", "details"])
def test_a_changed_entry_is_found(log, facts, field):
    tamper(facts, f"UPDATE audit SET {field} = '9' WHERE number = 3")
    assert verify(log.entries()).number == 3


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("DELETE FROM audit WHERE number = 1", 1),
        ("DELETE FROM audit WHERE number = 3", 3),
        ("INSERT INTO audit SELECT 0, at, by, what, target, outcome, details, previous, hash FROM audit WHERE number = 1", 1),
        ("UPDATE audit SET number = 6 WHERE number = 5", 5),
    ],
)  # fmt: skip
def test_a_missing_or_new_entry_is_found(log, facts, statement, number):
    tamper(facts, statement)
    assert verify(log.entries()).number == number


def test_a_cut_end_is_found_by_a_kept_head(log, facts):
    _, head = log.head()
    tamper(facts, "DELETE FROM audit WHERE number > 3")
    assert verify(log.entries()) is None
    assert verify(log.entries(), head).number == 4
