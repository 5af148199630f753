"""Lines and files that were altered at random are read or refused, never a traceback; a fixed number of cases in CI."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import msgspec
import pytest

from ringfence.cli.offline import read_files

from .test_formats import AWS, CUSTOM, GCP, HUBBLE, NSG, VNET
from .test_ipfix import PLAIN, ROW, data, ipfix

CASES = 400
GOLDEN = Path(__file__).parent.parent / "golden" / "imports" / "pmacctd-smtp"
TOKENS = (
    b"null",
    b"-1",
    b"1e400",
    b'"x"',
    b"[]",
    b"{}",
    b"true",
    b"9" * 30,
    b"-",
    b"\xff",
    b"3.5",
    b"0",
    b"\\",
)
ZEEK = b"""#separator \\x09
#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\thistory\torig_pkts
1700000000.1\t10.0.0.1\t40000\t10.0.0.2\t80\ttcp\t1.5\tShAa\t4
1700000000.1\t10.0.0.1\t8\t10.0.0.2\t0\ticmp\t-\t-\t1
"""
CALICO = {"start_time": 1597166083, "end_time": 1597166383, "source_ip": "10.0.0.1", "dest_ip": "10.0.0.2"}
CALICO |= {
    "dest_port": 80,
    "proto": "tcp",
    "action": "allow",
    "reporter": "dst",
    "packets_in": 6,
    "bytes_in": 388,
}
CALICO |= {
    "source_name_aggr": "a-*",
    "source_type": "wep",
    "source_labels": {"labels": ["a=b"]},
    "dest_name": "b",
}
NETOBSERV = {
    "SrcAddr": "10.0.0.1",
    "DstAddr": "10.0.0.2",
    "SrcPort": 4,
    "DstPort": 80,
    "Proto": 6,
    "Flags": 274,
}
NETOBSERV |= {"Bytes": 66, "Packets": 1, "TimeFlowStartMs": 1708011867121, "TimeFlowEndMs": 1708011867121}
NETOBSERV |= {"SrcK8S_Name": "a", "SrcK8S_Type": "Pod", "AgentIP": "10.0.1.7", "Interfaces": ["eth0"]}
SEEDS = [
    ("zeek", ZEEK),
    ("hubble", "\n".join(HUBBLE).encode()),
    ("calico", json.dumps(CALICO).encode()),
    ("netobserv", json.dumps(NETOBSERV).encode()),
    ("ipfix", ipfix(PLAIN, data(256, ROW)) + ipfix(data(256, ROW, ROW))),
    *[("ipfix", file.read_bytes()) for file in sorted(GOLDEN.glob("version-*.bin"))],
    ("sflow", (GOLDEN / "sflow.bin").read_bytes()[:4000]),
    *[("vpc", text.encode()) for text in (AWS, CUSTOM, *map(json.dumps, (GCP, NSG, VNET)))],
]


def altered(data: bytes, chance: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        way = chance.random()
        if way < 0.3:
            body[chance.randrange(len(body))] = chance.randrange(256)
        elif way < 0.5:
            start = chance.randrange(len(body))
            del body[start : start + chance.randint(1, 30)]
        else:
            place = chance.choice(list(re.finditer(rb'"[^"]*"|\d+|\S+', bytes(body) or b"x")))
            body[place.start() : place.end()] = chance.choice(TOKENS)
        body = body or bytearray(b"x")
    return bytes(body)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_altered_files_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    chance, (format, data) = random.Random(seed), SEEDS[seed]
    file = tmp_path / "altered"
    for _ in range(CASES):
        body = altered(data, chance)
        file.write_bytes(body)
        answer = read_files([str(file)], None, "start", None, chance.choice((format, "auto")))
        assert msgspec.json.encode(answer.flows), body
