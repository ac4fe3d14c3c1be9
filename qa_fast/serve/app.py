"""The web application: the Hub's API at POST /, a page at GET /, health, metrics and the OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from qa_fast.answer.answerer import Result
from qa_fast.answer.options import AnswerOptions
from qa_fast.errors import UserError
from qa_fast.serve.access import Access
from qa_fast.serve.batcher import Batcher, QueueFullError
from qa_fast.serve.gate import Gate
from qa_fast.serve.jobs import Model
from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import (
    AnswerItem,
    AnswerRequest,
    Parameters,
    Refusal,
    RefusedError,
    message_of,
    read_json,
    refusal,
)
from qa_fast.serve.metrics import CONTENT_TYPE, Metrics
from qa_fast.serve.options import ServeOptions
from qa_fast.version import __version__

STATIC = Path(__file__).parent / "static"
_REFUSALS = {
    401: "The API key is missing or wrong.",
    408: "The request's body did not arrive in time.",
    413: "The request is too large.",
    415: "The body's content type is not JSON.",
    422: "The request is not valid. The message says why.",
    429: "Too many requests are waiting.",
    504: "Answering took longer than the time limit.",
}


class _StrictRequest(Request):
    """A request whose body is parsed by `read_json`."""

    async def json(self) -> Any:
        return read_json(await self.body())


class _StrictRoute(APIRoute):
    """Gives endpoints a `_StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


def create_app(model: Model[Any], limits: Limits, options: ServeOptions | None = None) -> FastAPI:
    """Create the application.

    Args:
        model: The model, warmed up.
        limits: What is accepted.
        options: The key, the path at a proxy, the origins, and whether there is an access log.

    Returns:
        The application; `state.metrics` are its counters.
    """
    options = options or ServeOptions()
    metrics = Metrics(model.name, __version__, model.engine_name, model.precision, lambda: model.cache_state)
    batcher = Batcher(model, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    app = FastAPI(
        title="qa-fast",
        version=__version__,
        description=f"Extractive question answering with {model.name}. Answers are spans of the document.",
        docs_url=None,  # FastAPI's own pages load their scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.router.route_class = _StrictRoute
    app.state.metrics = metrics
    # Each middleware is around those before it: refusals of the gate need the headers of CORS, and all need an id.
    app.add_middleware(Gate, limits=limits, api_key=options.api_key, metrics=metrics, root_path=options.root_path)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["retry-after", "x-request-id"],
        )
    app.add_middleware(Access, logs=options.access_log)
    _handle_errors(app)
    key = [Depends(HTTPBearer(auto_error=False, description="The server's API key."))] if options.api_key else []

    @app.post(
        "/",
        summary="Answer questions about documents",
        response_model=list[AnswerItem] | list[list[AnswerItem]],
        responses={status: {"model": Refusal, "description": why} for status, why in _REFUSALS.items()},
        dependencies=key,
    )
    async def answer(body: AnswerRequest, request: Request) -> Response:
        """Takes a request in the format of the Hub's question-answering API.

        The response to one question is a list of answers, best first. The response to a list of questions is a list of
        such lists.
        """
        many = isinstance(body.inputs, list)
        questions = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        pairs = [(item.question, item.context) for item in questions]
        parameters = body.parameters or Parameters()
        asked = _checked_options(pairs, parameters, model, limits)
        results = await _ask(batcher, pairs, asked, request, limits)
        if results is None:
            return Response(status_code=499)
        for number, result in enumerate(results):
            if isinstance(result, str):
                raise RefusedError(422, f"inputs[{number}]: {result}" if many else result)
        if parameters.offset_unit == "utf16":
            results = [_in_utf16(result, context) for result, (_, context) in zip(results, pairs, strict=True)]
        return Response(orjson.dumps(results if many else results[0]), media_type="application/json")

    @app.get("/health", summary="Status of the server, its model and engine, limits of requests and their defaults")
    async def health() -> dict[str, Any]:
        names = ("body_bytes", "characters", "questions", "top_k", "seconds")
        accepted = {name: getattr(limits, name) for name in names}
        engine = {"engine": model.engine_name, "precision": model.precision}
        defaults = asdict(model.resolve(AnswerOptions()))
        about = {"status": "ok", "model": model.name, **engine, "version": __version__}
        calibration = defaults.pop("calibration")
        return {**about, "limits": accepted, "parameters": defaults, "calibration": calibration}

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response, dependencies=key)
    async def metrics_text() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _page("index.html", options.root_path)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _page("docs.html", options.root_path)

    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def _page(name: str, root_path: str) -> Response:
    """Return a page. Its links are relative; below a proxy's path they must not depend on a slash at the end."""
    html = (STATIC / name).read_text(encoding="utf-8")
    base = f'<head>\n  <base href="{root_path}/">'
    return HTMLResponse(html.replace("<head>", base, 1) if root_path else html)


async def _ask(
    batcher: Batcher, pairs: list[tuple[str, str]], options: AnswerOptions, request: Request, limits: Limits
) -> list[Result] | None:
    """Return the answers to a request, or None if its client disconnected first.

    Raises:
        RefusedError: There are no answers within the time limit, too many requests wait, or answering failed.
    """

    def prepared(tokens: int) -> None:
        request.state.tokens = tokens

    asking = asyncio.ensure_future(batcher.ask(pairs, options, prepared))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        async with asyncio.timeout(limits.seconds):
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
        return asking.result() if asking.done() else None
    except TimeoutError:
        raise RefusedError(
            504, f"an answer must take at most {limits.seconds:g} s; it took longer: send less text or try again later"
        ) from None
    except QueueFullError:
        raise RefusedError(
            429, f"at most {limits.waiting} requests may wait; received one more: try again in a moment"
        ) from None
    except Exception as error:  # the batcher has logged it
        raise RefusedError(500, _public_message(error)) from None
    finally:
        asking.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    """Wait until the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _in_utf16(result: Result, context: str) -> Result:
    """Return answers with offsets in UTF-16 units."""

    def units(position: int) -> int:
        return len(context[:position].encode("utf-16-le", "surrogatepass")) // 2

    if isinstance(result, str):
        return result
    places = {"start", "end", "sentence_start", "sentence_end"}
    moved: list[Any] = [
        {name: units(value) if name in places else value for name, value in dict[str, Any](answer).items()}
        for answer in result
    ]
    return moved


def _checked_options(
    pairs: list[tuple[str, str]], parameters: Parameters, model: Model[Any], limits: Limits
) -> AnswerOptions:
    """Return a request's options.

    Raises:
        RefusedError: The request is beyond a limit, or the options do not fit the model.
    """
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


def _handle_errors(app: FastAPI) -> None:
    """Make every refusal a JSON object with the field "error"."""

    def response(status: int, message: str) -> Response:
        headers = {"retry-after": "1"} if status == 429 else None
        return Response(refusal(message), status, headers, "application/json")

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return response(error.status_code, error.message)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # curl sends another content type by default; such a body must not be called malformed.
        content_type = request.headers.get("content-type", "")
        if not content_type.partition(";")[0].strip().lower().endswith(("/json", "+json")):
            received = content_type[:80] if content_type.isprintable() and content_type else "none"
            return response(
                415,
                f"a request's body must be JSON and its content type application/json; received {received}: "
                "with curl, add -H 'Content-Type: application/json'",
            )
        errors = error.errors()
        if errors[0]["type"] == "json_invalid":
            position = errors[0]["loc"][-1]
            return response(400, f"a request's body must be JSON; received something else from character {position} on")
        return response(422, message_of(errors))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and request.method == "POST":  # FastAPI could not decode the body
            return response(400, "a request's body must be JSON in UTF-8; received something else")
        return response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return response(500, _public_message(error))


def _public_message(error: Exception) -> str:
    """Return what a client may know about a failure."""
    return str(error) if isinstance(error, UserError) else "the server could not answer; see its log"
