"""Lists of outside addresses: what is read, and that everything wrong is said with its line."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory import externals_file
from ringfence.inventory.externals_file import (
    Entry,
    Given,
    check_catalog,
    check_entries,
    external,
    read_externals,
)
from ringfence.model.objects import External
from ringfence.model.problems import Problem

CSV = """\
# who is who
network,name,site,owner

10.1.0.0/16,dc,hh,
192.0.2.7,bank,"hh, old",ops
2001:db8::/32,v6,,
"""
YAML = """\
- network: 10.1.0.0/16
  name: dc
  labels: {site: hh}
- address: 192.0.2.7
  name: bank
  labels: {site: "hh, old", owner: ops}
- {cidr: "2001:db8::/32", name: v6}
"""
ENTRIES = (
    Entry("10.1.0.0/16", "dc", (("site", "hh"),)),
    Entry("192.0.2.7/32", "bank", (("owner", "ops"), ("site", "hh, old"))),
    Entry("2001:db8::/32", "v6"),
)


@pytest.mark.parametrize(("text", "file"), [(CSV, "f.csv"), (YAML, "f.yaml"), (CSV, "-"), (YAML, "list")])
def test_both_forms_say_the_same(text, file):
    assert read_externals(text, file) == (ENTRIES, [])
    assert read_externals("\ufeff" + text.replace("\n", "\r\n"), file) == (ENTRIES, [])


def test_json_is_read_too():
    text = json.dumps([{"network": e.network, "name": e.name, "labels": dict(e.labels)} for e in ENTRIES])
    assert read_externals(text, "f.json") == (ENTRIES, [])


def test_labels_in_one_column():
    text = "CIDR,Name,Labels\n10.0.0.0/8,all,a=1; b = 2;c=x=y\n"
    (entry,), found = read_externals(text, "f.csv")
    assert (entry.labels, found) == ((("a", "1"), ("b", "2"), ("c", "x=y")), [])


def test_values_count_as_written():
    (entry,), _ = read_externals(
        "- {network: 1.2.3.4, name: no, labels: {on: 0x10, since: 2026-01-01}}", "f.yaml"
    )
    assert (entry.name, entry.labels) == ("no", (("on", "0x10"), ("since", "2026-01-01")))


HEAD = "network,name\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "10.1.2.3/16,dc\n", "`10.1.2.3/16` has bits set after its prefix: f.csv line 2 field `network`: write 10.1.0.0/16 for the network, or 10.1.2.3 for the address"),
        (HEAD + "2001:db8::1/64,dc\n", "write 2001:db8::/64 for the network, or 2001:db8::1 for the address"),
        (HEAD + "10.1.0.0/33,dc\n", "not a network: `10.1.0.0/33`: f.csv line 2 field `network`"),
        (HEAD + "010.1.0.0/16,dc\n", "not a network"),
        (HEAD + "10.1.0.0/255.255.0.0,dc\n", "not a network"),
        (HEAD + "fe80::1%eth0,dc\n", "not a network"),
        (HEAD + "example.com,dc\n", "not a network: `example.com`"),
        (HEAD + ",dc\n", "no network: f.csv line 2 field `network`"),
        (HEAD + "10.1.0.0/16,\n", "no name: f.csv line 2 field `name`"),
        (HEAD + "10.1.0.0/16,a\n10.2.0.0/16,b\n10.1.0.0/16,c\n", "10.1.0.0/16 again, first in f.csv line 2: f.csv line 4 field `network`: leave one of the two"),
        (HEAD + "1.2.3.4,a\n1.2.3.4/32,b\n", "1.2.3.4/32 again, first in f.csv line 2"),
        (HEAD + "1.2.3.4,a\n::ffff:1.2.3.4,b\n", "1.2.3.4/32 again"),
        (HEAD + "10.1.0.0/16\n", "1 columns where the header has 2: f.csv line 2"),
        (HEAD + "10.1.0.0/16,a,b\n", "3 columns where the header has 2: f.csv line 2"),
        (HEAD + '10.1.0.0/16,"a\n', "not CSV"),
        ("network,name,labels\n10.0.0.0/8,a,b\n", "not a label: `b`: f.csv line 2 field `labels`: write key=value;key=value"),
        ("network,name,site,labels\n10.0.0.0/8,a,x,site=y\n", "a label twice: f.csv line 2 label `site`"),
        ("name,site\na,b\n", "no column for the network: f.csv line 1: name one column `network`, `cidr` or `address`"),
        ("network,cidr,name\n", "2 columns for the network"),
        ("network\n10.0.0.0/8\n", "no column `name`: f.csv line 1"),
        ("network,name,a,a\n", "column `a` twice"),
        ("network,name,\n", "a column without a name"),
        ("", "no header: f.csv"),
        (HEAD, "an empty list: f.csv"),
        (HEAD + "1.2.3.4,a\x07\n", "not a name: f.csv line 2"),
    ],
)  # fmt: skip
def test_a_bad_line_of_csv_says_where_and_what_to_do(text, said):
    entries, found = read_externals(text, "f.csv")
    assert entries == ()
    assert said in str(found[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- network: 10.1.2.3/16\n  name: dc", "f.yaml line 1 field `network`: write 10.1.0.0/16"),
        ("- {network: 1.2.3.4, name: a}\n- dc", "not an entry: f.yaml line 2"),
        ("- {network: 1.2.3.4, name: a, site: hh}", "unknown field `site`: f.yaml line 1"),
        ("- {network: 1.2.3.4, cidr: 1.2.3.4, name: a}", "field `network` twice"),
        ("- {network: [1], name: a}", "not a text: f.yaml line 1 field `network`"),
        ("- {network: 1.2.3.4, name: a, labels: [b]}", "not labels: f.yaml line 1 field `labels`"),
        ("- {network: 1.2.3.4, name: a, labels: {b: {c: d}}}", "not labels"),
        ("- {network: 1.2.3.4, name: a, labels: {b: c, b: d}}", "a label twice"),
        ("network: 1.2.3.4", "not a list: f.yaml line 1"),
        ("- {network: 1.2.3.4", "not YAML: f.yaml line"),
        ("", "an empty list: f.yaml"),
        ("[" * 100_000, "f.yaml"),
        ("- &a {network: 1.2.3.4, name: a}\n- *a", "an alias: f.yaml line 2"),
        ("- {network: 1.2.3.4, name: a}\n---\n- {network: 1.2.3.5, name: a}", "a second document"),
    ],
)
def test_a_bad_entry_of_yaml_says_where(text, said):
    entries, found = read_externals(text, "f.yaml")
    assert entries == ()
    assert said in str(found[0])


def test_everything_wrong_is_said_in_the_order_of_the_lines():
    text = HEAD + "10.1.2.3/16,a\n10.2.0.0/16\nx,\n10.3.0.0/16,fine\n"
    entries, found = read_externals(text, "f.csv")
    assert entries == ()
    assert [problem.where.split(" field")[0] for problem in found] == [
        "f.csv line 2",
        "f.csv line 3",
        "f.csv line 4",
        "f.csv line 4",
    ]


def test_a_list_has_an_end(monkeypatch):
    monkeypatch.setattr(externals_file, "MOST", 2)
    assert len(read_externals(CSV.replace("2001", "#2001"), "f.csv")[0]) == 2
    assert "more than 2 entries" in str(read_externals(CSV, "f.csv")[1][0])


def test_entries_become_objects_of_their_list():
    assert external("dc", ENTRIES[0]) == External(
        "dc/10.1.0.0/16", "dc", "10.1.0.0/16", "dc", (("site", "hh"),)
    )
    assert check_catalog("data-centre_1") == "data-centre_1"
    for name in ("", "A", "a/b", "-a", "x" * 300):
        with pytest.raises(Problem, match="not a name for a list"):
            check_catalog(name)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_a_network_is_kept_as_itself_or_its_right_form_is_named(value, prefix):
    text = f"{ipaddress.IPv4Address(value)}/{prefix}"
    right = str(ipaddress.ip_network(text, strict=False))
    entries, found = check_entries([Given("here", text, "x", ())])
    if text == right:
        assert [each.network for each in entries] == [right]
        assert not found
    else:
        assert f"write {right} for the network" in found[0].fix


@given(st.text(max_size=200))
def test_no_text_is_a_surprise(text):
    for file in ("f.csv", "f.yaml", "-"):
        entries, found = read_externals(text, file)
        assert bool(entries) != bool(found)
