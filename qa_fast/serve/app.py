"""The web application: the Hub's API at POST /, a page at GET /, health, metrics and the OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from qa_fast.answer.questions import AnswerOptions
from qa_fast.errors import UserError
from qa_fast.serve.batcher import Batcher, Model, QueueFullError
from qa_fast.serve.gate import Gate
from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import (
    AnswerItem,
    AnswerRequest,
    Parameters,
    Refusal,
    RefusedError,
    read_json,
    refusal,
    rule_of,
)
from qa_fast.serve.metrics import CONTENT_TYPE, Metrics
from qa_fast.version import __version__

STATIC = Path(__file__).parent / "static"
_REFUSALS = {
    401: "The API key is missing or wrong.",
    408: "The request's body did not arrive in time.",
    413: "The request is too large.",
    415: "The body is not JSON.",
    422: "The request cannot be answered; the rule says why.",
    429: "Too many requests wait already.",
    504: "Answering took longer than the time limit.",
}


class Served(Model[Any], Protocol):
    """What `ServedModel` offers to the application."""

    name: str

    @property
    def engine_name(self) -> str:
        """What computes."""

    @property
    def precision(self) -> str:
        """Of its products."""

    @property
    def cache_state(self) -> tuple[int, int, int]:
        """Hits, misses and bytes."""

    def resolve(self, options: AnswerOptions) -> AnswerOptions:
        """The options with every number set."""


class _StrictRequest(Request):
    """A request whose body is read by `read_json`."""

    async def json(self) -> Any:
        return read_json(await self.body())


class _StrictRoute(APIRoute):
    """FastAPI's way of giving an endpoint another `Request`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


def create_app(model: Served, limits: Limits, api_key: str | None = None) -> FastAPI:
    """Make the application.

    Args:
        model: What answers, warmed up.
        limits: What is accepted.
        api_key: What requests must bring, or None.
    """
    metrics = Metrics(model.name, __version__, model.engine_name, model.precision, lambda: model.cache_state)
    batcher = Batcher(model, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    app = FastAPI(
        title="qa-fast",
        version=__version__,
        description=f"Extractive question answering with {model.name}: answers are spans of the document given.",
        docs_url=None,  # FastAPI's own pages fetch their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.router.route_class = _StrictRoute
    app.add_middleware(Gate, limits=limits, api_key=api_key, metrics=metrics)
    _handle_errors(app)
    lock = [Depends(HTTPBearer(auto_error=False, description="The server's API key."))] if api_key else []

    @app.post(
        "/",
        summary="Answer questions about documents",
        response_model=list[AnswerItem] | list[list[AnswerItem]],
        responses={status: {"model": Refusal, "description": why} for status, why in _REFUSALS.items()},
        dependencies=lock,
    )
    async def answer(body: AnswerRequest, request: Request) -> Response:
        """Takes the Hub's question-answering request.

        One question gives a list of answers, best first; a list of questions gives a list of such lists.
        """
        questions = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        pairs = [(item.question, item.context) for item in questions]
        options = _checked(pairs, body.parameters or Parameters(), model, limits)
        asking = asyncio.ensure_future(batcher.ask(pairs, options))
        leaving = asyncio.ensure_future(_left(request))
        try:
            async with asyncio.timeout(limits.seconds):
                await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return Response(status_code=499)  # nobody is there to read it
            results = asking.result()
        except TimeoutError:
            raise RefusedError(
                504, f"an answer must take at most {limits.seconds:g} s; it took longer: send less text or ask later"
            ) from None
        except QueueFullError:
            raise RefusedError(
                429, f"at most {limits.waiting} requests may wait; received one more: come back in a moment"
            ) from None
        except Exception as error:  # the batcher has logged it
            raise RefusedError(500, _told(error)) from None
        finally:
            asking.cancel()
            leaving.cancel()
        for number, result in enumerate(results):
            if isinstance(result, str):
                raise RefusedError(422, f"inputs[{number}]: {result}" if isinstance(body.inputs, list) else result)
        found = results if isinstance(body.inputs, list) else results[0]
        return Response(orjson.dumps(found), media_type="application/json")

    @app.get("/health", summary="Whether the server answers, what it serves, with what engine, and what it accepts")
    async def health() -> dict[str, Any]:
        names = ("body_bytes", "characters", "questions", "top_k", "seconds")
        accepted = {name: getattr(limits, name) for name in names}
        engine = {"engine": model.engine_name, "precision": model.precision}
        return {"status": "ok", "model": model.name, **engine, "version": __version__, "limits": accepted}

    @app.get("/metrics", summary="Counters, for Prometheus", response_class=Response, dependencies=lock)
    async def counters() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def _checked(pairs: list[tuple[str, str]], parameters: Parameters, model: Served, limits: Limits) -> AnswerOptions:
    """The options, once the request is within the limits."""
    if len(pairs) > limits.questions:
        raise RefusedError(
            413, f"inputs must have at most {limits.questions} questions; received {len(pairs)}: send several requests"
        )
    characters = sum(len(question) + len(context) for question, context in pairs)
    if characters > limits.characters:
        raise RefusedError(
            413,
            f"questions and documents must have at most {limits.characters:,} characters together; received "
            f"{characters:,}: send a part of the document",
        )
    options = parameters.options()
    if options.top_k is None or options.top_k > limits.top_k:
        raise RefusedError(422, f"parameters.top_k must be at most {limits.top_k}; received {options.top_k}")
    try:
        return model.resolve(options)
    except UserError as error:
        raise RefusedError(422, str(error)) from None


async def _left(request: Request) -> None:
    """Returns once the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _handle_errors(app: FastAPI) -> None:
    """Every refusal is `{"error": rule}`."""

    def response(status: int, rule: str) -> Response:
        headers = {"retry-after": "1"} if status == 429 else None
        return Response(refusal(rule), status, headers, "application/json")

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return response(error.status_code, error.rule)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # curl sends another content type of its own accord: such a request is told so, not called malformed.
        kind = request.headers.get("content-type", "")
        if not kind.partition(";")[0].strip().lower().endswith(("/json", "+json")):
            shown = kind[:80] if kind.isprintable() and kind else "none"
            return response(
                415,
                f"a request's body must be JSON and its content type application/json; received {shown}: "
                "with curl, add -H 'Content-Type: application/json'",
            )
        errors = error.errors()
        if errors[0]["type"] == "json_invalid":
            at = errors[0]["loc"][-1]
            return response(400, f"a request's body must be JSON; received something else, from character {at} on")
        return response(422, rule_of(errors))

    @app.exception_handler(HTTPException)
    async def unanswered(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and request.method == "POST":  # FastAPI found a body that is not even text
            return response(400, "a request's body must be JSON in UTF-8; received something else")
        return response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return response(500, _told(error))


def _told(error: Exception) -> str:
    """What a client may know of a failure."""
    return str(error) if isinstance(error, UserError) else "the server could not answer; its log says why"
