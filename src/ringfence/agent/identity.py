"""Who an agent is: its certificate, got, kept and renewed; or, for development, a bearer token.

Goals: the key is made on the node and never leaves it; losing the server or the certificate never ends the agent,
which goes on counting and keeps its batches; the agent itself stays small. So keys and requests are made by a child
process of a second (`agent.enrol`), and only the standard library's TLS lives here.

One file holds key and certificate, so that no crash can leave one beside another's; its first line says when to renew.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ringfence.model.problems import Problem
from ringfence.wire.client import Bearer, Credentials, Sender, split
from ringfence.wire.enrolment import MACHINE_HEADER
from ringfence.wire.orders import Caller, Line

IDENTITY_FILE, AUTHORITY_FILE = "identity.pem", "ca.pem"
FOLDER_MODE = 0o700
RENEW_AT = 2 / 3
"""The part of a certificate's life after which it is renewed."""
PATIENCE = 30.0
"""Seconds for the child process."""
TRY_AGAIN = 60.0
"""Seconds between tries to renew what is still good."""
TOKEN_VARIABLE, ENROL_VARIABLE = "RINGFENCE_AGENT_TOKEN", "RINGFENCE_ENROL_TOKEN"
MACHINE_FILES = ("/sys/class/dmi/id/product_uuid", "/etc/machine-id")
"""The firmware's id first: a disk that is cloned takes its machine-id along."""
SECOND = 1_000_000_000


class Enrol(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom to enrol, and with what. Paths of files that are read anew each time."""

    server: str
    cluster: str
    node: str
    folder: str
    """Where key and certificate are kept, readable by their owner alone."""
    enrol_token_file: str | None = None
    account_token_file: str | None = None
    ca_file: str | None = None


class Held(msgspec.Struct, frozen=True):
    """The first line of the identity file. Times are of this node's clock (UTC ns), so that skew does no harm."""

    serial: str
    cluster: str
    node: str
    received: int
    seconds: int
    machine: str | None = None

    @property
    def renew_at(self) -> int:
        """When to ask for the next one."""
        return self.received + int(self.seconds * RENEW_AT * SECOND)

    @property
    def ends(self) -> int:
        """When it has run out."""
        return self.received + self.seconds * SECOND


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the child process is told on its standard input."""

    server: str
    cluster: str
    node: str
    folder: str
    machine: str | None
    how: str
    """`token`, `account` or `renewal`."""
    token: str | None = None
    ca_file: str | None = None


class Identity:
    """Credentials (`wire.client.Credentials`) by certificate. `clock` gives UTC nanoseconds. One thread uses it."""

    def __init__(self, enrol: Enrol, log: Callable[[str], None], clock: Callable[[], int]) -> None:
        self._enrol, self._log, self._clock = enrol, log, clock
        self._folder = Path(enrol.folder)
        self._machine = machine()
        self._shown: str | None = None
        self._bad: str | None = None
        self._doubted: str | None = None
        self._tried = 0

    def check(self) -> None:
        """Raise Problem where there is neither a certificate nor anything to enrol with."""
        enrol = self._enrol
        ways = (enrol.account_token_file, enrol.enrol_token_file, os.environ.get(ENROL_VARIABLE))
        if self._held() is None and not any(ways):
            raise _unable(enrol.node)

    def renewed(self) -> bool:
        """See that a good certificate is there; True when it is another than was shown last. Raises Problem."""
        held = self._held()
        now = self._clock()
        if held is not None and held.serial == self._doubted:
            held = self._again(held)
        if held is None or held.ends <= now or held.serial == self._bad:
            held = self._first(held)
        elif held.renew_at <= now and self._tried + TRY_AGAIN * SECOND <= now:
            self._tried = now
            held = self._renew(held)
        return held.serial != self._shown

    def changed(self) -> bool:
        """Whether what is kept is no longer what was shown last."""
        held = self._held()
        return held is not None and held.serial != self._shown

    def show(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        """A context that trusts the server's authority alone and shows our certificate."""
        held = self._held()
        if held is None:
            raise Problem(
                "not enrolled", str(self._folder), "give --enrol-token-file or --account-token-file"
            )
        # Where the authority is in a file outside, a new one there is believed at once.
        context = trusting(Path(self._enrol.ca_file or self._folder / AUTHORITY_FILE))
        try:
            context.load_cert_chain(self._folder / IDENTITY_FILE)
        except (OSError, ssl.SSLError) as error:
            raise Problem(
                f"cannot use the certificate ({error})", str(self._folder), "remove its files and enrol again"
            ) from None
        self._shown = held.serial
        return context, {MACHINE_HEADER: self._machine} if self._machine else {}

    def refused(self, status: int) -> None:
        """The next try enrols anew, which takes a token: the pod's own, or a new one that somebody gave us.

        A handshake may fail for other reasons, so that is only a doubt, and for who can enrol at any time.
        """
        if status:
            self._bad = self._shown
        elif self._enrol.account_token_file is not None:
            self._doubted = self._shown

    def _again(self, held: Held) -> Held:
        """Enrol although the present certificate may be good; it stays where that fails."""
        self._doubted = None
        try:
            return self._first(held)
        except Problem as problem:
            self._log(f"cannot enrol again: {problem}")
            return held

    def _first(self, held: Held | None) -> Held:
        how, token = self._with()
        if token is None:
            if held is not None:
                fix = "make a token (`ringfence enrol token`) and give it as --enrol-token-file"
                raise Problem("the certificate has run out or is refused", str(self._folder), fix)
            raise _unable(self._enrol.node)
        self._child(how, token)
        self._bad = None
        found = self._held()
        if found is None:
            raise Problem("no certificate was kept", str(self._folder), "look at its rights and free space")
        self._log(f"enrolled as {found.node} with certificate {found.serial[:12]}")
        return found

    def _renew(self, held: Held) -> Held:
        """The next certificate, or the present one where that fails: it is good for a while."""
        try:
            self._child("renewal", None)
        except Problem as problem:
            self._log(f"cannot renew the certificate yet: {problem}")
            return held
        self._tried = 0
        return self._held() or held

    def _with(self) -> tuple[str, str | None]:
        """How to enrol, and the token for it: a pod's own token where there is one."""
        enrol = self._enrol
        if enrol.account_token_file is not None:
            return "account", _read(enrol.account_token_file, "mount the service-account token")
        if enrol.enrol_token_file is not None:
            return "token", _read(enrol.enrol_token_file, "write the token there (`ringfence enrol token`)")
        return "token", os.environ.get(ENROL_VARIABLE)

    def _child(self, how: str, token: str | None) -> None:
        """Run `agent.enrol`. Secrets go over its standard input, never on a command line. Raises Problem."""
        enrol = self._enrol
        job = Job(
            server=enrol.server,
            cluster=enrol.cluster,
            node=enrol.node,
            folder=enrol.folder,
            machine=self._machine,
            how=how,
            token=token,
            ca_file=enrol.ca_file,
        )
        try:
            done = subprocess.run(
                [sys.executable, "-m", "ringfence.agent.enrol"],
                input=msgspec.json.encode(job),
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise Problem(f"enrolment did not finish ({error})", enrol.server, "it is tried again") from None
        if done.returncode:
            raise _said(done.stderr.decode(errors="replace"), enrol.server)

    def _held(self) -> Held | None:
        """What is kept for this very node; None where nothing is."""
        try:
            with (self._folder / IDENTITY_FILE).open("rb") as file:
                held = msgspec.json.decode(file.readline(), type=Held)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self._log(f"the kept certificate cannot be read ({error}): enrolling again")
            return None
        return held if (held.cluster, held.node) == (self._enrol.cluster, self._enrol.node) else None


def sender(
    server: str,
    token_file: str | None,
    enrol: Enrol,
    log: Callable[[str], None],
    clock: Callable[[], int] = time.time_ns,  # noqa: TID251  the agent owns a clock
) -> Sender:
    """What carries an agent's batches: by certificate, or by a bearer token where one is given. Raises Problem."""
    secure, host, _, _ = split(server)
    token = _bearer(token_file)
    if token is None:
        if not secure:
            fix = "write https://, or for development give --token-file"
            raise Problem("no TLS to the server", server, fix)
        identity = Identity(enrol, log, clock)
        identity.check()
        return Sender(server, identity)
    if not secure and not _loopback(host):
        raise Problem("a token without TLS to another machine", server, "write https://, or enrol")
    log("for development only: a bearer token speaks for this node, not a certificate")
    return Sender(server, Bearer(token, trusting(Path(enrol.ca_file)) if secure and enrol.ca_file else None))


class Follower:
    """Credentials beside an `Identity` of the same node, for one more connection: it shows what that one got, and never
    enrols or renews itself."""

    def __init__(self, enrol: Enrol, log: Callable[[str], None], clock: Callable[[], int]) -> None:
        self._identity = Identity(enrol, log, clock)

    def renewed(self) -> bool:
        """Whether there is another certificate now."""
        return self._identity.changed()

    def show(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        """As the identity itself would. Raises Problem before there is a certificate."""
        return self._identity.show()

    def refused(self, status: int) -> None:
        """The identity's own connection will hear of it too."""


def caller(
    server: str,
    token_file: str | None,
    enrol: Enrol,
    log: Callable[[str], None],
    clock: Callable[[], int] = time.time_ns,  # noqa: TID251  the agent owns a clock
) -> Caller:
    """Makes further connections to the server, as whoever `sender` speaks for. Raises Problem."""
    secure, _, _, _ = split(server)
    token = _bearer(token_file)
    context = trusting(Path(enrol.ca_file)) if secure and token and enrol.ca_file else None

    def call(timeout: float | None) -> Line:
        held: Credentials = Bearer(token, context) if token else Follower(enrol, log, clock)
        return Line(server, held, timeout)

    return call


def trusting(authority: Path) -> ssl.SSLContext:
    """A client's context that trusts one authority. Raises Problem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise Problem(
            f"cannot read the server's authority ({error})", str(authority), "give its certificate in PEM"
        ) from None
    return context


def machine() -> str | None:
    """A hash of what tells this machine from others; None where nothing does. The id itself stays here."""
    for file in MACHINE_FILES:
        with contextlib.suppress(OSError):
            if text := Path(file).read_text().strip():
                return hashlib.sha256(b"ringfence machine " + text.encode()).hexdigest()
    return None


def _unable(node: str) -> Problem:
    return Problem(
        "not enrolled", node, "give --enrol-token-file (`ringfence enrol token`) or --account-token-file"
    )


def _bearer(token_file: str | None) -> str | None:
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    return _read(token_file, "a server started with --agent-tokens writes one at start")


def _read(file: str, fix: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise Problem(f"cannot read the token ({error.strerror})", file, fix) from None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _said(words: str, server: str) -> Problem:
    """What the child said, one line `error: WHAT: WHERE: FIX`."""
    lines = words.strip().splitlines()
    try:
        problem = msgspec.json.decode(lines[-1], type=dict[str, str])
        return Problem(problem["what"], problem["where"], problem["fix"])
    except (IndexError, KeyError, msgspec.DecodeError):
        return Problem(
            f"enrolment failed ({lines[-1][:200] if lines else 'without a word'})", server, "try again"
        )
