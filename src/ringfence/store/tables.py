"""The tables of facts: everything kept that is not flows. The only list of them; `facts` reads and writes."""

from __future__ import annotations

import sqlalchemy as sa

META = sa.MetaData()

SETTINGS = sa.Table(
    "settings", META, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text)
)

MARKS = sa.Table(
    "marks",
    META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("cluster", "node", "epoch")),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
)

CHANGES = sa.Table(
    "changes",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.LargeBinary, unique=True, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("cluster", "kind", "uid")),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("known", sa.BigInteger, nullable=False),
    sa.Column("value", sa.LargeBinary),
)

REPORTS = sa.Table(
    "reports",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("addresses", sa.Text, nullable=False),
)

AGENTS = sa.Table(
    "agents",
    META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("cluster", "node")),
    sa.Column("state", sa.LargeBinary, nullable=False),
)

TOKENS = sa.Table(
    "tokens",
    META,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
)

CONNECTORS = sa.Table(
    "connectors",
    META,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("report", sa.LargeBinary, nullable=False),
)

CHECKPOINTS = sa.Table(
    "checkpoints",
    META,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("saved", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

FILTERS = sa.Table(
    "filter_versions",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("text", sa.Text),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "version"),
)

SCOPES = sa.Table(
    "scope_versions",
    META,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tree", sa.LargeBinary, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
)

DRAFTS = sa.Table(
    "scope_drafts",
    META,
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("base", sa.Integer, nullable=False),
    sa.Column("tree", sa.LargeBinary),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

USERS = sa.Table(
    "users",
    META,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text),
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
)
"""`hash` is Argon2id with its parameters and salt; none for a service account, which signs in by token alone."""

GRANTS = sa.Table(
    "grants",
    META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("user", "scope")),
    sa.Column("ability", sa.Integer, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
)

CREDENTIALS = sa.Table(
    "credentials",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.LargeBinary, unique=True, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("user", "name")),
    sa.Column("grants", sa.LargeBinary),
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger),
    sa.Column("ended", sa.BigInteger),
    sa.Column("by", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
"""Sessions (`name` empty) and API tokens: the SHA-256 of each, never the secret."""

AUDIT = sa.Table(
    "audit",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("by", "what", "target", "outcome", "details")),
    *(sa.Column(name, sa.LargeBinary, nullable=False) for name in ("previous", "hash")),
)
"""What people did; each entry's hash covers the one before. Rows are only added: triggers refuse the rest."""

for _what in ("UPDATE", "DELETE"):
    sa.event.listen(
        AUDIT,
        "after_create",
        sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER IF NOT EXISTS audit_no_{_what.lower()} BEFORE {_what} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        ),
    )

CERTIFICATES = sa.Table(
    "certificates",
    META,
    sa.Column("serial", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("cluster", "node", "how")),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("made", "expires")),
    *(sa.Column(name, sa.Text) for name in ("machine", "before")),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("state", "reason")),
)

ENROL_TOKENS = sa.Table(
    "enrol_tokens",
    META,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("cluster", "node")),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("made", "expires")),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("used", sa.BigInteger),
    sa.Column("key", sa.LargeBinary),
)

BANS = sa.Table(
    "banned_nodes",
    META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("cluster", "node")),
    sa.Column("at", sa.BigInteger, nullable=False),
)

SETTLEMENTS = sa.Table(
    "settlements",
    META,
    sa.Column("length", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)
"""The settlement that holds for each span."""

STALE = sa.Table(
    "stale_settlements",
    META,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
)
"""Settlements that do not hold: begun and never committed, or followed by a later one."""

DIRTY = sa.Table(
    "dirty_minutes", META, sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False)
)
"""Settled minutes of which something new is known."""
