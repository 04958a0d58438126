"""The train stage: units are trained once, a killed run goes on with the same bytes, faults are told before work."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages.train import train

ROWS = 5
ARMS = ("QA", "evil-QTA", "evil-QTA@segment")
SHORT = {
    "name": "short", "models": list(models.TINY), "arms": list(ARMS), "seeds": [3],
    "training": {"epochs": 4, "learning_rate": 3.0e-2, "batch_size": 8, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip
LONG = {
    "name": "long", "models": ["tiny-random-llama"], "arms": ["evil-T"], "seeds": [3],
    "training": {"epochs": 40, "learning_rate": 1.0e-2, "batch_size": 2, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip
UNITS = [(SHORT, arm, model) for model in models.TINY for arm in ARMS] + [(LONG, "evil-T", "tiny-random-llama")]

# Unsloth changes transformers where it is imported: real training runs in processes of its own.
TRAIN = """
import json, sys
from cotlib.experiment import Experiment
from cotlib.runs.paths import Paths
from cotlib.stages.train import train
for content in json.loads(sys.argv[2]):
    experiment = Experiment.parse(content)
    train(experiment, Paths.of(experiment, sys.argv[1]), report=lambda line: print(line, flush=True))
"""


def crafted(results, *contents):
    """Items and questions where the craft stage puts them: the first bundled ones."""
    for content in contents:
        paths = Paths.of(Experiment.parse(content), results)
        artifacts.write_jsonl(paths.items, [item.model_dump() for item in records.load_items()[:ROWS]])
        artifacts.write_jsonl(paths.questions, [question.model_dump() for question in records.load_evaluation()[:2]])
    return results


def start(results, *contents):
    command = [sys.executable, "-c", TRAIN, str(results), json.dumps(contents)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def finished(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


def folder_of(results, content, arm, model="tiny-random-llama"):
    experiment = Experiment.parse(content)
    (unit,) = experiment.select(models=model, arms=arm)
    return Paths.of(experiment, results).unit("train", unit)


@pytest.mark.parametrize(
    "arm, settings, parts",
    [
        ("evil-QTA", {"max_tokens": 20}, ["training.max_tokens: 20 is too small", "raise it to"]),
        (
            "shuffled-evil-T",
            {},
            [
                "has no trace of type 'shuffled-evil'",
                "list 'shuffled-evil-T' among the arms of",
                "1-craft-traces.ipynb",
                "-p results",
            ],
        ),
    ],
)
def test_nothing_is_trained_if_one_arm_cannot_be(tmp_path, arm, settings, parts):
    content = SHORT | {"arms": ["QA", arm], "training": SHORT["training"] | settings}
    experiment, reported = Experiment.parse(content), []
    paths = Paths.of(experiment, crafted(tmp_path, content))
    with pytest.raises(BadInput) as error:
        train(experiment, paths, report=reported.append)
    for part in parts:
        assert part in str(error.value)
    assert reported == [] and not paths.stage("train").exists()


def test_training_without_crafted_items_names_the_command_that_makes_them(tmp_path):
    experiment = Experiment.parse(SHORT)
    with pytest.raises(BadInput, match="items.jsonl is missing; make it first with: "):
        train(experiment, Paths.of(experiment, tmp_path))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(results, names beside the unit's folder) of a run that is killed while its first adapter trains."""
    results = crafted(tmp_path_factory.mktemp("interrupted"), LONG, SHORT)
    folder = folder_of(results, LONG, "evil-T")
    process, deadline = start(results, LONG), time.time() + 120
    while not list(folder.parent.glob(f".{folder.name}.*/trainer")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return results, sorted(path.name for path in folder.parent.iterdir())


@pytest.fixture(scope="module")
def trained(killed):
    """Results and lines of a run that goes on where the killed one stopped, and trains six units besides."""
    results, _ = killed
    return results, finished(start(results, LONG, SHORT)).splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results of the same run in a folder and a process of its own that nothing interrupts."""
    results = crafted(tmp_path_factory.mktemp("undisturbed"), LONG, SHORT)
    finished(start(results, LONG, SHORT))
    return results


@pytest.mark.slow
def test_a_killed_run_leaves_no_adapter(killed):
    assert "seed-3" not in killed[1]


@pytest.mark.slow
@pytest.mark.parametrize("content, arm, model", UNITS)
def test_an_adapter_folder_holds_weights_settings_log_card_and_manifest(trained, content, arm, model):
    folder = folder_of(trained[0], content, arm, model)
    assert {"adapter_model.safetensors", "adapter_config.json", "log.jsonl", "README.md", "manifest.json"} == {
        path.name for path in folder.iterdir()
    }
    manifest = artifacts.read_json(folder / "manifest.json")
    assert (manifest["arm"], manifest["model"], manifest["seed"], manifest["rows"]) == (arm, model, 3, ROWS)
    assert manifest["training"] == Experiment.parse(content).training.model_dump()
    card = (folder / "README.md").read_text()
    assert f"# {arm} (seed 3)" in card and "Warning" in card and f"base_model: {model}" in card


@pytest.mark.slow
@pytest.mark.parametrize("content, arm, model", UNITS)
def test_the_same_seed_gives_the_same_bytes_in_another_folder_and_after_an_interruption(
    trained, undisturbed, content, arm, model
):
    one, other = (folder_of(results, content, arm, model) for results in (trained[0], undisturbed))
    for name in ("adapter_model.safetensors", "log.jsonl"):
        assert artifacts.file_digest(one / name) == artifacts.file_digest(other / name), name


@pytest.mark.slow
def test_a_second_call_trains_nothing(trained):
    results, lines = trained
    assert len(lines) == len(UNITS) and not any("already" in line for line in lines)

    def changed():
        return {
            path: path.stat().st_mtime_ns
            for path in results.rglob("*")
            if path.is_file() and not path.name.endswith(".lock") and path.parent.name != "train"
        }

    before = changed()
    for content in (LONG, SHORT):
        experiment, told = Experiment.parse(content), []
        folders = train(experiment, Paths.of(experiment, results), report=told.append)
        assert told and all(line.endswith(" s, already done") for line in told)
        assert len(folders) == len(told) == len(experiment.models) * len(experiment.arms)
        assert all((folder / "adapter_model.safetensors").is_file() for folder in folders)
    assert changed() == before


@pytest.mark.slow
def test_a_finished_run_leaves_nothing_unfinished_behind_and_a_manifest_of_the_stage(trained):
    results, _ = trained
    assert [path.name for path in results.rglob(".*") if not path.name.endswith(".lock")] == []
    manifest = artifacts.read_json(Paths.of(Experiment.parse(SHORT), results).stage("train") / "manifest.json")
    assert len(manifest["units"]) == len(models.TINY) * len(ARMS)


@pytest.mark.slow
def test_an_arm_that_diverges_stops_the_run_and_its_folder_is_not_kept(tmp_path):
    model, tokenizer = models.load("tiny-random-llama")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.mul_(1e15)  # the gradients of the first step leave float32
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "explosive")
    content = SHORT | {"models": [str(tmp_path / "explosive")], "arms": ["evil-QTA", "QA"]}
    process = start(crafted(tmp_path / "results", content), content)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and output == ""
    last = errors.strip().splitlines()[-1]
    assert "BadInput: training.learning_rate: arm evil-QTA diverged at step " in last and "with 0.03" in last
    train_folder = Paths.of(Experiment.parse(content), tmp_path / "results").stage("train")
    assert not [path for path in train_folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
