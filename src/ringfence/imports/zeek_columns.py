"""Zeek's TSV by columns. Goals: what `zeek` makes of each line, at Arrow's speed. Lines that are not plain go to `zeek` one by one:
broken ones, ICMP, times with other than six places. The trade-off: what is plain is said twice, and a property test holds both together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from ringfence.imports import zeek
from ringfence.imports.pair import I64, ROW, Mask, columns
from ringfence.imports.records import UNKNOWN, End, Record, Tally, taken
from ringfence.model.addresses import pack
from ringfence.model.columns import Table
from ringfence.model.protocols import ICMP, ICMPV6, PROTOCOL_NUMBERS

_TIME, _COUNT = r"^[0-3]?\d{1,9}\.\d{6}$", r"^\d{1,15}$"
_OCTET = r"(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_FOUR = rf"^{_OCTET}(\.{_OCTET}){{3}}$"
_MAPPED = np.uint64(0xFFFF_0000_0000)
_PORTS, _COUNTS = ("id.orig_p", "id.resp_p"), ("orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes")
_WORDS = ("proto", "history", "conn_state")
_TEXT = pa.string()


CHUNK = 1 << 16
"""Lines at a time."""


class Header(NamedTuple):
    """What the lines that begin with `#` say, and those lines."""

    separator: str
    unset: str
    names: list[str]
    lines: list[bytes]


def read(lines: Iterable[bytes], name: str, tally: Tally) -> Table:
    """Rows (`pair.ROW`) of a conn.log, in the order of its lines. Raises Problem as `zeek.read` does."""
    rest = iter(lines)
    ahead = []
    for line in rest:
        ahead.append(line)
        if line.strip() and not line.startswith(b"#"):
            break
    header = _header(ahead)
    if header is None:
        return columns(zeek.read(chain(ahead, rest), name, tally))[0]
    number = len(header.lines)
    rest = chain(ahead[number:], rest)
    found = [np.zeros(0, ROW)]
    while chunk := list(islice(rest, CHUNK)):
        rows = _chunk(chunk, number, header, name, tally)
        if rows is None:
            # Another header may come: from here on every line is looked at by itself.
            found.append(_slowly(_numbered(chain(chunk, rest), number), header, name, tally)[0])
            break
        found.append(rows)
        number += len(chunk)
    return np.concatenate(found)


def _header(ahead: Sequence[bytes]) -> Header | None:
    """Of the lines before the first values; None where `zeek` must look at the file itself."""
    separator, unset, names = "\t", "-", list[str]()
    kept = [line for line in ahead if line.startswith(b"#")]
    if len(kept) < len(ahead) - 1:
        return None
    for line in kept:
        words = line.decode(errors="replace").rstrip("\r\n").split(separator)
        if words[0].startswith("#separator") and not words[0].endswith("\\x09"):
            return None
        if words[0] == "#path" and not words[-1].startswith("conn"):
            return None
        unset = words[-1] if words[0] == "#unset_field" else unset
        names = words[1:] if words[0] == "#fields" else names
    whole = set(zeek.WHOLE) <= set(names) and len(set(names)) == len(names)
    return Header(separator, unset, names, kept) if whole else None


def _numbered(lines: Iterable[bytes], before: int) -> Iterator[tuple[int, bytes]]:
    return enumerate(lines, before + 1)


def _chunk(lines: list[bytes], before: int, header: Header, name: str, tally: Tally) -> Table | None:
    """Rows of some lines; None where they are not plain text of values alone."""
    while lines and lines[-1].startswith(b"#close"):
        lines.pop()
    body = b"".join(lines)
    if body.startswith(b"#") or b"\n#" in body or b"\r" in body or not _is_text(body):
        return None
    try:
        parsed = parse(body, len(lines), header, tally)
    except pa.ArrowInvalid:
        return None
    odd = ((before + at + 1, lines[at]) for at in parsed.odd.tolist())
    slow, numbers = _slowly(odd, header, name, tally)
    order = np.argsort(np.concatenate((parsed.places + before + 1, numbers)), kind="stable")
    return np.concatenate((parsed.rows, slow))[order]


def _is_text(body: bytes) -> bool:
    """Whether it is UTF-8: the reader of columns cannot show us a line that is not."""
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


def _slowly(lines: Iterable[tuple[int, bytes]], header: Header, name: str, tally: Tally) -> tuple[Table, I64]:
    """Rows of numbered lines that are looked at one by one, and their numbers."""
    numbers: list[int] = []
    current = [0]

    def items() -> Iterator[tuple[int, dict[str, str] | str]]:
        for current[0], item in zeek.rows(chain(((0, line) for line in header.lines), lines), name):
            yield current[0], item

    def decode(item: dict[str, str] | str, tally: Tally) -> Iterable[Record]:
        found = zeek.decode(item, tally)
        numbers.append(current[0])
        return found

    rows, _ = columns(taken(items(), decode, tally))
    return rows, np.array(numbers, np.int64)


class Parsed(NamedTuple):
    """Rows of plain lines, and where among the lines they stand; the places of the others."""

    rows: Table
    places: I64
    odd: I64


def parse(body: bytes, count: int, header: Header, tally: Tally) -> Parsed:
    """Rows of `count` lines of values. Raises pa.ArrowInvalid when they are not that."""
    broken: list[int] = []
    table = _table(body, header, broken)
    kept = np.setdiff1d(np.arange(count), np.array(broken, np.int64))
    if len(kept) != len(table):
        raise pa.ArrowInvalid("lines that are not one row each")
    rows, plain = _rows(table, header)
    tally.lines += int(plain.sum())
    for name in set(header.names) - zeek.FIELDS:
        told = np.asarray(pc.is_valid(table[name])) & plain
        tally.unknown.update({name: int(told.sum())} if told.any() else {})
    odd = np.union1d(kept[~plain], np.array(broken, np.int64)).astype(np.int64)
    return Parsed(rows[plain], kept[plain].astype(np.int64), odd)


def _table(body: bytes, header: Header, broken: list[int]) -> pa.Table:
    """All fields as text, unset ones null. Lines with more or fewer fields are told to `broken`, by place."""

    def skip(row: csv.InvalidRow) -> str:
        broken.append(row.number - 1)
        return "skip"

    return csv.read_csv(
        pa.py_buffer(body),
        read_options=csv.ReadOptions(column_names=header.names, use_threads=False, block_size=1 << 24),
        parse_options=csv.ParseOptions(
            delimiter=header.separator,
            quote_char=False,
            double_quote=False,
            newlines_in_values=False,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(header.names, _TEXT),
            null_values=[header.unset],
            strings_can_be_null=True,
        ),
    ).combine_chunks()


def _rows(table: pa.Table, header: Header) -> tuple[Table, Mask]:
    """Every line as a row, and which of them are plain (the others' rows mean nothing)."""
    rows = np.zeros(len(table), ROW)
    plain = np.ones(len(table), np.bool_)

    def numbers(name: str, shape: str, absent: int = UNKNOWN) -> I64:
        if name not in header.names:
            return np.full(len(table), absent, np.int64)
        values, well = _numbers(table[name], shape, absent)
        plain[:] &= well
        return values

    for side, name in (("consumer", "id.orig_h"), ("provider", "id.resp_h")):
        rows[f"{side}_hi"], rows[f"{side}_lo"], well = _addresses(table[name])
        plain &= well
    for side, name in (("consumer", _PORTS[0]), ("provider", _PORTS[1])):
        port = numbers(name, _COUNT)
        plain &= port <= 65_535
        rows[f"{side}_untold_port"], rows[f"{side}_port"] = port == UNKNOWN, np.maximum(port, 0)
    first, took = numbers("ts", _TIME), numbers("duration", _TIME, 0)
    first, took = np.where(first == UNKNOWN, UNKNOWN, first * 1000), np.maximum(took, 0) * 1000
    rows["first"], rows["last"] = first, np.where(first == UNKNOWN, UNKNOWN, first + took)
    fields = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
    for field, name in zip(fields, _COUNTS, strict=True):
        rows[field] = numbers(name, _COUNT)
    rows["rtt_us"], rows["live"], rows["sample"], rows["both"] = UNKNOWN, 1, 1, 1
    plain &= _judged(table, header, rows)
    return rows, plain


def _numbers(column: pa.ChunkedArray, shape: str, absent: int) -> tuple[I64, Mask]:
    """Values of a column that all look like `shape` (a dot is left out), and which of them do; null is `absent`."""
    well = pc.fill_null(pc.match_substring_regex(column, shape), True)
    mask = np.asarray(well, np.bool_)
    if not mask.all():
        column = pc.if_else(well, column, None)
    digits = pc.replace_substring(column, ".", "", max_replacements=1) if shape == _TIME else column
    return np.asarray(pc.fill_null(pc.cast(digits, pa.int64()), absent), np.int64), mask


def _addresses(column: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Mask]:
    """Both halves of each address, and which are addresses."""
    codes, words = _coded(column)
    four = np.asarray(pc.fill_null(pc.match_substring_regex(words, _FOUR), False), np.bool_)
    high, low = np.zeros((2, len(words)), np.uint64)
    parts = pc.cast(pc.list_flatten(pc.split_pattern(words.filter(pa.array(four)), ".")), pa.uint8())
    low[four] = np.asarray(parts, np.uint8).view(">u4").astype(np.uint64) | _MAPPED
    well = four.copy()
    for at in np.flatnonzero(~four).tolist():
        try:
            high[at], low[at] = pack(str(words[at].as_py()))
            well[at] = True
        except ValueError:
            continue
    return high[codes], low[codes], well[codes]


def _coded(column: pa.ChunkedArray) -> tuple[I64, pa.Array]:
    """Each value's place among the distinct ones (null is one of them)."""
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(coded.indices, np.int64), coded.dictionary


def _judged(table: pa.Table, header: Header, rows: Table) -> Mask:
    """Fill the protocol, flags and who opened it, as `zeek` judges each distinct (protocol, history, state); which could be."""
    key = np.zeros(len(table), np.int64)
    words: list[list[str | None]] = []
    for name in _WORDS:
        codes, told = _coded(table[name]) if name in header.names else (key * 0, pa.array([None], _TEXT))
        key = key * len(told) + codes
        words.append(told.to_pylist())
    keys, place = np.unique(key, return_inverse=True)
    judged = [_judge(*_parts(int(each), words)) for each in keys]
    for field in ("protocol", "direction", "opened", "consumer_flags", "provider_flags"):
        rows[field] = np.array([each[field] if each else 0 for each in judged], np.int64)[place]
    _turn(rows, np.array([bool(each and each["turned"]) for each in judged], np.bool_)[place])
    return np.array([each is not None for each in judged], np.bool_)[place]


def _parts(key: int, words: list[list[str | None]]) -> list[str | None]:
    found: list[str | None] = []
    for told in reversed(words):
        key, at = divmod(key, len(told))
        found.append(told[at])
    return found[::-1]


_A, _B = End((0, 1), 1), End((0, 2), 2)


def _judge(proto: str | None, history: str | None, state: str | None) -> dict[str, int] | None:
    """What `zeek` says of a connection with these; None for those that it must look at itself."""
    kind = PROTOCOL_NUMBERS.get(str(proto).upper())
    if kind is None or kind in (ICMP, ICMPV6):
        return None
    told = {"history": history or "", "conn_state": state or ""}
    one = zeek.judged(Record(_A, _B, kind, 0, 0), told)
    turned = one.source == _B
    flags = (one.flags, one.back_flags)[:: -1 if turned else 1]
    return {
        "protocol": kind,
        "direction": int(one.direction),
        "opened": int(one.opened),
        "turned": int(turned),
        "consumer_flags": flags[0],
        "provider_flags": flags[1],
    }


def _turn(rows: Table, turned: Mask) -> None:
    """Exchange both ends of those rows."""
    some = rows[turned]
    for part in ("hi", "lo", "port", "untold_port", "packets", "octets", "flags"):
        rows[f"consumer_{part}"][turned] = some[f"provider_{part}"]
        rows[f"provider_{part}"][turned] = some[f"consumer_{part}"]
