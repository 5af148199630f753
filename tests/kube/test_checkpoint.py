"""What a restart needs, packed and restored; and whatever else comes instead."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.kube.checkpoint import MAGIC, Restored, pack, restore, seal
from ringfence.kube.decode import decode
from ringfence.kube.ledger import Ledger
from ringfence.model.problems import Problem


def item(kind: str, name: str, owner: tuple[str, str] | None = None, **labels: str) -> Any:
    meta: dict[str, Any] = {"name": name, "namespace": "shop", "uid": f"uid-{kind}-{name}", "labels": labels}
    if owner:
        meta["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    found, _ = decode({"metadata": meta}, kind, "")
    return found


def filled() -> Ledger:
    ledger = Ledger("c")
    for kind, name, owner in (
        ("Deployment", "web", None),
        ("ReplicaSet", "web-1", ("Deployment", "web")),
        ("Job", "lone", None),
        ("Pod", "a", ("ReplicaSet", "web-1")),
        ("Pod", "b", ("Job", "lone")),
        ("Pod", "c", ("Job", "unknown")),
        ("Pod", "d", None),
    ):
        ledger.present(kind, item(kind, name, owner), 1)
    return ledger


def again(ledger: Ledger) -> Restored:
    return restore(seal(pack(ledger, {"Pod": "7", "Gone": "1"}, "id")), ledger.cluster)


def test_all_of_it_comes_back() -> None:
    ledger = filled()
    back = again(ledger)
    assert back.versions == {"Pod": "7"}
    assert back.identity == "id"
    for name in ("told", "controllers", "waiting", "_pods_of"):
        assert getattr(back.ledger, name) == getattr(ledger, name)
    assert back.ledger.owners.known == ledger.owners.known


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Pod", "Job", "CronJob", "ReplicaSet"]),
            st.integers(0, 3),
            st.sampled_from(
                [None, ("Job", "n1"), ("CronJob", "n2"), ("ReplicaSet", "n0"), ("Deployment", "d")]
            ),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_a_ledger_goes_on_as_if_nothing_had_happened(steps: list[Any], when: int) -> None:
    """The same news with a restart somewhere in between and without one."""
    whole, broken = Ledger("c"), Ledger("c")
    for moment, (kind, number, owner, there) in enumerate(steps):
        if moment == when:
            broken = again(broken).ledger
        name = f"n{number}"
        if there:
            told = [ledger.present(kind, item(kind, name, owner), moment) for ledger in (whole, broken)]
        else:
            told = [ledger.gone(kind, f"uid-{kind}-{name}", moment) for ledger in (whole, broken)]
        assert told[0] == told[1]


@given(st.data())
def test_damage_is_found(data: st.DataObject) -> None:
    body = bytearray(seal(pack(filled(), {}, "")))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    found = None
    with suppress(Problem):
        found = restore(bytes(body), "c")
    # A few bits of a frame's head mean nothing; then nothing may have changed.
    assert found is None or found.ledger.told == filled().told


@pytest.mark.parametrize("body", [b"", b"x", MAGIC, MAGIC + b"x", b"ringfence checkpoint 9\n", seal(b"{}")])
def test_what_is_no_checkpoint(body: bytes) -> None:
    with pytest.raises(Problem, match="checkpoint"):
        restore(body, "c")


def test_another_clusters_checkpoint_is_refused() -> None:
    with pytest.raises(Problem, match="of cluster c"):
        restore(seal(pack(filled(), {}, "")), "other")
