"""An agent gives nothing to a server that is not its own: wrong authority, wrong name, or no server at all."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringfence.agent import enrol
from ringfence.agent.identity import Enrol, Held, Identity, Job, machine, sender
from ringfence.model.problems import Problem
from ringfence.wire.client import Sender, Unreachable
from ringfence.wire.enrolment import fingerprint_of, write_token
from ringfence.wire.orders import Line

SECRET = b"s" * 24


def openssl(*argv: object, text: str | None = None) -> None:
    subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True, input=text, text=True)


class Pki:
    """An authority and what it signs, by openssl: another implementation than ours."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.ca = folder, folder / "ca.crt"
        self.key("ca")
        use = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        openssl(
            *("req", "-x509", "-new", "-key", folder / "ca.key", "-days", 2, "-subj", "/CN=an authority"),
            *("-out", self.ca, *use),
        )

    def key(self, name: str) -> None:
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.folder / f"{name}.key")

    def sign(self, name: str, names: str, use: str) -> tuple[Path, Path]:
        """(certificate, key)."""
        self.key(name)
        key, made, request = (self.folder / f"{name}.{end}" for end in ("key", "crt", "csr"))
        openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        extra = self.folder / f"{name}.ext"
        extra.write_text(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage={use}\nsubjectAltName={names}\n"
            "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        signing = ("-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", 2)
        openssl("x509", "-req", "-in", request, *signing, "-extfile", extra, "-out", made)
        return made, key

    @property
    def fingerprint(self) -> bytes:
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(self.ca.read_text()))


class Listener(threading.Thread):
    """A TLS server that answers as a Ringfence server would and keeps whatever it is told."""

    def __init__(self, chain: tuple[Path, Path], authority: Path) -> None:
        super().__init__(daemon=True)
        self.heard, self.handshakes, self.authority = b"", 0, authority.read_bytes()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*chain)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self.handshakes += 1
                    secure.settimeout(5)
                    self._answer(secure)
            except (ssl.SSLError, OSError):
                connection.close()

    def _answer(self, secure: ssl.SSLSocket) -> None:
        while octets := secure.recv(65536):
            self.heard += octets
            body = self.authority if b"GET /v1/enrol/authority" in octets else b'{"acknowledged": 1}'
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def hears(self, word: bytes, wait: bool) -> bool:
        """Whether it was told; what was sent in several pieces is answered after the first."""
        deadline = time.monotonic() + 5
        while wait and word not in self.heard and time.monotonic() < deadline:
            time.sleep(0.01)
        return word in self.heard

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join(10)


@pytest.fixture
def servers() -> Iterator[list[Listener]]:
    made: list[Listener] = []
    yield made
    for each in made:
        each.stop()


def identity(pki: Pki, folder: Path, url: str) -> Identity:
    """One that enrolled with the authority of `pki`."""
    chain, key = pki.sign("agent", "URI:ringfence://lab/node/node1", "clientAuth")
    (folder / "identity").mkdir(parents=True)
    held = Held("01", "lab", "node1", 0, 1 << 32, machine())
    (folder / "identity" / "identity.pem").write_text(
        enrol.msgspec.json.encode(held).decode() + "\n" + key.read_text() + chain.read_text()
    )
    (folder / "identity" / "ca.pem").write_text(pki.ca.read_text())
    given = Enrol(server=url, cluster="lab", node="node1", folder=str(folder / "identity"))
    return Identity(given, lambda _: None, lambda: 1)


CASES = [
    ("right", True),
    ("another authority", False),
    ("another name", False),
    ("an agent's certificate", False),
]
"""What a server shows, and whether an agent may speak to it."""


def shown(case: str, folder: Path) -> tuple[Pki, Listener]:
    """The agents' authority, and a server that shows one of `CASES`."""
    ours, theirs = Pki(folder / "ours"), Pki(folder / "theirs")
    chain = {
        "right": lambda: ours.sign("server", "IP:127.0.0.1", "serverAuth"),
        "another authority": lambda: theirs.sign("server", "IP:127.0.0.1", "serverAuth"),
        "another name": lambda: ours.sign("server", "IP:127.0.0.2,DNS:elsewhere", "serverAuth"),
        "an agent's certificate": lambda: ours.sign("server", "IP:127.0.0.1", "clientAuth"),
    }[case]()
    return ours, Listener(chain, ours.ca)


@pytest.mark.parametrize(("case", "heard"), CASES)
def test_orders_are_asked_and_packets_sent_to_the_right_server_only(
    tmp_path: Path, servers: list[Listener], case: str, heard: bool
) -> None:
    ours, server = shown(case, tmp_path)
    servers.append(server)
    line = Line(server.url, identity(ours, tmp_path / "agent", server.url), 5)
    acts: tuple[Callable[[], object], ...] = (
        lambda: line.ask("lab", "node1", 0),
        lambda: line.stream("c1", "lab", "node1"),
    )
    for act in acts:
        # A right one's answer is none of orders, but it was asked.
        with pytest.raises(Problem) if heard else pytest.raises(ssl.SSLCertVerificationError):
            act()
            line.send(b"a packet")
            raise Problem("it was told", "the server", "")
    line.close()
    for word in (b"/v1/agents/orders", b"a packet"):
        assert server.hears(word, wait=heard) is heard
    if not heard:
        assert server.heard == b""


@pytest.mark.parametrize(("case", "heard"), CASES)
def test_a_batch_goes_to_the_right_server_only(
    tmp_path: Path, servers: list[Listener], case: str, heard: bool
) -> None:
    ours, server = shown(case, tmp_path)
    servers.append(server)
    sending = Sender(server.url, identity(ours, tmp_path / "agent", server.url), 5)
    outcome = sending.send(b"what was seen on this node")
    sending.close()
    assert server.hears(b"what was seen", wait=heard) is heard
    assert isinstance(outcome, Unreachable) is not heard
    if not heard:
        assert server.heard == b""


def test_a_token_is_not_told_to_an_impostor(tmp_path: Path, servers: list[Listener]) -> None:
    ours, theirs = Pki(tmp_path / "ours"), Pki(tmp_path / "theirs")
    token = write_token(SECRET, ours.fingerprint)
    chain = theirs.sign("server", "IP:127.0.0.1", "serverAuth")
    # One that shows its own authority, and one that shows ours but has no certificate of it.
    for authority in (theirs.ca, ours.ca):
        server = Listener(chain, authority)
        servers.append(server)
        job = Job(
            server=server.url,
            cluster="lab",
            node="node1",
            folder=str(tmp_path / "agent"),
            machine=None,
            how="token",
            token=token,
        )
        with pytest.raises(Problem, match=r"not the one that made the token|no answer from the server"):
            enrol.run(job)
        assert b"GET /v1/enrol/authority" in server.heard
        assert token.split(".")[1].encode() not in server.heard
        assert b"CERTIFICATE REQUEST" not in server.heard
    assert not (tmp_path / "agent" / "identity.pem").exists()


def test_a_certificate_for_another_key_is_not_kept(tmp_path: Path) -> None:
    ours = Pki(tmp_path / "ours")
    other, _ = ours.sign("other", "DNS:x", "clientAuth")
    job = Job(server="https://x", cluster="lab", node="n", folder=str(tmp_path), machine=None, how="token")
    key = enrol.ec.generate_private_key(enrol.ec.SECP256R1())
    with pytest.raises(Problem, match="another key"):
        enrol._keep(job, tmp_path, key, enrol.Issued(other.read_text(), "01", 60))
    assert not (tmp_path / "identity.pem").exists()


@pytest.mark.parametrize(
    ("server", "token", "what"),
    [
        ("http://127.0.0.1:1", None, "no TLS to the server"),
        ("http://192.0.2.1:1", "t", "a token without TLS to another machine"),
    ],
)
def test_nothing_goes_without_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, token: str | None, what: str
) -> None:
    monkeypatch.delenv("RINGFENCE_AGENT_TOKEN", raising=False)
    file = tmp_path / "token"
    file.write_text("t")
    given = Enrol(server=server, cluster="lab", node="n", folder=str(tmp_path))
    with pytest.raises(Problem, match=what):
        sender(server, str(file) if token else None, given, lambda _: None)


def test_a_damaged_identity_is_got_again_not_trusted(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "identity.pem").write_bytes(b"\xff\x00 not a line of ours\n")
    given = Enrol(server="https://127.0.0.1:1", cluster="lab", node="n", folder=str(tmp_path))
    with pytest.raises(Problem, match="not enrolled"):
        Identity(given, said.append, lambda: 1).renewed()
    assert "cannot be read" in said[0]


def test_an_identity_of_another_node_is_not_used(tmp_path: Path) -> None:
    ours = Pki(tmp_path / "ours")
    mine = identity(ours, tmp_path / "agent", "https://127.0.0.1:1")
    assert mine._held() is not None
    given = Enrol(server="https://127.0.0.1:1", cluster="lab", node="node2", folder=mine._enrol.folder)
    assert Identity(given, lambda _: None, lambda: 1)._held() is None


def test_the_agent_itself_never_loads_what_makes_keys() -> None:
    code = "import sys, ringfence.agent.main; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_agent_brings_no_heavy_library_into_memory():
    """As it is started from the command line."""
    heavy = ("pydantic", "pyarrow", "chdb", "pyroute2", "litestar", "sqlalchemy")
    code = (
        "import sys, ringfence.agent.main; from ringfence.cli import build; build('agent');"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
