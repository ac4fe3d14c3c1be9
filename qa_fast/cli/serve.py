"""`qa-fast serve`: serves a model with the Hub's API and a page for asking questions."""

from __future__ import annotations

import time
from dataclasses import replace

from qa_fast import signals
from qa_fast.answer.calibration import NOT_CALIBRATED
from qa_fast.answer.options import AnswerOptions, EngineOptions
from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import ModelName, with_records
from qa_fast.serve.limits import Limits
from qa_fast.serve.options import ServeOptions

# Room in a request body for each character: most need one to four bytes, and JSON escapes need six or twelve.
_BYTES_PER_CHARACTER = 8


@with_records
def serve(
    model: ModelName,
    *,
    options: ServeOptions,
    engine: EngineOptions,
    limits: Limits,
) -> None:
    """Serve a model as a web API with a page to ask from.

    The page is at /, the Hub's question-answering API at POST /, and its documentation at /docs. The model and every
    option may also be given by an environment variable: QA_FAST_SERVE_MODEL, QA_FAST_SERVE_PORT and so on.
    """
    limits = replace(limits, body_bytes=max(limits.body_bytes, _BYTES_PER_CHARACTER * limits.characters))
    from qa_fast.serve.listen import bind, url_of

    bound = bind(options.host, options.port)
    inform = say if options.log_level in ("debug", "info") else lambda line: None
    with needs("serve", "qa-fast serve"):
        from qa_fast.infer import measure_engines
        from qa_fast.model.folder import readable_config
        from qa_fast.sources import resolve_model

        readable_config(resolve_model(model, inform))
        from qa_fast.serve.access import set_up_logs
        from qa_fast.serve.app import create_app
        from qa_fast.serve.model import ServedModel
        from qa_fast.serve.server import make_server, run_server

        set_up_logs(options.log_level)
        inform(f"loading {model} and warming it up …")
        if engine.measure:
            measure_engines(resolve_model(model), engine.engine, engine.precision, inform)
        served = ServedModel.from_pretrained(model, limits, engine.precision, engine.engine, inform)
        served.warm_up()
        if served.resolve(AnswerOptions()).calibration is None:
            inform(NOT_CALIBRATED)

    def started() -> None:
        inform(
            f"{served.name} answers at {url_of(bound)} with {served.engine_name} in {served.precision} (API: POST /, "
            "docs: /docs); stop with Ctrl+C"
        )

    application, began = create_app(served, limits, options), time.monotonic()
    run_server(make_server(application, limits, started), bound)
    requests, refused, failed = application.state.metrics.totals()
    inform(
        f"requests for answers: {requests:,} in {time.monotonic() - began:,.0f} s, of which {refused:,} were refused "
        f"and {failed:,} failed"
    )
    signals.tell()
