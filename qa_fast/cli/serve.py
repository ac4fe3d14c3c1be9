"""`qa-fast serve`: serves a model with the Hub's API and a page for asking questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from qa_fast import signals
from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import with_records
from qa_fast.errors import without_secrets
from qa_fast.serve.limits import KEY_VARIABLE, Limits, check_listener

# Room in a request body for each character: most need one to four bytes, and JSON escapes need six or twelve.
_BYTES_PER_CHARACTER = 8


@with_records
def serve(
    model: Annotated[str, typer.Argument(help="Model folder, Hub id or 'minilm'.")],
    *,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen on. An address that other machines can reach requires an API key."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 picks a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar=KEY_VARIABLE,
            help="Key that requests must send as 'Authorization: Bearer KEY'. If you set the environment variable "
            "instead, process lists do not show the key.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", help="Engine to compute with: auto (the fastest on this device), keras, openvino or onnx."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="Precision to compute in: auto (the fastest on this device), float32, bfloat16, float16 or int8.",
        ),
    ] = "auto",
    limits: Limits,
) -> None:
    """Serve a model as a web API with a page to ask from.

    The page is at /, the Hub's question-answering API at POST /, and its documentation at /docs.
    """
    limits = replace(limits, body_bytes=max(limits.body_bytes, _BYTES_PER_CHARACTER * limits.characters))
    with needs("serve", "qa-fast serve"):
        from qa_fast.serve.app import create_app
        from qa_fast.serve.model import ServedModel
        from qa_fast.serve.server import bind, make_server, run_server, url_of

        check_listener(host, api_key)
        bound = bind(host, port)
        typer.echo(f"loading {without_secrets(model)} and warming it up …", err=True)
        served = ServedModel.from_pretrained(model, limits, precision, engine, say)
        served.warm_up()

    def started() -> None:
        typer.echo(
            f"{served.name} answers at {url_of(bound)} with {served.engine_name} in {served.precision} (API: POST /, "
            "docs: /docs); stop with Ctrl+C",
            err=True,
        )

    run_server(make_server(create_app(served, limits, api_key), limits, started), bound)
    signals.tell()
