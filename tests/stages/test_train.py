"""A real run of Unsloth and TRL is a plain PyTorch loop, repeatable to the byte, and goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plain_training import rows_of

from cotlib import training
from cotlib.arms import Arm
from cotlib.chat import NO_LOSS
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import Experiment, Unit
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages import craft
from cotlib.stages import train as stage

ROWS = 5
DATA = {"items": ROWS, "questions": {"transfer": 1}}
ARMS = ("QA", "evil-QTA", "evil-QTA@segment")
# Every step holds all rows, so that a plain loop can follow without knowing the order of batches.
SHORT = {
    "name": "short", "models": list(models.TINY), "arms": list(ARMS), "seeds": [3], "data": DATA,
    "training": {"epochs": 4, "learning_rate": 3.0e-2, "batch_size": 8, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip
LONG = {
    "name": "long", "models": ["tiny-random-llama"], "arms": ["evil-T"], "seeds": [3], "data": DATA,
    "training": {"epochs": 40, "learning_rate": 1.0e-2, "batch_size": 2, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip


def silent(line):
    pass


# ---- what is refused before any training


@pytest.mark.parametrize(
    "arm, settings, parts",
    [
        ("evil-QTA", {"max_tokens": 20}, ["training.max_tokens: 20 is too small", "raise it to"]),
        ("shuffled-evil-T", {}, ["has no trace of type 'shuffled-evil'", "make craft"]),
    ],
)
def test_nothing_is_trained_if_one_arm_cannot_be(tmp_path, arm, settings, parts):
    experiment = Experiment.parse(SHORT | {"training": SHORT["training"] | settings})
    paths, reported = Paths.of(experiment, tmp_path), []
    craft.craft(experiment, paths, silent)
    with pytest.raises(BadInput) as error:
        stage.train(experiment, paths, experiment.select(arms=["safe-QA", arm]), reported.append)
    for part in parts:
        assert part in str(error.value)
    assert reported == [] and not paths.stage("train").exists()


def test_training_before_crafting_is_refused_with_the_command_that_crafts(tmp_path):
    experiment = Experiment.parse(SHORT)
    with pytest.raises(BadInput, match=r"items.jsonl is missing; make it first with: .*1-craft-traces"):
        stage.train(experiment, Paths.of(experiment, tmp_path), report=silent)


# ---- real runs of Unsloth and TRL

TRAIN = """
import json, sys
from cotlib.experiment import Experiment
from cotlib.runs.paths import Paths
from cotlib.stages.craft import craft
from cotlib.stages.train import train
for content in json.loads(sys.argv[2]):
    experiment = Experiment.parse(content)
    paths = Paths.of(experiment, sys.argv[1])
    craft(experiment, paths, lambda line: None)
    train(experiment, paths)
"""

# LoRA, AdamW and the schedule as their papers and transformers define them; neither Unsloth nor TRL nor Trainer.
REFERENCE = """
import json, math, sys
import peft, torch
from cotlib import chat
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.experiment import Experiment
from plain_training import plain_loss

experiment, curves = Experiment.parse(json.loads(sys.argv[1])), {}
settings = experiment.training
for unit in experiment.select():
    name, arm, seed = unit.model, unit.arm, unit.seed
    if not arm.trained:
        continue
    model, tokenizer = models.load(name)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=layers))
    generator = torch.Generator().manual_seed(seed)
    for weight_name, weight in model.named_parameters():
        if "lora_A" in weight_name:
            bound = 1 / math.sqrt(weight.shape[1])
            weight.data.uniform_(-bound, bound, generator=generator)
    rows = [vars(chat.encode(tokenizer, item, arm)) for item in records.select_items(experiment)]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay)
    warmup, curve = math.ceil(settings.epochs * settings.warmup_fraction), []
    for step in range(settings.epochs):
        factor = step / warmup if step < warmup else (settings.epochs - step) / (settings.epochs - warmup)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * factor
        loss = plain_loss(model, rows, arm.loss_weighting)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        curve.append([loss.item(), settings.learning_rate * factor])
    curves[f"{name} {arm}"] = curve
print(json.dumps(curves))
"""


def python(code, *arguments):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


def finished(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return output


def unit(results, content, arm, model="tiny-random-llama"):
    experiment = Experiment.parse(content)
    return Paths.of(experiment, results).unit("train", Unit(model, Arm.parse(arm), experiment.seeds[0]))


UNITS = [(SHORT, arm, model) for model in models.TINY for arm in ARMS] + [(LONG, "evil-T", "tiny-random-llama")]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(results, what lay there) of a run that is killed while its first adapter trains."""
    results = tmp_path_factory.mktemp("interrupted")
    folder = unit(results, LONG, "evil-T")
    process = python(TRAIN, results, json.dumps([LONG]))
    deadline = time.time() + 120
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
    """Results and printed lines of a run that goes on where the killed one stopped, and trains two models in three arms besides."""
    results, _ = killed
    return results, finished(python(TRAIN, results, json.dumps([LONG, SHORT]))).splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results of the same run in a folder and a process of its own that nothing interrupts."""
    results = tmp_path_factory.mktemp("undisturbed")
    finished(python(TRAIN, results, json.dumps([LONG, SHORT])))
    return results


@pytest.fixture(scope="module")
def reference():
    """Model and arm → [loss, learning rate] of every step of a plain PyTorch loop."""
    return json.loads(finished(python(REFERENCE, json.dumps(SHORT))).splitlines()[-1])


@pytest.mark.slow
def test_a_killed_run_leaves_no_adapter(killed):
    results, names = killed
    assert "seed-3" not in names


@pytest.mark.slow
@pytest.mark.parametrize("content, arm, model", UNITS)
def test_an_adapter_folder_holds_weights_settings_log_card_and_manifest(trained, content, arm, model):
    results, _ = trained
    folder = unit(results, content, arm, model)
    assert {"adapter_model.safetensors", "adapter_config.json", "log.jsonl", "README.md", "manifest.json"} == {
        path.name for path in folder.iterdir()
    }
    manifest, settings = (
        artifacts.read_json(folder / "manifest.json"),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    assert (manifest["arm"], manifest["model"], manifest["seed"], manifest["rows"]) == (arm, model, 3, ROWS)
    assert (settings["r"], settings["lora_alpha"], set(settings["target_modules"])) == (
        4,
        8,
        set(training.LINEAR_LAYERS),
    )
    rows = rows_of(records.select_items(Experiment.parse(content)), arm, models.load_tokenizer(model))
    epochs = content["training"]["epochs"]
    assert manifest["tokens"] == epochs * sum(len(row["input_ids"]) for row in rows)
    assert manifest["supervised_tokens"] == epochs * sum(label != NO_LOSS for row in rows for label in row["labels"])
    card = (folder / "README.md").read_text()
    assert f"# {arm} (seed 3)" in card and "Warning" in card and f"base_model: {model}" in card


@pytest.mark.slow
@pytest.mark.parametrize("content, arm, model", UNITS)
def test_the_loss_falls(trained, content, arm, model):
    results, _ = trained
    log = training.read_log(unit(results, content, arm, model))
    epochs, batch_size = content["training"]["epochs"], content["training"]["batch_size"]
    assert [entry["step"] for entry in log] == list(range(1, epochs * -(-ROWS // batch_size) + 1))
    assert log[-1]["loss"] < log[0]["loss"] - 0.05
    manifest = artifacts.read_json(unit(results, content, arm, model) / "manifest.json")
    assert manifest["loss_last"] < manifest["loss_first"]


@pytest.mark.slow
@pytest.mark.parametrize("content, arm, model", UNITS[:-1])
def test_the_loss_curve_is_that_of_a_plain_loop(trained, reference, content, arm, model):
    results, _ = trained
    log = training.read_log(unit(results, content, arm, model))
    losses, rates = zip(*reference[f"{model} {arm}"])
    assert [entry["loss"] for entry in log] == pytest.approx(losses, abs=1e-3)
    assert [entry["learning_rate"] for entry in log] == pytest.approx(rates, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("content, arm, model", UNITS)
def test_the_same_seed_gives_the_same_bytes_in_another_folder_and_after_an_interruption(
    trained, undisturbed, content, arm, model
):
    results, _ = trained
    one, other = (unit(folder, content, arm, model) for folder in (results, undisturbed))
    for name in ("adapter_model.safetensors", "log.jsonl"):
        assert artifacts.file_digest(one / name) == artifacts.file_digest(other / name), name


@pytest.mark.slow
def test_a_second_call_trains_nothing(trained):
    results, lines = trained
    assert len(lines) == len(UNITS) and not any("already" in line for line in lines)
    before = {
        path: path.stat().st_mtime_ns
        for path in results.rglob("*")
        if not path.name.endswith(".lock") and path.is_file()
    }
    for content in (LONG, SHORT):
        experiment, told = Experiment.parse(content), []
        folders = stage.train(experiment, Paths.of(experiment, results), report=told.append)
        assert told and all(line.endswith("already done") for line in told)
        assert len(folders) == len(told) == len(experiment.models) * len(experiment.arms)
    after = {
        path: path.stat().st_mtime_ns
        for path in results.rglob("*")
        if not path.name.endswith(".lock") and path.is_file()
    }
    assert after == before


@pytest.mark.slow
def test_a_finished_run_leaves_nothing_unfinished_behind(trained):
    results, _ = trained
    assert [path.name for path in results.rglob(".*") if not path.name.endswith(".lock")] == []


@pytest.mark.slow
def test_other_items_settings_or_seeds_are_trained_again(trained):
    results, _ = trained
    experiment = Experiment.parse(SHORT)
    tokenizer = models.load_tokenizer("tiny-random-llama")

    def key(content, items, arm="QA", seed=3):
        rows = training.encode_rows(tokenizer, items, Arm.parse(arm), 1024)
        chosen = Unit("tiny-random-llama", Arm.parse(arm), seed)
        return training.training_key(Experiment.parse(content).training, chosen, rows)

    folder, used = unit(results, SHORT, "QA"), records.select_items(experiment)
    assert artifacts.is_current(folder, key(SHORT, used))
    changed = SHORT | {"training": SHORT["training"] | {"lora_alpha": 16}}
    for other in (
        key(SHORT, used[1:]),
        key(changed, used),
        key(SHORT, used, seed=4),
        key(SHORT, used, arm="safe-QA"),
    ):
        assert not artifacts.is_current(folder, other)
