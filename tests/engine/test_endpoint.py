"""A client of an OpenAI-compatible endpoint, against a real local server that misbehaves."""

import json
import threading
import time

import pytest
from endpoint_server import completion, serving

from cotlib.engine import endpoint
from cotlib.errors import BadInput

SECRET = "sk-test-5f2c9a7714d0"
GOOD = (200, completion("good"))
BAD_REQUESTS = {
    "429": (429, '{"error": {"message": "slow down"}}'),
    "500": (500, "oops"),
    "503": (503, ""),
    "no answer": (0, ""),
    "half an answer": ("cut", '{"id": "1", "cho'),
    "not JSON": (200, "{ this is not"),
    "a page": (200, "<html>Welcome</html>", {"Content-Type": "text/html"}),
    "no choices": (200, json.dumps({"choices": []})),
    "a number as text": (200, json.dumps({"choices": [{"message": {"content": 7}}]})),
    "a list": (200, "[1]"),
    "null": (200, "null"),
    "deep nesting": (200, "[" * 100_000),
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def connect(server, **options):
    return endpoint.Endpoint(
        "COTLIB_TEST",
        "the test",
        environment=server.environment("COTLIB_TEST", SECRET),
        **{"timeout_seconds": 10.0, "attempts": 3, "concurrency": 1, **options},
    )


def ask(client, prompts, **parameters):
    """All replies, by the prompt's number."""
    replies = {}
    for _ in client.ask(prompts, replies.__setitem__, **parameters):
        pass
    return replies


def test_every_prompt_is_sent_once_with_the_key_and_gets_its_own_reply():
    with serving(lambda number, prompt: (200, completion(prompt.upper(), total_tokens=7))) as server:
        replies = ask(connect(server, concurrency=4), [f"prompt {number}" for number in range(30)])
    assert {number: reply.text for number, reply in replies.items()} == {n: f"PROMPT {n}" for n in range(30)}
    assert sorted(server.prompts) == sorted(f"prompt {number}" for number in range(30))
    assert set(server.keys) == {SECRET} and replies[0].tokens == 7


def test_nothing_asked_is_nothing_sent():
    with serving(lambda number, prompt: GOOD) as server:
        assert ask(connect(server), []) == {} and server.prompts == []


def test_no_more_requests_are_under_way_than_the_concurrency_allows():
    guard, now, most = threading.Lock(), 0, 0

    def answer(number, prompt):
        nonlocal now, most
        with guard:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with guard:
            now -= 1
        return GOOD

    with serving(answer) as server:
        ask(connect(server, concurrency=3), ["x"] * 20)
    assert most == 3


def test_the_likeliest_first_tokens_come_with_the_reply_if_the_server_gives_them():
    with serving(lambda number, prompt: (200, completion("20", {"20": 0.5, "40": 0.25}))) as server:
        [reply] = ask(connect(server), ["x"], logprobs=True, top_logprobs=2).values()
    assert reply.top == (("20", pytest.approx(-0.6931, abs=1e-3)), ("40", pytest.approx(-1.3863, abs=1e-3)))


@pytest.mark.parametrize("bad", BAD_REQUESTS)
def test_a_request_that_fails_on_its_way_is_sent_again(bad):
    with serving(lambda number, prompt: BAD_REQUESTS[bad] if number == 1 else GOOD) as server:
        [reply] = ask(connect(server), ["x"]).values()
    assert (reply.text, reply.problem, len(server.prompts)) == ("good", "", 2)


def test_a_slow_reply_is_not_waited_for_beyond_the_timeout_and_asked_for_again():
    def answer(number, prompt):
        time.sleep(1.5 if number == 1 else 0)
        return GOOD

    with serving(answer) as server:
        [reply] = ask(connect(server, timeout_seconds=0.5), ["x"]).values()
    assert (reply.text, len(server.prompts)) == ("good", 2)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("429", "HTTP 429"),
        ("500", "HTTP 500"),
        ("no answer", "the connection failed or was cut"),
        ("half an answer", "the connection failed or was cut"),
        ("not JSON", "not a chat completion"),
        ("no choices", "not a chat completion"),
    ],
)
def test_after_all_tries_the_reply_says_what_the_problem_was(bad, problem):
    with serving(lambda number, prompt: BAD_REQUESTS[bad]) as server:
        [reply] = ask(connect(server, attempts=2), ["x"]).values()
    assert problem in reply.problem and len(server.prompts) == 2


def test_one_attempt_means_no_second_try():
    with serving(lambda number, prompt: BAD_REQUESTS["500"]) as server:
        ask(connect(server, attempts=1), ["x"])
    assert len(server.prompts) == 1


def test_a_pause_that_the_server_asks_for_is_kept():
    slow = (429, "", {"Retry-After": "0.8", "retry-after-ms": ""})
    with serving(lambda number, prompt: slow if number == 1 else GOOD) as server:
        ask(connect(server), ["x"])
    assert server.times[1] - server.times[0] >= 0.8


@pytest.mark.parametrize("status", endpoint.HOPELESS)
def test_an_endpoint_that_refuses_the_key_or_the_model_is_down_at_once(status):
    with serving(lambda number, prompt: (status, "no")) as server:
        client = connect(server, concurrency=2)
        ask(client, ["x"] * 30)
        sent = len(server.prompts)
        ask(client, ["x"] * 30)
    assert str(status) in client.down and sent <= 4 and len(server.prompts) == sent


def test_an_endpoint_that_asks_for_a_day_of_patience_is_down():
    with serving(lambda number, prompt: (429, "", {"Retry-After": "86400", "retry-after-ms": ""})) as server:
        client = connect(server, concurrency=4)
        ask(client, ["x"] * 30)
    assert "429" in client.down and len(server.prompts) <= 8


def test_a_dead_endpoint_is_down_after_a_few_failures_and_what_is_left_is_not_sent():
    with serving(lambda number, prompt: GOOD if number <= 4 else BAD_REQUESTS["500"]) as server:
        client = connect(server, attempts=2, concurrency=2)
        replies = ask(client, ["x"] * 1000)
    assert "HTTP 500" in client.down
    assert sum(reply.text == "good" for reply in replies.values()) == 4
    assert len(server.prompts) <= 4 + 2 * (endpoint.PATIENCE + 2)


def test_prompts_that_a_filter_refuses_do_not_make_an_endpoint_that_has_served_count_as_down():
    with serving(lambda number, prompt: GOOD if number == 1 else (400, "filtered")) as server:
        client = connect(server)
        replies = ask(client, ["x"] * 9)
    assert client.down == "" and [reply.problem[:8] for reply in replies.values()] == [""] + ["HTTP 400"] * 8


def test_an_endpoint_that_refuses_every_prompt_is_down():
    with serving(lambda number, prompt: (400, "no such parameter")) as server:
        client = connect(server)
        ask(client, ["x"] * 9)
    assert "HTTP 400" in client.down and len(server.prompts) == endpoint.PATIENCE


def test_single_failures_do_not_count_as_down():
    with serving(lambda number, prompt: BAD_REQUESTS["500"] if number % 3 else GOOD) as server:
        client = connect(server, attempts=1)
        replies = ask(client, ["x"] * 12)
    assert client.down == "" and len(replies) == len(server.prompts) == 12


def test_an_interruption_receives_what_is_under_way_and_sends_nothing_more():
    replies = {}
    with serving(lambda number, prompt: GOOD, delay_seconds=0.1) as server:
        waiting = connect(server, concurrency=4).ask(["x"] * 40, replies.__setitem__)
        with pytest.raises(KeyboardInterrupt):
            for count, _ in enumerate(waiting, 1):
                if count == 2:
                    waiting.throw(KeyboardInterrupt)
    assert 2 <= len(server.prompts) <= 10
    assert len(replies) == len(server.prompts) == server.sent


@pytest.mark.parametrize(
    "bad", [(429, "", {"Retry-After": "100", "retry-after-ms": ""}), (503, "", {"retry-after-ms": "100000"})]
)
def test_an_interruption_waits_for_no_pause_between_tries(bad):
    with serving(lambda number, prompt: bad if number == 1 else GOOD) as server:
        waiting = connect(server, concurrency=2).ask(["x"] * 5, lambda number, reply: None)
        started = time.monotonic()
        for _ in range(4):  # the fifth reply is the one that pauses
            next(waiting)
        waiting.close()
        assert time.monotonic() - started < 20 and len(server.prompts) == 5


def test_an_error_in_what_receives_the_replies_reaches_the_caller():
    def receive(number, reply):
        raise OSError("no space left on device")

    with serving(lambda number, prompt: GOOD) as server:
        with pytest.raises(OSError, match="no space left"):
            list(connect(server, concurrency=2).ask(["x"] * 30, receive))
    assert len(server.prompts) <= 4


def test_a_reply_is_text_that_a_file_can_hold():
    with serving(lambda number, prompt: (200, completion("w\ud800ord"))) as server:
        [reply] = ask(connect(server), ["x"]).values()
    assert reply.text == "word"


def test_the_key_is_cleared_from_replies_problems_and_representations(caplog):
    caplog.set_level("DEBUG")
    texts = {1: (200, completion(f"my key is {SECRET}")), 2: (400, f'{{"error": {{"message": "bad key {SECRET}"}}}}')}
    with serving(lambda number, prompt: texts[number]) as server:
        client = connect(server)
        replies = ask(client, ["x", "y"])
    assert replies[0].text == "my key is [key]" and "[key]" in replies[1].problem
    assert SECRET not in repr(replies) + repr(client) + repr(vars(client)) + client.down + caplog.text


def test_a_placeholder_for_a_key_is_an_ordinary_word_of_a_reply():
    with serving(lambda number, prompt: (200, completion("none of it"))) as server:
        environment = server.environment("COTLIB_TEST", "none")
        client = endpoint.Endpoint(
            "COTLIB_TEST", "the test", timeout_seconds=10, attempts=1, concurrency=1, environment=environment
        )
        assert ask(client, ["x"])[0].text == "none of it"


def test_variables_that_are_missing_are_named_with_the_remedy():
    whole = {"COTLIB_TEST_BASE_URL": "http://here", "COTLIB_TEST_MODEL": " ", "COTLIB_TEST_API_KEY": SECRET}
    with pytest.raises(
        BadInput, match="the test needs an endpoint, but COTLIB_TEST_MODEL is not set; set it with"
    ) as one:
        endpoint.from_environment("COTLIB_TEST", "the test", "do without", whole)
    assert "export COTLIB_TEST_MODEL=…, or do without" in str(one.value) and SECRET not in str(one.value)
    with pytest.raises(BadInput, match="COTLIB_TEST_BASE_URL, COTLIB_TEST_MODEL, COTLIB_TEST_API_KEY are not set"):
        endpoint.from_environment("COTLIB_TEST", "the test", environment={})


@pytest.mark.parametrize(
    ("name", "value"), [("COTLIB_TEST_BASE_URL", "example.org/v1"), ("COTLIB_TEST_API_KEY", "sk-tést-5f2c9a")]
)
def test_an_address_or_key_that_cannot_work_is_refused_without_being_shown(name, value):
    whole = {"COTLIB_TEST_BASE_URL": "http://here", "COTLIB_TEST_MODEL": "m", "COTLIB_TEST_API_KEY": SECRET}
    with pytest.raises(BadInput, match=name) as caught:
        endpoint.from_environment("COTLIB_TEST", "the test", environment=whole | {name: value})
    assert value not in str(caught.value)
