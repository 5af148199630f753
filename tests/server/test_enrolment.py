"""Who may speak for a node, over real sockets: enrolled agents, and nobody else."""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.agent.identity import Identity, machine, trusting
from ringfence.wire.client import Acknowledged, Refused, Sender, Unreachable
from tests.server.site import Agent, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "server")
    yield made
    made.close()


def _health(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/v1/health")
    return connection.getresponse().status


def refusal(outcome: object) -> str:
    assert isinstance(outcome, Refused), outcome
    assert outcome.status == 403
    return outcome.reason


def test_an_enrolled_agent_delivers_and_its_key_stays_private(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    assert agent.send() == Acknowledged(2)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in agent.pem.parent.iterdir()}
    assert modes == {"identity.pem": 0o600, "ca.pem": 0o600}
    assert stat.S_IMODE(agent.pem.parent.stat().st_mode) == 0o700
    folder = site.data / "authority"
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    row = site.listed()[agent.serial]
    assert (row["state"], row["how"], row["node"], row["machine"]) == ("good", "token", "node1", machine())
    assert row["seen"] is not None


def test_openssl_agrees_that_the_certificate_is_a_clients_and_names_the_node(
    site: Site, tmp_path: Path
) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    authority = str(site.data / "authority" / "ca.crt")

    def verify(purpose: str) -> int:
        argv = [
            "openssl",
            "verify",
            "-x509_strict",
            "-CAfile",
            authority,
            "-purpose",
            purpose,
            str(agent.pem),
        ]
        return subprocess.run(argv, capture_output=True, check=False).returncode

    assert (verify("sslclient"), verify("sslserver")) == (0, 2)
    shown = subprocess.run(
        ["openssl", "x509", "-in", agent.pem, "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout
    assert "URI:ringfence://lab/node/node1" in shown
    assert re.search(r"Subject: CN ?= ?node1", shown)
    assert "CA:FALSE" in shown


def test_a_batch_of_another_node_is_refused(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    assert "another node" in refusal(agent.send(epoch="x", node="node2"))
    assert site.stored() == 1


def test_without_a_certificate_there_is_nothing(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    trust = trusting(site.data / "authority" / "ca.crt")
    bare = Agent(site, tmp_path / "b")
    bare.send_over(Sender(site.url, "any token", 5, trust))
    assert "no certificate" in refusal(bare.send(epoch="x"))
    # Nor does plain HTTP, or TLS of yesterday.
    bare.send_over(Sender(site.url.replace("https", "http"), "any token", 5))
    assert isinstance(bare.send(epoch="x"), Unreachable)
    old = agent.context()
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    bare.send_over(Sender(site.url, "any token", 5, old))
    assert isinstance(bare.send(epoch="x"), Unreachable)
    assert site.stored() == 1


def test_a_certificate_of_another_authority_does_not_get_through_the_handshake(
    site: Site, tmp_path: Path
) -> None:
    key, made = tmp_path / "key.pem", tmp_path / "cert.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-keyout", str(key), "-out", str(made), "-subj", "/CN=node1", "-days", "1"]
    subprocess.run(
        [*argv, "-addext", "subjectAltName=URI:ringfence://lab/node/node1"], check=True, capture_output=True
    )
    trust = trusting(site.data / "authority" / "ca.crt")
    trust.load_cert_chain(made, key)
    agent = Agent(site, tmp_path / "a")
    agent.send_over(Sender(site.url, "any token", 5, trust))
    assert isinstance(agent.send(), Unreachable)
    assert site.stored() == 0


def test_bearer_tokens_speak_for_no_node(site: Site, tmp_path: Path) -> None:
    assert not (site.data / "agent.token").exists()
    connector = (site.data / "connector.token").read_text().strip()
    for token in (connector, site.server.shown):
        status, _ = site.ask("POST", "/v1/ingest/batches", {}, token)
        assert status == 403
    status, said = site.ask("POST", "/v1/ingest/changes", {"cluster": "lab", "changes": []}, connector)
    assert (status, said["new"]) == (200, 0)
    assert site.ask("GET", "/v1/enrol/agents", token=connector)[0] == 403


def test_a_revoked_agent_is_refused_on_the_connection_it_has(site: Site, tmp_path: Path) -> None:
    agent, other = (Agent(site, tmp_path / node, node, site.token(node)) for node in ("node1", "node2"))
    assert agent.send() == other.send() == Acknowledged(1)
    assert agent.sender._connection is not None
    before = agent.serial
    assert site.ask("POST", "/v1/enrol/revoke", {"cluster": "lab", "node": "node1"}) == (200, {"revoked": 1})
    assert "revoked" in refusal(agent.send())
    assert other.send() == Acknowledged(2)
    # It cannot come back by itself, with any token; only with one for this very node, made afterwards.
    (agent.folder / "token").write_text(site.token())
    outcome = agent.send()
    assert isinstance(outcome, Unreachable)
    assert "this node is revoked" in outcome.reason
    (agent.folder / "token").write_text(site.token("node1"))
    assert agent.send(epoch="e2") == Acknowledged(1)
    assert site.listed()[before]["state"] == "revoked"
    assert site.listed()[agent.serial]["state"] == "good"
    assert site.stored() == 1 + 2 + 1


def test_revoking_withdraws_tokens_and_allowing_lets_back(site: Site, tmp_path: Path) -> None:
    token = site.token("node1")
    assert site.ask("POST", "/v1/enrol/revoke", {"cluster": "lab", "node": "node1"}) == (200, {"revoked": 0})
    agent = Agent(site, tmp_path / "a", token=token)
    assert isinstance(agent.send(), Unreachable)
    site.ask("POST", "/v1/enrol/allow", {"cluster": "lab", "node": "node1"})
    (agent.folder / "token").write_text(site.token())
    assert agent.send(sequence=1) == Acknowledged(1)


def test_revocation_outlives_the_server(tmp_path: Path) -> None:
    site = Site(tmp_path / "server")
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    site.ask("POST", "/v1/enrol/revoke", {"cluster": "lab", "node": "node1"})
    authority = site.service.enrolment.authority.pem
    site.close()
    again = Site(tmp_path / "server")
    try:
        assert again.service.enrolment.authority.pem == authority
        agent.send_over(Sender(again.url, agent.identity, 5))
        again.agents.append(agent)
        assert "revoked" in refusal(agent.send())
    finally:
        again.close()


def test_an_expired_certificate_is_refused(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    site.later = 86_401
    # Over the open connection by the route, over a new one too.
    assert "run out" in refusal(agent.send())
    assert site.stored() == 1


def test_an_expired_certificate_does_not_get_through_the_handshake(tmp_path: Path) -> None:
    site = Site(tmp_path / "server", certificate_life=1)
    try:
        agent = Agent(site, tmp_path / "a", token=site.token("node1"))
        agent.identity.renewed()
        context = agent.context()
        time.sleep(2.1)
        host, port = site.url.removeprefix("https://").split(":")
        connection = http.client.HTTPSConnection(host, int(port), timeout=5, context=context)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _health(connection)
        connection.close()
    finally:
        site.close()


def test_a_token_works_once_for_one_key_in_its_time_and_for_its_node(site: Site, tmp_path: Path) -> None:
    token = site.token("node1")
    agent = Agent(site, tmp_path / "a", token=token)
    assert agent.send() == Acknowledged(1)
    for number, (node, used) in enumerate((("node1", token), ("node2", site.token("node3")))):
        thief = Agent(site, tmp_path / f"thief{number}", node, used)
        assert isinstance(thief.send(), Unreachable)
    late = site.token("node4", seconds=60)
    site.later = 61
    outcome = Agent(site, tmp_path / "late", "node4", late).send()
    assert isinstance(outcome, Unreachable)
    assert "has run out" in outcome.reason
    assert site.stored() == 1
    # Only its hash is kept.
    secret = late.split(".")[1].encode()
    assert not any(secret in file.read_bytes() for file in site.data.glob("facts.sqlite*"))


def test_an_answer_that_was_lost_can_be_asked_for_again(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    # As if the agent had been killed before it could keep the certificate: the key waits, the certificate is gone.
    text = agent.pem.read_text()
    (agent.pem.parent / "next.key").write_text(
        text[text.index("-----BEGIN PRIVATE") : text.index("-----BEGIN CERT")]
    )
    agent.pem.unlink()
    assert agent.send() == Acknowledged(2)


def test_a_token_for_any_node_does_not_take_a_node_that_another_machine_has(
    site: Site, tmp_path: Path
) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    thief = Agent(site, tmp_path / "b", token=site.token())
    thief.identity._machine = "f" * 64
    outcome = thief.send(epoch="x")
    assert isinstance(outcome, Unreachable)
    assert "has a certificate already" in outcome.reason


def test_renewal_makes_a_new_key_and_ends_the_old_certificate(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    first, text = agent.serial, agent.pem.read_text()
    agent.later = 86_400 / 2
    assert agent.send() == Acknowledged(2)
    assert agent.serial == first
    agent.later = 86_400 * 0.7
    assert agent.send() == Acknowledged(3)
    assert agent.serial != first
    assert text.split("CERTIFICATE")[0].split("PRIVATE")[1] not in agent.pem.read_text()
    assert site.listed()[agent.serial]["how"] == "renewal"
    assert site.service.enrolment._known[first].state == "renewed"


def test_a_server_that_is_away_does_not_end_a_certificate_that_is_good(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    held = agent.serial
    agent.identity._enrol = type(agent.identity._enrol)(
        **{name: getattr(agent.identity._enrol, name) for name in ("cluster", "node", "folder")},
        server="https://127.0.0.1:1",
    )
    agent.later = 86_400 * 0.7
    assert agent.send() == Acknowledged(2)
    assert agent.serial == held
    assert any("cannot renew" in each for each in agent.said)


def clone(agent: Agent, folder: Path) -> Agent:
    """The same files on another machine's disk."""
    shutil.copytree(agent.folder, folder)
    return Agent(agent.site, folder, agent.node, enrol_token_file=str(folder / "token"))


def test_a_copy_on_another_machine_is_noticed_at_its_first_request(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    other = clone(agent, tmp_path / "b")
    other.identity._machine = "f" * 64
    assert "copied" in refusal(other.send(epoch="x"))
    assert "copied" in refusal(agent.send())
    row = site.listed()[agent.serial]
    assert (row["state"], row["reason"]) == ("copied", "used by machine ffffffffffff too")
    assert site.stored() == 1
    # The node comes back with a token of its own.
    (agent.folder / "token").write_text(site.token("node1"))
    assert agent.send(epoch="e2") == Acknowledged(1)
    assert isinstance(other.send(epoch="x"), Unreachable)


def test_a_copy_that_leaves_the_machine_out_is_refused(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    other = clone(agent, tmp_path / "b")
    other.identity._machine = None
    assert "no machine id" in refusal(other.send(epoch="x"))


def test_two_epochs_of_one_certificate_by_turns_are_a_copy(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send("e1") == Acknowledged(1)
    other = clone(agent, tmp_path / "b")
    assert other.send("f1") == Acknowledged(1)
    assert "by turns" in refusal(agent.send("e1"))
    assert "copied" in refusal(other.send("f1"))
    row = site.listed()[agent.serial]
    assert (row["state"], row["reason"]) == ("copied", "epochs f1 and e1 come by turns")
    assert site.stored() == 2


def test_a_copy_that_goes_on_with_the_spool_is_noticed_by_its_connection(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send("e1", 1) == Acknowledged(1)
    other = clone(agent, tmp_path / "b")
    outcomes = [each.send("e1", number) for number in range(2, 6) for each in (other, agent)]
    assert any(isinstance(each, Refused) and "two connections" in each.reason for each in outcomes)
    assert site.listed()[agent.serial]["state"] == "copied"


def test_a_copy_of_a_renewed_certificate_is_noticed(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    other = clone(agent, tmp_path / "b")
    agent.later = 86_400 * 0.7
    assert agent.send() == Acknowledged(2)
    old, new = other.serial, agent.serial
    assert old != new
    for _ in range(2):
        other.identity._bad = None
        refusal(other.send(epoch="x"))
    assert {site.listed()[each]["state"] for each in (old, new)} == {"copied"}
    assert site.listed()[new]["reason"] == "used after it was renewed"
    assert "copied" in refusal(agent.send())


def test_an_agent_that_restarts_is_no_copy(site: Site, tmp_path: Path) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    for life in range(5):
        for number in (1, 2, 3):
            assert agent.send(f"e{life}") == Acknowledged(number)
            if number == 2:
                agent.sender.close()
        # The last one again, as after an answer that was lost.
        assert agent.send(f"e{life}", 3) == Acknowledged(3)
        agent.sender.close()
        agent = Agent(site, agent.folder, enrol_token_file=str(agent.folder / "token"))
    assert {row["state"] for row in site.listed().values()} == {"good"}


def test_a_further_connection_of_an_agent_follows_its_renewal_and_is_no_copy(
    site: Site, tmp_path: Path
) -> None:
    agent = Agent(site, tmp_path / "a", token=site.token("node1"))
    assert agent.send() == Acknowledged(1)
    further = Agent(site, tmp_path / "b")
    further.identity = Identity(agent.identity._enrol, agent.said.append, time.time_ns)
    further.send_over(Sender(site.url, further.identity, 5))
    careless = Agent(site, tmp_path / "c")
    careless.send_over(Sender(site.url, Fixed(agent), 5))
    assert careless.send("e1", 1) == further.send("e1", 1) == Acknowledged(1)
    agent.later = 86_400 * 0.7
    assert agent.send(sequence=2) == Acknowledged(2)
    # One that goes on over the connection it has is refused as often as it asks, and harms nobody.
    careless.sender.close = lambda: None  # type: ignore[method-assign]
    for _ in range(4):
        assert "renewed" in refusal(careless.send("e1", 2))
    assert further.send("e1", 2) == Acknowledged(2)
    assert agent.send(sequence=3) == Acknowledged(3)
    assert {row["state"] for row in site.listed().values()} == {"good"}
    if careless.sender._connection is not None:
        careless.sender._connection.close()


class Fixed:
    """Credentials that never look again."""

    def __init__(self, agent: Agent) -> None:
        self._shown = agent.identity.show()

    def renewed(self) -> bool:
        return False

    def show(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        return self._shown

    def refused(self, status: int) -> None:
        pass
