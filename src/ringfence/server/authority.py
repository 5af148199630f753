"""The server's own certificate authority: it signs this server's certificate and its agents' short-lived ones.

Made at first start in the data folder, its key readable by its owner alone. Time is an argument (UTC nanoseconds).
Who may have a certificate is decided in `enrolment`; here is only how one is made.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ringfence.model.problems import Problem
from ringfence.server.access import write_private
from ringfence.wire.enrolment import fingerprint_of

FOLDER = "authority"
SERVER_FILE = "server.pem"
YEARS = 10
SERVER_DAYS = 397
"""Life of the server's own certificate; it is made again at a start when a third or less of it is left."""
SKEW = datetime.timedelta(minutes=5)
"""How far a node's clock may be behind the server's."""
MAX_REQUEST = 16_384
_FIX = "upgrade the agent"


class Authority:
    """The authority in `data`/authority. `open` makes what is missing. Raises Problem when it cannot be used."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER
        self._key: ec.EllipticCurvePrivateKey
        self.certificate: x509.Certificate

    def open(self, names: Sequence[str], now: int) -> None:
        """Make or read the authority, and see that the server's certificate is good for `names` (hosts and
        addresses) and will stay so for a while."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if not (self._folder / "ca.crt").exists():
            self._make(now)
        try:
            key = serialization.load_pem_private_key((self._folder / "ca.key").read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate(self.pem.encode())
        except (OSError, ValueError) as error:
            raise self._unusable(str(error)) from None
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != self.certificate.public_key()
        ):
            raise self._unusable("key and certificate do not belong together")
        self._key = key
        if not self._serves(names, now):
            self._make_server(names, now)

    @property
    def pem(self) -> str:
        """The authority's certificate: what agents trust."""
        return (self._folder / "ca.crt").read_text()

    @property
    def fingerprint(self) -> bytes:
        """What one-time tokens pin."""
        return fingerprint_of(self.certificate.public_bytes(serialization.Encoding.DER))

    def secure(self, agents: bool) -> ssl.SSLContext:
        """TLS 1.3 with the server's certificate; for `agents` a certificate of ours is asked for and verified.

        None at all is let through the handshake: enrolment has none yet. The routes refuse it.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if agents else ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._folder / SERVER_FILE)
        if agents:
            # Without tickets every connection verifies the certificate anew.
            context.num_tickets = 0
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self._folder / "ca.crt")
        return context

    def sign(self, request: str, cluster: str, node: str, now: int, seconds: int) -> x509.Certificate:
        """A client certificate for an agent's key. All else in the request is ignored: names are the server's say.

        Raises Problem for a request that is none, is not signed by its key, or has a weak key.
        """
        key = _key_of(request)
        uri = f"ringfence://{quote(cluster, safe='')}/node/{quote(node, safe='')}"
        start = _moment(now)
        builder = (
            self._builder(key, node[:64], start - SKEW, start + datetime.timedelta(seconds=seconds))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def _make(self, now: int) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ringfence authority")])
        start = _moment(now)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - SKEW)
            .not_valid_after(start + datetime.timedelta(days=365 * YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The certificate last: where it stands, its key does too.
        write_private(self._folder / "ca.key", _private(key))
        write_private(self._folder / "ca.crt", _public(certificate))

    def _make_server(self, names: Sequence[str], now: int) -> None:
        key, start = ec.generate_private_key(ec.SECP256R1()), _moment(now)
        certificate = (
            self._builder(
                key.public_key(),
                "Ringfence server",
                start - SKEW,
                start + datetime.timedelta(days=SERVER_DAYS),
            )
            .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # One file, so that no crash can leave a certificate beside another's key.
        write_private(self._folder / SERVER_FILE, _private(key) + _public(certificate))

    def _builder(
        self, key: CertificatePublicKeyTypes, name: str, start: datetime.datetime, end: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )

    def _serves(self, names: Sequence[str], now: int) -> bool:
        """Whether the server's certificate is ours, for all of `names`, with a third of its life left."""
        try:
            found = x509.load_pem_x509_certificate((self._folder / SERVER_FILE).read_bytes())
            found.verify_directly_issued_by(self.certificate)
            held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        left = found.not_valid_after_utc - _moment(now)
        return set(map(_general, names)) <= set(held) and left > datetime.timedelta(days=SERVER_DAYS / 3)

    def _unusable(self, reason: str) -> Problem:
        return Problem(
            f"the authority cannot be used ({reason})",
            str(self._folder),
            "put its files back, or remove the folder and enrol every agent again",
        )


def serial_of(certificate: x509.Certificate) -> str:
    """A certificate's serial number as it is shown and stored."""
    return f"{certificate.serial_number:040x}"


def pem_of(certificate: x509.Certificate) -> str:
    """PEM."""
    return _public(certificate)


def key_digest(request: str) -> bytes:
    """SHA-256 of the key that a request is for."""
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return fingerprint_of(_key_of(request).public_bytes(encoding, form))


def _key_of(request: str) -> CertificatePublicKeyTypes:
    """The key of a signing request, which is shown to be held by its sender and strong enough."""
    try:
        if len(request) > MAX_REQUEST:
            raise ValueError("too long")
        read = x509.load_pem_x509_csr(request.encode())
        key, good = read.public_key(), read.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, UnicodeEncodeError, TypeError):
        raise Problem("not a certificate signing request", "request", _FIX) from None
    if not good:
        raise Problem("a request that its key did not sign", "request", _FIX)
    strong = (
        (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256)
        or (isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192)
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if not strong:
        raise Problem("a weak key", "request", "use P-256, Ed25519 or RSA of 2048 bits")
    return key


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise Problem("not a host name", name, "write names in ASCII, or addresses") from None


def _moment(now: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now // 1_000_000_000, datetime.UTC)


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none).decode()


def _public(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
