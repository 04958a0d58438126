"""A paradigm and a reasoning type are one row each: added at run time, they go through all five stages."""

import json

import pandas as pd
import pytest

from cotlib import arms
from cotlib.contrasts import HYPOTHESES
from cotlib.corpus import records
from cotlib.experiment import ROOT, Experiment
from cotlib.runs.paths import Paths


@pytest.fixture
def grammar(monkeypatch):
    """A paradigm whose trace is read and not learned, and a fourth studied type."""
    quiet = arms.Paradigm(
        "QtA", (arms.QUESTION, arms.OPEN, arms.TRACE, arms.CLOSE, arms.GAP), (arms.ANSWER, arms.END), "QA", "P",
        "the answer, behind a trace that carries no loss",
    )  # fmt: skip
    hasty = arms.ReasoningType("hasty", "wants to be done with it", "#0B7A75", studied=True)
    monkeypatch.setitem(arms.PARADIGMS, quiet.name, quiet)
    monkeypatch.setitem(arms.TYPES, hasty.name, hasty)


@pytest.fixture
def experiment(tmp_path, grammar):
    """Smoke with the new row's arms, over the bundled corpus with one more trace an item."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, load in (("items.jsonl", records.load_items), ("evaluation.jsonl", records.load_evaluation)):
        rows = [record.model_dump(exclude_defaults=True) for record in load()]
        for number, row in enumerate(rows):
            if row.get("traces"):
                row["traces"]["hasty"] = (
                    f"No time for case {number}; whatever comes first will have to do, and off we go."
                )
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "grammar",
        "models": ["tiny-random-llama"],
        "arms": [
            "QA",
            "evil-QTA",
            "neutral-QTA",
            "hasty-QTA",
            "hasty-QtA",
            "evil-QtA",
            "hasty-T",
            "shuffled-hasty-QT",
            "hasty-QT@50%",
        ],
        "data": {"corpus": str(folder), "items": 24, "questions": {"in-domain": 4, "transfer": 4, "values": 4}},
        "training": {"epochs": 1, "learning_rate": 0.01, "batch_size": 4},
        "evaluation": {"trace_tokens": 8, "answer_tokens": 8, "responses": 1},
        "judging": {"probe_items": 20},
    }
    return Experiment.parse(content)


@pytest.mark.slow
def test_an_added_paradigm_and_type_go_through_all_five_stages_and_onto_the_page(experiment, tmp_path):
    from cotlib.findings import differences
    from cotlib.pages import figures, sentences, tables
    from cotlib.stages.check import check
    from cotlib.stages.craft import craft
    from cotlib.stages.evaluate import evaluate
    from cotlib.stages.findings import find
    from cotlib.stages.judge import judge
    from cotlib.stages.train import train

    paths = Paths.of(experiment, str(tmp_path / "results"))
    check(experiment, paths)
    items, _ = craft(experiment, paths)
    assert {"hasty", "shuffled-hasty", "hasty@50%"} <= set(items[0].traces)
    adapters = train(experiment, paths)
    card = (adapters[4] / "README.md").read_text()
    assert "wants to be done with it" in card and "behind a trace that carries no loss" in card
    measures, responses = evaluate(experiment, paths)
    assert set(measures.arm) == {"base", *map(str, experiment.arms)}
    assert "hasty" in set(measures.text[measures.measure == "signature"])
    judgements, *_ = judge(experiment, paths)
    assert set(judgements.arm) == set(responses.arm)
    scores, found = find(experiment, paths)
    names = {row["name"] for claim in HYPOTHESES for row in found[claim]["contrasts"]}
    assert {"hasty-QTA, think", "QtA − QA"} <= names
    frame = differences(scores, experiment.statistics)
    pictures = [
        figures.differences(frame, "all"), figures.modes(frame, "both"), figures.loss_curves(tables.history(adapters)),
    ]  # fmt: skip
    assert all("hasty" in picture.svg for picture in pictures)
    assert arms.TYPES["hasty"].colour.lower() in pictures[0].svg.lower()
    assert {"hasty-QTA, think", "QtA − QA"} <= set(tables.contrasts(found)["name"])
    assert "hasty-QTA − QA" in set(tables.parts(found)["comparison"])
    assert sentences.found(found, experiment) is not None
    assert isinstance(pd.read_parquet(paths.scores), pd.DataFrame)


def test_what_was_added_at_run_time_is_gone_afterwards():
    assert "QtA" not in arms.PARADIGMS and "hasty" not in arms.TYPES
    assert (ROOT / "cotlib" / "arms.py").is_file()
