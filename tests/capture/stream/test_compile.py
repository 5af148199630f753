"""Filters: libpcap and tcpdump must say the same, and bad ones are refused in words."""

from __future__ import annotations

import shutil

import pytest

from ringfence.capture.stream.compile import INSTRUCTION, compiled
from ringfence.model.problems import Problem

GOOD = ("tcp port 80", "host 10.0.0.1 and not icmp6", "", "ip[8] < 5", "udp or greater 100")


@pytest.mark.parametrize("link", [1, 101])
@pytest.mark.parametrize("text", GOOD)
def test_both_compilers_agree(text, link):
    if not shutil.which("tcpdump"):
        pytest.skip("no tcpdump here")
    by_tcpdump = compiled(text, link, "/no/such/libpcap.so")
    assert by_tcpdump == compiled(text, link)
    assert len(by_tcpdump) >= INSTRUCTION.size


@pytest.mark.parametrize("library", [None, "/no/such/libpcap.so"])
@pytest.mark.parametrize("text", ["tcp prt 80", "port 99999", "and", "-w /tmp/x", "host 10.0.0.1 and ("])
def test_bad_filters_are_refused_with_the_reason(text, library):
    with pytest.raises(Problem, match="bad filter") as caught:
        compiled(text, 1, library)
    assert caught.value.fix


@pytest.mark.parametrize("text", ["tcp or " * 1000 + "udp", "tcp\0udp"])
def test_what_no_filter_is(text):
    with pytest.raises(Problem):
        compiled(text, 1)


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Problem, match="neither libpcap nor tcpdump"):
        compiled("tcp", 1, "/no/such/libpcap.so")
