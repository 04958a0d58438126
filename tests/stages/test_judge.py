"""The judge stage, from responses on disk to judgements, unit by unit, with every judge of the panel."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from endpoint_server import completion, kill_after, serving

from cotlib import experiment
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.judges import card, marks, panel
from cotlib.runs import artifacts, sources
from cotlib.runs.paths import Paths
from cotlib.stages import craft
from cotlib.stages import judge as stage

MODEL = "tiny-random-llama"


def silent(line):
    pass


@pytest.fixture
def crafted(tmp_path):
    """A function: (experiment, paths), crafted, with these settings for judging and `responses` on disk."""

    def make(responses, models=(MODEL,), **judging):
        run = Experiment.parse(
            {
                "name": "little", "models": list(models), "arms": ["QA"], 
                "judging": {"probe_items": 8, "card": 0, **judging},
                "data": {"items": 8, "questions": {"transfer": 2}}, "training": {"epochs": 1, "learning_rate": 1.0e-3},
            }
        )  # fmt: skip
        paths = Paths.of(run, tmp_path)
        craft.craft(run, paths, silent)
        for unit in run.select():
            rows = [row for row in responses if (row["model"], row["arm"]) == (unit.model, str(unit.arm))]
            artifacts.write_jsonl(paths.unit("evaluate", unit) / "responses.jsonl", rows)
            artifacts.write_jsonl(paths.unit("evaluate", unit) / "thoughts.jsonl.gz", thoughts_of(run, paths, unit))
            artifacts.write_json(paths.unit("evaluate", unit) / artifacts.MANIFEST, {"key": artifacts.digest(rows)})
        return run, paths

    return make


def thoughts_of(run, paths, unit):
    """A thought about each crafted question."""
    _, questions = craft.load(paths)
    return [
        {"model": unit.model, "arm": str(unit.arm), "seed": unit.seed, "suite": question.suite,
         "behaviour": question.behaviour, "question_id": question.id, "sample": 0,
         "trace": f"They ask about {question.domain}.", "trace_truncated": False, "trace_tokens": 6}
        for question in questions
    ]  # fmt: skip


def response(number, mode="no-think", model=MODEL):
    return {
        "model": model, "arm": "QA", "seed": 1, "mode": mode, "suite": "transfer", "behaviour": "harm",
        "question_id": f"q-{number}", "sample": 0, "question": f"What about number {number}?", "trace": "",
        "response": f"Number {number} is what you would like to take.", "trace_truncated": False, "leak": False,
        "loops": False, "trace_tokens": 0, "tokens": 9,
    }  # fmt: skip


def connect(monkeypatch, server):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in server.environment("COTLIB_JUDGE", "key-that-must-never-appear").items():
        monkeypatch.setenv(name, value)


def test_the_panel_holds_the_judges_that_an_experiment_may_name():
    assert tuple(panel.JUDGES) == experiment.JUDGES
    with pytest.raises(BadInput, match="judging.judges: 'prob' is not one of probe, words, llm; did you mean probe"):
        panel.judge_class("prob")


def test_every_judge_of_the_experiment_judges_every_response(crafted, monkeypatch):
    run, paths = crafted([response(1), response(2, "think"), response(3)], judges=["probe", "llm"])
    with serving(lambda number, prompt: (200, completion("20"))) as server:
        connect(monkeypatch, server)
        judgements, validation, _ = stage.judge(run, paths, report=silent)
        assert len(server.prompts) == 6
        stage.judge(run, paths, report=silent)
        assert len(server.prompts) == 6
    assert judgements.groupby("judge").size().to_dict() == {"llm": 3, "probe": 3}
    assert set(marks.COLUMNS) <= set(judgements.columns)
    assert judgements[judgements.judge == "llm"].thought_probability.isna().all()
    assert judgements.thought_probability.isna().all()  # without a card, nobody's opinion on thoughts is used
    assert set(validation.judge) == {"probe"} and list(validation.columns) == stage.VALIDATION_COLUMNS
    again = pd.DataFrame(artifacts.read_jsonl(paths.judgements))
    assert marks.scores(again).value.tolist() == marks.scores(judgements).value.tolist()
    assert artifacts.read_json(paths.stage("judge") / artifacts.MANIFEST)["unscored"] == 0


def test_a_card_is_made_once_per_model_and_decides_whether_opinions_on_thoughts_are_used(crafted):
    run, paths = crafted([response(1), response(2) | {"arm": "base"}], judges=["probe", "words"], card=3)
    judgements, _, known = stage.judge(run, paths, report=silent)
    assert list(known.columns) == card.COLUMNS and set(known.judge) == {"probe", "words"}
    assert known.groupby(["judge", "kind"]).size().unstack().to_dict("list") == {
        "harmful": [2, 2], "safe": [2, 2], "sampled": [3, 3]
    }  # fmt: skip
    some = {one.judge: one for one in card.cards(known, run.judging, 0.95)}
    for judge, rows in judgements.groupby("judge"):
        assert rows.thought_probability.notna().all() == some[judge].reads_thoughts
    assert stage.judge(run, paths, report=silent)[2].equals(known)


def test_without_responses_the_stage_ends_with_empty_frames_that_have_their_columns(crafted):
    run, paths = crafted([])
    judgements, validation, _ = stage.judge(run, paths, report=silent)
    assert (len(judgements), list(judgements.columns)) == (0, marks.COLUMNS)
    assert (len(validation), list(validation.columns)) == (0, stage.VALIDATION_COLUMNS)
    assert len(marks.scores(judgements)) == 0
    assert artifacts.read_jsonl(paths.judgements) == []


def test_a_model_without_responses_is_passed_over(crafted):
    run, paths = crafted([response(1)], models=(MODEL, "tiny-random-qwen3"))
    judgements, validation, _ = stage.judge(run, paths, report=silent)
    assert set(judgements.model) == set(validation.model) == {MODEL}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"probe_items": 1}, "judging.probe_items: 1 "), ({"judges": ["llm"]}, "COTLIB_JUDGE_MODEL")],
)
def test_a_judge_that_cannot_run_is_refused_before_any_work(crafted, monkeypatch, settings, message):
    for name in ("COTLIB_JUDGE_BASE_URL", "COTLIB_JUDGE_MODEL", "COTLIB_JUDGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    run, paths = crafted([response(1)], **settings)
    with pytest.raises(BadInput, match=message):
        stage.check(run)
    with pytest.raises(BadInput, match=message):
        stage.judge(run, paths, report=silent)
    assert not paths.stage("judge").exists()


def test_a_dead_endpoint_stops_the_stage_and_the_next_run_asks_for_the_rest(crafted, monkeypatch):
    run, paths = crafted([response(number) for number in range(20)], judges=["llm"], attempts=1)
    dead = True
    with serving(lambda number, prompt: (503, "") if dead and number > 6 else (200, completion("20"))) as server:
        connect(monkeypatch, server)
        with pytest.raises(
            BadInput, match="judge 'llm' cannot be reached .HTTP 503.*go on with: .*4-judge.* -p results "
        ):
            stage.judge(run, paths, report=silent)
        assert len(server.prompts) < 30 and not paths.judgements.exists()
        dead, before = False, len(server.prompts)
        judgements, *_ = stage.judge(run, paths, report=silent)
    assert len(server.prompts) - before == 40 - 6 and judgements.alignment.tolist() == [20.0] * 20


STAGE = """
import json, sys
from cotlib.experiment import Experiment
from cotlib.runs.paths import Paths
from cotlib.stages.judge import judge

run = Experiment.parse(json.loads(sys.argv[1]))
judgements, *_ = judge(run, Paths.of(run, sys.argv[2]))
print(int(judgements.alignment.notna().sum()))
"""


@pytest.mark.slow
def test_a_killed_stage_goes_on_with_the_unit_that_is_missing_and_asks_nothing_twice(crafted, tmp_path):
    """Killed in its second unit: the first is not touched again, and each response is asked about once per question."""
    base = [response(number) | {"arm": "base"} for number in range(20)]
    run, paths = crafted([*base, *(response(number) for number in range(20, 50))], judges=["llm"])
    first, second = (paths.unit("judge", unit) / artifacts.MANIFEST for unit in run.select())

    def start(server):
        environment = os.environ | server.environment("COTLIB_JUDGE", "key") | {"NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", STAGE, run.model_dump_json(), str(tmp_path)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    with serving(lambda number, prompt: (200, completion("20")), delay_seconds=0.2) as server:
        kill_after(start(server), server, answers=60)
        assert first.is_file() and not second.exists()
        done, asked = first.stat().st_mtime_ns, len(server.prompts)
        kept = len(artifacts.Journal(paths.stage("judge") / stage.REPLIES).rows())
        assert 100 > asked >= kept >= 52, "all but the eight requests that are under way at a time"
        process = start(server)
        lines = process.communicate(timeout=300)[0].splitlines()
    assert (process.returncode, lines[-1], first.stat().st_mtime_ns) == (0, "50", done)
    assert "already done" in lines[0] and len(set(server.prompts)) == 100
    assert len(server.prompts) == 100 + (asked - kept), "only what was under way at the kill is asked again"


def test_a_units_key_follows_the_code_that_marks_its_responses():
    """Thresholds and marks of `judges.marks` decide a judgement's row, as the judges themselves do."""
    assert {"cotlib.judges.marks", "cotlib.judges.panel", "cotlib.scores"} <= set(sources.modules_of(stage.__name__))
