"""`qa-fast serve`: a model behind the Hub's API and a page to ask in."""

from __future__ import annotations

from typing import Annotated

import typer

from qa_fast.cli.extras import needs, say

# Repeated from serve.limits, which the help must not wait for; a test holds them equal.
_SECONDS, _CHARACTERS, _WAITING, _CONNECTIONS, _WINDOW_MS = 60.0, 500_000, 256, 512, 4.0


def serve(
    model: Annotated[str, typer.Argument(help="Model folder, Hub id or 'minilm'.")],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; one that others can reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="QA_FAST_API_KEY",
            help="Requests must bring it as 'Authorization: Bearer KEY'. The variable keeps it out of process lists.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="auto (measured on this device), keras, openvino or onnx.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured on this device), float32, bfloat16, float16 or int8.")
    ] = "auto",
    time_limit: Annotated[float, typer.Option("--time-limit", help="Seconds that a request may take.")] = _SECONDS,
    max_characters: Annotated[
        int, typer.Option("--max-characters", help="Most characters of questions and documents in a request.")
    ] = _CHARACTERS,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", help="Most requests that wait; one more gets status 429.")
    ] = _WAITING,
    max_connections: Annotated[
        int, typer.Option("--max-connections", help="Most open connections; one more gets status 503.")
    ] = _CONNECTIONS,
    window_ms: Annotated[
        float,
        typer.Option(
            "--window-ms",
            help="How long a request waits for others, for the keras engine, which answers several together.",
        ),
    ] = _WINDOW_MS,
) -> None:
    """Serve a model: a page at /, the Hub's question-answering API at POST /, docs at /docs."""
    with needs("serve", "qa-fast serve"):
        from qa_fast.serve.app import create_app
        from qa_fast.serve.limits import Limits, check_listener
        from qa_fast.serve.model import ServedModel
        from qa_fast.serve.server import bind, make_server, url_of
        from qa_fast.serve.server import serve as listen

        limits = Limits(
            body_bytes=max(Limits.body_bytes, 8 * max_characters),
            characters=max_characters,
            waiting=max_waiting,
            seconds=time_limit,
            connections=max_connections,
            window_ms=window_ms,
        )
        check_listener(host, api_key)
        bound = bind(host, port)
        typer.echo(f"loading {model} and warming it up …", err=True)
        served = ServedModel.from_pretrained(model, limits, precision, engine, say)
        served.warm_up()

    def started() -> None:
        typer.echo(
            f"{served.name} answers at {url_of(bound)} with {served.engine_name} in {served.precision} (API: POST /, "
            "docs: /docs); stop with Ctrl+C",
            err=True,
        )

    listen(make_server(create_app(served, limits, api_key), limits, started), bound)
