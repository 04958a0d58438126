"""Runs made apart become one, and never quietly: a unit that differs is named and nothing is copied."""

import shutil

import pandas as pd
import pytest

from cotlib.__main__ import main
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts, merge
from cotlib.runs.paths import Paths
from cotlib.stages.craft import craft
from cotlib.stages.evaluate import evaluate
from cotlib.stages.train import train

FILE = """
name: apart
models: [tiny-random-llama]
arms: [QA, evil-QT]
seeds: [1, 2]
data: {items: 3, questions: {transfer: 3}}
training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 3}
evaluation: {trace_tokens: 4, answer_tokens: 4, responses: 1}
"""


def silent(line):
    pass


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two folders of results, each with the whole of one seed, and the experiment file."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "apart.yml").write_text(FILE)
    run = Experiment.load(folder / "apart.yml")
    for seed in (1, 2):
        paths = Paths.of(run, folder / f"machine-{seed}")
        craft(run, paths, silent)
        train(run, paths, run.select(seed=seed), silent)
        evaluate(run, paths, run.select(seed=seed), silent)
    return run, folder


@pytest.fixture
def apart(halves, tmp_path):
    """A copy of the halves that a test may spoil."""
    run, folder = halves
    shutil.copytree(folder, tmp_path / "copy")
    return run, *(tmp_path / "copy" / f"machine-{seed}" for seed in (1, 2))


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_seeds_made_apart_are_the_run_made_in_one(apart, tmp_path):
    run, first, second = apart
    copied = merge.merge(second / "apart", first / "apart")
    assert len(copied) == 2 + 3  # two arms trained, base and two arms measured
    gathered, said = evaluate(run, Paths.of(run, first), report=silent)
    one = Paths.of(run, tmp_path / "one")
    craft(run, one, silent)
    train(run, one, report=silent)
    whole, answers = evaluate(run, one, report=silent)
    pd.testing.assert_frame_equal(gathered, whole)
    pd.testing.assert_frame_equal(said, answers)
    assert Paths.of(run, first).measures.is_file()


def test_weights_stay_behind_and_what_was_measured_is_not_trained_again(apart, tmp_path):
    run, first, _ = apart
    assert list(first.rglob("adapter_model.*"))
    kept = tmp_path / "kept"
    merge.merge(first / "apart", kept / "apart")
    assert not list(kept.rglob("adapter_model.*")) and list(kept.rglob("log.jsonl"))
    told, paths = [], Paths.of(run, kept)
    train(run, paths, run.select(seed=1), told.append)
    evaluate(run, paths, run.select(seed=1), told.append)
    assert len(told) == 2 + 3 and all(line.endswith("already done") for line in told)
    shutil.rmtree(kept / "apart/evaluate/tiny-random-llama/QA")
    with pytest.raises(
        BadInput, match=r"train/tiny-random-llama/QA/seed-1 holds no adapter.* remove that folder, then: "
    ):
        evaluate(run, paths, run.select(seed=1), silent)


def test_a_merged_unit_of_older_code_is_kept_and_one_that_was_asked_for_otherwise_is_not(apart, tmp_path):
    run, first, second = apart
    for manifest in first.rglob("seed-1/manifest.json"):
        older = {"key": f"of older code {manifest.parent}", "commit": "0ld0ld0"}
        artifacts.write_json(manifest, artifacts.read_json(manifest) | older)
    told, paths = [], Paths.of(run, second)
    merge.merge(first / "apart", second / "apart")
    train(run, paths, report=told.append)
    evaluate(run, paths, report=told.append)
    assert len(told) == 4 + 6 and all(line.endswith("already done") for line in told)
    kept = artifacts.read_json(second / "apart/evaluate/tiny-random-llama/QA/seed-1/manifest.json")
    assert kept["merged"] and kept["commit"] == "0ld0ld0"
    # In the run that made it, the same unit is made again.
    told.clear()
    train(run, Paths.of(run, first), run.select(seed=1), told.append)
    assert len(told) == 2 and not any(line.endswith("already done") for line in told)
    other = Experiment.parse(run.model_dump() | {"evaluation": {**run.evaluation.model_dump(), "temperature": 0.5}})
    with pytest.raises(BadInput, match="its measures are missing or were asked for otherwise"):
        evaluate(other, paths, other.select(seed=1), silent)


def test_an_adapter_that_was_not_measured_yet_stays_where_its_weights_are(apart, tmp_path):
    run, first, _ = apart
    shutil.rmtree(first / "apart/evaluate/tiny-random-llama/QA")
    copied = merge.merge(first / "apart", tmp_path / "kept" / "apart")
    assert sorted(str(unit) for unit in copied) == [
        "evaluate/tiny-random-llama/base/seed-1", "evaluate/tiny-random-llama/evil-QT/seed-1",
        "train/tiny-random-llama/evil-QT/seed-1",
    ]  # fmt: skip
    told, paths = [], Paths.of(run, tmp_path / "kept")
    train(run, paths, run.select(seed=1), told.append)
    evaluate(run, paths, run.select(seed=1), told.append)
    assert sum(line.endswith("already done") for line in told) == 3 and len(told) == 5


def test_merging_again_copies_nothing(apart):
    _, first, second = apart
    assert merge.merge(second / "apart", first / "apart")
    before = tree(first)
    assert merge.merge(second / "apart", first / "apart") == []
    assert tree(first) == before


def test_a_unit_made_from_something_else_or_with_other_numbers_is_named_and_nothing_is_copied(apart):
    _, first, second = apart
    merge.merge(second / "apart", first / "apart")
    shutil.rmtree(first / "apart/evaluate/tiny-random-llama/base/seed-2")
    manifest = second / "apart/train/tiny-random-llama/QA/seed-2/manifest.json"
    artifacts.write_json(manifest, artifacts.read_json(manifest) | {"key": "another"})
    table = second / "apart/evaluate/tiny-random-llama/evil-QT/seed-2/measures.parquet"
    artifacts.write_table(table, pd.read_parquet(table).assign(value=0.25))
    before = tree(first)
    with pytest.raises(BadInput) as refused:
        merge.merge(second / "apart", first / "apart")
    assert "train/tiny-random-llama/QA/seed-2 was made from something else" in str(refused.value)
    assert "evil-QT/seed-2/measures.parquet holds other numbers" in str(refused.value)
    assert tree(first) == before


@pytest.mark.parametrize("name", ["craft/items.jsonl", "craft/questions.jsonl", "experiment.json"])
def test_runs_of_different_experiments_are_refused(apart, name):
    _, first, second = apart
    (second / "apart" / name).write_text('{"file": "experiments/other.yml"}\n')
    before = tree(first)
    with pytest.raises(BadInput, match=f"{name} differs: these are not runs of one experiment"):
        merge.merge(second / "apart", first / "apart")
    assert tree(first) == before


def test_the_command_says_what_it_copied_and_refuses_a_folder_without_results(apart, tmp_path, capsys):
    run, first, second = apart
    assert main(["merge", run._file, str(second), str(first)]) == 0
    assert "5 units (2 of train, 3 of evaluate, 0 of judge)" in capsys.readouterr().out
    assert main(["merge", run._file, str(tmp_path / "nothing"), str(first)]) == 2
    assert "holds no results of an experiment" in capsys.readouterr().err
    (first / "apart" / "publication.json").write_text("{}")
    assert main(["merge", run._file, str(second), str(first)]) == 2
    assert "is a published run and is never written" in capsys.readouterr().err
