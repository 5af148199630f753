"""The authority: made once, kept private, refusing what is damaged; requests that are none."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.model.problems import Problem
from ringfence.server.authority import Authority, serial_of
from ringfence.wire.enrolment import fingerprint_of

DAY = 86_400 * 1_000_000_000


def opened(folder: Path, *names: str, now: int | None = None) -> Authority:
    made = Authority(folder)
    made.open(names or ("localhost", "127.0.0.1"), now or time.time_ns())
    return made


def request(folder: Path, *key: str) -> str:
    argv = [
        "openssl",
        "req",
        "-new",
        "-nodes",
        "-subj",
        "/O=system:masters/CN=anybody",
        "-keyout",
        str(folder / "k"),
    ]
    argv += [
        "-addext",
        "subjectAltName=DNS:kubernetes",
        "-addext",
        "basicConstraints=CA:TRUE",
        "-newkey",
        *key,
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def test_it_is_made_once_and_its_fingerprint_is_what_openssl_says(tmp_path: Path) -> None:
    first, again = opened(tmp_path), opened(tmp_path)
    assert first.fingerprint == again.fingerprint
    file = tmp_path / "authority" / "ca.crt"
    argv = ["openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha256"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert bytes.fromhex(said.split("=")[1].strip().replace(":", "")) == first.fingerprint
    assert stat.S_IMODE((tmp_path / "authority" / "ca.key").stat().st_mode) == 0o600
    assert fingerprint_of(b"") != first.fingerprint


def test_the_servers_certificate_follows_its_names_and_its_age(tmp_path: Path) -> None:
    file, now = tmp_path / "authority" / "server.pem", time.time_ns()
    opened(tmp_path, "a.example", now=now)
    first = file.read_bytes()
    opened(tmp_path, "a.example", now=now + 100 * DAY)
    assert file.read_bytes() == first
    opened(tmp_path, "a.example", "192.0.2.7", now=now)
    second = file.read_bytes()
    assert second != first
    opened(tmp_path, "192.0.2.7", now=now + 300 * DAY)
    assert file.read_bytes() not in (first, second)
    with pytest.raises(Problem, match="not a host name"):
        opened(tmp_path, "münchen.example")


def test_only_the_key_of_a_request_is_used(tmp_path: Path) -> None:
    made = opened(tmp_path).sign(request(tmp_path, *P256), "lab", "n" * 200, time.time_ns(), 60)
    assert made.subject.rfc4514_string() == "CN=" + "n" * 64
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["ringfence://lab/node/" + "n" * 200]
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert len(serial_of(made)) == 40


@pytest.mark.parametrize("node", ["a/../b", "ü", "a?b#c", "%2f", "x y"])
def test_a_name_cannot_reach_out_of_its_place_in_the_certificate(tmp_path: Path, node: str) -> None:
    made = opened(tmp_path).sign(request(tmp_path, *P256), "c/node/other", node, time.time_ns(), 60)
    (name,) = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name.value.isascii()
    assert name.value.count("/") == 4


@pytest.mark.parametrize("key", [("rsa:1024",), ("ec", "-pkeyopt", "ec_paramgen_curve:secp224r1")])
def test_weak_keys_are_refused(tmp_path: Path, key: tuple[str, ...]) -> None:
    with pytest.raises(Problem, match="a weak key"):
        opened(tmp_path).sign(request(tmp_path, *key), "lab", "n", time.time_ns(), 60)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, str]:
    folder = tmp_path_factory.mktemp("authority")
    return opened(folder), request(folder, *P256)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_request_is_a_problem_or_still_its_keys(
    one: tuple[Authority, str], data: st.DataObject
) -> None:
    authority, text = one
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters()) + text[at + data.draw(st.integers(0, 3)) :]
    try:
        made = authority.sign(changed, "lab", "n", time.time_ns(), 60)
    except Problem:
        return
    key = x509.load_pem_x509_csr(text.encode()).public_key()
    assert made.public_key() == key


@pytest.mark.parametrize("file", ["ca.key", "ca.crt"])
def test_a_damaged_authority_is_told_and_not_replaced(tmp_path: Path, file: str) -> None:
    opened(tmp_path)
    path = tmp_path / "authority" / file
    path.write_text(path.read_text()[:-200])
    before = path.read_text()
    with pytest.raises(Problem, match="the authority cannot be used"):
        opened(tmp_path)
    assert path.read_text() == before


def test_a_key_of_another_authority_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        opened(tmp_path / name)
    (tmp_path / "a/authority/ca.key").write_bytes((tmp_path / "b/authority/ca.key").read_bytes())
    with pytest.raises(Problem, match="do not belong together"):
        opened(tmp_path / "a")
