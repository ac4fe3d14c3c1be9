from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from typer.testing import CliRunner

from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.options import flag_of, option_of
from qa_fast.serve.limits import Limits, check_listener, is_loopback
from qa_fast.serve.listen import bind, url_of
from tests.serve_doubles import PATIENCE, Client, any_model, wait_for

ROOT = Path(__file__).parents[2]
# Reports when its model computes, and waits for permission to continue.
SCRIPT = """
import sys
from qa_fast.serve.app import create_app
from qa_fast.serve.limits import Limits
from qa_fast.serve.listen import bind, url_of
from qa_fast.serve.server import make_server, run_server
from tests.serve_doubles import KeywordModel

class HeldModel(KeywordModel):
    def read(self, *given):
        print("computing", flush=True)
        sys.stdin.readline()
        super().read(*given)

bound, limits = bind("127.0.0.1", 0), Limits()
run_server(make_server(create_app(HeldModel(), limits), limits, lambda: print(url_of(bound), flush=True)), bound)
print("ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_once_it_has_answered(number: signal.Signals) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, env=env, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        client = Client(process.stdout.readline().strip())
        answers: list[tuple[int, object]] = []
        asking = threading.Thread(target=lambda: answers.append(client.ask("Where is the quay?", "the quay")))
        asking.start()
        assert process.stdout.readline() == "computing\n"
        process.send_signal(number)
        wait_for(client.is_refused)
        process.stdin.write("go on\n")
        process.stdin.flush()
        asking.join(PATIENCE)
        assert answers[0][0] == 200
        assert process.wait(PATIENCE) == 0
        assert process.stdout.read() == "ended\n"


def test_a_taken_port_or_a_foreign_address_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"must be free to listen on; received 127.* \(Address already in use"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"--host and --port must be free to listen on; received 192\.0\.2\.1 and 0"):
        bind("192.0.2.1", 0)


def test_urls_are_valid_for_browsers() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url_of(bound))
    try:
        bound = bind("::1", 0)
    except UserError:
        pytest.skip("no IPv6 here")
    with bound:
        assert re.fullmatch(r"http://\[::1\]:\d+/", url_of(bound))


def test_without_a_key_only_this_machine_may_connect() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
        check_listener(host, None)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(UserError, match="without an API key may listen on this machine only; received --host"):
            check_listener(host, None)
        check_listener(host, "a-key")
    for key in ("", "two words", "schlüssel", "tab\t"):
        with pytest.raises(UserError, match="an API key must be printable ASCII without spaces; received one that"):
            check_listener("127.0.0.1", key)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"seconds": 0}, "--time-limit must be above 0 and at most 86,400; received 0"),
        ({"batch_tokens": 0}, "--batch-tokens must be at least 1; received 0"),
        ({"connections": 0}, "--max-connections must be at least 1; received 0"),
        ({"header_seconds": float("nan")}, "--header-seconds must be above 0 and at most 86,400; received nan"),
        ({"body_seconds": float("inf")}, "--body-seconds must be above 0 and at most 86,400; received inf"),
        ({"window_ms": -1}, "--window-ms must be at least 0 and at most 86,400,000; received -1"),
    ],
)
def test_limits_have_bounds(limits: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Limits(**limits)  # type: ignore[arg-type]


def test_the_commands_options_are_those_of_the_limits() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    for field in dataclasses.fields(Limits):
        declared = option_of(field)
        assert declared is not None
        if declared.command:
            assert (declared.flag or flag_of(field.name)) in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], r"may listen on this machine only; received --host 0\.0\.0\.0"),
        (["--time-limit", "0"], "--time-limit must be above 0"),
    ],
)
def test_the_command_refuses_before_it_loads_a_model(
    monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr("qa_fast.serve.model.ServedModel.from_pretrained", lambda *_: pytest.fail("loaded a model"))
    result = CliRunner().invoke(app, ["serve", "model", *options])
    assert isinstance(result.exception, UserError)
    assert re.search(message, str(result.exception))


def test_the_room_for_a_body_grows_with_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    any_model(monkeypatch)
    limits: list[Limits] = []

    def load(model: str, its_limits: Limits, *_: object) -> None:
        limits.append(its_limits)
        raise UserError("seen")

    monkeypatch.setattr("qa_fast.serve.model.ServedModel.from_pretrained", load)
    for characters in ("1000", "1000000"):
        CliRunner().invoke(app, ["serve", "model", "--port", "0", "--max-characters", characters])
    assert [(each.characters, each.body_bytes) for each in limits] == [
        (1000, Limits.body_bytes),
        (1_000_000, 8_000_000),
    ]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    any_model(monkeypatch)
    monkeypatch.delitem(sys.modules, "qa_fast.serve.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = CliRunner().invoke(app, ["serve", "model", "--port", "0"])
    message = r"qa-fast serve needs packages .* 'fastapi'\): pip install 'qa-fast\[serve\]'"
    assert isinstance(result.exception, UserError)
    assert re.search(message, str(result.exception))
