from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from qa_fast.cli import serve as command
from qa_fast.errors import UserError
from qa_fast.serve.limits import Limits, check_listener, is_loopback
from qa_fast.serve.server import bind, url_of
from tests.serve_doubles import Client

ROOT = Path(__file__).parents[2]
SCRIPT = """
import time
from qa_fast.serve.app import create_app
from qa_fast.serve.limits import Limits
from qa_fast.serve.server import bind, make_server, serve, url_of
from tests.serve_doubles import KeywordModel

class SlowModel(KeywordModel):
    def read(self, *given):
        time.sleep(1)
        super().read(*given)

bound, limits = bind("127.0.0.1", 0), Limits(seconds=9)
serve(make_server(create_app(SlowModel(), limits), limits, lambda: print(url_of(bound), flush=True)), bound)
print("ended")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_once_it_has_answered(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        client = Client(process.stdout.readline().strip())
        answers: list[tuple[int, object]] = []
        asking = threading.Thread(target=lambda: answers.append(client.ask("Where is the quay?", "the quay")))
        asking.start()
        time.sleep(0.4)
        process.send_signal(number)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            client.get("/health")
        asking.join(10)
        assert answers[0][0] == 200
        assert process.wait(10) == 0
        assert process.stdout.read() == "ended\n"


def test_a_taken_port_or_foreign_address_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"must be free to listen on; received 127.* \(Address already in use"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"--host and --port must be free to listen on; received 192\.0\.2\.1 and 0"):
        bind("192.0.2.1", 0)


def test_addresses_are_shown_as_a_browser_takes_them() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url_of(bound))
    try:
        bound = bind("::1", 0)
    except UserError:
        pytest.skip("no IPv6 here")
    with bound:
        assert re.fullmatch(r"http://\[::1\]:\d+/", url_of(bound))


def test_only_this_machine_without_a_key() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
        check_listener(host, None)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(UserError, match="without an API key may listen on this machine alone; received --host"):
            check_listener(host, None)
        check_listener(host, "a-key")
    for key in ("", "two words", "schlüssel", "tab\t"):
        with pytest.raises(UserError, match="an API key must be printable ASCII without spaces; received one that"):
            check_listener("127.0.0.1", key)


def test_limits_are_positive() -> None:
    with pytest.raises(UserError, match="seconds must be more than 0 and finite; received seconds=0: give another"):
        Limits(seconds=0)
    with pytest.raises(UserError, match="batch_tokens must be more than 0 and finite; received batch_tokens=0"):
        Limits(batch_tokens=0)
    with pytest.raises(UserError, match="connections must be more than 0 and finite; received connections=0"):
        Limits(connections=0)
    with pytest.raises(UserError, match="header_seconds must be more than 0 and finite; received header_seconds=nan"):
        Limits(header_seconds=float("nan"))
    with pytest.raises(UserError, match="window_ms must not be negative; received window_ms=-1"):
        Limits(window_ms=-1)


def test_the_commands_defaults_are_the_limits_own() -> None:
    repeated = (command._SECONDS, command._CHARACTERS, command._WAITING, command._CONNECTIONS, command._WINDOW_MS)
    assert repeated == (Limits.seconds, Limits.characters, Limits.waiting, Limits.connections, Limits.window_ms)


def test_the_command_refuses_before_it_loads_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.serve.model.ServedModel.from_pretrained", lambda *_: pytest.fail("loaded a model"))
    with pytest.raises(UserError, match=r"may listen on this machine alone; received --host 0\.0\.0\.0"):
        command.serve("model", host="0.0.0.0")
    with pytest.raises(UserError, match="seconds must be more than 0"):
        command.serve("model", time_limit=0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "qa_fast.serve.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UserError, match=r"qa-fast serve needs packages .* 'fastapi'\): pip install 'qa-fast\[serve\]'"):
        command.serve("model")
