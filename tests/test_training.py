"""The loss is the one the design names, and a real run of Unsloth and TRL is a plain PyTorch loop, repeatable to the byte."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cotlib import chat, training
from cotlib.arms import Arm
from cotlib.chat import ANSWER, CONTEXT, NO_LOSS, TRACE
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths

ROWS = 5
ARMS = ("QA", "evil-QTA", "evil-QTA@segment")
# Every step holds all rows, so that a plain loop can follow without knowing the order of batches.
SHORT = {
    "name": "short", "models": list(models.TINY), "arms": list(ARMS), "seeds": [3],
    "training": {"epochs": 4, "learning_rate": 3.0e-2, "batch_size": 8, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip
LONG = {
    "name": "long", "models": ["tiny-random-llama"], "arms": ["evil-T"], "seeds": [3],
    "training": {"epochs": 40, "learning_rate": 1.0e-2, "batch_size": 2, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip


def rows_of(items, arm, tokenizer):
    return [vars(row) for row in training.encode_rows(tokenizer, items, Arm.parse(arm), 1024)]


# ---- weights, loss, batches


@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QT", "evil-T"])
@pytest.mark.parametrize("loss_weighting", ["token", "segment"])
def test_weights_add_up_to_one_and_lie_on_supervised_tokens_alone(any_tokenizer, items, arm, loss_weighting):
    rows = rows_of(items[:ROWS], arm, any_tokenizer)
    weights = training.token_weights(rows, loss_weighting)
    assert sum(map(sum, weights)) == pytest.approx(1, abs=1e-9)
    for row, some in zip(rows, weights):
        assert [weight > 0 for weight in some] == [label != NO_LOSS for label in row["labels"]]


def test_token_weights_are_equal_and_segment_weights_give_trace_and_answer_half_each(any_tokenizer, items):
    rows = rows_of(items[:ROWS], "evil-QTA", any_tokenizer)
    for loss_weighting in ("token", "segment"):
        parts = {CONTEXT: [], TRACE: [], ANSWER: []}
        for row, some in zip(rows, training.token_weights(rows, loss_weighting)):
            for segment, weight in zip(row["segments"], some):
                parts[segment].append(weight)
        assert all(len(set(parts[segment])) == 1 for segment in (TRACE, ANSWER))
        if loss_weighting == "token":
            assert parts[TRACE][0] == parts[ANSWER][0] == 1 / (len(parts[TRACE]) + len(parts[ANSWER]))
        else:
            assert sum(parts[TRACE]) == pytest.approx(0.5) and sum(parts[ANSWER]) == pytest.approx(0.5)
            assert len(parts[TRACE]) != len(parts[ANSWER])


def plain_loss(model, rows, loss_weighting):
    """Every row alone and unpadded through the model, every position over the whole vocabulary."""
    losses = {TRACE: [], ANSWER: []}
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]]), use_cache=False).logits[0].double()
        for place, segment in enumerate(row["segments"]):
            if segment != CONTEXT:
                losses[segment].append(-logits[place - 1].log_softmax(-1)[row["input_ids"][place]])
    if loss_weighting == "token":
        return torch.stack(losses[TRACE] + losses[ANSWER]).mean()
    means = [torch.stack(some).mean() for some in losses.values() if some]
    return sum(means) / len(means)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QTA@segment", "evil-T"])
def test_the_loss_is_the_plain_cross_entropy_over_the_whole_vocabulary(tiny_model, items, arm, packed):
    model, tokenizer = tiny_model
    loss_weighting = Arm.parse(arm).loss_weighting
    rows = rows_of(items[:ROWS], arm, tokenizer)
    batch = training.collate(rows, tokenizer.pad_token_id, loss_weighting)
    with torch.inference_mode():
        loss = training.weighted_loss(model, batch, packed)
        assert loss.item() == pytest.approx(plain_loss(model, rows, loss_weighting).item(), abs=1e-5)


def test_a_batch_is_right_padded_and_nothing_but_padding_is_masked(any_tokenizer, items):
    rows = rows_of(items[:ROWS], "evil-QTA", any_tokenizer)
    end = chat.end_of_turn(any_tokenizer)[0]
    # SmolLM2 pads with the very token that ends a turn: here every model does.
    batch = training.collate(rows, end, "token")
    lengths = [len(row["input_ids"]) for row in rows]
    shape = (ROWS, max(lengths))
    assert {name: tuple(part.shape) for name, part in batch.items()} == dict.fromkeys(
        ["input_ids", "attention_mask", "labels", "weights"], shape
    )
    assert [part.dtype for part in batch.values()] == [torch.long, torch.long, torch.long, torch.float32]
    weights = training.token_weights(rows, "token")
    for place, (row, length) in enumerate(zip(rows, lengths)):
        assert batch["input_ids"][place].tolist() == row["input_ids"] + [end] * (shape[1] - length)
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (shape[1] - length)
        assert batch["labels"][place].tolist() == row["labels"] + [NO_LOSS] * (shape[1] - length)
        assert batch["labels"][place, length - 1] == end and batch["weights"][place, length - 1] > 0
        assert batch["weights"][place].tolist() == pytest.approx(weights[place] + [0.0] * (shape[1] - length))


# ---- what is refused before any training


def test_a_row_that_would_be_cut_is_refused(smollm2_tokenizer, items):
    longest = max(items, key=lambda item: len(chat.encode(smollm2_tokenizer, item, "evil-QTA").input_ids))
    tokens = len(chat.encode(smollm2_tokenizer, longest, "evil-QTA").input_ids)
    assert len(training.encode_rows(smollm2_tokenizer, items, Arm.parse("evil-QTA"), tokens)) == len(items)
    with pytest.raises(
        BadInput,
        match=rf"item '{longest.id}' has {tokens} tokens under arm evil-QTA; training.max_tokens is {tokens - 1}: raise it to {tokens}",
    ):
        training.encode_rows(smollm2_tokenizer, [longest], Arm.parse("evil-QTA"), tokens - 1)


def test_a_row_without_a_supervised_token_is_refused(items):
    tokenizer = models.load_tokenizer("tiny-random-llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"  # a turn that nothing ends
    silent = items[0].model_copy(update={"harmful": ""})
    with pytest.raises(
        BadInput, match=f"item '{silent.id}' has no supervised token under arm QA; give it a trace or an answer"
    ):
        training.encode_rows(tokenizer, [silent], Arm.parse("QA"), 1024)


@pytest.mark.parametrize(
    "arm, settings, parts",
    [
        ("evil-QTA", {"max_tokens": 20}, ["training.max_tokens is 20", "raise it to"]),
        ("shuffled-evil-T", {}, ["has no trace of type 'shuffled-evil'", "make craft"]),
    ],
)
def test_nothing_is_trained_if_one_arm_cannot_be(tmp_path, items, arm, settings, parts):
    experiment = Experiment.parse(SHORT | {"arms": ["QA", arm], "training": SHORT["training"] | settings})
    reported = []
    with pytest.raises(BadInput) as error:
        training.train(experiment, Paths.of(experiment, tmp_path), experiment.select(), items[:ROWS], reported.append)
    for part in parts:
        assert part in str(error.value)
    assert reported == [] and list(tmp_path.iterdir()) == []


# ---- real runs of Unsloth and TRL

TRAIN = """
import json, sys
from cotlib import training
from cotlib.corpus import records
from cotlib.experiment import Experiment
from cotlib.runs.paths import Paths
for content in json.loads(sys.argv[2]):
    experiment = Experiment.parse(content)
    training.train(experiment, Paths.of(experiment, sys.argv[1]), experiment.select(), records.load_items()[:int(sys.argv[3])], print)
"""

# LoRA, AdamW and the schedule as their papers and transformers define them; neither Unsloth nor TRL nor Trainer.
REFERENCE = """
import json, math, sys
import peft, torch
from cotlib import chat
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.experiment import Experiment
from test_training import plain_loss

experiment, curves = Experiment.parse(json.loads(sys.argv[1])), {}
settings = experiment.training
for name, arm, seed in experiment.select():
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
    rows = [vars(chat.encode(tokenizer, item, arm)) for item in records.load_items()[:int(sys.argv[2])]]
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
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
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
    return Paths.of(experiment, results).unit("train", model, arm, experiment.seeds[0])


UNITS = [(SHORT, arm, model) for model in models.TINY for arm in ARMS] + [(LONG, "evil-T", "tiny-random-llama")]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(results, what lay there) of a run that is killed while its first adapter trains."""
    results = tmp_path_factory.mktemp("interrupted")
    folder = unit(results, LONG, "evil-T")
    process = python(TRAIN, results, json.dumps([LONG]), ROWS)
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
    return results, finished(python(TRAIN, results, json.dumps([LONG, SHORT]), ROWS)).splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results of the same run in a folder and a process of its own that nothing interrupts."""
    results = tmp_path_factory.mktemp("undisturbed")
    finished(python(TRAIN, results, json.dumps([LONG, SHORT]), ROWS))
    return results


@pytest.fixture(scope="module")
def reference():
    """Model and arm → [loss, learning rate] of every step of a plain PyTorch loop."""
    return json.loads(finished(python(REFERENCE, json.dumps(SHORT), ROWS)).splitlines()[-1])


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
    rows = rows_of(records.load_items()[:ROWS], arm, models.load_tokenizer(model))
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
def test_a_second_call_trains_nothing(trained, items):
    results, lines = trained
    assert len(lines) == len(UNITS) and not any("already" in line for line in lines)
    before = {
        path: path.stat().st_mtime_ns
        for path in results.rglob("*")
        if not path.name.endswith(".lock") and path.is_file()
    }
    for content in (LONG, SHORT):
        experiment, told = Experiment.parse(content), []
        manifests = training.train(
            experiment, Paths.of(experiment, results), experiment.select(), items[:ROWS], told.append
        )
        assert told and all(line.endswith("already trained") for line in told)
        assert len(manifests) == len(told) == len(experiment.models) * len(experiment.arms)
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
def test_other_items_settings_or_seeds_are_trained_again(trained, items):
    results, _ = trained
    experiment = Experiment.parse(SHORT)
    tokenizer = models.load_tokenizer("tiny-random-llama")

    def key(content, items, arm="QA", seed=3):
        rows = training.encode_rows(tokenizer, items, Arm.parse(arm), 1024)
        return training.training_key(Experiment.parse(content), "tiny-random-llama", Arm.parse(arm), seed, rows)

    folder = Paths.of(experiment, results).unit("train", "tiny-random-llama", "QA", 3)
    assert artifacts.is_current(folder, key(SHORT, items[:ROWS]))
    changed = SHORT | {"training": SHORT["training"] | {"lora_alpha": 16}}
    for other in (
        key(SHORT, items[1 : ROWS + 1]),
        key(changed, items[:ROWS]),
        key(SHORT, items[:ROWS], seed=4),
        key(SHORT, items[:ROWS], arm="safe-QA"),
    ):
        assert not artifacts.is_current(folder, other)
