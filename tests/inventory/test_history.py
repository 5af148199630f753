"""Histories of one object: pure functions of the set of statements."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.history import Span, Statement, extended, history_of, spans, value_at
from ringfence.model.objects import Pod


def pod(label: str, workload: str | None = None) -> Pod:
    return Pod(uid="u", namespace="n", name="p", labels=(("v", label),), workload=workload)


def test_a_value_holds_until_the_next_one() -> None:
    told = [Statement(10, 10, pod("a")), Statement(20, 20, pod("b")), Statement(30, 30, None)]
    assert spans(told) == (Span(10, pod("a")), Span(20, pod("b")), Span(30, None))
    assert value_at(spans(told), 9) is None
    assert value_at(spans(told), 10) == pod("a")
    assert value_at(spans(told), 29) == pod("b")
    assert value_at(spans(told), 30) is None


def test_listed_again_after_a_restart_does_not_rewrite_what_was_seen() -> None:
    told = [
        Statement(10, 10, pod("a")),
        Statement(20, 20, pod("b")),
        Statement(10, 40, pod("c")),  # listed again: changed at some unknown time before 40
    ]
    assert spans(told) == (Span(10, pod("a")), Span(20, pod("b")), Span(40, pod("c")))


def test_listed_again_unchanged_changes_nothing() -> None:
    told = [Statement(10, 10, pod("a")), Statement(20, 20, pod("b")), Statement(10, 40, pod("b"))]
    assert spans(told) == (Span(10, pod("a")), Span(20, pod("b")))


def test_late_news_corrects_what_was_answered_before() -> None:
    early = [Statement(30, 30, pod("b"))]
    assert value_at(spans(early), 25) is None
    assert value_at(spans([*early, Statement(20, 90, pod("a"))]), 25) == pod("a")


def test_an_owner_learnt_late_holds_for_the_whole_life() -> None:
    told = [Statement(10, 10, pod("a", "ReplicaSet/x-1")), Statement(20, 20, pod("a", "Deployment/x"))]
    assert spans(told) == (Span(10, pod("a", "Deployment/x")),)


statements = st.lists(
    st.builds(
        Statement,
        at=st.integers(0, 6),
        known=st.integers(0, 6),
        value=st.one_of(
            st.none(), st.builds(pod, st.sampled_from("ab"), st.sampled_from([None, "Job/j", "CronJob/c"]))
        ),
    ),
    max_size=7,
)


@given(statements, st.randoms(use_true_random=False))
def test_neither_order_nor_repeats_matter(told: list[Statement], random: object) -> None:
    shuffled = [*told, *told[:3]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert spans(shuffled) == spans(told)


@given(statements)
def test_spans_are_in_time_order_without_repeats(told: list[Statement]) -> None:
    history = spans(told)
    starts = [span.start for span in history]
    assert starts == sorted(set(starts))
    assert all(a.value != b.value for a, b in pairwise(history))


statements = st.builds(
    Statement,
    st.integers(0, 12),
    st.integers(0, 12),
    st.one_of(
        st.none(),
        st.builds(pod, st.sampled_from("ab"), st.sampled_from([None, "Deployment/x", "Deployment/y"])),
    ),
)


@given(st.lists(statements, min_size=1, max_size=8), statements)
def test_the_short_way_is_the_long_way(told: list[Statement], last: Statement) -> None:
    longer = extended(history_of(told), last)
    if longer is not None:
        assert longer == history_of([*told, last])


def test_plainly_later_news_takes_the_short_way() -> None:
    told = [Statement(10, 10, pod("a", "Deployment/x"))]
    for last in (
        Statement(20, 20, pod("b", "Deployment/x")),
        Statement(20, 20, pod("a")),
        Statement(20, 20, None),
    ):
        assert extended(history_of(told), last) == history_of([*told, last])
    assert extended(history_of(told), Statement(10, 20, pod("b"))) is None
    assert extended(history_of(told), Statement(20, 20, pod("b", "Deployment/y"))) is None
