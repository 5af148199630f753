"""What an agent and a server say to each other about who the agent is. Pure; both sides use it.

A one-time token carries the fingerprint of the server's authority, so that whoever holds it can tell the server from
an impostor before the secret in it is sent: `rfe1.SECRET.FINGERPRINT`, both base64url (RFC 4648 section 5) without
padding, the fingerprint SHA-256 of the authority's certificate in DER.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import NamedTuple

import msgspec

from ringfence.model.problems import Problem

AUTHORITY_PATH = "/v1/enrol/authority"
ENROL_PATH = "/v1/enrol"
RENEW_PATH = "/v1/enrol/renew"
MACHINE_HEADER = "Ringfence-Machine"
"""Request header with a hash of the machine's id: what a certificate is bound to besides its key."""
AUDIENCE = "ringfence"
"""Audience of the service-account tokens that a server takes."""

_PREFIX = "rfe1"
_SECRET, _FINGERPRINT = 24, 32


class EnrolmentToken(NamedTuple):
    """The two halves of a one-time token."""

    secret: str
    fingerprint: bytes
    """SHA-256 of the authority's certificate in DER, 32 octets."""


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent asks: one of `token` (the secret of a one-time token) and `account_token` (a pod's projected
    service-account token), or neither where its present certificate speaks for it (renewal)."""

    request: str
    """Certificate signing request, PEM (RFC 2986); only its key is used."""
    cluster: str
    node: str
    machine: str | None = None
    token: str | None = None
    account_token: str | None = None


class Issued(msgspec.Struct, frozen=True):
    """A certificate, and for how long it is good by the server's clock (seconds)."""

    certificate: str
    serial: str
    seconds: int


def write_token(secret: bytes, fingerprint: bytes) -> str:
    """The token as people carry it."""
    return f"{_PREFIX}.{_text(secret)}.{_text(fingerprint)}"


def read_token(text: str) -> EnrolmentToken:
    """Raises Problem for anything else, without repeating it: it may be nearly a secret."""
    prefix, _, rest = text.strip().partition(".")
    secret, dot, digest = rest.partition(".")
    try:
        fingerprint = base64.b64decode(digest + "=", altchars=b"-_", validate=True)
        length = len(base64.b64decode(secret, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        fingerprint, length = b"", 0
    if prefix != _PREFIX or not dot or len(fingerprint) != _FINGERPRINT or length != _SECRET:
        raise Problem("not an enrolment token", "the token", "give one that `ringfence enrol token` printed")
    return EnrolmentToken(secret, fingerprint)


def fingerprint_of(der: bytes) -> bytes:
    """SHA-256 of a certificate."""
    return hashlib.sha256(der).digest()


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")
