"""`netpol generate` and `policy discover` as users run them: files in, files out, one line when it fails."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ringfence import cli
from ringfence.analysis.netpol import Judge
from ringfence.cli.offline import read_files
from ringfence.testing.captures import ether, ip, pcap, tcp

SYN, ACK = 2, 16

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line with these two groups; gives exit code, stdout and stderr."""
    groups = tuple(verb for verb in cli.VERBS if verb[0] in ("netpol", "policy"))
    monkeypatch.setattr(cli, "VERBS", groups)
    for name in ("RINGFENCE_SERVER", "RINGFENCE_TOKEN", "RINGFENCE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ringfence", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else 0), said.out, said.err

    return call


@pytest.fixture
def case(repo: Path) -> Path:
    return repo / "tests/golden/netpol-generate"


def generated(run: Run, case: Path, *more: str | Path) -> tuple[int, str, str]:
    files = ("--flows", case / "flows.jsonl", "--manifests", case / "cluster.yaml")
    return run("netpol", "generate", *files, *more)


def test_the_golden_case(run: Run, case: Path) -> None:
    """The worked example; a difference is left beside the expected file as `.actual`."""
    code, out, _ = generated(run, case, "-o", "yaml")
    expected, actual = case / "expected/discovered.yaml", case / "expected/discovered.yaml.actual"
    assert code == 0
    if not expected.exists() or out != expected.read_text():
        actual.write_text(out)
        pytest.fail(f"compare {actual} with {expected}")
    actual.unlink(missing_ok=True)


def test_files_and_table(run: Run, case: Path, tmp_path: Path) -> None:
    code, out, err = generated(run, case, "--out", tmp_path / "new/policies")
    assert (code, err) == (0, "")
    files = sorted(file.name for file in (tmp_path / "new/policies").iterdir())
    assert "shop.ringfence-deployment-carts.yaml" in files
    assert all(name in out.replace("\n", "") for name in files)
    assert "unresolved: 7 to decide" in out
    again = {name: (tmp_path / "new/policies" / name).read_bytes() for name in files}
    generated(run, case, "--out", tmp_path / "new/policies")
    assert again == {name: (tmp_path / "new/policies" / name).read_bytes() for name in files}


def test_json_carries_evidence_documents_and_questions(run: Run, case: Path) -> None:
    code, out, _ = generated(run, case, "-o", "json", "--namespace", "data")
    answer = json.loads(out)
    assert code == 0
    assert {policy["namespace"] for policy in answer["policies"]} == {"data"}
    by_name = {policy["workload"]: policy for policy in answer["policies"]}
    (rule,) = by_name["StatefulSet/carts-db"]["ingress"]
    assert rule["evidence"]["connections"] == 1
    assert rule["evidence"]["examples"] == ["0000000000000003"]
    assert yaml.safe_load(by_name["StatefulSet/carts-db"]["yaml"]) == by_name["StatefulSet/carts-db"]["body"]
    assert {item["reason"] for item in answer["unresolved"]} == {"guessed", "unanswered"}
    code, out, _ = generated(run, case, "-o", "jsonl", "--namespace", "data")
    assert [json.loads(line)["name"] for line in out.splitlines()] == [p["name"] for p in answer["policies"]]


def test_flows_in_one_document_several_files_and_the_api_shape_say_the_same(
    run: Run, case: Path, tmp_path: Path
) -> None:
    lines = (case / "flows.jsonl").read_text().splitlines()
    flows = [json.loads(line) for line in lines]
    (tmp_path / "list.json").write_text(json.dumps(flows))
    (tmp_path / "api.json").write_text(json.dumps({"flows": flows, "completeness": {}}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:6]))
    (tmp_path / "b.jsonl").write_text("\n".join(lines[5:]) + "\n\n")
    manifests = ("--manifests", case / "cluster.yaml", "-o", "yaml")
    whole = generated(run, case, "-o", "yaml")
    assert run("netpol", "generate", "--flows", tmp_path / "list.json", *manifests) == whole
    assert run("netpol", "generate", "--flows", tmp_path / "api.json", *manifests) == whole
    several = (tmp_path / "a.jsonl", tmp_path / "b.jsonl", *manifests)
    assert run("netpol", "generate", "--flows", *several) == whole


def test_outside_addresses_can_be_left_out(run: Run, case: Path) -> None:
    assert "203.0.113.9/32" in generated(run, case, "-o", "yaml")[1]
    written = generated(run, case, "-o", "yaml", "--no-outside")[1]
    specs = [document["spec"] for document in yaml.safe_load_all(written)]
    assert "203.0.113.9/32" not in json.dumps(specs)


def broken(tmp_path: Path, text: str, name: str = "bad.json") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no conversations"),
        ("[]", "no conversations"),
        ("{\n", "not a flow"),
        ('{"edges": []}', "no flows in this document"),
        ("3", "no flows in this document"),
        ('[{"flow_id": 3}]', "flow 1"),
        ('{"flow_id": "a"}\n{"flow_id"', "line 1"),
    ],
)
def test_bad_flow_files_are_one_line_and_exit_2(run: Run, tmp_path: Path, text: str, what: str) -> None:
    code, out, err = run("netpol", "generate", "--flows", broken(tmp_path, text), "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert what in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def calls() -> bytes:
    """A capture of a web pod that asks a database pod, opened and answered."""
    there = (("10.0.0.1", "10.0.0.2"), (40000, 5432))
    turns = [(1, SYN), (-1, SYN | ACK), (1, ACK), (1, ACK), (-1, ACK)]
    return pcap([ether(ip(tcp(*there[1][::turn], flags), *there[0][::turn], 6)) for turn, flags in turns])


def two_pods() -> str:
    """A `kubectl get -o json` dump of the two pods of `calls`."""

    def pod(name: str, address: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status}

    items = [pod("web", "10.0.0.1"), pod("db", "10.0.0.2")]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def test_a_capture_says_what_its_flows_say(run: Run, tmp_path: Path) -> None:
    """Packed or not, alone or beside flows in JSON; names come from the manifests."""
    capture, packed, flows = tmp_path / "a.pcap", tmp_path / "a.pcap.gz", tmp_path / "a.jsonl"
    capture.write_bytes(calls())
    packed.write_bytes(gzip.compress(calls()))
    dump = broken(tmp_path, two_pods(), "dump.json")
    answer = read_files([str(capture)], str(dump), "start", None)
    flows.write_text("\n".join(msgspec.json.encode(flow).decode() for flow in answer.flows))
    rest = ("--manifests", dump, "-o", "yaml")
    said = run("netpol", "generate", "--flows", flows, *rest)
    assert said[0] == 0
    assert "from shop/Pod/web, TCP 5432: 1 connections" in said[1]
    assert run("netpol", "generate", "--flows", capture, *rest) == said
    assert run("netpol", "generate", "--flows", packed, *rest) == said
    assert run("netpol", "generate", "--flows", flows, capture, *rest)[0] == 0


def test_a_damaged_capture_stops_it_unless_told_to_go_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cut.pcap").write_bytes(calls()[:-7])
    dump = broken(tmp_path, two_pods(), "dump.json")
    asked = ("netpol", "generate", "--flows", tmp_path / "cut.pcap", "--manifests", dump, "-o", "yaml")
    code, out, err = run(*asked)
    assert (code, out) == (2, "")
    assert err.startswith("error: damaged capture")
    code, out, err = run(*asked, "--keep-going")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "from shop/Pod/web, TCP 5432" in out


def test_flows_without_addresses_are_no_evidence(run: Run, case: Path, tmp_path: Path) -> None:
    lines = [
        b'{"start_time":1,"end_time":2,"proto":"tcp","reporter":"dst","source_name_aggr":"a-*","dest_port":1}'
    ]
    (tmp_path / "calico.gz").write_bytes(gzip.compress(lines[0]))
    read = read_files([str(tmp_path / "calico.gz")], None, "start", None).flows
    (tmp_path / "printed.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, read)))
    (tmp_path / "printed.json").write_bytes(msgspec.json.encode(read))
    for name in ("calico.gz", "printed.jsonl", "printed.json"):
        code, out, err = run("netpol", "generate", "--flows", tmp_path / name)
        assert (code, out) == (2, "")
        assert "1 flows without an address or a time are no evidence" in err
        assert "no conversations" in err


ZEEK = """#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\thistory\torig_pkts\tresp_pkts
1700000000.1\t10.244.1.9\t40000\t10.244.1.5\t8080\ttcp\tShADadFf\t6\t5
"""
HUBBLE = (
    '{"flow":{"time":"2024-01-01T00:00:01Z","verdict":"%s","IP":{"source":"10.0.0.7","destination":"10.0.0.8"},'
    '"l4":{"TCP":{"source_port":%d,"destination_port":80,"flags":{"SYN":true}}},"drop_reason_desc":"POLICY_DENIED",'
    '"source":{"namespace":"a","pod_name":"%s","labels":["k8s:app=web"],"workloads":[{"kind":"Deployment","name":"%s"}]},'
    '"destination":{"namespace":"a","pod_name":"db-1","labels":["k8s:app=db"],"workloads":[{"kind":"Deployment","name":"db"}]}}}'
)


def test_other_tools_logs_are_evidence_but_not_what_a_policy_dropped(run: Run, tmp_path: Path) -> None:
    lines = [
        HUBBLE % ("FORWARDED", 4000, "web-1", "web"),
        HUBBLE % ("DROPPED", 4001, "intruder-1", "intruder"),
    ]
    (tmp_path / "hubble.jsonl").write_text("\n".join(lines))
    read = read_files([str(tmp_path / "hubble.jsonl")], None, "start", None).flows
    (tmp_path / "printed.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, read)))
    for name in ("hubble.jsonl", "printed.jsonl"):
        code, out, err = run("netpol", "generate", "--flows", tmp_path / name, "-o", "yaml")
        assert code == 0, err
        assert "web" in out
        assert "intruder" not in out
        assert "1 flows that a policy dropped are no evidence" in err
    (tmp_path / "conn.log").write_text(ZEEK)
    code, out, err = run("netpol", "generate", "--flows", tmp_path / "conn.log")
    assert "no workload in these conversations" in err, (
        "they are read; without manifests addresses have no names"
    )


def test_other_bad_input(run: Run, case: Path, tmp_path: Path) -> None:
    flows = ("--flows", case / "flows.jsonl")
    capture = tmp_path / "a.pcap"
    capture.write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(20))
    cut, packed = tmp_path / "cut.pcap", tmp_path / "packed.gz"
    cut.write_bytes(calls()[:-7])
    packed.write_bytes(gzip.compress(b'{"flow_id": "a"}'))
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "file").write_text("")
    for arguments, what in (
        (("--flows", tmp_path / "absent"), "cannot read flows"),
        (("--flows", capture), "no conversations"),
        (("--flows", cut), "damaged capture"),
        (("--flows", packed), "no line of it can be used"),
        (("--flows", tmp_path / "noise"), "not a flow"),
        ((*flows, "--dialect", "cilium"), "unknown dialect"),
        ((*flows, "--server", "http://127.0.0.1:1"), "two kinds of evidence"),
        ((), "no evidence"),
        ((*flows, "--manifests", tmp_path / "absent"), "no such file"),
        ((*flows, "--namespace", "nowhere"), "no workload"),
        ((*flows, "--out", tmp_path / "file"), "cannot write"),
        (("--server", "http://127.0.0.1:1"), "no answer from the server"),
    ):
        code, out, err = run("netpol", "generate", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: "), err
        assert what in err


def test_a_broken_manifest_stops_it_unless_told_to_go_on(run: Run, case: Path, tmp_path: Path) -> None:
    good = (case / "cluster.yaml").read_text()
    bad = broken(tmp_path, good + "\n---\nkind: [unclosed\n", "cluster.yaml")
    flows = ("--flows", case / "flows.jsonl", "--manifests", bad, "-o", "yaml")
    code, out, err = run("netpol", "generate", *flows)
    assert (code, out) == (2, "")
    assert "cluster.yaml" in err
    code, out, err = run("netpol", "generate", *flows, "--keep-going")
    assert code == 2
    assert "cluster.yaml" in err
    assert out == generated(run, case, "-o", "yaml")[1]


def test_flows_without_names_are_named_by_the_addresses_of_a_dump(run: Run, tmp_path: Path) -> None:
    def pod(name: str, ip: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status}

    items = [pod("web", "10.0.0.1"), pod("db", "10.0.0.2")]
    (tmp_path / "dump.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    flow = {
        "flow_id": "01",
        "protocol": "TCP",
        "direction": "syn",
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-01T00:00:01Z",
        "consumer": {"ip": "10.0.0.1", "port": 40000},
        "provider": {"ip": "10.0.0.2", "port": 5432},
        "consumer_packets": 3,
        "provider_packets": 3,
        "provider_flags": "SYN ACK",
    }
    (tmp_path / "flows.json").write_text(json.dumps([flow]))
    files = ("--flows", tmp_path / "flows.json", "--manifests", tmp_path / "dump.json", "-o", "json")
    code, out, _ = run("netpol", "generate", *files)
    assert code == 0
    policies = {policy["workload"]: policy for policy in json.loads(out)["policies"]}
    assert policies["Pod/db"]["body"]["spec"]["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"app": "web"}}}
    ]


@pytest.mark.shared
def test_edges_written_by_hand_come_back_as_policies_that_allow_just_them(
    run: Run, shared_data: Path, tmp_path: Path
) -> None:
    """Online Boutique: the sixteen ingress edges its authors wrote, as flows, and judged."""
    boutique = shared_data / "apps/online-boutique"
    rows = [line.split("\t") for line in (boutique / "policy-edges.tsv").read_text().splitlines()[1:]]
    wanted = {(s[4:], d[4:], p) for way, s, d, p, _ in rows if way == "ingress" and "ANY" not in (s, d)}
    assert len(wanted) == 15

    def end(name: str, port: int) -> dict[str, Any]:
        place = {"ip": "10.0.0.1", "kind": "pod", "namespace": "default", "name": name}
        return {**place, "port": port, "labels": {"app": name}}

    with (tmp_path / "flows.jsonl").open("w") as file:
        for number, (source, destination, port) in enumerate(sorted(wanted)):
            flow = {
                "flow_id": f"{number:x}",
                "protocol": "TCP",
                "direction": "syn",
                "start": "2026-01-01T00:00:00Z",
                "end": "2026-01-01T00:00:01Z",
                "consumer": end(source, 40000),
                "provider": end(destination, int(port.split("/")[1])),
                "consumer_packets": 3,
                "provider_packets": 3,
                "provider_flags": "SYN ACK",
            }
            file.write(json.dumps(flow) + "\n")
    given = ("--manifests", boutique / "release/kubernetes-manifests.yaml", "-n", "default", "-o", "json")
    code, out, err = run("netpol", "generate", "--flows", tmp_path / "flows.jsonl", *given)
    assert (code, err) == (0, "")
    policies = json.loads(out)["policies"]
    from ringfence.kube.manifests import load
    from ringfence.model.endpoints import labels_of
    from ringfence.model.objects import Pod

    workloads = load(boutique / "release/kubernetes-manifests.yaml").workloads
    assert {policy["workload"] for policy in policies} == {f"Deployment/{w.name}" for w in workloads}
    pods = {w.name: Pod(w.name, "default", w.name, labels=labels_of(dict(w.labels))) for w in workloads}
    judge = Judge([policy["body"] for policy in policies])
    ports = {port for _, _, port in wanted}
    allowed = {
        (consumer, provider, port)
        for consumer in pods
        for provider in pods
        for port in ports
        if consumer != provider
        and judge.verdict(pods[consumer], pods[provider], "TCP", int(port.split("/")[1])).action == "allow"
    }
    assert allowed == wanted


class _Fake(BaseHTTPRequestHandler):
    """A server's answers, one after another, and what it was asked."""

    answers: list[tuple[int, Any]]
    asked: list[tuple[str, Any, str | None]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers.get("Authorization")))
        status, answer = self.answers.pop(0)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests stay quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Fake]]]:
    handler = type("Fake", (_Fake,), {"answers": [], "asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", handler
        listening.shutdown()
        thread.join()


def test_discover_online_writes_what_the_server_proposes(
    run: Run, case: Path, tmp_path: Path, server: tuple[str, type[_Fake]]
) -> None:
    answer = json.loads(generated(run, case, "-o", "json")[1])
    url, fake = server
    fake.answers += [(200, answer), (200, answer), (200, {**answer, "policies": []})]
    given = ("--server", url, "--token", "secret", "--since", "1h", "--namespace", "shop")
    code, out, err = run("policy", "discover", *given, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "unresolved: 7 to decide" in out
    assert len(list(tmp_path.iterdir())) == len(answer["policies"])
    assert fake.asked == [
        ("/v1/policies/discover", {"since": "1h", "namespace": "shop"}, "Bearer secret"),
    ]
    code, out, _ = run("netpol", "generate", "--server", url, "-o", "yaml")
    assert code == 0
    assert out == generated(run, case, "-o", "yaml")[1]
    code, _, err = run("policy", "discover", "--server", url)
    assert code == 2
    assert err == "error: no conversations: since 15m: widen --since, or wait for traffic\n"


def test_a_server_that_refuses_is_one_line(run: Run, server: tuple[str, type[_Fake]]) -> None:
    url, fake = server
    fake.answers.append((401, {"error": {"what": "no token", "where": "here", "fix": "give one"}}))
    code, out, err = run("policy", "discover", "--server", url)
    assert (code, out) == (2, "")
    assert err.startswith("error: the server wants a token")
