"""Whose packets `ringfence capture --local` takes, by what a kubelet's folders and /proc say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.cli import capturing_local
from ringfence.cli.capturing_local import known_pods, targets_of
from ringfence.model.problems import Problem
from ringfence.wire.orders import SHARED, Target

HOST, OWN, TWIN = "11111111-2222-3333-4444-555555555555", "0a0a-1", "0a0a-2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pods in the kubelet's folder, of which `gone` does not run; HOST's process is in the node's network."""
    for name in (
        f"kube-system_proxy_{HOST}",
        f"shop_carts-0_{OWN}",
        f"test_carts-0_{TWIN}",
        "shop_gone_dead",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "no-pod").mkdir()
    running = [(7, HOST), (8, OWN), (9, OWN), (10, TWIN), (11, "unknown")]
    monkeypatch.setattr(capturing_local, "pod_processes", lambda: iter(running))
    monkeypatch.setattr(capturing_local, "tables_of", lambda pid: 1 if pid == 7 else pid)
    monkeypatch.setattr(capturing_local, "node_tables", lambda netns: 1)
    return tmp_path


def asked(folder: Path, *pods: str, nodes: tuple[str, ...] = ()) -> list[Target]:
    return list(targets_of(pods, nodes, None, "here", folder))


def test_by_name_by_short_name_and_by_uid(folder: Path) -> None:
    own = Target("shop/carts-0", OWN, f"pod {OWN}")
    assert asked(folder, "shop/carts-0") == [own]
    assert asked(folder, OWN) == [own]
    assert asked(folder, "unknown") == [Target("unknown", "unknown", "pod unknown")]


def test_a_pod_in_the_node_s_network_is_the_node_s_interfaces(folder: Path) -> None:
    assert asked(folder, "proxy") == [Target("kube-system/proxy", note=SHARED)]


def test_this_node_by_its_name(folder: Path) -> None:
    assert asked(folder, nodes=("here",)) == [Target("here", note="the node")]
    with pytest.raises(Problem, match="another node"):
        asked(folder, nodes=("there",))


def test_what_does_not_run_or_is_not_one_is_refused(folder: Path) -> None:
    with pytest.raises(Problem, match="no such pod runs") as caught:
        asked(folder, "shop/gone")
    assert "kube-system/proxy" in str(caught.value)
    with pytest.raises(Problem, match="more than one pod"):
        asked(folder, "carts-0")


def test_without_a_kubelet_only_uids_are_names(folder: Path) -> None:
    assert known_pods(folder / "absent") == {}
    assert known_pods(folder)[OWN] == "shop/carts-0"
    assert "no-pod" not in known_pods(folder).values()
