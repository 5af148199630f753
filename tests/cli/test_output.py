"""Tables for people: plain in files, narrower where a terminal is."""

from __future__ import annotations

import pytest

from ringfence.cli.output import _fitting, emit_table


def test_rows_in_a_file_end_with_their_last_letter(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table("title", ("a", "b"), [("long enough", ""), ("x", "[bold]y")])
    assert capsys.readouterr().out == "title\na            b\nlong enough\nx            [bold]y\n"


@pytest.mark.parametrize(
    ("width", "kept"), [(14, ["a", "b", "c"]), (13, ["a", "b"]), (9, ["a", "b"]), (8, ["a"]), (1, ["a"])]
)
def test_spare_columns_go_only_where_it_is_narrow(width: int, kept: list[str]) -> None:
    columns, cells = _fitting(("a", "b", "c"), [["1234", "123", "123"]], ("c", "b"), width)
    assert columns == kept
    assert cells == [["1234", "123", "123"][: len(kept)]]
