"""Kubeconfigs, service accounts and their mistakes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml

from ringfence.kube.access import credentials, direct, from_kubeconfig, in_cluster, tls
from ringfence.model.problems import Problem


def kubeconfig(folder: Path, **user: object) -> str:
    document = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443/"}}],
        "users": [{"name": "u", "user": user}],
    }
    file = folder / "config"
    file.write_text(yaml.safe_dump(document))
    return str(file)


def test_tokens_plain_and_in_files_beside(tmp_path: Path) -> None:
    (tmp_path / "tok").write_text("abc\n")
    access = from_kubeconfig(kubeconfig(tmp_path, token="xyz"), None)
    assert access.server == "https://192.0.2.1:6443"
    assert credentials(access).headers == {"Authorization": "Bearer xyz"}
    access = from_kubeconfig(kubeconfig(tmp_path, tokenFile="tok"), "one")
    assert credentials(access).headers == {"Authorization": "Bearer abc"}


def test_a_credential_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.sh"
    plugin.write_text('#!/bin/sh\necho "{\\"status\\":{\\"token\\":\\"$1-$WHO\\"}}"\n')
    plugin.chmod(0o755)
    entry = {"command": "./plugin.sh", "args": ["t"], "env": [{"name": "WHO", "value": "me"}]}
    access = from_kubeconfig(kubeconfig(tmp_path, exec=entry), None)
    assert credentials(access).headers == {"Authorization": "Bearer t-me"}
    plugin.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(Problem, match="exit 3"):
        credentials(access)
    plugin.write_text("#!/bin/sh\necho nonsense\n")
    with pytest.raises(Problem, match="credential plugin failed"):
        credentials(access)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no context named two"):
        from_kubeconfig(kubeconfig(tmp_path), "two")
    with pytest.raises(Problem, match="cannot read"):
        from_kubeconfig(str(tmp_path / "absent"), None)
    for text in ("a: [", "just text", "{}"):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(Problem, match="not a kubeconfig"):
            from_kubeconfig(str(tmp_path / "bad"), None)
    broken = {"client-certificate-data": base64.b64encode(b"not a certificate").decode()}
    broken["client-key-data"] = broken["client-certificate-data"]
    access = from_kubeconfig(kubeconfig(tmp_path, **broken), None)
    with pytest.raises(Problem, match="bad certificate"):
        tls(access, credentials(access))
    with pytest.raises(Problem, match="not a URL"):
        direct("192.0.2.1", None)


def test_in_a_pod(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sa")
    (tmp_path / "ca.crt").write_text("pem")
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = in_cluster(environment, tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert credentials(access).headers == {"Authorization": "Bearer sa"}
    with pytest.raises(Problem, match="no cluster to follow"):
        in_cluster({}, tmp_path)
