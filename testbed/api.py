"""A small client of the testbed's API server with the administrator's certificate: what tests need and no more."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from typing import Any

from testbed.places import Failed, Home

MERGE = "application/strategic-merge-patch+json"


class Api:
    """One connection a thread, kept alive; made again when the server has closed it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._local = threading.local()
        self._opened: list[http.client.HTTPSConnection] = []

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._local = threading.local()

    def ready(self) -> bool:
        """Whether the server says that it is."""
        try:
            status, _ = self._ask("GET", "/readyz", None, "")
        except OSError:
            return False
        return status == 200

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises Failed."""
        return self._json("GET", path, None)

    def create(self, path: str, body: Any) -> Any:
        """Create an object in a collection."""
        return self._json("POST", path, body)

    def replace(self, path: str, body: Any) -> Any:
        """Replace an object."""
        return self._json("PUT", path, body)

    def patch(self, path: str, body: Any, kind: str = MERGE) -> Any:
        """Patch an object or a subresource."""
        return self._json("PATCH", path, body, kind)

    def delete(self, path: str, grace: int = 0) -> Any:
        """Delete an object or, for a collection, everything in it."""
        return self._json(
            "DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace}
        )

    def namespace(self, name: str, **labels: str) -> None:
        """A namespace with the service account that pods need."""
        self.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        self.create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})

    def _json(self, method: str, path: str, body: Any, kind: str = "application/json") -> Any:
        status, text = self._ask(method, path, body, kind)
        if status >= 300:
            raise Failed(f"{method} was refused ({status})", path, text[:300].decode(errors="replace"))
        return json.loads(text)

    def _ask(self, method: str, path: str, body: Any, kind: str) -> tuple[int, bytes]:
        text = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind} if text else {}
        for last in (False, True):
            connection = self._connection()
            try:
                connection.request(method, path, text, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                if last:
                    raise OSError(str(error)) from None
        raise AssertionError("unreachable")

    def _connection(self) -> http.client.HTTPSConnection:
        held: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if held is None:
            folder = self._home / "pki"
            context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
            port = self._home.facts()["port"]
            held = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
            self._local.connection = held
            self._opened.append(held)
        return held
