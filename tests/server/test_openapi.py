"""Whatever the OpenAPI document lets one ask, no route answers with an error of ours."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")
EXAMPLES = 10
"""Questions for each route: all of them within half a minute."""
ENDLESS = ("/v1/agents/orders", "/v1/logout", "/v1/flows/follow")
"""The first waits for news for up to 25 s, the last goes on for as long as is asked; the other ends the session that asks."""


def test_no_route_fails(api):
    heads = {"Authorization": f"Bearer {api.admin}"}
    document = api.client.get("/v1/schema/openapi.json", headers=heads).json()
    schema = schemathesis.openapi.from_dict(document)
    failed, asked = [], 0

    def ask(case):
        nonlocal asked
        asked += 1
        how = case.as_transport_kwargs(base_url="http://testserver.local")
        how["headers"] = {**dict(how.get("headers") or {}), **heads}
        kept = {
            name: how[name] for name in ("params", "json", "data", "headers") if how.get(name) is not None
        }
        if "data" in kept and isinstance(kept["data"], str | bytes):
            kept["content"] = kept.pop("data")
        answer = api.client.request(how["method"], how["url"], **kept)
        if answer.status_code >= 500 and answer.status_code != 503:
            failed.append((case.method, case.formatted_path, how.get("params"), how.get("json"), answer.text))

    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in ENDLESS:
            continue
        run = given(case=operation.as_strategy())(lambda case: ask(case))
        settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(run)()
    assert asked > 100
    assert not failed, failed[:5]
