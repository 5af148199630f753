"""What `ringfence manifests` renders: a real API server takes it, strictly; Pod Security says of it what is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringfence.cli.deployment import CAPABILITIES, Wanted, capabilities, documents
from ringfence.cli.seccomp import allowed, profile
from ringfence.kube.decode import KINDS
from tests.cli.conftest import verb
from tests.kubernetes import ApiServer


def rendered(*flags: str) -> list[dict[str, Any]]:
    done = verb("manifests", *flags)
    assert done.code == 0, done.err
    return list(yaml.safe_load_all(done.out))


def pod_of(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (one,) = [each for each in found if each["kind"] == kind]
    spec: dict[str, Any] = one["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ((), ["BPF", "NET_ADMIN", "PERFMON", "SYS_PTRACE"]),
        (("--no-processes",), ["BPF", "NET_ADMIN", "PERFMON"]),
        (("--no-processes", "--no-facts", "--no-socket-links"), ["BPF", "NET_ADMIN"]),
        (("--path", "packet", "--no-processes", "--no-facts", "--no-socket-links"), ["NET_ADMIN", "NET_RAW"]),
        (("--inside",), ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_PTRACE"]),
        (("--packets", "--no-processes", "--no-facts", "--no-socket-links"), ["BPF", "NET_ADMIN", "NET_RAW"]),
    ],
)
def test_the_agent_gets_what_its_features_need(flags: tuple[str, ...], given: list[str]) -> None:
    (container,) = pod_of(rendered(*flags), "DaemonSet")["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": given}
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    for flag in ("--no-processes", "--no-facts", "--no-socket-links"):
        assert (flag in container["args"]) is (flag in flags)
    assert f"--path={'packet' if 'packet' in flags else 'auto'}" in container["args"]


def test_nobody_else_gets_any_capability_or_runs_as_root() -> None:
    found = rendered()
    for kind in ("StatefulSet", "Deployment"):
        pod = pod_of(found, kind)
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_rights_are_those_that_the_code_uses() -> None:
    roles = {each["kind"] + "/" + each["metadata"]["name"]: each.get("rules") for each in rendered()}
    told = {
        (rule["apiGroups"][0], name, verb)
        for rule in roles["ClusterRole/ringfence-connector"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }
    assert told == {(each.group, each.plural, verb) for each in KINDS.values() for verb in ("list", "watch")}
    (review,) = roles["ClusterRole/ringfence-server"]
    assert (review["resources"], review["verbs"]) == (["tokenreviews"], ["create"])
    (publish,) = roles["Role/ringfence-server"]
    assert (publish["resourceNames"], publish["verbs"]) == (["ringfence-authority"], ["patch"])
    assert "ClusterRole/ringfence-agent" not in roles


def test_every_flag_that_is_rendered_is_one_of_the_roles() -> None:
    import typer

    from ringfence.cli import build

    known = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    for kind in ("StatefulSet", "DaemonSet", "Deployment"):
        (container,) = pod_of(rendered("--no-processes", "--no-facts", "--no-socket-links"), kind)[
            "containers"
        ]
        role, *flags = container["args"]
        options = {name for each in known[role].params for name in (*each.opts, *each.secondary_opts)}
        assert {flag.partition("=")[0] for flag in flags} <= options


@pytest.mark.parametrize("name", ["", "Upper", "a b", "x\n- y", "-" * 3, "ü", "a" * 64])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    done = verb("manifests", "--cluster", name)
    assert done.code == 2
    assert "not a name" in done.err


def test_a_path_that_is_none_is_refused() -> None:
    done = verb("manifests", "--path", "kprobes")
    assert done.code == 2
    assert "no such capture path" in done.err


def test_the_shipped_profile_is_the_codes(repo: Path) -> None:
    assert json.loads((repo / "deploy" / "seccomp" / "ringfence-agent.json").read_text()) == profile()
    assert not {"ptrace", "mount", "init_module", "finit_module", "unshare", "perf_event_open"} & set(
        allowed()
    )


def test_the_page_names_every_capability_and_flag(repo: Path) -> None:
    page = (repo / "docs" / "reference" / "manifests.md").read_text()
    for name in {each for names in CAPABILITIES.values() for each in names}:
        assert f"`{name}`" in page
    for flag in (
        "--kustomize",
        "--no-facts",
        "--no-processes",
        "--inside",
        "--packets",
        "--path",
        "--own-seccomp",
    ):
        assert f"`{flag}" in page


@pytest.mark.testbed
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--inside", "--packets", "--own-seccomp"),
        ("--no-processes", "--no-facts", "--no-socket-links", "--mode", "detailed"),
        ("--path", "packet", "--no-processes", "--no-facts", "--no-socket-links"),
    ],
)
def test_a_real_api_server_takes_all_of_it_strictly(apiserver: ApiServer, flags: tuple[str, ...]) -> None:
    done = verb("manifests", *flags)
    apiserver.kubectl("apply", "-f", "-", text=yaml.safe_dump(documents(Wanted())["namespace.yaml"][0]))
    said = apiserver.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=done.out)
    assert said.count("(server dry run)") == len(list(yaml.safe_load_all(done.out)))
    assert "Warning" not in said


@pytest.mark.testbed
def test_kustomize_makes_the_same_of_the_base(apiserver: ApiServer, tmp_path: Path) -> None:
    done = verb("manifests", "--kustomize", str(tmp_path / "base"), "--cluster", "prod")
    assert done.code == 0
    made = list(yaml.safe_load_all(apiserver.kubectl("kustomize", str(tmp_path / "base"))))
    key = lambda each: (each["kind"], each["metadata"]["name"])  # noqa: E731
    assert sorted(made, key=key) == sorted(rendered("--cluster", "prod"), key=key)
    assert json.loads((tmp_path / "base" / "ringfence-agent.json").read_text()) == profile()


REFUSED = {
    "baseline": {"non-default capabilities", "host namespaces", "hostPath volumes"},
    "restricted": {
        "host namespaces",
        "unrestricted capabilities",
        "restricted volume types",
        "runAsNonRoot != true",
        "runAsUser=0",
    },
}
"""What each level of Pod Security has against the agent (docs/reference/manifests.md)."""


@pytest.mark.testbed
@pytest.mark.parametrize("level", ["privileged", "baseline", "restricted"])
def test_pod_security_admits_server_and_connector_and_says_why_not_the_agent(
    apiserver: ApiServer, repo: Path, level: str
) -> None:
    space = f"psa-{level}"
    label = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "warn")}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": label}}
    found = rendered("--namespace", space)
    accounts = [each for each in found if each["kind"] == "ServiceAccount"]
    apiserver.kubectl("apply", "-f", "-", text=yaml.safe_dump_all([made, *accounts]))
    for kind in ("StatefulSet", "Deployment", "DaemonSet"):
        spec = pod_of(found, kind)
        if kind == "StatefulSet":
            spec["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": kind.lower(), "namespace": space},
            "spec": spec,
        }
        if kind != "DaemonSet" or level == "privileged":
            apiserver.kubectl("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(pod))
            continue
        with pytest.raises(AssertionError) as caught:
            apiserver.kubectl("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(pod))
        said = str(caught.value)
        assert f'violates PodSecurity "{level}:latest"' in said
        told = set(re.findall(r"(?:latest\": |\), |\"\), )([a-zA-Z][^(]*?) \(", said))
        assert told == REFUSED[level], said
        page = (repo / "docs" / "reference" / "manifests.md").read_text()
        assert all(f"{reason}" in page for reason in REFUSED[level])


def test_capabilities_are_sorted_and_said_once() -> None:
    both = capabilities(Wanted(processes=True, inside=True))
    assert both == sorted(set(both))
