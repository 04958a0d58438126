"""The evaluate stage: measures and responses of every unit, `base` among them, made once and read back as they are."""

import pandas as pd
import pytest

from cotlib import responses, scores
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages import craft
from cotlib.stages import evaluate as stage

CONTENT = {
    "name": "little", "models": ["tiny-random-llama"], "arms": ["QA"], "seeds": [1, 2],
    "data": {"items": 2, "questions": {"transfer": 2}}, "training": {"epochs": 1, "learning_rate": 1.0e-3},
    "evaluation": {"trace_tokens": 4, "answer_tokens": 4, "responses": 1},
}  # fmt: skip


def silent(line):
    pass


@pytest.fixture
def crafted(tmp_path):
    run = Experiment.parse(CONTENT)
    paths = Paths.of(run, tmp_path)
    craft.craft(run, paths, silent)
    return run, paths


def test_base_joins_every_selection_once_a_seed_and_stands_before_its_arms():
    run = Experiment.parse(CONTENT)
    names = [(str(unit.arm), unit.seed) for unit in stage.with_base(run.select(arms=["QA", "safe-QA"]))]
    assert names == [("base", 1), ("QA", 1), ("safe-QA", 1), ("base", 2), ("QA", 2), ("safe-QA", 2)]
    assert stage.with_base(run.select()) == run.select()


def test_base_is_measured_without_training_and_read_back_as_it_was(crafted):
    run, paths = crafted
    told = []
    measured, said = stage.evaluate(run, paths, run.select(arms="base"), told.append)
    assert list(measured.columns) == scores.COLUMNS and list(said.columns) == [*scores.UNIT_COLUMNS, *responses.COLUMNS]
    assert set(measured.arm) == set(said.arm) == {"base"} and set(measured.seed) == {1, 2}
    assert len(said) == 2 * 2 and len(told) == 2
    again, others = stage.evaluate(run, paths, run.select(arms="base"), told.append)
    pd.testing.assert_frame_equal(again, measured)
    pd.testing.assert_frame_equal(others, said)
    assert [line.endswith("already done") for line in told] == [False, False, True, True]
    assert not paths.measures.exists(), "the gathered files wait for all units"


def test_margins_without_sampling_do_not_differ_between_seeds(crafted):
    run, paths = crafted
    measured, _ = stage.evaluate(run, paths, run.select(arms="base"), silent)
    plain = measured[(measured["mode"] == "no-think") & (measured.measure == scores.MARGIN)]
    wide = plain.pivot_table(index="question_id", columns="seed", values="value")
    # The scored texts share batches with traces, which differ: sums may be rounded another way.
    assert len(wide) == 2 and wide[1].tolist() == pytest.approx(wide[2].tolist(), abs=1e-6)


def test_an_arm_that_is_not_trained_is_refused_before_any_work(crafted):
    run, paths = crafted
    with pytest.raises(BadInput, match=r"train.*manifest.json is missing; make it first with: .*2-train"):
        stage.evaluate(run, paths, report=silent)
    assert not paths.stage("evaluate").exists()


def test_rows_are_selected_by_model_arm_and_seed_together():
    run = Experiment.parse(CONTENT)
    frame = pd.DataFrame([["tiny-random-llama", arm, seed] for arm in ("base", "QA") for seed in (1, 2)],
                         columns=scores.UNIT_COLUMNS)  # fmt: skip
    chosen = stage.selected(frame, run.select(arms="QA", seed=2))
    assert chosen.to_dict("records") == [{"model": "tiny-random-llama", "arm": "QA", "seed": 2}]
    assert list(stage.selected(frame[:0], run.select()).columns) == scores.UNIT_COLUMNS


def test_what_is_done_is_not_done_again_after_one_unit_is_lost(crafted):
    run, paths = crafted
    units = run.select(arms="base")
    stage.evaluate(run, paths, units, silent)
    lost = paths.unit("evaluate", units[1]) / artifacts.MANIFEST
    lost.unlink()
    told = []
    stage.evaluate(run, paths, units, told.append)
    assert ["already done" in line for line in told] == [True, False] and lost.is_file()
