"""The server process: settings, wiring by hand, start and clean stop. Owns the clock.

Order of start: the port is taken first (so that a port in use costs nothing), then the data folder is locked, the
engine opened and its settings read back, what a crash left is finished, and only then are requests answered.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar, Request, Response, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from ringfence import __version__
from ringfence.model.problems import Problem
from ringfence.server import listeners
from ringfence.server.access import (
    FORBIDDEN,
    NO_RIGHT,
    PEOPLE,
    SIGN_IN,
    Forbidden,
    Tokens,
    Unauthorized,
    guard,
    rights_of,
    write_private,
)
from ringfence.server.accounts import Wrong
from ringfence.server.agents import AgentsListener, agent_guard, names_of
from ringfence.server.authority import Authority
from ringfence.server.book import Book
from ringfence.server.enrolment import Enrolment
from ringfence.server.garbage import spare
from ringfence.server.ingest import Ingest, Later
from ringfence.server.passwords import Patience
from ringfence.server.refusals import NotFound, Refusal, in_json
from ringfence.server.retention import Retention
from ringfence.server.review import TokenReviewer, access_of, publish
from ringfence.server.routes import (
    accounts,
    capture,
    cluster,
    enrol,
    externals,
    filters,
    flows,
    imports,
    ingest,
    inventory,
    orders,
    scopes,
    search,
)
from ringfence.server.service import Service
from ringfence.server.trail import Trail, trailing
from ringfence.store.catalog import Moved
from ringfence.store.engine import Engine, StoreFailed
from ringfence.store.facts import Facts
from ringfence.store.identities import Identities
from ringfence.store.journal import Journal
from ringfence.store.queries import Queries
from ringfence.store.settled import Settled
from ringfence.store.settlements import Settlements

ROUTES = (
    cluster.health,
    ingest.batches,
    ingest.changes,
    ingest.connector,
    ingest.save_checkpoint,
    ingest.load_checkpoint,
    flows.flows,
    flows.flow,
    flows.connections,
    flows.edges,
    flows.how_complete,
    *search.ROUTES,
    imports.take,
    cluster.agents,
    inventory.inventory,
    inventory.groups,
    inventory.history,
    inventory.ranges,
    inventory.connectors,
    filters.list_,
    filters.show,
    filters.save,
    filters.forget,
    filters.members,
    filters.preview,
    scopes.tree,
    scopes.draft,
    scopes.edit,
    scopes.drop,
    scopes.init,
    scopes.review,
    scopes.commit,
    scopes.discard,
    scopes.versions,
    scopes.members,
    scopes.path,
    externals.list_,
    externals.replace,
    externals.end,
    cluster.discover,
    enrol.make_token,
    enrol.agents,
    enrol.revoke,
    enrol.allow,
    orders.ask,
    orders.list_,
    orders.set_,
    capture.begin,
    capture.list_,
    capture.show,
    capture.end,
    capture.bring,
    accounts.sign_in,
    accounts.sign_out,
    accounts.whoami,
    accounts.password,
    accounts.users,
    accounts.add_user,
    accounts.set_user,
    accounts.grants,
    accounts.grant,
    accounts.take,
    accounts.tokens,
    accounts.make_token,
    accounts.revoke,
    accounts.audit,
    accounts.verify_audit,
)
"""Every route of the API (docs/reference/api.md)."""

AGENT_ROUTES = (
    cluster.health,
    enrol.authority,
    enrol.enrol,
    enrol.renew,
    ingest.batches,
    orders.ask,
    capture.bring,
)
"""Every route of the agents' listener."""

SCHEMA = JsonRenderPlugin(path=["/", "/openapi.json"])
"""The document alone: the framework's own pages would load scripts from elsewhere."""
READY_FILE, AGENTS_FILE = "ready", "ready-agents"
ADMIN_VARIABLE, CONNECTOR_VARIABLE = "RINGFENCE_ADMIN_TOKEN", "RINGFENCE_CONNECTOR_TOKEN"
LONGEST_LIFE = 30 * 86_400


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `ringfence server`."""

    listen: str = "127.0.0.1:8443"
    """Address and port of the API, HOST:PORT; port 0 takes a free one."""
    agents: str = ""
    """Address and port for agents (TLS, client certificates); by default those of `listen` with the next port;
    `none` for no agents."""
    tls: bool | None = None
    """TLS for the API, with a certificate of the server's own authority; by default where `listen` is not loopback."""
    names: tuple[str, ...] = ()
    """More host names and addresses that the server's certificate is for."""
    data: str = "ringfence-data"
    """Folder of flows, facts, journal, the authority and tokens."""
    memory: int = 2 << 30
    """Octets of memory the flow engine may take."""
    inventory_days: int = 90
    """Days for which it stays known who had which address and labels when."""
    new_token: bool = False
    """Replace the admin token by a new one and print it."""
    admin_token_file: str | None = None
    """Write a new admin token to this file instead of printing it."""
    certificate_life: int = 86_400
    """Seconds for which an agent's certificate is good; agents renew at two thirds."""
    review: str | None = None
    """Take service-account tokens of agents, reviewed by this cluster: `in-cluster`, or the path of a kubeconfig."""
    review_context: str | None = None
    """Context of that kubeconfig."""
    review_cluster: str = "default"
    """Name of that cluster."""
    review_account: str = "ringfence/ringfence-agent"
    """The agents' service account, NAMESPACE/NAME."""
    publish_authority: str | None = None
    """ConfigMap of that cluster, NAMESPACE/NAME, into which the authority's certificate is written for agents."""
    agent_tokens: bool = False
    """For development: take batches over the API from whoever holds the token in DATA/agent.token."""


def make_app(service: Service, tokens: Tokens) -> Litestar:
    """The API over a service that is already started."""
    pages = Router("/v1/schema", route_handlers=[], opt=PEOPLE, include_in_schema=False)
    schema = OpenAPIConfig("Ringfence", __version__, openapi_router=pages, render_plugins=[SCHEMA])
    check = guard(tokens, service.accounts, service.sight.tree)
    return _app(ROUTES, service, check, schema)


def make_agents_app(service: Service) -> Litestar:
    """What agents ask, over the same service."""
    return _app(AGENT_ROUTES, service, agent_guard(service.enrolment), None)


def _app(routes: tuple[Any, ...], service: Service, check: Any, schema: OpenAPIConfig | None) -> Litestar:
    return Litestar(
        list(routes),
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "enrolment": Provide(lambda: service.enrolment, sync_to_thread=False),
            "rights": Provide(rights_of, sync_to_thread=False),
        },
        guards=[check],
        middleware=[trailing(Trail(service.audit, service.now))] if schema else [],
        before_request=_known_parameters,
        exception_handlers={
            Problem: _problem,
            Unauthorized: lambda _, __: _body(401, SIGN_IN, {"WWW-Authenticate": "Bearer"}),
            Forbidden: lambda _, error: _body(403, NO_RIGHT if error.person else FORBIDDEN),
            HTTPException: _http,
            Exception: _defect,
        },
        openapi_config=schema,
        debug=False,
    )


class Server:
    """Everything one server process holds. `start` raises Problem; `stop` finishes what was taken."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], int] = time.time_ns) -> None:  # noqa: TID251  the server owns a clock
        self._settings, self._clock = settings, clock
        self._data = Path(settings.data)
        self._undo = ExitStack()
        self.tokens: Tokens
        self.service: Service
        self.shown: str | None = None

    def start(self) -> None:
        """Open the data folder and take batches."""
        try:
            self._start()
        except BaseException:
            self._undo.close()
            raise

    def stop(self) -> None:
        """Finish what was taken and release the folder."""
        self._undo.close()

    def _start(self) -> None:
        engine = Engine(self._data.absolute(), self._settings.memory)
        engine.open()
        self._undo.callback(engine.close)
        facts = Facts(self._data)
        facts.open()
        self._undo.callback(facts.close)
        journal = Journal(self._data / "journal")
        journal.open()
        if facts.setting("store") is None:
            facts.set("store", secrets.token_hex(8))
        book = Book()
        book.apply(facts.changes())
        book.report(facts.reports())
        spare()
        ingest = Ingest(engine, facts, journal, self._clock, book.report)
        ingest.start()
        self._undo.callback(ingest.stop)
        self.tokens = Tokens(facts)
        self.shown = self.tokens.open(
            self._data,
            os.environ.get(ADMIN_VARIABLE),
            self._settings.new_token,
            self._clock(),
            self._settings.agent_tokens,
            os.environ.get(CONNECTOR_VARIABLE),
        )
        retention = Retention(facts, book, self._settings.inventory_days, self._clock)
        retention.start()
        self._undo.callback(retention.stop)
        queries = Queries(engine, lambda: ingest.visible)
        settled = Settled(engine, Settlements(facts.engine))
        self.service = Service(facts, queries, book, ingest, self._enrolment(facts), settled, self._clock)
        self._undo.callback(self.service.close)

    def _enrolment(self, facts: Facts) -> Enrolment:
        settings = self._settings
        authority = Authority(self._data)
        hosts = [listeners.split(each)[0] for each in (settings.listen, settings.agents) if ":" in each]
        authority.open(names_of(hosts, settings.names), self._clock())
        reviewer = None
        if settings.review:
            access = access_of(settings.review, settings.review_context)
            reviewer = TokenReviewer(settings.review_cluster, access, settings.review_account)
            if settings.publish_authority:
                publish(access, settings.publish_authority, authority.pem)
        made = Enrolment(
            Identities(facts.engine), authority, self._clock, settings.certificate_life, reviewer
        )
        made.start()
        return made


def run_server(settings: ServerSettings, say: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT. Raises Problem before anything is touched when it cannot."""
    _check(settings)
    data = Path(settings.data)
    with ExitStack() as undo:
        listener = listeners.listener(settings.listen)
        undo.callback(listener.close)
        where = listeners.agents_address(settings.agents, settings.listen)
        for_agents = listeners.listener(where) if where else None
        if for_agents:
            undo.callback(for_agents.close)
        server = Server(settings)
        server.start()
        undo.callback(server.stop)
        secure = settings.tls if settings.tls is not None else not listeners.is_local(listener)
        url = listeners.url(listener, secure)
        _tell(settings, server, url, say)
        # The server repeats a signal it got once it has stopped; the default would end us before the clean-up.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        if for_agents:
            agents = AgentsListener(make_agents_app(server.service), server.service.enrolment, for_agents)
            agents.start()
            undo.callback(agents.stop)
            undo.callback(server.service.release)
            _ready(undo, data / AGENTS_FILE, listeners.url(for_agents, True))
            say(f"agents are heard on {listeners.url(for_agents, True)}")
        config = uvicorn.Config(
            make_app(server.service, server.tokens),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            ssl_context_factory=(lambda *_: server.service.enrolment.authority.secure(False))
            if secure
            else None,
        )
        _ready(undo, data / READY_FILE, url)
        _Served(config, server.service.release).run([listener])


class _Served(uvicorn.Server):
    """Lets who waits for news go when it is told to end, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, release: Callable[[], None]) -> None:
        super().__init__(config)
        self._release = release

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal may come while this thread holds a lock that is wanted.
        threading.Thread(target=self._release, name="release").start()
        super().handle_exit(sig, frame)


def _check(settings: ServerSettings) -> None:
    if settings.inventory_days < 1:
        raise Problem(f"{settings.inventory_days} days of inventory", "inventory_days", "keep 1 day at least")
    if not 1 <= settings.certificate_life <= LONGEST_LIFE:
        what = f"certificates for {settings.certificate_life} s"
        raise Problem(what, "certificate_life", f"use 1 to {LONGEST_LIFE} seconds")


def _ready(undo: ExitStack, file: Path, url: str) -> None:
    """Say in a file where we answer, for as long as we do."""
    write_private(file, url + "\n")
    undo.callback(file.unlink, missing_ok=True)


def _tell(settings: ServerSettings, server: Server, url: str, say: Callable[[str], None]) -> None:
    data = Path(settings.data)
    say(f"listening on {url}")
    say(f"connector token in {data / 'connector.token'}")
    if settings.agent_tokens:
        say(f"for development only: agent token in {data / 'agent.token'}")
    if server.shown and settings.admin_token_file:
        write_private(Path(settings.admin_token_file), server.shown + "\n")
        say(f"admin token in {settings.admin_token_file}")
    elif server.shown:
        say(f"admin token (shown once): {server.shown}")


async def _known_parameters(request: Request[Any, Any, Any]) -> None:
    """Refuse parameters that the route does not have: a filter with a typing error must not answer with everything."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    known = {getattr(one.kwarg_definition, "name", None) or name for name, one in parameters.items()}
    known -= {"service", "enrolment", "rights", "data", "request", *request.path_params}
    for name in request.query_params:
        if name not in known:
            fix = f"use {', '.join(sorted(known))}" if known else "give none"
            raise Problem(f"unknown parameter `{name[:40]}`", request.url.path, fix)


def _problem(_: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    if isinstance(problem, Later | StoreFailed):
        return _body(503, problem, {"Retry-After": "1"})
    if isinstance(problem, Patience):
        return _body(429, problem, {"Retry-After": str(problem.seconds)})
    if isinstance(problem, Wrong):
        return _body(401, problem, {"WWW-Authenticate": "Bearer"})
    if isinstance(problem, Moved):
        return _body(409, problem)
    if isinstance(problem, Refusal):
        return _body(403, problem)
    return _body(404 if isinstance(problem, NotFound) else 400, problem)


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """The framework's own refusals, in our words."""
    where = request.url.path
    if isinstance(error, ValidationException):
        extra = error.extra if isinstance(error.extra, list) else []
        names = ", ".join(f"{each.get('key')} ({each.get('message')})" for each in extra) or error.detail
        return _body(400, Problem(f"bad parameter: {names}", where, "see /v1/schema"))
    fix = {404: "see /v1/schema", 405: "see /v1/schema", 413: "send less at once"}.get(
        error.status_code, "see /v1/schema"
    )
    return _body(error.status_code, Problem(error.detail, where, fix))


def _defect(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """A defect of ours: told in one line, without its inside."""
    return _body(
        500, Problem(f"internal error ({type(error).__name__})", request.url.path, "please report it")
    )


def _body(status: int, problem: Problem, headers: dict[str, str] | None = None) -> Response[Any]:
    return Response(in_json(problem), status_code=status, headers=headers, media_type="application/json")
