"""The files in which sessions are kept: one a server, readable by its owner alone."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import typer

from ringfence.cli.client import DEFAULT_SERVER, SERVER_VARIABLE
from ringfence.model.problems import Problem

FOLDER_VARIABLE = "RINGFENCE_SESSIONS"


def server_of(server: str | None) -> str:
    """The server that is meant, written one way."""
    return (server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER).rstrip("/")


def session_file(server: str) -> Path:
    """Where the session at a server is kept."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path(state) / "ringfence" / "sessions")
    return folder / hashlib.sha256(server.encode()).hexdigest()[:24]


def kept(server: str) -> str | None:
    """The token of the session at a server. Raises Problem for a file that others can read."""
    file = session_file(server)
    try:
        if file.stat().st_mode & 0o077:
            raise Problem("others can read this session", str(file), "remove it, and `ringfence login` again")
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Problem(f"cannot read the session ({error.strerror})", str(file), "remove it") from None


def keep(server: str, token: str) -> Path:
    """Keep a session's token, in one step. Raises Problem."""
    file = session_file(server)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as opened:
            opened.write(token + "\n")
        partial.rename(file)
    except OSError as error:
        fix = f"set {FOLDER_VARIABLE} to a folder of yours"
        raise Problem(f"cannot keep the session ({error.strerror})", str(file), fix) from None
    return file


def forget(server: str) -> None:
    """Remove the session at a server."""
    session_file(server).unlink(missing_ok=True)


def asked_password(what: str, file: str | None, twice: bool = False) -> str:
    """A password from a file, from stdin (`-`), or from who sits at the terminal; never from an argument."""
    if file == "-":
        return sys.stdin.readline().rstrip("\r\n")
    if file is not None:
        try:
            return Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(f"cannot read the password ({error})", file, "name a file you can read") from None
    if not sys.stdin.isatty():
        raise Problem("nobody to ask for the password", "stdin", "give --password-file FILE, or - for stdin")
    return str(typer.prompt(what, hide_input=True, confirmation_prompt=twice, err=True))
