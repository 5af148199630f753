"""`python -m ringfence.lab.pod call …`: exactly these conversations, printed as JSON. Stdlib only."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from typing import Any

from ringfence.lab import talk

Report = dict[str, Any]


def run(argv: list[str] | None = None) -> None:
    """Parse the command line, make the calls one after another and print a list of reports.

    Exit 0 when every call was answered, 1 when one was not.
    """
    parser = argparse.ArgumentParser(prog="python -m ringfence.lab.pod")
    verb = parser.add_subparsers(required=True).add_parser("call", help="make conversations and print them")
    verb.add_argument("protocol", choices=sorted(CALLS))
    verb.add_argument("address", help="an IP address, or a name for --dns")
    verb.add_argument("port", type=int, help="0 for icmp")
    verb.add_argument("--octets", type=int, default=64, help="payload octets sent a call")
    verb.add_argument("--count", type=int, default=1, help="conversations, each with a port of its own")
    verb.add_argument("--local-port", type=int, default=0, help="fixed local port (implies --count 1)")
    verb.add_argument("--hold", type=float, default=0.0, help="seconds to keep each connection open")
    verb.add_argument("--timeout", type=float, default=3.0)
    verb.add_argument("--dns", help="resolve the name with this server first")
    options = parser.parse_args(argv)
    reports = [_one(options) for _ in range(options.count)]
    json.dump(reports, sys.stdout)
    print()
    raise SystemExit(any(report["error"] for report in reports))


def _one(options: argparse.Namespace) -> Report:
    report: Report = {
        "protocol": options.protocol,
        "address": options.address,
        "port": options.port,
        "local_address": None,
        "local_port": None,
        "sent": 0,
        "received": 0,
        "error": None,
    }
    try:
        if options.dns:
            found = _resolve(report["address"], options.dns, options.timeout)
            options = argparse.Namespace(**{**vars(options), "address": found})
            report["address"] = found
        CALLS[options.protocol](options, report)
    except (OSError, ValueError) as error:
        report["error"] = str(error) or type(error).__name__
    return report


def _resolve(name: str, server: str, timeout: float) -> str:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((server, 53))
        sock.send(
            talk.question(name, talk.AAAA if family == socket.AF_INET6 else talk.A, os.getpid() & 0xFFFF)
        )
        found = talk.answers(sock.recv(1500))[1]
    if not found:
        raise ValueError(f"no address for {name}")
    return found[0]


def _open(options: argparse.Namespace, report: Report, kind: int, protocol: int = 0) -> socket.socket:
    six = ":" in options.address
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind, protocol)
    sock.settimeout(options.timeout)
    if options.local_port and kind != socket.SOCK_RAW:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if six else "0.0.0.0", options.local_port))
    sock.connect((options.address, options.port if kind != socket.SOCK_RAW else 0))
    report["local_address"], report["local_port"] = sock.getsockname()[:2]
    return sock


def _tcp(options: argparse.Namespace, report: Report) -> None:
    with _open(options, report, socket.SOCK_STREAM) as sock:
        sock.sendall(b"x" * max(options.octets - 1, 0) + b"\n")
        report["sent"] = max(options.octets, 1)
        report["received"] = len(sock.recv(4096))
        time.sleep(options.hold)


def _udp(options: argparse.Namespace, report: Report) -> None:
    with _open(options, report, socket.SOCK_DGRAM) as sock:
        report["sent"] = sock.send(b"x" * options.octets)
        report["received"] = len(sock.recv(65535))
        time.sleep(options.hold)


def _icmp(options: argparse.Namespace, report: Report) -> None:
    six = ":" in options.address
    with _open(options, report, socket.SOCK_RAW, 58 if six else 1) as sock:
        report["local_port"] = None
        ident = os.getpid() & 0xFFFF
        sock.send(talk.echo_request(ident, 1, options.octets, 6 if six else 4))
        report["sent"] = options.octets
        reply = sock.recv(65535)
        report["received"] = len(reply) - (8 if six else 28)


def _sctp(options: argparse.Namespace, report: Report) -> None:
    """Send an INIT. A kernel without SCTP answers with an ICMP error or not at all; neither is a failure."""
    local = options.local_port or 20000 + os.getpid() % 40000
    with _open(options, report, socket.SOCK_RAW, socket.IPPROTO_SCTP) as sock:
        report["local_port"] = local
        report["sent"] = sock.send(talk.sctp_init(local, options.port))


CALLS = {"tcp": _tcp, "udp": _udp, "icmp": _icmp, "sctp": _sctp}
