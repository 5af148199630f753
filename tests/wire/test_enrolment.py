"""Tokens survive being carried, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.model.problems import Problem
from ringfence.wire.enrolment import read_token, write_token


@given(st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32))
def test_a_token_is_read_as_it_was_written(secret: bytes, fingerprint: bytes) -> None:
    text = write_token(secret, fingerprint)
    assert text.isascii()
    assert " " not in text
    read = read_token(f" {text}\n")
    assert read.fingerprint == fingerprint
    assert text == f"rfe1.{read.secret}.{text.rpartition('.')[2]}"


@given(st.text(max_size=120))
def test_nothing_else_is_a_token_and_its_text_is_not_repeated(text: str) -> None:
    with pytest.raises(Problem) as caught:
        read_token(text)
    assert text.strip() == "" or len(text) < 4 or text not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 5, 20, 37, 40, 80])
def test_a_token_cut_short_is_refused(cut: int) -> None:
    text = write_token(b"s" * 24, b"f" * 32)
    with pytest.raises(Problem, match="not an enrolment token"):
        read_token(text[:cut])
