"""What an operator sets up: variables of the environment, a proxy's path, origins of other pages, and the log."""

from __future__ import annotations

import logging
import re
import socket
from typing import Any

import pytest

pytest.importorskip("fastapi")

from typer.testing import CliRunner

from qa_fast.answer.options import EngineOptions
from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.serve.access import set_up_logs
from qa_fast.serve.limits import Limits
from qa_fast.serve.options import ServeOptions
from tests.serve_doubles import KeywordModel, any_model, running

TEXT = "The harbour was dug in 1874."
LINE = re.compile(
    r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z method=(?P<method>\w+) path=(?P<path>\S+) status=(?P<status>\d+) "
    r"ms=\d+\.\d tokens=(?P<tokens>\d+) id=(?P<id>\S+)"
)


def test_each_request_has_one_line_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qa_fast.access")
    with running(KeywordModel(), access_log=True) as client:
        client.post({"inputs": {"question": "Who dug the harbour?", "context": TEXT}}, X_Request_Id="a-1:b/2")
        client.post(b"{", X_Request_Id="two words")
        client.get("/no%C3%A9where%E2%80%A8%0Aid=x?question=secret")
        assert client.server is not None
        application: Any = client.server.config.app
        totals = application.state.metrics.totals()
    lines = [LINE.fullmatch(record.getMessage()) for record in caplog.records if record.name == "qa_fast.access"]
    found: list[dict[str, str]] = [line.groupdict() for line in lines if line]
    assert len(found) == len(lines) == 3
    assert [(line["method"], line["status"]) for line in found] == [("POST", "200"), ("POST", "400"), ("GET", "404")]
    assert [line["tokens"] for line in found] == ["10", "0", "0"]
    assert found[0]["id"] == "a-1:b/2"
    assert re.fullmatch("[0-9a-f]{32}", found[1]["id"])
    assert "harbour" not in caplog.text
    assert "secret" not in caplog.text
    assert totals == (2, 1, 0)


def test_every_response_has_the_id_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qa_fast.access")
    with running(KeywordModel(), api_key="k", cors_origin=["https://a.example"]) as client:
        for method, path, headers in (
            ("GET", "/health", {}),
            ("GET", "/nowhere", {}),
            ("POST", "/", {"Authorization": "Bearer x"}),
            ("OPTIONS", "/", {"Origin": "https://a.example", "Access_Control_Request_Method": "POST"}),
        ):
            for given in ("an-id", "x" * 129, "a b", "a=b", 'a"b'):
                answered = client.send(method, path, X_Request_Id=given, **headers)[2]["x-request-id"]
                assert (answered == given) == (given == "an-id")
                assert answered == given or re.fullmatch("[0-9a-f]{32}", answered)
    assert "qa_fast.access" not in {record.name for record in caplog.records}  # there is no log unless it is asked for


def test_pages_of_named_origins_may_ask_and_others_may_not() -> None:
    with running(KeywordModel(), api_key="k", cors_origin=["https://a.example, http://localhost:3000"]) as client:
        asked = {
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "authorization,content-type",
        }
        for origin in ("https://a.example", "http://localhost:3000"):
            status, _, headers = client.send("OPTIONS", "/", Origin=origin, Authorization="", **asked)
            assert (status, headers["access-control-allow-origin"]) == (200, origin)
            assert "POST" in headers["access-control-allow-methods"]
            assert "authorization" in headers["access-control-allow-headers"].lower()
            assert "Origin" in headers["vary"]
            for key, expected in (("k", 422), ("wrong", 401)):  # a page may read refusals, too
                status, _, headers = client.send(
                    "POST", "/", b"{}", Origin=origin, Authorization=f"Bearer {key}", Content_Type="application/json"
                )
                assert (status, headers["access-control-allow-origin"], headers["vary"]) == (expected, origin, "Origin")
                assert "x-request-id" in headers["access-control-expose-headers"]
        for origin in ("https://b.example", "https://a.example.evil.example", "null"):
            status, _, headers = client.send("OPTIONS", "/", Origin=origin, **asked)
            assert (status, headers["access-control-allow-origin"]) == (400, None)
            assert client.send("GET", "/health", Origin=origin)[2]["access-control-allow-origin"] is None
    with running(KeywordModel()) as client:
        status, _, headers = client.send("OPTIONS", "/", Origin="https://a.example", **asked)
        assert (status, headers["access-control-allow-origin"]) == (405, None)


@pytest.mark.parametrize("passed_on", [True, False])
def test_a_proxy_may_pass_its_path_on_or_strip_it(passed_on: bool) -> None:
    before = "/a/qa" if passed_on else ""
    with running(KeywordModel(), api_key="k", root_path="/a/qa") as client:
        assert client.send("POST", before or "/", b"{}", Content_Type="application/json")[0] == 422
        client.api_key = None
        for path in ("/", "/docs"):
            status, body = client.get(before + path)
            assert (status, body.count('<base href="/a/qa/">')) == (200, 1)
            links = re.findall(r'(?:href|src)="([^"]+)"', body.replace("<base href", ""))
            assert links
            for link in links:
                assert not link.startswith("/")
                assert client.get(f"{before}/{link.removeprefix('./')}")[0] == 200
        assert client.get(f"{before}/openapi.json")[1].startswith('{"openapi"')
        assert '"servers":[{"url":"/a/qa"}]' in client.get(f"{before}/openapi.json")[1]
        assert client.get(f"{before}/metrics")[0] == 401  # the key is asked for behind a path, too
        if passed_on:
            assert client.get(before)[0] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cors_origin": ["*"]}, "--cors-origin must be an origin as browsers send it.*received '\\*'"),
        ({"cors_origin": ["https://a.example/"]}, "received 'https://a.example/'"),
        ({"cors_origin": ["https://A.example"]}, "received 'https://A.example'"),
        ({"cors_origin": ["https://a.example:443"]}, "received 'https://a.example:443'"),
        ({"cors_origin": ["https://ok.example,null"]}, "received 'null'"),
        ({"root_path": "qa"}, "--root-path must be a path .* received 'qa'"),
        ({"root_path": "/"}, "received '/'"),
        ({"root_path": '/"><b>'}, "--root-path must be a path"),
        ({"port": 70000}, "--port must be at least 0 and at most 65,535; received 70000"),
        ({"log_level": "loud"}, "--log-level must be one of debug, info, warning, error; received 'loud'"),
        ({"host": "0.0.0.0"}, "without an API key may listen on this machine only; received --host"),
    ],
)
def test_options_that_no_server_can_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServeOptions(**options).check()


def test_origins_of_browsers_are_accepted() -> None:
    origins = ["http://localhost:3000", "https://a.example:8443", "http://[::1]:5173", "chrome-extension://abcdef"]
    options = ServeOptions(cors_origin=origins, root_path="/a/b-c.d")
    options.check()
    assert options.origins == origins


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What reaches the model that the command would load; it stops there."""
    seen: list[tuple[Any, ...]] = []

    def load(*given: Any) -> None:
        seen.append(given)
        raise UserError("MODEL must be a model, unlike /model: --time-limit and --time-limited were seen")

    monkeypatch.setattr("qa_fast.serve.model.ServedModel.from_pretrained", load)
    any_model(monkeypatch)
    monkeypatch.setattr("qa_fast.serve.access.set_up_logs", lambda level: seen.append((level,)))
    return seen


def serve(*arguments: str, **variables: str) -> Any:
    env = {f"QA_FAST_SERVE_{name}": value for name, value in variables.items()}
    return CliRunner().invoke(app, ["serve", *arguments], env=env)


def test_the_environment_gives_all_that_the_command_line_leaves_out(served: list[tuple[Any, ...]]) -> None:
    result = serve("--max-waiting", "7", MODEL="m", PORT="0", MAX_WAITING="9", TIME_LIMIT="5", ENGINE="onnx",
                   LOG_LEVEL="warning", ACCESS_LOG="1", PROT="80")  # fmt: skip
    level, (model, limits, precision, engine, _) = served
    assert level == ("warning",)
    assert (model, engine, precision) == ("m", "onnx", EngineOptions.precision)
    assert (limits.waiting, limits.seconds, limits.connections) == (7, 5.0, Limits.connections)
    assert result.stderr == "no option has the environment variable QA_FAST_SERVE_PROT: ignored\n"
    # A message about the value of a variable names the variable.
    assert str(result.exception) == (
        "QA_FAST_SERVE_MODEL must be a model, unlike /model: QA_FAST_SERVE_TIME_LIMIT and --time-limited were seen"
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "tcp://10.0.0.1:80"}, "Invalid value for QA_FAST_SERVE_PORT: .*tcp://10"),
        ({"ACCESS_LOG": "perhaps"}, "Invalid value for QA_FAST_SERVE_ACCESS_LOG"),
        ({"TIME_LIMIT": "0"}, "QA_FAST_SERVE_TIME_LIMIT must be above 0"),
        ({"CORS_ORIGIN": "https://a.example *"}, "QA_FAST_SERVE_CORS_ORIGIN must be an origin .* received '\\*'"),
        ({"HOST": "0.0.0.0", "API_KEY": "two words"}, "an API key must be printable ASCII"),
    ],
)
def test_a_bad_variable_is_named_and_no_secret_is_shown(
    served: list[tuple[Any, ...]], variables: dict[str, str], message: str
) -> None:
    result = serve("m", **variables)
    told = result.stderr + str(result.exception)
    assert re.search(message, told)
    assert "two words" not in told
    assert "Traceback" not in told
    assert not served


def test_the_levels_of_the_logs(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("qa_fast", "uvicorn", "qa_fast.access")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level, logging.getLogger(name).propagate)
              for name in names}  # fmt: skip
    try:
        for level, shown in {"debug": 3, "info": 1, "error": 0}.items():
            set_up_logs(level)
            for name, send in (("qa_fast", "info"), ("uvicorn.error", "info"), ("qa_fast.serve", "debug")):
                getattr(logging.getLogger(name), send)("a message")
            logging.getLogger("qa_fast.access").info("a line")
            told = capsys.readouterr().err.splitlines()
            assert [bool(re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}Z [A-Z]+ a message$", line)) for line in told] == [
                *[True] * shown,
                False,
            ]
            assert told[-1] == "a line"
    finally:
        for name, (handlers, least, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(least)


def test_a_server_tells_at_its_end_what_it_served(monkeypatch: pytest.MonkeyPatch) -> None:
    model = KeywordModel()
    model.warm_up = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr("qa_fast.serve.model.ServedModel.from_pretrained", lambda *_: model)
    any_model(monkeypatch)

    def run(server: Any, bound: socket.socket) -> None:
        count = server.config.app.state.metrics.requests
        for status, times in (("200", 5), ("422", 2), ("499", 1), ("500", 1)):
            count.labels(status).inc(times)
        bound.close()

    monkeypatch.setattr("qa_fast.serve.server.run_server", run)
    monkeypatch.setattr("qa_fast.signals.tell", lambda: None)
    result = serve("m", "--port", "0")
    assert result.stderr.splitlines()[-1] == "requests for answers: 9 in 0 s, of which 3 were refused and 1 failed"
    assert serve("m", "--port", "0", "--log-level", "warning").stderr == ""
