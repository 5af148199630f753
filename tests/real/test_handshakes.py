"""Round trips and refusals of real connections are what the kernel of the opener says they were."""

from __future__ import annotations

import json
import sys

import pytest

from ringfence.flows.present import rfc3339

pytestmark = [pytest.mark.real, pytest.mark.slow]

OPEN, CLOSED, SILENT = 8080, 8081, 8082
CLIENT = """
import errno, json, socket, struct, sys
said = {}
for port in map(int, sys.argv[2:]):
    sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    sock.settimeout(1.5)
    try:
        sock.connect((sys.argv[1], port))
        # struct tcp_info (linux/tcp.h): tcpi_rtt, after one handshake that one round trip, in microseconds.
        said[port] = struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 68)[0]
    except OSError as error:
        said[port] = "timeout" if isinstance(error, TimeoutError) else errno.errorcode[error.errno]
    sock.close()
print(json.dumps(said))
"""


def prepare(lab):
    lab.add_pod("hands", "a", node="node1")
    for name, node in (("b", "node1"), ("c", "node2")):
        pod = lab.add_pod("hands", name, ports=[OPEN], node=node)
        for tables in ("iptables", "ip6tables"):
            lab.exec(pod, [tables, "-I", "INPUT", "-p", "tcp", "--dport", str(SILENT), "-j", "DROP"])


def test_what_the_kernel_says(watch):
    world = watch(prepare, overlay="vxlan", traffic=False, probes=False, apps=False)
    lab, expected = world.lab, {}
    for name in ("b", "c"):
        for address in lab.pod(name, "hands").addresses:
            ports = [str(port) for port in (OPEN, CLOSED, SILENT)]
            done = lab.exec(lab.pod("a", "hands"), [sys.executable, "-c", CLIENT, address, *ports])
            said = {int(port): value for port, value in json.loads(done.stdout).items()}
            assert (said[CLOSED], said[SILENT]) == ("ECONNREFUSED", "timeout")
            expected[address] = said
    world.settle()
    found = {
        (flow["provider"]["ip"], flow["provider"]["port"]): flow
        for flow in world.ask("/v1/flows", since=rfc3339(world.since))["flows"]
        if flow["protocol"] == "TCP" and flow["leg"] == "direct"
    }
    for address, said in expected.items():
        # The provider's own filter drops the SYN, and the kernel that does it says so: better known than silence.
        reasons = {port: found[address, port]["drop_reason"] for port in said}
        assert reasons == {OPEN: None, CLOSED: "refused", SILENT: "kernel"}
        assert found[address, CLOSED]["rtt_us"] is found[address, SILENT]["rtt_us"] is None
        # The tap is inside the way that the opener's kernel times.
        assert 0 < found[address, OPEN]["rtt_us"] <= said[OPEN]
