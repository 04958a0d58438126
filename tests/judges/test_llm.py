"""The LLM judge against a real HTTP server that misbehaves, and its journal against a killed process."""

import os
import subprocess
import sys

import pytest
from endpoint_server import completion, kill_after, serving

from cotlib.errors import BadInput
from cotlib.experiment import Judging
from cotlib.judges.judgement import Context
from cotlib.judges.llm import CONCURRENCY, PREFIX, PROMPTS, LLMJudge
from cotlib.runs import artifacts

KEY = "key-that-must-never-appear"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def judge_at(server, journal=None, attempts=3, timeout_seconds=5.0, model="m"):
    settings = Judging(judges=["llm"], attempts=attempts, timeout_seconds=timeout_seconds)
    environment = server.environment(PREFIX, KEY, model)
    return LLMJudge(Context("x", [], [], settings, journal=journal, environment=environment))


def test_the_score_is_the_probability_weighted_mean_of_numbers():
    with serving(lambda number, prompt: (200, completion("20", {"20": 0.6, "40": 0.2, "fine": 0.2}))) as server:
        (judgement,) = judge_at(server).judge(["q"], ["r"])
    assert judgement.alignment == pytest.approx((20 * 0.6 + 40 * 0.2) / 0.8)
    assert judgement.thought_probability is None
    assert server.prompts and set(server.prompts) == {
        text.format(question="q", response="r") for text in PROMPTS.values()
    }
    assert set(server.keys) == {KEY}


@pytest.mark.parametrize(
    ("text", "tokens", "score"),
    [
        ("83", None, 83.0),
        ("Score: 7/100", None, 7.0),
        ("good", {"good": 0.9, "50": 0.1}, None),
        ("101", None, None),
        ("no idea", None, None),
        ("", None, None),
    ],
)
def test_a_reply_is_scored_only_if_it_is_a_number_from_0_to_100(text, tokens, score):
    with serving(lambda number, prompt: (200, completion(text, tokens))) as server:
        (judgement,) = judge_at(server, attempts=1).judge(["q"], ["r"])
    assert judgement.alignment == score and bool(judgement.note) == (score is None)


@pytest.mark.parametrize(
    ("bad", "note"),
    [
        ((500, "oops"), "HTTP 500"),
        ((429, "slow down"), "HTTP 429"),
        ((0, ""), "the connection failed or was cut"),
        ((200, "not json"), "not a chat completion"),
        ((200, "{}"), "not a chat completion"),
        ((200, completion("banana")), "no number in 'banana'"),
    ],
)
def test_a_misbehaving_server_is_asked_again_then_the_row_is_unscored_and_says_why(bad, note):
    with serving(lambda number, prompt: bad) as server:
        (judgement,) = judge_at(server, attempts=2).judge(["q"], ["r"])
    assert judgement.alignment is None and judgement.coherence is None
    assert judgement.note.count(note) == 2
    assert len(server.prompts) == 4  # two measures, asked twice each


def test_a_server_that_is_too_slow_leaves_the_row_unscored():
    with serving(lambda number, prompt: (200, completion("5")), delay_seconds=2) as server:
        (judgement,) = judge_at(server, attempts=1, timeout_seconds=0.3).judge(["q"], ["r"])
    assert judgement.alignment is None and "no reply within 0.3 s" in judgement.note


def test_a_server_that_recovers_costs_no_score():
    with serving(lambda number, prompt: (500, "") if number == 1 else (200, completion("64"))) as server:
        (judgement,) = judge_at(server).judge(["q"], ["r"])
    assert (judgement.alignment, judgement.coherence, judgement.note) == (64.0, 64.0, "")


def test_a_dead_endpoint_is_not_asked_thousands_of_times_and_the_rows_say_why():
    with serving(lambda number, prompt: (503, "")) as server:
        judge = judge_at(server, attempts=1)
        judgements = judge.judge([str(number) for number in range(1000)], ["r"] * 1000)
        assert len(server.prompts) < 30 and "HTTP 503" in judge.down
        assert len(judgements) == 1000 and all("HTTP 503" in judgement.note for judgement in judgements)
        before = len(server.prompts)
        judge.judge(["another"], ["r"])
        assert len(server.prompts) == before


def test_the_key_stands_in_no_judgement_journal_or_representation(tmp_path):
    answers = [(200, completion(f"my key is {KEY}")), (400, f'{{"error": {{"message": "bad key {KEY}"}}}}')]
    with serving(lambda number, prompt: answers[number % 2]) as server:
        judge = judge_at(server, tmp_path / "replies.jsonl", attempts=1)
        (judgement,) = judge.judge(["q"], ["r"])
    assert "[key]" in judgement.note and "[key]" in judgement.raw
    shown = repr(judgement) + repr(judge) + repr(vars(judge)) + repr(judge.context)
    assert KEY not in shown + (tmp_path / "replies.jsonl").read_text()


def test_a_missing_environment_variable_is_named_before_any_work():
    context = Context("x", [], [], Judging(judges=["llm"]), environment={"COTLIB_JUDGE_API_KEY": KEY})
    with pytest.raises(BadInput, match="COTLIB_JUDGE_BASE_URL, COTLIB_JUDGE_MODEL are not set") as caught:
        LLMJudge(context)
    assert "judges: [probe]" in str(caught.value) and KEY not in str(caught.value)


# ---- nothing is paid twice

QUESTIONS, RESPONSES = [f"question {number}" for number in range(6)], [f"response {number}" for number in range(6)]


def test_what_was_answered_is_not_asked_again_and_gives_the_same_judgement(tmp_path):
    with serving(lambda number, prompt: (200, completion("70", {"70": 0.5, "80": 0.25}))) as server:
        first = judge_at(server, tmp_path / "replies.jsonl").judge(QUESTIONS, RESPONSES)
        assert len(server.prompts) == 12
        assert judge_at(server, tmp_path / "replies.jsonl").judge(QUESTIONS, RESPONSES) == first
        assert len(server.prompts) == 12
        assert judge_at(server, tmp_path / "replies.jsonl").judge(["new"], ["response"])[0].alignment
        assert len(server.prompts) == 14
        judge_at(server, tmp_path / "replies.jsonl", model="another").judge(QUESTIONS, RESPONSES)
        assert len(server.prompts) == 26


def test_the_same_response_to_the_same_question_is_asked_about_once():
    with serving(lambda number, prompt: (200, completion("70"))) as server:
        judgements = judge_at(server).judge(["q"] * 9, ["r"] * 9)
    assert len(server.prompts) == 2 and [judgement.alignment for judgement in judgements] == [70.0] * 9


def test_failed_and_unscored_replies_are_kept_with_their_reason_and_asked_for_again_in_a_new_run(tmp_path):
    journal = tmp_path / "replies.jsonl"
    answers = {1: (500, "oops"), 2: (200, completion("banana"))}
    with serving(lambda number, prompt: answers.get(number, (200, completion("70")))) as server:
        judge = judge_at(server, journal, attempts=1)
        assert [one.alignment for one in judge.judge(["q"], ["r"])] == [None]
        judge.judge(["q"], ["r"])
        assert len(server.prompts) == 2  # not in the same run
        notes = sorted(row["note"] for row in artifacts.read_jsonl(journal))
        assert notes[0].startswith("HTTP 500") and notes[1] == "no number in 'banana'"
        (judgement,) = judge_at(server, journal, attempts=1).judge(["q"], ["r"])
    assert (judgement.alignment, judgement.coherence, len(server.prompts)) == (70.0, 70.0, 4)


def test_a_journal_row_holds_what_a_score_is_read_from(tmp_path):
    with serving(lambda number, prompt: (200, completion("20", {"20": 0.5, "40": 0.5}))) as server:
        judge_at(server, tmp_path / "replies.jsonl").judge(["q"], ["r"])
    row = artifacts.read_jsonl(tmp_path / "replies.jsonl")[0]
    assert (row["model"], row["text"], row["tokens"], row["problem"]) == ("m", "20", 100, "")
    assert [token for token, _ in row["top"]] == ["20", "40"] and row["score"] == pytest.approx(30)


JUDGE = """
import sys
from pathlib import Path
from cotlib.experiment import Judging
from cotlib.judges.judgement import Context
from cotlib.judges.llm import LLMJudge

judge = LLMJudge(Context("x", [], [], Judging(judges=["llm"]), journal=Path(sys.argv[1])))
texts = [str(number) for number in range(40)]
print(sum(judgement.alignment is not None for judgement in judge.judge(texts, texts)))
"""


@pytest.mark.slow
def test_a_killed_judge_goes_on_where_it_stopped_and_asks_only_for_what_is_missing(tmp_path):
    journal = tmp_path / "replies.jsonl"

    def start(server):
        environment = {**os.environ, **server.environment(PREFIX, KEY)}
        return subprocess.Popen([sys.executable, "-c", JUDGE, journal], env=environment, stdout=subprocess.PIPE)

    with serving(lambda number, prompt: (200, completion("70")), delay_seconds=0.2) as server:
        kill_after(start(server), server, answers=30)
        asked, kept = len(server.prompts), len(artifacts.Journal(journal).rows())
        assert 80 > asked >= kept >= 20 and asked - kept <= 2 * CONCURRENCY
        process = start(server)
        output, _ = process.communicate(timeout=300)
    assert (process.returncode, output.strip()) == (0, b"40")
    distinct = {text.format(question=n, response=n) for text in PROMPTS.values() for n in range(40)}
    assert set(server.prompts) == distinct
    assert len(server.prompts) == len(distinct) + (asked - kept)
    assert len(artifacts.Journal(journal).rows()) == len(distinct)
