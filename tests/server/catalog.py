"""Helpers for tests of filters, scopes and lists: objects told to a server, and questions that may be refused."""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.model.objects import Change, Node, Object, Pod, Service

SECOND = 1_000_000_000


def pod(name: str, namespace: str = "shop", *addresses: str, **labels: str) -> Pod:
    return Pod(f"uid-{name}", namespace, name, addresses=addresses, labels=tuple(sorted(labels.items())))


SHOP: tuple[Object, ...] = (
    pod("web-1", "shop", "10.0.0.1", app="web"),
    pod("web-2", "shop", "10.0.0.2", app="web"),
    pod("db-1", "shop", "10.0.0.3", app="db"),
    pod("web-3", "other", "10.0.0.4", app="web"),
    pod("dns", "kube-system", "10.0.0.5"),
    Node("n1", "node1", ("192.168.0.1",)),
    Service("s1", "shop", "web", cluster_ips=("10.96.0.1",), selector=(("app", "web"),)),
)


def tell(api: Any, *values: Object, at: int, gone: bool = False, cluster: str = "lab") -> None:
    changes = [
        Change(
            cluster,
            type(value).__name__,
            value.uid,
            at,
            at,
            msgspec.Raw(b"null" if gone else msgspec.json.encode(value)),
        )
        for value in values
    ]
    if not cluster:
        api.server.service.learn(changes)
        return
    body = msgspec.json.encode({"cluster": cluster, "changes": changes})
    answer = api.client.post(
        "/v1/ingest/changes", content=body, headers={"Authorization": f"Bearer {api.agent}"}
    )
    assert answer.status_code == 200, answer.text


def ask(api: Any, method: str, path: str, body: Any = None, **parameters: Any) -> tuple[int, Any]:
    """(status, answer) of any route, as an admin."""
    answer = api.client.request(
        method,
        path,
        params=parameters,
        headers={"Authorization": f"Bearer {api.admin}"},
        **({} if body is None else {"json": body}),
    )
    return answer.status_code, answer.json()


def good(api: Any, method: str, path: str, body: Any = None, **parameters: Any) -> Any:
    status, answer = ask(api, method, path, body, **parameters)
    assert status == 200, answer
    return answer


def names(members: list[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in members]
