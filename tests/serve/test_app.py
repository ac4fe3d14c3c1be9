from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest

pytest.importorskip("fastapi")

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.ranking import Answer
from qa_fast.options import option_of
from qa_fast.serve import answers
from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import Parameters, refusal
from qa_fast.serve.protocol import HALF_CLOSED_SECONDS
from tests.serve_doubles import PATIENCE, Client, KeywordModel, running, wait_for

TEXT = "The harbour was dug in 1874. A widow paid for the harbour."


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running(KeywordModel(), Limits(characters=1000, questions=3, top_k=10, body_bytes=20_000)) as made:
        yield made


def test_one_question_gives_a_list_of_answers(client: Client) -> None:
    status, answers = client.ask("Who dug the harbour?", TEXT)
    assert status == 200
    assert answers == [{"score": 0.75, "start": 4, "end": 11, "answer": "harbour"}]


def test_a_list_of_questions_gives_a_list_of_lists(client: Client) -> None:
    inputs = [{"question": question, "context": TEXT} for question in ("Who dug the harbour?", "Who was the widow?")]
    status, answers = client.post({"inputs": inputs, "parameters": {"top_k": 2}})
    assert status == 200
    assert [[answer["answer"] for answer in found] for found in answers] == [["harbour", "harbour"], ["widow"]]
    assert client.post({"inputs": inputs[:1]})[1] == [[{"score": 0.75, "start": 4, "end": 11, "answer": "harbour"}]]
    assert client.post({"inputs": []}) == (200, [])


def test_no_answer_is_the_empty_text(client: Client) -> None:
    assert client.ask("Where is the moon?", TEXT)[1] == [{"score": 0.2, "start": 0, "end": 0, "answer": ""}]


def test_the_client_of_the_hub_is_understood(client: Client) -> None:
    from huggingface_hub import InferenceClient

    hub = InferenceClient(client.url.rstrip("/"))
    found = hub.question_answering(question="Who dug the harbour?", context=TEXT, top_k=2, align_to_words=False)
    assert [(answer.answer, answer.start, answer.end) for answer in found] == [("harbour", 4, 11), ("harbour", 50, 57)]


def test_parameters_have_the_defaults_of_the_answerer() -> None:
    assert Parameters().options() == AnswerOptions()


GOOD = {"question": "Who?", "context": TEXT}


def asking(option: str, number: str) -> bytes:
    """A request with an option as written."""
    return json.dumps({"inputs": GOOD, "parameters": {option: 0}}).encode().replace(b": 0}", f": {number}}}".encode())


@pytest.mark.parametrize(
    ("message", "status", "rule"),
    [
        ({}, 422, 'inputs must be given; received none: send {"inputs": {"question": "...", "context": "..."}}, or'),
        (GOOD, 422, 'inputs must be given; received none (and 2 more mistakes): send {"inputs": {"question": '),
        ([], 422, "the body must be an object; received a list"),
        ({"inputs": "Who?"}, 422, "inputs must be an object; received a text"),
        ({"inputs": {"question": "Who?"}}, 422, "inputs.context must be given; received none"),
        ({"inputs": [GOOD, {"question": 1, "context": ""}]}, 422, "inputs[1].question must be a text; received 1"),
        ({"inputs": GOOD | {"text": 1}}, 422, "inputs.text is not known; known names are question, context"),
        (
            {"inputs": GOOD, "parameters": {"topk": 1}},
            422,
            "parameters.topk is not known; known names are max_answer_len, ",
        ),
        ({"inputs": GOOD, "extra": 1}, 422, "extra is not known; known names are inputs, parameters, options"),
        ({"inputs": GOOD, "parameters": {"top_k": 0}}, 422, "parameters.top_k must be greater than or equal to 1; rec"),
        ({"inputs": GOOD, "parameters": {"top_k": "2"}}, 422, "parameters.top_k must be a valid integer; received a "),
        ({"inputs": GOOD, "parameters": {"top_k": True}}, 422, "parameters.top_k must be a valid integer; received tr"),
        ({"inputs": GOOD, "parameters": {"top_k": 11}}, 422, "parameters.top_k must be at most 10; received 11"),
        ({"inputs": GOOD, "parameters": {"max_seq_len": 513}}, 422, "max_seq_len must be from 5 to 512 for this model"),
        ({"inputs": {"question": " ", "context": TEXT}}, 422, "the question must not be empty"),
        ({"inputs": [GOOD, {"question": " ", "context": ""}]}, 422, "inputs[1]: the question must not be empty"),
        ({"inputs": [GOOD] * 4}, 413, "inputs must have at most 3 questions; received 4: send several requests"),
        ({"inputs": GOOD | {"context": "x" * 997}}, 413, "questions and documents must have at most 1,000 characters"),
        (b"{", 400, "a request's body must be JSON; received something else from character 1 on"),
        (b"\xff\xfe\xfa", 400, "a request's body must be JSON in UTF-8; received something else"),
        (b"[" * 19_000, 400, "a request's body must be JSON of few levels; received hundreds of levels"),
        (
            b'{"inputs": {"question": "a", "question": "b"}}',
            400,
            "a name may appear once in an object; received 'question' ",
        ),
        (b'{"inputs": NaN}', 400, "a request's body must be JSON; received NaN, which is not a JSON number"),
        (
            b'{"parameters": {"top_k": -Infinity}}',
            400,
            "a request's body must be JSON; received -Infinity, which is not a",
        ),
        (
            b'{"parameters": ' + b"7" * 5000 + b"}",
            422,
            "a number must have at most 1,000 digits; received one of 5,000",
        ),
        (asking("top_k", "1e400"), 422, "parameters.top_k must be a valid integer; received inf"),
        (asking("top_k", "1e40"), 422, "parameters.top_k must be a valid integer; received 1e+40"),
        (
            asking("doc_stride", "7" * 999),
            422,
            "parameters.doc_stride must be less than or equal to 1000000; received a ",
        ),
        (asking("max_answer_len", "-" + "7" * 40), 422, "parameters.max_answer_len must be greater than or equal to 1"),
        ({"inputs": GOOD, "\ud800" * 50: 1}, 422, "the body must be a valid string"),
        (b'{"\\ud800": 1, "\\ud800": 2}', 400, "a name may appear once in an object; received '\\ud800' twice"),
        ({"inputs": GOOD, "x" * 9999: 1}, 422, "x" * 40 + "… is not known; known names are inputs, parameters"),
        ({"inputs": GOOD, "parameters": [1]}, 422, "parameters must be an object; received a list"),
        (b" " * 20_001, 413, "a request's body must have at most 20,000 bytes; received more: send less text"),
        (b" " * 1_000_000, 413, "a request's body must have at most 20,000 bytes; received more: send less text"),
    ],
)
def test_an_invalid_request_gets_the_rule_that_it_breaks(
    client: Client, message: object, status: int, rule: str
) -> None:
    received, answer = client.post(message)
    assert (received, list(answer)) == (status, ["error"])
    assert answer["error"].startswith(rule)


def test_mistakes_without_end_are_not_collected(client: Client) -> None:
    assert client.post({"inputs": [0] * 3}) == (422, {"error": "inputs[0] must be an object; received 0"})
    many = {"inputs": GOOD} | {f"name {number}": 1 for number in range(1000)}
    rule = "an object must have at most 1,000 names; received 1,001: leave some out"
    assert client.post(many) == (422, {"error": rule})
    del many["name 999"]
    assert client.post(many)[1]["error"].startswith("name 0 is not known; known names are inputs, parameters, options")


@pytest.mark.parametrize("option", ["top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len"])
@pytest.mark.parametrize("number", ["1000001", "2147483648", "9223372036854775808", "7" * 40, "-" + "7" * 40, "-1"])
def test_every_number_is_bounded(client: Client, option: str, number: str) -> None:
    status, answer = client.post(asking(option, number))
    assert status == 422
    assert answer["error"].startswith(f"parameters.{option} must be ")
    assert f"received {number}" in answer["error"]


@pytest.mark.parametrize(
    "number", ["NaN", "1e400", "-1e400", "1.0", "7" * 5000, '"1"', "true", "[1]", "{}", "[" * 5000]
)
@pytest.mark.parametrize("option", list(Parameters.model_fields))
def test_an_invalid_number_is_never_a_server_error(client: Client, option: str, number: str) -> None:
    if number == "true" and Parameters.model_fields[option].annotation == bool | None:
        pytest.skip("it is one")
    if number == "1.0" and Parameters.model_fields[option].annotation == float | None:
        pytest.skip("it is one")
    status, answer = client.post(asking(option, number))
    assert (status in (400, 422), list(answer)) == (True, ["error"])
    assert len(answer["error"]) < 300


@pytest.mark.parametrize("depth", [10, 100, 300, 600, 900, 1000, 3000])
@pytest.mark.parametrize("place", ["inputs", "options", "parameters"])
def test_deep_nesting_is_never_a_server_error(client: Client, depth: int, place: str) -> None:
    for opens, closes in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opens * depth + b"1" + closes * depth
        status, _ = client.post(json.dumps({"inputs": GOOD} | {place: 0}).encode().replace(b": 0", b": " + nested))
        assert status in (200, 400, 422)


def test_a_refusal_may_contain_any_text() -> None:
    assert json.loads(refusal("half of a pair: \ud83d")) == {"error": "half of a pair: \\ud83d"}


def test_null_is_the_default_of_every_option(client: Client) -> None:
    given = {"inputs": GOOD, "parameters": dict.fromkeys(Parameters.model_fields)}
    assert client.post(given) == client.post({"inputs": GOOD, "parameters": None}) == client.post({"inputs": GOOD})
    assert Parameters(**dict.fromkeys(Parameters.model_fields)).options() == AnswerOptions()


def test_the_longest_text_within_the_limit_is_answered(client: Client) -> None:
    assert client.ask("Who?", "x" * 996)[0] == 200


def test_a_wrong_content_type_is_named(client: Client) -> None:
    status, answer = client.post({"inputs": GOOD}, Content_Type="application/x-www-form-urlencoded")
    assert status == 415
    assert "received application/x-www-form-urlencoded: with curl, add -H" in answer["error"]
    assert client.post({"inputs": GOOD}, Content_Type="application/json; charset=utf-8")[0] == 200


def test_a_chunked_body_is_measured(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"6000\r\n" + b" " * 0x6000 + b"\r\n0\r\n\r\n")
        assert b" 413 " in connection.recv(4096)


def test_a_client_that_expects_100_continue_need_not_send_a_large_body(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b" 413 " in connection.recv(4096)


def test_a_body_that_does_not_arrive_times_out() -> None:
    with (
        running(KeywordModel(), Limits(body_seconds=50)) as client,
        socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as connection,
    ):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        client.skip(51)
        received = b""
        while part := connection.recv(4096):
            received += part
        assert b" 408 " in received
        assert b"must arrive within 50 s" in received


def test_an_answer_that_takes_too_long_is_abandoned() -> None:
    model = KeywordModel()
    model.hold.clear()
    with running(model, Limits(seconds=50)) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.ask, "Who?", TEXT)
        wait_for(lambda: model.calls == [1])
        client.skip(51)
        status, answer = asked.result()
        assert status == 504
        assert answer["error"].startswith("an answer must take at most 50 s; it took longer")
        wait_for(lambda: model.abandoned == 1)
        model.hold.set()
        assert client.ask("Who?", TEXT)[0] == 200
        assert client.metric("qa_fast_abandoned_requests_total") == 1


def test_a_client_that_leaves_is_not_answered() -> None:
    model = KeywordModel()
    model.hold.clear()
    with running(model) as client:
        body = json.dumps({"inputs": GOOD}).encode()
        connection = socket.create_connection(("127.0.0.1", client.port))
        head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_for(lambda: model.calls == [1])
        connection.close()
        client.skip(HALF_CLOSED_SECONDS + 1)
        wait_for(lambda: model.abandoned == 1)


def test_a_request_beyond_the_queue_is_told_to_come_back() -> None:
    model = KeywordModel()
    model.hold.clear()
    with running(model, Limits(waiting=2)) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.ask, "Who?", TEXT)
        wait_for(lambda: model.calls == [1])
        others = [pool.submit(client.ask, "Who?", TEXT) for _ in range(2)]
        wait_for(lambda: client.metric("qa_fast_prepare_seconds_count") == 3)
        assert client.metric("qa_fast_waiting_requests") == 2
        body = json.dumps({"inputs": GOOD}).encode()
        status, answer, headers = client.send("POST", "/", body, Content_Type="application/json")
        assert (status, headers["Retry-After"]) == (429, "1")
        assert json.loads(answer)["error"].startswith("at most 2 requests may wait; received one more")
        model.hold.set()
        assert [asked.result()[0] for asked in (first, *others)] == [200] * 3
        assert model.calls == [1, 2]


def test_a_server_error_does_not_show_its_details(caplog: pytest.LogCaptureFixture) -> None:
    with running(KeywordModel()) as client:
        for question in ("crash?", "unspeakable?"):
            status, answer = client.ask(question, TEXT)
            assert (status, answer) == (500, {"error": "the server could not answer; see its log"})
        assert client.ask("Who dug the harbour?", TEXT)[0] == 200
    assert "a detail for the log" in caplog.text
    assert "a detail of preparing for the log" in caplog.text


def test_the_content_policy_allows_only_what_the_page_needs(client: Client) -> None:
    for path in ("/", "/docs", "/static/page.js", "/nowhere"):
        _, body, headers = client.send("GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"https://" not in body


def test_unknown_paths_and_methods_are_refused_in_the_same_form(client: Client) -> None:
    assert client.get("/nowhere") == (404, '{"error":"Not Found"}')
    assert client.send("PUT", "/")[0] == 405
    for path in ("/static/..%2fapp.py", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path)[0] == 404


def test_health_has_the_model_and_the_limits(client: Client) -> None:
    health = json.loads(client.get("/health")[1])
    assert (health["status"], health["model"]) == ("ok", "keyword-model")
    assert (health["engine"], health["precision"]) == ("keywords", "exact")
    assert health["limits"] == {"body_bytes": 20_000, "characters": 1000, "questions": 3, "top_k": 10, "seconds": 60}


def test_metrics_count_requests_batches_and_the_cache() -> None:
    with running(KeywordModel()) as client:
        client.ask("Who?", TEXT)
        client.post(b"{")
        assert client.send("POST", "/nowhere", b"{}")[0] == 404  # asks for no answer
        values = dict(line.rsplit(" ", 1) for line in client.get("/metrics")[1].splitlines() if line[0] != "#")
    assert values['qa_fast_requests_total{status="200"}'] == values['qa_fast_requests_total{status="400"}'] == "1.0"
    assert values["qa_fast_request_seconds_count"] == "2.0"
    assert values["qa_fast_batch_questions_sum"] == "1.0"
    assert values["qa_fast_batch_tokens_sum"] == "13.0"
    assert values["qa_fast_prepare_seconds_count"] == "1.0"
    (info,) = (name for name in values if name.startswith("qa_fast_info"))
    assert 'engine="keywords"' in info
    assert 'precision="exact"' in info
    assert (values["qa_fast_cache_hits_total"], values["qa_fast_cache_bytes"]) == ("3.0", "500.0")


def test_the_openapi_description_matches_the_api(client: Client) -> None:
    api = json.loads(client.get("/openapi.json")[1])
    assert set(api["paths"]) == {"/", "/health", "/metrics"}
    assert {"413", "422", "429", "504"} <= set(api["paths"]["/"]["post"]["responses"])
    options = [field.name for field in fields(AnswerOptions) if option_of(field)]
    assert set(api["components"]["schemas"]["Parameters"]["properties"]) == {*options, "offset_unit"}


def test_offsets_are_given_in_utf16_units_on_request(client: Client) -> None:
    context = "🚢🚢 The harbour, the harbour."
    for unit, offsets in {"code_point": (7, 20), "utf16": (9, 22), None: (7, 20)}.items():
        answers = client.ask("Who dug the harbour?", context, top_k=2, offset_unit=unit)[1]
        assert [answer["start"] for answer in answers] == list(offsets)
        assert [answer["end"] - answer["start"] for answer in answers] == [7, 7]
    assert client.ask("Who?", context, offset_unit="bytes")[0] == 422
    passage = client.ask("Who dug the harbour?", "🚢! " + context, offset_unit="utf16", evidence=True)[1][0]
    assert passage["sentence"] == context
    assert [passage[name] for name in ("start", "sentence_start", "sentence_end")] == [13, 4, 34]


def test_a_document_is_gone_through_once_for_all_offsets() -> None:
    class Text(str):
        def __getitem__(self, _: object) -> str:
            raise AssertionError("a part of the document is copied for each offset")

    answer: Answer = {"score": 0.5, "start": 1, "end": 3, "answer": "b𝄞"}
    assert answers._in_utf16([answer] * 2, Text("𝄞b𝄞")) == [answer | {"start": 2, "end": 5}] * 2


def test_head_has_the_headers_of_get_and_ranges_are_ignored(client: Client) -> None:
    for path in ("/", "/health", "/docs", "/openapi.json", "/static/page.css", "/nowhere"):
        status, body, headers = client.send("GET", path)
        head_status, nothing, head = client.send("HEAD", path)
        assert (head_status, nothing) == (status, b"")
        assert (head["content-length"], head["content-type"]) == (str(len(body)), headers["content-type"])
        for ranges in ("bytes=0-1", "bytes=9999999-", "bytes=1-0,x", "lines=1-2"):
            assert client.send("GET", path, Range=ranges)[:2] == (status, body)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:80", 200),
        ("::1", 421),
        ("qa.example.org", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.168.1.2", 421),
        ("0.0.0.0", 421),
        ("", 421),
        ("é", 421),
    ],
)
def test_without_a_key_only_named_hosts_are_served(named: Client, host: str, status: int) -> None:
    for method, path in (("GET", "/health"), ("HEAD", "/"), ("POST", "/")):
        body = json.dumps({"inputs": GOOD}).encode() if method == "POST" else None
        assert named.send(method, path, body, Host=host, Content_Type="application/json")[0] == status


@pytest.fixture(scope="module")
def named() -> Iterator[Client]:
    with running(KeywordModel(), Limits(hosts="qa.example.org, other.example.org")) as made:
        yield made


def test_only_answers_and_metrics_need_the_key() -> None:
    with running(KeywordModel(), api_key="correct-horse") as client:
        assert client.ask("Who dug the harbour?", TEXT)[0] == 200
        assert client.get("/metrics")[0] == 200
        client.api_key = None
        for right in ("Bearer correct-horse", "bearer correct-horse", "BEARER  correct-horse"):
            assert client.send("GET", "/metrics", Authorization=right, Host="any.example")[0] == 200
        for path, status in {"/": 200, "/health": 200, "/static/page.css": 200, "/docs": 200, "/metrics": 401}.items():
            assert client.get(path)[0] == status
        status, answer = client.ask("Who?", TEXT)
        assert (status, answer["error"][-14:]) == (401, " received none")
        for wrong in ("correct-hors", "correct-horse2", "correct-horsé", ""):
            status, answer = client.post({"inputs": GOOD}, Authorization=f"Bearer {wrong}")
            assert (status, answer["error"][-21:]) == (401, " received another key")
        assert client.send("POST", "/", b" " * 10, Authorization="Basic correct-horse")[0] == 401
        api = json.loads(client.get("/openapi.json")[1])
        assert api["paths"]["/"]["post"]["security"] == [{"HTTPBearer": []}]


def test_many_clients_at_once_are_all_answered() -> None:
    model = KeywordModel()
    model.hold.clear()
    texts = [f"Boat {number} lies at quay{number}." for number in range(64)]

    def one_client(number: int) -> list[str]:
        return [client.ask(f"Where is quay{number}?", texts[number])[1][0]["answer"] for _ in range(8)]

    with running(model) as client, ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(one_client, number) for number in range(64)]
        wait_for(lambda: client.metric("qa_fast_prepare_seconds_count") == 64)
        first_turn = sum(model.calls)
        model.hold.set()
        assert [answers.result() for answers in asked] == [[f"quay{number}"] * 8 for number in range(64)]
    assert sum(model.calls) == 512
    assert model.calls[1] >= 64 - first_turn  # the requests that waited are answered together


def test_a_shutdown_answers_what_was_accepted() -> None:
    model = KeywordModel()
    model.hold.clear()

    def release() -> None:
        wait_for(client.is_refused)
        model.hold.set()

    with ThreadPoolExecutor(3) as pool:
        with running(model) as client:
            asked = [pool.submit(client.ask, "Who dug the harbour?", TEXT) for _ in range(2)]
            wait_for(lambda: client.metric("qa_fast_prepare_seconds_count") == 2)
            pool.submit(release)
        assert [answer.result()[0] for answer in asked] == [200, 200]
