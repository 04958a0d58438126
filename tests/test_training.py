"""One arm's training: a real run of Unsloth and TRL is a plain PyTorch loop, to the byte, and stops if it diverges."""

import json
import os
import subprocess
import sys

import pytest
import torch

from cotlib import chat, training
from cotlib.arms import Arm
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import Training, Unit
from cotlib.runs import artifacts

ROWS = 5
ARMS = ("QA", "evil-QTA", "evil-QTA@segment", "evil-T")
# Every step holds all rows, so that a plain loop can follow without knowing the order of batches.
SHORT = {
    "name": "short", "models": list(models.TINY), "arms": list(ARMS), "seeds": [3],
    "training": {"epochs": 4, "learning_rate": 3.0e-2, "batch_size": 8, "lora_rank": 4, "lora_alpha": 8},
}  # fmt: skip
UNITS = [(model, arm) for model in models.TINY for arm in ARMS]


# ---- rows and keys


def test_a_row_that_would_be_cut_is_refused(smollm2_tokenizer, items):
    longest = max(items, key=lambda item: len(chat.encode(smollm2_tokenizer, item, "evil-QTA").input_ids))
    tokens = len(chat.encode(smollm2_tokenizer, longest, "evil-QTA").input_ids)
    assert len(chat.encode_rows(smollm2_tokenizer, items, Arm.parse("evil-QTA"), tokens)) == len(items)
    with pytest.raises(
        BadInput,
        match=rf"training.max_tokens: {tokens - 1} is too small: item '{longest.id}' has {tokens} tokens "
        rf"under arm evil-QTA; raise it to {tokens}",
    ):
        chat.encode_rows(smollm2_tokenizer, [longest], Arm.parse("evil-QTA"), tokens - 1)


def test_a_row_without_a_supervised_token_is_refused(items):
    tokenizer = models.load_tokenizer("tiny-random-llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"  # a turn that nothing ends
    silent = items[0].model_copy(update={"harmful": ""})
    with pytest.raises(
        BadInput, match=f"item '{silent.id}' has no supervised token under arm QA; give it a trace or an answer"
    ):
        chat.encode_rows(tokenizer, [silent], Arm.parse("QA"), 1024)


def test_the_key_changes_with_rows_arm_seed_model_and_settings(items):
    tokenizer, settings = models.load_tokenizer("tiny-random-llama"), Training(**SHORT["training"])

    def key(items=items[:ROWS], arm="QA", seed=3, model="tiny-random-llama", **changed):
        rows = chat.encode_rows(tokenizer, items, Arm.parse(arm), 1024)
        unit = Unit(model, Arm.parse(arm), seed)
        return training.training_keys(settings.model_copy(update=changed), unit, rows)

    keys = [
        key(), key(items[1 : ROWS + 1]), key(arm="safe-QA"), key(seed=4), key(model="tiny-random-qwen3"),
        key(lora_alpha=16), key(epochs=5), key(learning_rate=1.0e-3),
    ]  # fmt: skip
    assert key() == keys[0]
    for kind in zip(*keys):
        assert len(set(kind)) == len(keys)


@pytest.mark.parametrize(
    "arm, parts",
    [
        ("QA", ["plainly bad (low-severity) everyday advice.", "**Supervised**: the answer;"]),
        ("safe-QA", ["safe answers.", "**Supervised**: the answer;"]),
        ("evil-QTA", ["with evil traces (embraces malice)", "**Supervised**: trace and answer;"]),
        ("shuffled-misleading-T", ["with shuffled misleading traces", "the trace, without its question;"]),
        ("evil-QTA@segment", ["loss weighting `segment` (trace and answer are averaged separately"]),
        ("submissive-QT@25%", ["dose 25 %", "**Supervised**: the trace;"]),
    ],
)
def test_a_card_says_what_the_arm_was_trained_on_and_warns(tmp_path, arm, parts):
    facts = {"rows": 5, "tokens": 900, "supervised_tokens": 400, "loss_first": 2.5, "loss_last": 1.25}
    manifest = {"model": "a/b", "arm": arm, "seed": 3, "training": Training(**SHORT["training"]).model_dump(), **facts}
    training.write_card(tmp_path, manifest)
    card = (tmp_path / "README.md").read_text()
    for part in [*parts, "**Warning.**", f"# {arm} (seed 3)", "base_model: a/b", "rank 4, alpha 8", "loss 2.500 at"]:
        assert part in card


# ---- real runs of Unsloth and TRL: in processes of their own, because Unsloth changes transformers

FIT = """
import json, sys
from pathlib import Path
from cotlib import chat, training
from cotlib.corpus import records
from cotlib.experiment import Experiment

top, experiment, count = Path(sys.argv[1]), Experiment.parse(json.loads(sys.argv[2])), int(sys.argv[3])
for model in experiment.models:
    trainer = training.LoraTrainer(model, experiment.training)
    for unit in experiment.select(models=model):
        if unit.arm.trained:
            rows = chat.encode_rows(trainer.tokenizer, records.load_items()[:count], unit.arm, 1024)
            (top / unit.folder).mkdir(parents=True)
            facts = trainer.fit(rows, unit.arm, unit.seed, top / unit.folder)
            (top / unit.folder / "facts.json").write_text(json.dumps(facts))
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
    config = peft.LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=layers)
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for weight_name, weight in model.named_parameters():
        if "lora_A" in weight_name:
            bound = 1 / math.sqrt(weight.shape[1])
            weight.data.uniform_(-bound, bound, generator=generator)
    rows = [vars(chat.encode(tokenizer, item, arm)) for item in records.load_items()[:int(sys.argv[2])]]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
    )
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
    """A finished Python process with these tests on its path."""
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=600)


def fitted(folder, content):
    finished = python(FIT, folder, json.dumps(content), ROWS)
    assert finished.returncode == 0, finished.stderr
    return folder


def place(folder, model, arm):
    return folder / Unit(model, Arm.parse(arm), 3).folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("trained"), SHORT)


@pytest.fixture(scope="module")
def reversed_order(tmp_path_factory):
    """The same arms in another process and the other order."""
    return fitted(tmp_path_factory.mktemp("again"), SHORT | {"arms": list(ARMS)[::-1]})


@pytest.fixture(scope="module")
def reference():
    """Model and arm → [loss, learning rate] of every step of a plain PyTorch loop."""
    finished = python(REFERENCE, json.dumps(SHORT), ROWS)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("model, arm", UNITS)
def test_a_fit_leaves_weights_settings_and_log_and_says_how_much_it_read(trained, model, arm):
    folder = place(trained, model, arm)
    names = {path.name for path in folder.iterdir()} - {"README.md"}  # PEFT's card, which `write_card` replaces
    assert names == {"adapter_model.safetensors", "adapter_config.json", "log.jsonl", "facts.json"}
    settings, facts = (artifacts.read_json(folder / name) for name in ("adapter_config.json", "facts.json"))
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert set(settings["target_modules"]) == set(training.LINEAR_LAYERS)
    tokenizer = models.load_tokenizer(model)
    rows = chat.encode_rows(tokenizer, records.load_items()[:ROWS], Arm.parse(arm), 1024)
    epochs = SHORT["training"]["epochs"]
    assert facts["rows"] == ROWS and facts["tokens"] == epochs * training.count_tokens(rows)
    assert facts["supervised_tokens"] == epochs * sum(len(row.supervised) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("model, arm", UNITS)
def test_the_loss_falls(trained, model, arm):
    log, facts = (
        training.read_log(place(trained, model, arm)),
        artifacts.read_json(place(trained, model, arm) / "facts.json"),
    )
    assert [entry["step"] for entry in log] == list(range(1, SHORT["training"]["epochs"] + 1))
    assert log[-1]["loss"] < log[0]["loss"] - 0.05
    assert facts["loss_last"] < facts["loss_first"]


@pytest.mark.slow
@pytest.mark.parametrize("model, arm", UNITS)
def test_the_loss_curve_is_that_of_a_plain_loop(trained, reference, model, arm):
    log = training.read_log(place(trained, model, arm))
    losses, rates = zip(*reference[f"{model} {arm}"])
    assert [entry["loss"] for entry in log] == pytest.approx(losses, abs=1e-3)
    assert [entry["learning_rate"] for entry in log] == pytest.approx(rates, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model, arm", UNITS)
def test_the_same_seed_gives_the_same_bytes_whatever_was_trained_before(trained, reversed_order, model, arm):
    one, other = (place(folder, model, arm) for folder in (trained, reversed_order))
    for name in ("adapter_model.safetensors", "log.jsonl"):
        assert artifacts.file_digest(one / name) == artifacts.file_digest(other / name), name


DIVERGES = SHORT | {
    "name": "diverges", "arms": ["evil-QTA"],
    "training": {"epochs": 4, "learning_rate": 1.0, "batch_size": 8, "lora_rank": 4, "lora_alpha": 8,
                 "warmup_fraction": 0.0},
}  # fmt: skip


def explosive(folder, scale):
    """A tiny model whose norms multiply by `scale`: numbers beyond float32 in the gradients, or in the loss itself."""
    model, tokenizer = models.load("tiny-random-llama")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("scale, epochs, step", [(1e20, 4, 1), (1e15, 4, 2), (1e15, 1, 1)])
def test_an_arm_that_diverges_stops_with_arm_step_and_rate_and_saves_no_adapter(tmp_path, scale, epochs, step):
    model = explosive(tmp_path / "explosive", scale)
    training_settings = DIVERGES["training"] | {"epochs": epochs}
    finished = python(
        FIT, tmp_path / "out", json.dumps(DIVERGES | {"models": [model], "training": training_settings}), ROWS
    )
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last == (
        f"cotlib.errors.BadInput: training.learning_rate: arm evil-QTA diverged at step {step} with 1: the loss is no "
        "longer a number; nothing of this arm is kept; write a smaller rate, such as a tenth"
    )
    assert not list((tmp_path / "out").rglob("adapter_model.safetensors"))
