"""A `Decider` over HTTP: POST /choose, POST /feedback, GET /report, /health, /metrics.

The only module that imports Starlette and uvicorn (extra `serve`). Requests that wait at the same
time share one transaction, made in one thread; each is answered after it was committed. Nothing
that is sent is ever executed: bodies are JSON of bounded size, and what is not as `openapi.json`
says is answered with 4xx and one sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.decisions.agent import Decider, Request, reward_of
from actorcritic.decisions.log import Feedback

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request as HttpRequest
    from starlette.responses import Response

LARGEST_BODY = 1_000_000  # bytes
BODY_SECONDS = 10.0  # for a client to send its body
MOST_WAITING = 10_000  # requests; of more, the server says that it is busy
AT_ONCE = 256  # requests of one transaction
LEAST_TOKEN = 16  # characters
REPORT_SECONDS = 10.0  # that a report is given again before it is made anew
TURN = 2e-4  # seconds that a thread may keep the others waiting: the one that learns is not urgent
LOOK_EVERY = 0.1  # seconds between two looks at whether to stop
STOPPING = 10.0  # seconds for requests under way
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Refused(Exception):
    """A request that is answered with this status and sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Waiting(NamedTuple):
    what: Request | tuple[str, float]  # a decision to make, or feedback
    answer: asyncio.Future[Any]


class Batcher:
    """Carries out in one thread what many clients ask for, as much as there is at a time."""

    def __init__(self, agent: Decider, loop: asyncio.AbstractEventLoop) -> None:
        self._agent, self._loop = agent, loop
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="transactions")
        self._thread.start()

    async def ask(self, what: Request | tuple[str, float]) -> Any:
        if len(self._waiting) >= MOST_WAITING:
            raise Refused(503, "Too many requests are waiting; try again later.")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Waiting(what, answer))
        self._wake.set()
        return await answer

    def stop(self) -> None:
        """After everything that waits was carried out."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                count = min(len(self._waiting), AT_ONCE)
                batch = [self._waiting.popleft() for _ in range(count)]
                answers = self._carried_out(batch)
                self._loop.call_soon_threadsafe(_answer, batch, answers)
            if self._stop:
                return

    def _carried_out(self, batch: list[_Waiting]) -> list[Any]:
        """The answer to each, or the exception that it is answered with."""
        try:
            with self._agent.log.transaction():
                return self._together(batch)
        except UserError:
            pass  # one of them, or the log: each by itself tells which
        except Exception as error:
            return [error] * len(batch)
        answers: list[Any] = []
        for one in batch:
            try:
                answers += self._together([one])
            except Exception as error:
                answers.append(error)
        return answers

    def _together(self, batch: list[_Waiting]) -> list[Any]:
        answers: list[Any] = [None] * len(batch)
        asked = [i for i, one in enumerate(batch) if isinstance(one.what, Request)]
        told = [i for i, one in enumerate(batch) if not isinstance(one.what, Request)]
        chosen = self._agent.choose_many([batch[i].what for i in asked])  # type: ignore[misc]
        for i, choice in zip(asked, chosen, strict=True):
            answers[i] = choice
        if told:
            taken = self._agent.feedback_many([batch[i].what for i in told])  # type: ignore[misc]
            for i, feedback in zip(told, taken, strict=True):
                answers[i] = feedback
        return answers


def _answer(batch: list[_Waiting], answers: list[Any]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if one.answer.done():  # its client has gone
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)


# ------------------------------------------------------------------------------------ requests


async def _body(request: HttpRequest) -> Any:
    """The JSON object that was sent."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise Refused(415, "Send JSON, with the content type application/json.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = bytearray()
            async for part in request.stream():
                data += part
                if len(data) > LARGEST_BODY:
                    raise Refused(413, f"A request has at most {LARGEST_BODY:,} bytes.")
    except TimeoutError:
        raise Refused(408, "The request did not arrive in time.") from None
    try:
        found = json.loads(bytes(data), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The request is no JSON: {str(error)[:200]}.") from None
    if not isinstance(found, dict):
        raise Refused(400, "The request must be a JSON object.")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _only(body: dict[str, Any], *known: str) -> None:
    """Refused where a key means nothing: a misspelt one must not be overlooked."""
    for key in body:
        if key not in known:
            raise Refused(422, f"There is no key {key[:100]!r}; known are {', '.join(known)}.")


def _request_of(body: dict[str, Any]) -> Request:
    _only(body, "context", "vector", "allowed")
    if ("context" in body) == ("vector" in body):
        raise Refused(422, "Send a context (a text or an object) or a vector (numbers).")
    context: Any = body.get("context", body.get("vector"))
    if "context" in body and not isinstance(context, str | dict):
        raise Refused(422, "context is a text or an object; numbers are sent as vector.")
    if "vector" in body and not isinstance(context, list):
        raise Refused(422, "vector is a list of numbers.")
    allowed = body.get("allowed")
    if allowed is not None and not isinstance(allowed, list):
        raise Refused(422, "allowed is a list of names of actions.")
    return Request(context, allowed)


def _feedback_of(body: dict[str, Any]) -> tuple[str, float]:
    _only(body, "id", "success", "reward")
    if not isinstance(body.get("id"), str):
        raise Refused(422, "id is the text that /choose gave.")
    return body["id"], reward_of(body.get("success"), body.get("reward"))


# ------------------------------------------------------------------------------------ the service


def application(agent: Decider, token: str | None = None) -> Starlette:
    """The service as an ASGI application; it closes the agent when it ends."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route

    counts: Counter[tuple[str, int]] = Counter()
    seconds: Counter[str] = Counter()
    batcher: list[Batcher] = []
    expected = None if token is None else f"Bearer {token}".encode()
    made: dict[str, Any] = {"time": -REPORT_SECONDS, "page": ""}
    making = asyncio.Lock()

    def refuse_strangers(request: HttpRequest) -> None:
        if expected is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not secrets.compare_digest(given, expected):
            raise Refused(401, "Send the header 'Authorization: Bearer TOKEN'.")

    def endpoint(handle: Callable[[HttpRequest], Any], *, free: bool = False) -> Any:
        """With the token checked, errors as JSON, and everything counted."""

        async def answer(request: HttpRequest) -> Response:
            begun = time.perf_counter()
            headers: dict[str, str] = {}
            try:
                if not free:
                    refuse_strangers(request)
                response: Response = await handle(request)
            except Refused as refused:
                if refused.status == 401:
                    headers["WWW-Authenticate"] = "Bearer"
                response = JSONResponse({"error": str(refused)}, refused.status, headers)
            except UserError as error:
                response = JSONResponse({"error": str(error)}, 422)
            path = request.url.path
            counts[path, response.status_code] += 1
            seconds[path] += time.perf_counter() - begun  # type: ignore[assignment]
            return response

        return answer

    async def choose(request: HttpRequest) -> Response:
        choice = await batcher[0].ask(_request_of(await _body(request)))
        return JSONResponse(choice._asdict())

    async def feedback(request: HttpRequest) -> Response:
        found: Feedback = await batcher[0].ask(_feedback_of(await _body(request)))
        if found.status == "unknown":
            raise Refused(404, "There is no decision of this id.")
        if found.status == "contradicted":
            raise Refused(409, f"This decision has the reward {found.reward:g} already.")
        return JSONResponse({"status": found.status})

    async def report(request: HttpRequest) -> Response:
        async with making:
            if time.monotonic() - made["time"] > REPORT_SECONDS:
                made["page"] = await asyncio.to_thread(_page, agent)
                made["time"] = time.monotonic()
        return HTMLResponse(made["page"])

    async def health(request: HttpRequest) -> Response:
        learning = "failed" if agent.failure else "going on"
        return JSONResponse({"status": "ok", "learned": agent.learned, "learning": learning})

    async def metrics(request: HttpRequest) -> Response:
        decisions, outcomes = agent.log.counts()
        lines = [
            f"actorcritic_decisions_total {decisions}",
            f"actorcritic_feedback_total {outcomes}",
            f"actorcritic_learned_total {agent.learned}",
            f"actorcritic_learning_failed {int(agent.failure is not None)}",
            *(
                f'actorcritic_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(counts.items())
            ),
            *(
                f'actorcritic_request_seconds_sum{{path="{path}"}} {spent:.6f}'
                for path, spent in sorted(seconds.items())
            ),
        ]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def description(request: HttpRequest) -> Response:
        text = resources.files("actorcritic.decisions").joinpath("openapi.json").read_text("utf-8")
        return JSONResponse(json.loads(text))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher.append(Batcher(agent, asyncio.get_running_loop()))
        try:
            yield
        finally:
            await asyncio.to_thread(batcher[0].stop)
            await asyncio.to_thread(agent.close)

    async def not_found(request: HttpRequest, error: Exception) -> Response:
        return JSONResponse({"error": "There is nothing here; see /openapi.json."}, 404)

    async def not_allowed(request: HttpRequest, error: Exception) -> Response:
        headers = getattr(error, "headers", None)
        return JSONResponse({"error": "This path has another method."}, 405, headers)

    return Starlette(
        routes=[
            Route("/choose", endpoint(choose), methods=["POST"]),
            Route("/feedback", endpoint(feedback), methods=["POST"]),
            Route("/report", endpoint(report), methods=["GET"]),
            Route("/metrics", endpoint(metrics), methods=["GET"]),
            Route("/health", endpoint(health, free=True), methods=["GET"]),
            Route("/openapi.json", endpoint(description, free=True), methods=["GET"]),
        ],
        exception_handlers={404: not_found, 405: not_allowed},
        lifespan=lifespan,
    )


def _page(agent: Decider) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return agent.report(Path(folder) / "report.html").read_text("utf-8")


def read_token(path: Path) -> str:
    """The token in a file. UserError where there is none, or one that is guessed too soon."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > 4096:
            raise UserError(f"{path} is no file with a token.")
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The token could not be read from {path}: {error}.") from error
    if len(token) < LEAST_TOKEN or any(c.isspace() for c in token):
        raise UserError(
            f"The token in {path} must have {LEAST_TOKEN} characters or more and no spaces; make "
            "one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def serve(
    path: str | Path,
    *,
    actions: list[str] | None = None,
    features: int | None = None,
    exploration: float = 0.02,
    fallback: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    token_file: Path | None = None,
    synchronous: Any = "normal",
    say: Callable[[str], None] = print,
) -> int:
    """Serve until SIGTERM or SIGINT; requests under way are answered before it ends."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise UserError(
            'Serving needs Starlette and uvicorn: pip install "actorcritic[serve]".'
        ) from None
    token = None if token_file is None else read_token(token_file)
    if token is None and host not in LOOPBACK:
        raise UserError(
            f"Whoever reaches {host} could decide and give feedback. Name a file with a token: "
            "--token-file FILE. Without one the service listens on 127.0.0.1 only."
        )
    listening = _listen(host, port)
    try:
        agent = Decider(
            path,
            actions,
            features=features,
            exploration=exploration,
            fallback=fallback,
            synchronous=synchronous,
        )
    except BaseException:
        listening.close()
        raise
    config = uvicorn.Config(
        application(agent, token),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(STOPPING),
        h11_max_incomplete_event_size=16_384,
    )
    server = uvicorn.Server(config)
    # uvicorn's own handlers would raise the signal again after an orderly end.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]

    asked = threading.Event()

    async def stop_when_asked() -> None:
        while not (asked.is_set() and server.started):  # a start is gone through with
            await asyncio.sleep(LOOK_EVERY)
        server.should_exit = True

    async def run() -> None:
        watching = asyncio.create_task(stop_when_asked())
        await server.serve(sockets=[listening])
        watching.cancel()

    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    sys.setswitchinterval(TURN)
    shown = f"[{host}]" if ":" in host else host
    say(f"Serving {path} on http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)")
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    say("Stopped; everything that was acknowledged is in the log.")
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise UserError(f"A port is a number from 0 to 65535; got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)  # whoever comes before all is ready waits
    except OSError as error:
        raise UserError(
            f"Could not listen on {host}, port {port}: {files.reason(error)}. Choose another "
            "--port."
        ) from error
    return listening
