"""Addresses and networks: the examples of Kubernetes' CEL library, and the standard library as oracle."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.filters import Population, parse
from ringfence.inventory.filters.networks import Address, address, covers, holds, network
from ringfence.model.objects import External

FAMILIES = st.sampled_from([(4, 32, ipaddress.IPv4Address), (6, 128, ipaddress.IPv6Address)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # pkg/cel/library/ip.go and cidr.go of the API server.
        ('isIP("1.2.3.4")', True),
        ('isIP("fd00::1")', True),
        ('isIP("1.2.3")', False),
        ('isIP("10.0.0.01")', False),
        ('isIP("::ffff:1.2.3.4")', False),
        ('isIP("fe80::1%eth0")', False),
        ('isIP("")', False),
        ('isCIDR("192.168.0.0/24")', True),
        ('isCIDR("192.168.0.1/24")', True),
        ('isCIDR("192.168.0.0")', False),
        ('isCIDR("192.168.0.0/255.255.255.0")', False),
        ('isCIDR("192.168.0.0/024")', False),
        ('isCIDR("::/129")', False),
        ('ip("fd00::1").family() == 6 && ip("127.0.0.1").family() == 4', True),
        ('ip("fd00::1") == ip("fd00:0::1")', True),
        ('cidr("192.168.0.0/24").containsIP("192.168.0.1")', True),
        ('cidr("192.168.0.0/24").containsIP(ip("192.168.1.1"))', False),
        ('cidr("192.168.0.7/24").containsIP("192.168.0.1")', True),
        ('cidr("0.0.0.0/0").containsIP("::1")', False),
        ('cidr("192.168.0.0/24").containsCIDR("192.168.0.0/25")', True),
        ('cidr("192.168.0.0/24").containsCIDR(cidr("192.168.0.0/23"))', False),
        ('cidr("192.168.0.0/24").prefixLength() == 24', True),
        ('cidr("203.0.113.0/24").containsCIDR(network)', True),
        ("cidr(network).containsIP(name)", True),
        ('cidr(uid).containsIP("10.0.0.1")', None),
    ],
)
def test_networks_are_read_as_kubernetes_reads_them(text, value):
    external = External(uid="u", catalog="c", network="203.0.113.0/25", name="203.0.113.9")
    selection = Population([("", external)]).select(parse(text))
    assert (bool(selection.true[0]), bool(selection.error[0])) == (value is True, value is None)


@given(FAMILIES, st.data())
def test_holding_agrees_with_the_standard_library(family, data):
    number, bits, kind = family
    numbers = st.integers(0, 2**bits - 1)
    base, prefix = data.draw(numbers), data.draw(st.integers(0, bits))
    inner = data.draw(numbers | st.integers(0, 8).map(lambda n: base ^ n))
    theirs = ipaddress.ip_network(f"{kind(base)}/{prefix}", strict=False)
    mine = network(f"{kind(base)}/{prefix}")
    mapped = number == 6 and kind(base).ipv4_mapped is not None
    assert (mine is None) == mapped
    if mine is None:
        return
    assert holds(mine, Address(number, inner)) == (kind(inner) in theirs)
    other = data.draw(st.integers(0, bits))
    theirs_inner = ipaddress.ip_network(f"{kind(inner)}/{other}", strict=False)
    found = network(f"{kind(inner)}/{other}")
    if found is not None:
        assert covers(mine, found) == theirs_inner.subnet_of(theirs)


@given(st.text(alphabet="0123456789abcf.:%/ ", max_size=20))
def test_only_what_the_standard_library_reads_is_an_address(text):
    try:
        theirs = ipaddress.ip_address(text)
    except ValueError:
        assert address(text) is None
        return
    special = "%" in text or getattr(theirs, "ipv4_mapped", None) is not None
    assert address(text) == (None if special else Address(theirs.version, int(theirs)))
