"""The child process that gets a certificate: `python -m ringfence.agent.enrol`, a `Job` in JSON on standard input.

It makes the key, asks the server, writes the identity file and ends, so that the agent never loads what makes keys. Exit 0,
or 2 with one line of JSON (`what`, `where`, `fix`) on standard error.

With a one-time token the server's authority is fetched over a connection that trusts nobody, and believed only
when its fingerprint is the token's; the token's secret goes over a second connection that trusts that authority alone.
The key is kept before it is used, so that an answer that was lost can be asked for again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import sys
import time
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ringfence.agent.identity import AUTHORITY_FILE, FOLDER_MODE, IDENTITY_FILE, Held, Job, trusting
from ringfence.model.problems import Problem
from ringfence.wire.client import split
from ringfence.wire.enrolment import (
    AUTHORITY_PATH,
    ENROL_PATH,
    MACHINE_HEADER,
    RENEW_PATH,
    Application,
    Issued,
    fingerprint_of,
    read_token,
)

KEY_FILE = "next.key"
TIMEOUT = 10.0
MAX_ANSWER = 1 << 20


class _Error(msgspec.Struct):
    what: str
    where: str
    fix: str


class _Refusal(msgspec.Struct):
    error: _Error


def run(job: Job) -> Held:
    """Get a certificate and keep it. Raises Problem."""
    folder = Path(job.folder)
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        _authority(job, folder)
        key = _key(folder / KEY_FILE)
        issued = _ask(job, folder, key)
        return _keep(job, folder, key, issued)
    except OSError as error:
        raise Problem(
            f"cannot use the folder of the identity ({error.strerror or error})",
            job.folder,
            "give a writable --data",
        ) from None


def _authority(job: Job, folder: Path) -> None:
    """See that the server's authority is there. The server can never change it: only a token or a file can."""
    target = folder / AUTHORITY_FILE
    if job.how == "token":
        pem = _exchange(job, ssl._create_unverified_context(), "GET", AUTHORITY_PATH, None).decode()
        try:
            found = fingerprint_of(ssl.PEM_cert_to_DER_cert(pem))
        except ValueError:
            found = b""
        if found != read_token(job.token or "").fingerprint:
            fix = "check --server; somebody may answer in its place"
            raise Problem("the server is not the one that made the token", job.server, fix)
        _write(target, pem)
    elif job.ca_file is not None:
        _write(target, _read(job.ca_file))
    elif not target.exists():
        raise Problem("no authority to trust", job.server, "give --ca-file with the server's authority")


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError as error:
        raise Problem(
            f"cannot read the server's authority ({error.strerror})", file, "the server publishes it at start"
        ) from None


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    """The key of the next certificate: the one that waits for an answer, or a new one."""
    with contextlib.suppress(OSError, ValueError):
        key = serialization.load_pem_private_key(file.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    key = ec.generate_private_key(ec.SECP256R1())
    _write(file, _private(key))
    return key


def _ask(job: Job, folder: Path, key: ec.EllipticCurvePrivateKey) -> Issued:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ringfence agent")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    application = Application(
        request=request.public_bytes(serialization.Encoding.PEM).decode(),
        cluster=job.cluster,
        node=job.node,
        machine=job.machine,
        token=read_token(job.token or "").secret if job.how == "token" else None,
        account_token=job.token if job.how == "account" else None,
    )
    context = trusting(folder / AUTHORITY_FILE)
    if job.how == "renewal":
        context.load_cert_chain(folder / IDENTITY_FILE)
    path = RENEW_PATH if job.how == "renewal" else ENROL_PATH
    answer = _exchange(job, context, "POST", path, msgspec.json.encode(application))
    try:
        return msgspec.json.decode(answer, type=Issued)
    except msgspec.DecodeError:
        raise Problem("not an answer of a Ringfence server", job.server, "check --server") from None


def _keep(job: Job, folder: Path, key: ec.EllipticCurvePrivateKey, issued: Issued) -> Held:
    """Write the identity in one step. A certificate that is not for our key is refused before."""
    try:
        certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
        good = certificate.public_key() == key.public_key() and issued.seconds > 0
    except ValueError:
        good = False
    if not good:
        raise Problem("the server sent a certificate for another key", job.server, "check --server")
    now = time.time_ns()  # noqa: TID251  a process of the agent
    held = Held(issued.serial, job.cluster, job.node, now, issued.seconds, job.machine)
    _write(
        folder / IDENTITY_FILE, msgspec.json.encode(held).decode() + "\n" + _private(key) + issued.certificate
    )
    (folder / KEY_FILE).unlink(missing_ok=True)
    return held


def _exchange(job: Job, context: ssl.SSLContext, method: str, path: str, body: bytes | None) -> bytes:
    secure, host, port, root = split(job.server)
    if not secure:
        raise Problem("no TLS to the server", job.server, "write https://")
    headers = {"Content-Type": "application/json"}
    if job.machine:
        headers[MACHINE_HEADER] = job.machine
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    try:
        connection.request(method, root + path, body, headers)
        answer = connection.getresponse()
        text = answer.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise Problem(
            f"no answer from the server ({error})", job.server, "check --server and its state"
        ) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise _refused(answer.status, text, job.server)
    return text


def _refused(status: int, body: bytes, server: str) -> Problem:
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
    except msgspec.DecodeError:
        return Problem(f"the server answered with status {status}", server, "look at its log")
    return Problem(error.what, error.where, error.fix)


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none).decode()


def _write(file: Path, text: str) -> None:
    """In one step, durable, readable by its owner alone."""
    partial = file.with_suffix(".partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(handle)
    partial.rename(file)


def main() -> int:
    """One job."""
    try:
        run(msgspec.json.decode(sys.stdin.buffer.read(), type=Job))
    except Problem as problem:
        line = {"what": problem.what, "where": problem.where, "fix": problem.fix}
        print(msgspec.json.encode(line).decode(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
