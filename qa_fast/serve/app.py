"""The web application: the Hub's API at POST /, a page at GET /, health, metrics and the OpenAPI description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from qa_fast.answer.options import AnswerOptions
from qa_fast.serve.access import Access
from qa_fast.serve.answers import Answers, public_message
from qa_fast.serve.batcher import Batcher
from qa_fast.serve.gate import Gate
from qa_fast.serve.jobs import Model
from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import AnswerItem, AnswerRequest, Refusal, refusal
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
    app.state.metrics = metrics
    # Each middleware is around those before it: refusals of the gate need the headers of CORS, and all need an id.
    app.add_middleware(Answers, batcher=batcher, model=model, limits=limits, root_path=options.root_path)
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
    async def answer(body: AnswerRequest) -> None:
        """Takes a request in the format of the Hub's question-answering API.

        The response to one question is a list of answers, best first. The response to a list of questions is a list of
        such lists.
        """
        raise NotImplementedError  # `Answers` handles these requests

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


def _handle_errors(app: FastAPI) -> None:
    """Make every refusal a JSON object with the field "error"."""

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return Response(refusal(str(error.detail)), error.status_code, media_type="application/json")

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return Response(refusal(public_message(error)), 500, media_type="application/json")
