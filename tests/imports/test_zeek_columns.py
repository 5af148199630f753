"""Zeek's TSV by columns says what the reader of single lines says, over logs with odd values, broken lines and comments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.imports import zeek, zeek_columns
from ringfence.imports.pair import columns
from ringfence.imports.records import Tally

NAMES = "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto duration history conn_state orig_pkts orig_ip_bytes made_up"
HEADER = "#separator \\x09\n#unset_field\t-\n#path\tconn\n#fields\t" + NAMES.replace(" ", "\t") + "\n"
ADDRESSES = st.sampled_from(
    [
        "10.0.0.1",
        "10.0.0.2",
        "255.255.255.255",
        "01.2.3.4",
        "256.1.1.1",
        "10.0.0",
        "fe80::1",
        "::ffff:10.0.0.1",
        "-",
        "",
        "é",
    ]
)
TIMES = st.sampled_from(
    [
        "1700000000.123456",
        "1700000000.12",
        "3999999999.999999",
        "4999999999.999999",
        "-",
        "",
        "x",
        "1e3",
        "1700000001",
    ]
)
PORTS = st.sampled_from(["0", "80", "40000", "65536", "-", "", "x", "-1"])
COUNTS = st.sampled_from(["0", "7", "999999999999999", "9999999999999999999", "-", "", "1.5", " 3"])
ROW = st.tuples(
    TIMES,
    st.just("C"),
    ADDRESSES,
    PORTS,
    ADDRESSES,
    PORTS,
    st.sampled_from(["tcp", "udp", "icmp", "TCP", "6", "unknown_transport", "-", "", "nonsense"]),
    st.sampled_from(["1.500000", "0.000001", "2", "-", "", "1e-5"]),
    st.sampled_from(["ShADadFf", "^dA", "HaD", "Sr", "S", "D", "-", ""]),
    st.sampled_from(["SF", "S0", "REJ", "OTH", "SHR", "-", ""]),
    COUNTS,
    COUNTS,
    st.sampled_from(["-", "x", ""]),
).map("\t".join)
PLAIN = st.just("1700000000.123456\tC\t10.0.0.1\t40000\t10.0.0.2\t80\ttcp\t1.500000\tShADadFf\tSF\t4\t400\t-")
LINE = (
    PLAIN
    | ROW
    | st.sampled_from(
        ["", "cut\tshort", '"quoted\t"', "#close\t2024", "\t" * 12, "a\rb", HEADER.splitlines()[3]]
    )
)


@dataclass
class Told:
    rows: np.ndarray
    tally: Tally


def both(body: bytes) -> tuple[Told, Told]:
    lines = (
        body.splitlines(keepends=True) if b"\r" not in body else [each + b"\n" for each in body.split(b"\n")]
    )
    fast, slow = Tally(), Tally()
    return (
        Told(zeek_columns.read(lines, "conn.log", fast), fast),
        Told(columns(zeek.read(lines, "conn.log", slow))[0], slow),
    )


def agree(body: bytes) -> None:
    fast, slow = both(body)
    assert fast.rows.dtype == slow.rows.dtype
    np.testing.assert_array_equal(fast.rows, slow.rows)
    assert sorted(fast.tally.shown) == sorted(slow.tally.shown)
    for name in ("lines", "broken", "passed", "unknown"):
        assert getattr(fast.tally, name) == getattr(slow.tally, name), name


@settings(max_examples=120, deadline=None)
@given(st.lists(LINE, max_size=12), st.booleans())
def test_columns_say_what_lines_say(lines: list[str], ends: bool) -> None:
    agree((HEADER + "\n".join(lines) + ("\n" if ends and lines else "")).encode())


@settings(max_examples=60, deadline=None)
@given(st.lists(PLAIN | ROW, min_size=3, max_size=12), st.integers(1, 4))
def test_chunks_say_what_the_whole_says(lines: list[str], size: int) -> None:
    before, zeek_columns.CHUNK = zeek_columns.CHUNK, size
    try:
        agree((HEADER + "\n".join(lines) + "\n#close\t2024\n").encode())
    finally:
        zeek_columns.CHUNK = before


def test_most_lines_are_read_by_columns() -> None:
    """Else the two would agree because they are the same."""
    plain = "1700000000.123456\tC\t10.0.0.1\t40000\t10.0.0.2\t80\ttcp\t1.500000\tShADadFf\tSF\t4\t400\t-\n"
    header = zeek_columns.Header("\t", "-", NAMES.split(), [])
    parsed = zeek_columns.parse((plain * 9 + "cut\n").encode(), 10, header, Tally())
    assert (len(parsed.rows), parsed.odd.tolist()) == (9, [9])
