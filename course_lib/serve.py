"""A fine-tuned model over HTTP: `course serve DIR`.

    POST /predict         {"text": "…"} or {"text": ["…", "…"]} → label and probabilities of each
    POST /explain         {"text": "…"} → the same, and which words mattered
    PUT  /model           {"version": "router-2"}: load that folder, beside the one served, and change over to it
    POST /model/rollback  back to the model that was served before
    GET  /health, /metrics (Prometheus text), / (a page to try it), /docs and /openapi.json

Made to be left alone: what is too large, too slow, too much or not a text is refused with a reason, and what was
accepted is answered. Two keys come from the environment, where a process list does not show them: COURSE_SERVE_KEY for
callers (needed as soon as other machines can connect) and COURSE_SERVE_ADMIN_KEY for changing the model. Encryption
is the job of the proxy in front, and so are callers who send their headers a byte a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, BaseModel, Field, field_validator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException

from course_lib import CourseError
from course_lib.batching import QueueFull
from course_lib.service import ExplainResponse, Metrics, PredictResponse, Service, Settings

PAGE = Path(__file__).parent / "web" / "try_it.html"
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
MAX_TEXTS = 64  # in one request
MAX_CHARACTERS = 5_000  # in one text: the model reads 512 tokens, about 2,000 characters
MAX_BODY = 256 * 1024  # bytes
MAX_REQUESTS = 600  # at once; /health is answered beyond them, too
MAX_CONNECTIONS = 900  # uvicorn's own limit, whose refusals are bare; most systems let a process have 1,024 files open
MAX_WORDS = 100  # that /explain takes: it asks the model once without each of them
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not tab and line breaks


def _check_text(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters, at most {MAX_CHARACTERS:,} are taken")
    if not text.strip():
        raise ValueError("is empty")
    if found := CONTROL.search(text):
        raise ValueError(f"holds the control character U+{ord(found[0]):04X} at position {found.start()}")
    return text


class PredictRequest(BaseModel):
    """One message, or a list of them."""

    text: str | list[str] = Field(examples=["third week without my sofa", ["where is it?", "I was charged twice"]])

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_many(cls, value):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("must be a text or a list of texts")
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise ValueError(f"must hold 1 to {MAX_TEXTS} texts, not {len(texts)}")
        for text in texts:
            _check_text(text)
        return value


class ExplainRequest(BaseModel):
    text: Annotated[str, AfterValidator(_check_text)] = Field(examples=["third week without my sofa"])


class SwapRequest(BaseModel):
    version: str = Field(pattern=r"^\w[\w.-]*$", description="Name of a folder beside the one that is served.")


class Gate:
    """In front of the app: refuses what it should not see, takes in each body, within bounds; counts and times."""

    def __init__(self, app, metrics: Metrics, timeout: float, paths: Iterable[str], hosts: Iterable[str] | None):
        """`paths`: those of the app. `hosts`: the names that it may be called by, None for any."""
        self.app, self.metrics, self.timeout = app, metrics, timeout
        self.paths, self.hosts = frozenset(paths), hosts and frozenset(hosts)
        self.requests = 0  # that are being answered

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        loop = asyncio.get_running_loop()
        started, status = loop.time(), 500

        async def counted(message):
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self.requests += 1
        try:
            refusal, body = self._at_the_door(scope), b""
            if refusal is None:
                refusal, body = await self._body(receive)
            if refusal is not None:
                return await refusal(scope, receive, counted)
            await self.app(scope, _replay(body, receive), counted)
        finally:
            self.requests -= 1
            # Only paths that exist: whoever asks for random ones must not fill the memory with counters.
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(loop.time() - started)

    def _at_the_door(self, scope) -> JSONResponse | None:
        host = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "").lower())
        if self.hosts is not None and host not in self.hosts:
            return _refuse(400, f"the header Host must name this machine: {', '.join(sorted(self.hosts))}")
        if self.requests > MAX_REQUESTS and scope["path"] != "/health":
            closing = {"Retry-After": "1", "Connection": "close"}  # else it would take the place of another caller's
            return _refuse(503, f"{MAX_REQUESTS} requests are being answered; try again in 1 s", **closing)
        return None

    async def _body(self, receive) -> tuple[JSONResponse | None, bytes]:
        """What is too large is read to its end and thrown away: many clients look for an answer only then."""
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    message = await receive()
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size <= MAX_BODY:
                        body += chunk
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            return _refuse(408, f"the body did not arrive within {self.timeout:g} seconds"), b""
        if size > MAX_BODY:
            return _refuse(413, f"the body has {size:,} bytes, at most {MAX_BODY:,} are taken"), b""
        return None, bytes(body)


def _replay(body: bytes, receive):
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed():
        return next(messages, None) or await receive()

    return replayed


def _refuse(status: int, reason: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers)


def create_app(folder: str | Path, settings: Settings | None = None, host: str = "127.0.0.1") -> FastAPI:
    """The application, model compiled, to listen on `host`. Raises CourseError for a folder without a classifier."""
    settings = settings or Settings()
    service = Service(Path(folder), settings)
    page = PAGE.read_text("utf-8")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.batcher.close()

    # FastAPI itself, but /docs brings its own scripts instead of fetching them from elsewhere.
    app = FastAPIOffline(title="Message router", version="1", lifespan=lifespan)
    _answer_errors_in_json(app)
    caller = [Depends(_require(settings.key, optional=True))]
    admin = [Depends(_require(settings.admin_key, optional=False))]

    @app.post("/predict", dependencies=caller)
    async def predict(request: PredictRequest) -> PredictResponse:
        texts = [request.text] if isinstance(request.text, str) else request.text
        model, answers = await service.predict(texts)
        return PredictResponse(model=model.name, predictions=answers)

    @app.post("/explain", dependencies=caller)
    async def explain(request: ExplainRequest) -> ExplainResponse:
        if (count := len(request.text.split())) > MAX_WORDS:
            raise HTTPException(422, f"text: has {count} words, at most {MAX_WORDS} can be explained")
        return await service.explain(request.text)

    @app.put("/model", dependencies=admin)
    async def swap(request: SwapRequest) -> dict[str, str]:
        return {"model": await service.swap(request.version)}

    @app.post("/model/rollback", dependencies=admin)
    async def roll_back() -> dict[str, str]:
        return {"model": await service.roll_back()}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": service.model.name}

    @app.get("/metrics", dependencies=caller, response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def try_it() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    # Without a key it listens on this machine only, and other sites' pages must not reach it by a name of theirs.
    hosts = None if settings.key else ("127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host)
    paths = [route.path for route in app.routes]
    app.add_middleware(Gate, metrics=service.metrics, timeout=settings.timeout, paths=paths, hosts=hosts)
    return app


def _require(key: str | None, *, optional: bool):
    """A dependency that asks for `Authorization: Bearer KEY`."""

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]):
        if key is None:
            if optional:
                return
            raise HTTPException(403, "this service was started without COURSE_SERVE_ADMIN_KEY: its model stays")
        if given is None or not secrets.compare_digest(given.credentials.encode(), key.encode()):
            what = "a key is needed" if given is None else "this is not the key"
            how = f"{what}: send the header Authorization: Bearer KEY"
            raise HTTPException(401, how, {"WWW-Authenticate": "Bearer"})

    return check


def _answer_errors_in_json(app: FastAPI) -> None:
    """Every error is {"error": reason}: one line that says what to change, and nothing of what was sent."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _refuse(400, f"the body is not JSON ({first.get('ctx', {}).get('error', 'cannot be read')})")
        if first["loc"] == ("body",):
            return _refuse(422, 'the body must be a JSON object such as {"text": "…"}, sent as application/json')
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _refuse(422, f"{where}: {first['msg'].removeprefix('Value error, ')}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException):
        # FastAPI's only 400: bytes that are not UTF-8, brackets nested without end
        reason = "the body cannot be read as JSON in UTF-8" if error.status_code == 400 else error.detail
        return _refuse(error.status_code, reason, **(error.headers or {}))

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull):
        return _refuse(503, str(error), **{"Retry-After": str(error.retry_after)})

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError):
        return _refuse(504, "no answer in time; the service is busy, try again later")

    @app.exception_handler(CourseError)
    async def not_possible(request: Request, error: CourseError):
        return _refuse(409, str(error))


def serve(
    folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then take nothing more, answer what was accepted, and return.

    Raises CourseError: no classifier in `folder`, the port is taken, or other machines could connect without a key.
    """
    settings = settings or Settings()
    if settings.key is None and not _is_this_machine(host):
        raise CourseError(f"--host {host}: other machines can connect there; set COURSE_SERVE_KEY to a key of your own")
    listener = _listen(host, port)
    with contextlib.closing(listener):
        report(f"loading {folder} and compiling for its batch shapes")
        server = _server(create_app(folder, settings, host), settings)
        shown = f"[{host}]" if ":" in host else host
        report(f"serving on http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        server.run(sockets=[listener])


@contextlib.contextmanager
def running(folder: str | Path, settings: Settings | None = None) -> Iterator[str]:
    """The service on a free port of this machine, in a thread of this process; its URL. Ends with the `with` block."""
    settings = settings or Settings()
    listener = _listen("127.0.0.1", 0)
    server = _server(create_app(folder, settings), settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"  # whoever connects before it is ready waits
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn, which at its end would close connections whose request has arrived and was not read yet."""

    async def shutdown(self, sockets=None) -> None:
        await asyncio.sleep(0.1)  # who knocked while the loop was busy is let in
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.1)  # and heard
        await super().shutdown(sockets)


def _server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # /metrics counts; messages from customers do not belong into logs
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(settings.timeout) + 60,  # until its turn, and then for its own work
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise CourseError(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from None


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
