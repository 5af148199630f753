"""Blocks of a watch and pages of a list: what is wrong costs itself, and reading many at once changes nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.kube.decode.events import News, events, named_in, page

META = {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "5"}


def line(word: str, body: Any) -> bytes:
    return json.dumps({"type": word, "object": body}, separators=(",", ":")).encode() + b"\n"


def pod(name: str, version: int, **spec: Any) -> dict[str, Any]:
    return {"metadata": {**META, "name": name, "resourceVersion": str(version)}, "spec": spec}


def told(news: list[News]) -> list[tuple[str, str, str]]:
    return [(each.word, each.item.value.name if each.item else "", each.version) for each in news]  # type: ignore[union-attr]


def test_a_block() -> None:
    end = {"metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}}
    gone = {"kind": "Status", "code": 410, "message": "too old"}
    block = b"".join(
        [
            line("ADDED", pod("a", 7)),
            b"\n",
            line("BOOKMARK", {"metadata": {"resourceVersion": "8"}}),
            line("BOOKMARK", end),
            line("DELETED", pod("b", 10)),
            line("ERROR", gone),
        ]
    )
    news, problems = events("Pod", block)
    assert problems == []
    assert told(news)[:4] == [
        ("ADDED", "a", "7"),
        ("BOOKMARK", "", "8"),
        ("BOOKMARK", "", "9"),
        ("DELETED", "b", "10"),
    ]
    assert [each.initial_end for each in news] == [False, False, True, False, False]
    assert (news[4].word, news[4].code, news[4].text) == ("ERROR", 410, "too old")


def test_one_wrong_object_costs_its_field_and_no_other_object_anything() -> None:
    block = line("ADDED", pod("a", 1)) + line("ADDED", pod("b", 2, nodeName=5)) + line("ADDED", pod("c", 3))
    news, problems = events("Pod", block)
    assert told(news) == [("ADDED", "a", "1"), ("ADDED", "b", "2"), ("ADDED", "c", "3")]
    assert [problem.where for problem in problems] == ["Pod shop/b: spec.nodeName"]


def test_an_object_without_a_name_is_said_and_passed_over() -> None:
    news, problems = events("Pod", line("ADDED", {"metadata": {}}) + line("ADDED", pod("a", 1)))
    assert told(news) == [("ADDED", "", ""), ("ADDED", "a", "1")]
    assert len(problems) == 1


@pytest.mark.parametrize("bad", [b"<html>\n", b'{"type":"ADDED","obj\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"])
def test_what_is_no_event_ends_the_block_as_an_error(bad: bytes) -> None:
    news, _ = events("Pod", line("ADDED", pod("a", 1)) + bad + line("ADDED", pod("b", 2)))
    assert told(news)[0] == ("ADDED", "a", "1")
    assert [each.word for each in news] == ["ADDED", "ERROR"]
    assert news[1].text.startswith("not an event")


def test_an_error_that_says_nothing() -> None:
    for body in ({}, None, 5, {"message": 5}):
        news, _ = events("Pod", line("ERROR", body))
        assert [each.word for each in news] == ["ERROR"]
        assert news[0].text


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ADDED", "MODIFIED", "DELETED"]),
            st.dictionaries(
                st.sampled_from(["nodeName", "containers", "hostNetwork", "serviceAccountName"]),
                st.none() | st.booleans() | st.text(max_size=3) | st.integers() | st.just([None]),
            ),
        ),
        max_size=6,
    )
)
def test_many_at_once_are_as_each_alone(given: list[tuple[str, dict[str, Any]]]) -> None:
    lines = [line(word, pod(f"p{n}", n, **spec)) for n, (word, spec) in enumerate(given)]
    news, problems = events("Pod", b"".join(lines))
    apart = [events("Pod", each) for each in lines]
    assert news == [one for each, _ in apart for one in each]
    assert [str(one) for one in problems] == [str(one) for _, each in apart for one in each]


def test_a_page() -> None:
    meta = {"resourceVersion": "7", "continue": "next"}
    body = {"kind": "PodList", "metadata": meta, "items": [pod("a", 1), None, pod("b", 2, nodeName=[])]}
    part, problems = page("Pod", json.dumps(body).encode())
    assert [item.value.name for item in part.items] == ["a", "b"]
    assert (part.version, part.following) == ("7", "next")
    assert len(problems) == 1
    for empty in (b'{"metadata":null,"items":null}', b"{}"):
        assert page("Pod", empty)[0] == ([], "", "")
    with pytest.raises(msgspec.MsgspecError):
        page("Pod", b"<html>")


def test_the_name_at_the_beginning_of_an_event() -> None:
    whole = line("ADDED", {"kind": "Pod", "metadata": {**META, "labels": {"uid": "no"}}})
    assert named_in(whole) == ("shop/a", "u")
    assert named_in(line("ADDED", {"metadata": {"name": "n1", "uid": "u1"}})) == ("n1", "u1")
    generated = {"name": "a-1", "generateName": "a-", "namespace": "shop", "uid": "u"}
    assert named_in(line("ADDED", {"metadata": generated})) == ("shop/a-1", "u")
    assert named_in(b"nothing") == ("", "")
