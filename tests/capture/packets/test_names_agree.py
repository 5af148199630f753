"""DNS and TLS in captures, against tshark and Zeek: names, results, server names, ALPN and times to the answer.

Where we differ, and why, stands in DIFFERENT; every other capture here agrees in full.
"""

from __future__ import annotations

import csv
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ringfence.capture.decode.heard import Listener
from ringfence.capture.packets import payloads
from ringfence.capture.packets.decode import find_rows
from ringfence.capture.packets.feed import Feed
from ringfence.capture.packets.frames import Stop
from ringfence.capture.packets.read import pieces, read_capture
from ringfence.capture.packets.sources import open_capture
from ringfence.flows.heard import Heard
from ringfence.model.columns import UNKNOWN_U4

DNS = (
    *("deepflow/dns/dns-tcp-multi.pcap", "deepflow/dns/nxdomain.pcap", "suricata-verify/bug-5197/input.pcap"),
    *("suricata-verify/dns-reversed-tcp-1/dns.pcap", "suricata-verify/dns-tcp-ts-gap/input.pcap"),
    *("suricata-verify/flow-drop-iponly-02/input.pcap", "suricata-verify/ssh-hassh/input.pcap"),
    *("tcpdump/malformed/LINKTYPE_IPV4_invalid.pcap", "tcpdump/malformed/dns-badvers.pcap"),
    *("tcpdump/valid/mptcp-aa-v1.pcap", "tcpdump/valid/nflog.pcap", "zeek/traces/dns/dns-corrupt.pcap"),
    *("zeek/traces/dns/dns-edns-bad-length.pcap", "zeek/traces/dns/hinfo.pcap"),
    *("zeek/traces/dns/long-connection.pcap", "zeek/traces/dns/loc-invalid-length.pcap"),
    *("zeek/traces/dns/svcb-alpn-malformed-len-too-long.pcap", "zeek/traces/dns-spf.pcap"),
    *("zeek/traces/dns-zero-RRs.pcap", "zeek/traces/dnssec/dnskey.pcap"),
    *("zeek/traces/dnssec/ed448.no.pcap", "zeek/traces/ntp/NTP_sync.pcap", "zeek/traces/smtp.pcap"),
    *("zeek/traces/tunnels/gtp/gtp3_false_gtp.pcap", "zeek/traces/tunnels/vxlan-triple-v2.pcap"),
)
TLS = (
    *("suricata-verify/bug-2646-02/input.pcap", "suricata-verify/community-id-ipv6/input.pcap"),
    *("suricata-verify/smtp-tls-protodetect/input.pcap", "suricata-verify/tls-alpn-log-detect-02/input.pcap"),
    *("suricata-verify/linktype-228/flow-test-01.pcap", "zeek/traces/http/connect-with-header.pcap"),
    *("zeek/traces/mysql/encrypted.pcap", "zeek/traces/postgresql/psql-aws-ssl-require-15432.pcap"),
    *("zeek/traces/ssl-and-ssh-using-sslh.pcap", "zeek/traces/tls/missing-intermediate.pcap"),
    *("zeek/traces/tls/chrome-63.0.3211.0-canary-tls_experiment.pcap", "zeek/traces/tls/ml-dsa-44-cert.pcap"),
    *("zeek/traces/tls/smtp-starttls.pcap", "zeek/traces/tls/tls1.2.pcap", "zeek/traces/tls/tls13-ech.pcap"),
    *("zeek/traces/tls/tls13_wolfssl.pcap", "zeek/traces/tls/xmpp-dialback-starttls.pcap"),
    "zeek/traces/tls/tls13draft23-chrome67.0.3368.0-canary.pcap",
)
DIFFERENT = {
    "zeek/traces/dns/dns-invalid-names.pcap": "names that loop or are too long: tshark shows the message without them",
    "zeek/traces/dns/dynamic-update.pcap": "UPDATE (RFC 2136) asks for no address: not read",
    "zeek/traces/dns/dns_notify2.pcap": "NOTIFY (RFC 1996) asks for no address: not read",
    "zeek/traces/dns-inverse-query.pcap": "IQUERY (retired by RFC 3425) asks for no name: not read",
    "tcpdump/malformed/rtp-seg-fault-1.pcapng": "a query without a question: not read",
    "zeek/traces/tls/irc-starttls.pcap": "tshark does not follow STARTTLS in IRC; we and Zeek see the hello",
    "zeek/traces/tls/ssl-to-http-server.pcap": "tshark takes the connection for HTTP; we and Zeek see the hello",
}
NOT_SEEN_BY_US = ("quic/", "globus-url-copy", "mdns", "dns_notify2", "dynamic-update", "stun")
"""Of Zeek's: QUIC, TLS inside FTP commands, multicast DNS (port 5353), messages that ask for no address, DTLS."""


def heard(capture: Path) -> Heard:
    listener = Listener()
    with open_capture(str(capture)) as stream:
        feed = Feed(stream)
        feed.more(0)
        for piece in pieces(feed, str(capture)):
            rows = None if isinstance(piece, Stop) else find_rows(piece, fast=True)
            if rows is not None and not isinstance(piece, Stop):
                payloads.listen(piece, rows, listener)
    return listener.take()


def tshark(capture: Path, wanted: str, *fields: str) -> list[list[list[str]]]:
    """The values of fields, several with bars between, of each frame."""
    command = ["tshark", "-r", str(capture), "-n", "-Y", wanted, "-T", "fields", "-E", "aggregator=|"]
    for field in fields:
        command += ["-e", field]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [[value.split("|") if value else [] for value in line.split("\t")] for line in lines]


def messages_of_tshark(capture: Path) -> Counter[tuple[int, bool, int, str]]:
    wanted = "(udp.port==53 or tcp.port==53) and dns and not icmp and not icmpv6"
    fields = ("dns.id", "dns.flags.response", "dns.flags.rcode", "dns.qry.name")
    found: Counter[tuple[int, bool, int, str]] = Counter()
    for numbers, responses, results, names in tshark(capture, wanted, *fields):
        left = iter(results)
        for at, (number, response) in enumerate(zip(numbers, responses, strict=True)):
            answers = response in ("1", "True")
            name = names[at].lower() if at < len(names) else ""
            result = int(next(left)) if answers else 0
            found[int(number, 16), answers, result, {"<root>": "."}.get(name, name)] += 1
    return found


def our_messages(known: Heard) -> Counter[tuple[int, bool, int, str]]:
    """tshark's field has the four lower bits of the result."""
    return Counter(
        (int(row["number"]), bool(row["response"]), int(row["rcode"]) & 15, known.names[row["name"]])
        for row in known.messages
    )


def our_hellos(known: Heard) -> dict[int, tuple[str, tuple[str, ...]]]:
    """The last word of each consumer's port."""
    infos = ((int(row["consumer_port"]), known.tls[row["tls"]]) for row in known.hellos)
    return {port: (info.server_name or "", info.alpn) for port, info in infos}


@pytest.mark.shared
@pytest.mark.parametrize("name", DNS)
def test_dns_as_tshark_reads_it(shared_data: Path, name: str) -> None:
    capture = shared_data / "pcap" / name
    ours = our_messages(heard(capture))
    assert ours
    assert ours == messages_of_tshark(capture)


@pytest.mark.shared
@pytest.mark.parametrize("name", TLS)
def test_tls_as_tshark_reads_it(shared_data: Path, name: str) -> None:
    capture = shared_data / "pcap" / name
    fields = (
        "tcp.srcport",
        "tls.handshake.extensions_server_name",
        "tls.handshake.extensions_alpn_str",
    )
    rows = tshark(capture, "tls.handshake.type==1 and tcp and not quic", *fields)
    ours = our_hellos(heard(capture))
    assert ours
    assert ours == {
        int(port[0]): (server[0] if server else "", tuple(protocols)) for port, server, protocols in rows
    }


@pytest.mark.shared
@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_are_those_that_are_known(shared_data: Path, name: str) -> None:
    capture = shared_data / "pcap" / name
    known = heard(capture)
    extra = our_messages(known) - messages_of_tshark(capture)
    assert not extra
    if "tls" in name:
        assert known.tls
    else:
        assert our_messages(known) != messages_of_tshark(capture)


def zeek(folder: Path, kind: str) -> list[tuple[str, dict[str, str]]]:
    """`(trace, row)` of every log of a kind, without those of NOT_SEEN_BY_US."""
    found = []
    with (folder / "index.tsv").open() as file:
        for run in csv.DictReader(file, delimiter="\t"):
            log = folder / "baseline" / run["test"] / f"{kind}.log"
            if not log.exists() or any(part in run["trace"] for part in NOT_SEEN_BY_US):
                continue
            lines = log.read_text().splitlines()
            names = next((line for line in lines if line.startswith("#fields")), "").split("\t")[1:]
            rows = [line.split("\t") for line in lines if names and not line.startswith("#")]
            found += [(run["trace"], dict(zip(names, row, strict=True))) for row in rows]
    return found


@pytest.mark.shared
def test_dns_as_zeek_reads_it(shared_data: Path) -> None:
    folder = shared_data / "pcap" / "zeek"
    rows = zeek(folder, "dns")
    assert rows
    timed = 0
    for trace, row in rows:
        capture = folder / "traces" / trace
        answered = row["rcode"] != "-"
        wanted = (int(row["trans_id"]), answered, int(row["rcode"]) if answered else 0, row["query"].lower())
        assert wanted in our_messages(heard(capture)), (trace, row)
        if row["rtt"] == "-" or row["proto"] != "udp":
            continue
        flows = read_capture(str(capture)).captured.flows
        mine = flows[flows["consumer_port"] == int(row["id.orig_p"])]
        assert mine["rtt_us"].tolist() == [round(float(row["rtt"]) * 1e6)], (trace, row)
        timed += 1
    assert timed


@pytest.mark.shared
def test_server_names_as_zeek_reads_them(shared_data: Path) -> None:
    folder = shared_data / "pcap" / "zeek"
    rows = zeek(folder, "ssl")
    assert len(rows) > 5
    for trace, row in rows:
        ours = our_hellos(heard(folder / "traces" / trace))
        server = row["server_name"]
        assert ours[int(row["id.orig_p"])][0] == ("" if server == "-" else server), (trace, row)


@pytest.mark.shared
def test_a_dns_flow_has_the_time_to_its_answer(shared_data: Path) -> None:
    capture = shared_data / "pcap" / "zeek" / "traces" / "dns-spf.pcap"
    flows = read_capture(str(capture)).captured.flows
    (took,) = tshark(capture, "dns.time", "dns.time")
    assert flows["rtt_us"].tolist() == [int(float(took[0][0]) * 1e6)]
    tcp = read_capture(str(shared_data / "pcap" / "zeek" / "traces" / "tls" / "tls1.2.pcap"))
    assert UNKNOWN_U4 not in tcp.captured.flows["rtt_us"].tolist()
