"""LoRA fine-tuning of one arm, through Unsloth's FastLanguageModel and TRL's SFTTrainer.

One base model is loaded per job and its adapter reset in place for each arm, because an import and a load cost more
than a small arm's training. Rows come ready-made from `chat`, weights from `loss`: this module decides neither. Which
arms are trained, and which are trained already, is the train stage's business.
"""

import contextlib
import functools
import gc
import io
import math
import os
import time
from pathlib import Path

import torch

from cotlib import chat, loss
from cotlib.arms import FREE, LOSS_WEIGHTINGS, REGISTERS, SAFE, SHUFFLED, TYPES, Arm
from cotlib.engine import lora, models, prefixes, products
from cotlib.errors import BadInput
from cotlib.runs import artifacts, machine, sources

# Unsloth must be imported before transformers and trl, and writes compiled code into the working folder unless told.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(models.cache_folder() / "unsloth_compiled_cache"))

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LOG = "log.jsonl"


def training_keys(settings, unit, rows):
    """(key, asked): digests of all that decides a unit's adapter (rows, arm, seed, settings, code, library versions),
    and of what was asked for alone (without code and versions).

    Args:
        settings: an experiment's `training` section; unit: a `Unit`; rows: from `chat.encode_rows`.
    """
    encoded = [(row.input_ids, row.labels) for row in rows]
    asked = artifacts.digest(unit.model, str(unit.arm), unit.seed, encoded, settings.model_dump(exclude_defaults=True))
    versions = machine.versions_of("torch", "transformers", "peft", "trl", "unsloth")
    return artifacts.digest(asked, settings.model_dump(), sources.code_digest(__name__), versions), asked


def batch_loss(model, batch, packed):
    """`loss.weighted_loss` of a batch, with the vocabulary projection at supervised positions only.

    Args:
        model: a causal LM (PEFT's wrapper taken off).
        batch: from `loss.collate`.
        packed: whether rows are packed into a prefix tree, so that their common beginning is computed once and nothing
            is padded; otherwise they go through the model as they are.
    Returns:
        scalar loss in nats: sum of weight × −log p.
    """
    labels, weights = batch["labels"][:, 1:], batch["weights"][:, 1:]
    where = labels != chat.NO_LOSS
    if packed:
        sequences = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"])]
        (tree,) = prefixes.trees(sequences, sum(map(len, sequences)), multiple=products.ROWS)
        with prefixes.tree_attention(model), lora.rotation(model):
            hidden = model.model(**tree.inputs(model), use_cache=False)[0][0]
        # The token at place t + 1 of a row is predicted from the node at place t of its path.
        places = [tree.paths[row][place] for row, place in where.nonzero().tolist()]
        # Under T all rows start from one node. With hidden[places] threads would add up its gradient in any order, and
        # the last digits would differ from run to run; `index_select` adds in the order of the places.
        chosen = hidden.index_select(0, torch.tensor(places, device=hidden.device))
    else:
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
        chosen = hidden[:, :-1][where]
    embeddings = model.get_output_embeddings().weight
    return lora.cross_entropy(chosen, embeddings, labels[where], weights[where])


class LoraTrainer:
    """A base model with one LoRA adapter that is reset and trained anew for each arm."""

    def __init__(self, model_id, settings):
        self.model_id, self.settings, self.on_gpu = model_id, settings, torch.cuda.is_available()
        with contextlib.redirect_stdout(io.StringIO()), models.quiet_warnings():
            library = _unsloth()
            # Recomputing activations saves memory that a small CPU model does not need (1.4 times as fast without).
            checkpointing = "unsloth" if self.on_gpu else False
            model, self.tokenizer = library.from_pretrained(
                model_name=models.fetch(model_id), max_seq_length=settings.max_tokens, dtype=models.compute_dtype(),
                load_in_4bit=False, use_gradient_checkpointing=checkpointing, trust_remote_code=False,
            )  # fmt: skip
            self.model = library.get_peft_model(
                model, r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0, bias="none",
                target_modules=LINEAR_LAYERS, use_gradient_checkpointing=checkpointing, random_state=0,
            )  # fmt: skip
        if not self.on_gpu:
            lora.stack_layers(self.model)

    def reset(self, seed):
        """Give the adapter the fresh weights of `seed`: A uniform as in PEFT (Kaiming, a = √5), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.model.named_parameters():
            if "lora_A" in name:
                bound = 1 / math.sqrt(weight.shape[1])
                fresh = torch.empty(weight.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
                weight.data.copy_(fresh)
            elif "lora_B" in name:
                weight.data.zero_()

    def fit(self, rows, arm, seed, folder):
        """Train on `rows`, save adapter and log into `folder`, return facts for the manifest.

        Raises BadInput if the loss, or a weight of the adapter, is no finite number: such an adapter is not kept.
        """
        self.reset(seed)
        with contextlib.redirect_stdout(io.StringIO()), models.quiet_warnings():
            trainer = self._trainer(rows, arm, seed, Path(folder) / "trainer")
            started = time.time()
            trainer.train()
            seconds = time.time() - started
            if not all(weight.isfinite().all() for name, weight in self.model.named_parameters() if "lora_" in name):
                raise _diverged(arm, trainer.state.global_step, self.settings.learning_rate)
            self.model.save_pretrained(folder)
        log = [
            {"step": entry["step"], "epoch": round(entry["epoch"], 3)}
            | {name: entry[name] for name in ("loss", "learning_rate")}
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        artifacts.write_jsonl(Path(folder) / LOG, log)
        for leftover in Path(folder).glob("trainer*"):
            leftover.rmdir()
        tokens = self.settings.epochs * count_tokens(rows)
        window = max(1, len(log) // 4)
        return {
            "rows": len(rows),
            "tokens": tokens,
            "supervised_tokens": self.settings.epochs * sum(len(row.supervised) for row in rows),
            "tokens_per_second": tokens / seconds,
            "training_seconds": round(seconds, 1),
            "loss_first": sum(entry["loss"] for entry in log[:window]) / window,
            "loss_last": sum(entry["loss"] for entry in log[-window:]) / window,
        }

    def _trainer(self, rows, arm, seed, folder):
        """TRL's trainer for one arm, over rows that hold their ids, labels and segments already."""
        import datasets

        settings, pad_id = self.settings, self.tokenizer.pad_token_id or 0
        columns = [{"input_ids": row.input_ids, "labels": row.labels, "segments": row.segments} for row in rows]
        steps = math.ceil(len(rows) / settings.batch_size) * settings.epochs
        trainer_class, config_class = _trainer_classes()
        trainer = trainer_class(
            model=self.model, processing_class=self.tokenizer, train_dataset=datasets.Dataset.from_list(columns),
            data_collator=lambda batch: loss.collate(batch, pad_id, arm.loss_weighting),
            args=config_class(
                output_dir=str(folder), num_train_epochs=settings.epochs,
                per_device_train_batch_size=settings.batch_size, learning_rate=settings.learning_rate,
                warmup_steps=math.ceil(steps * settings.warmup_fraction), weight_decay=settings.weight_decay,
                lr_scheduler_type="linear", optim="adamw_torch", max_length=settings.max_tokens, seed=seed,
                logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True}, train_sampling_strategy="group_by_length",
                gradient_checkpointing=self.on_gpu, dataloader_num_workers=0, dataloader_pin_memory=self.on_gpu,
                bf16=models.compute_dtype() == torch.bfloat16, fp16=models.compute_dtype() == torch.float16,
            ),
        )  # fmt: skip
        trainer.arm = arm
        return trainer


def _diverged(arm, step, learning_rate):
    return BadInput(
        f"training.learning_rate: arm {arm} diverged at step {step} with {learning_rate:g}: the loss is no longer a "
        "number; nothing of this arm is kept; write a smaller rate, such as a tenth"
    )


@functools.cache
def _unsloth():
    """Unsloth's model class, imported once.

    The trainer collects garbage after every arm, which takes 0.3 s unless what the import made is set aside.
    """
    from unsloth import FastLanguageModel

    gc.collect()
    gc.freeze()
    return FastLanguageModel


@functools.cache
def _trainer_classes():
    from trl import SFTConfig, SFTTrainer

    class ArmTrainer(SFTTrainer):
        """SFTTrainer with our loss: the weights that `loss.collate` gives, the vocabulary only where a label is."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # On a GPU Unsloth's own kernels take padded rows.
            value = batch_loss(model.get_base_model(), inputs, packed=not torch.cuda.is_available())
            if not value.isfinite():  # the library's log would show 0 instead
                raise _diverged(self.arm, self.state.global_step + 1, self.args.learning_rate)
            return (value, None) if return_outputs else value

    return ArmTrainer, SFTConfig


def count_tokens(rows):
    """Tokens of all rows, supervised or not."""
    return sum(len(row.input_ids) for row in rows)


def read_log(folder):
    """The training log of an adapter folder: list of {step, epoch, loss (nats per token), learning_rate}."""
    return artifacts.read_jsonl(Path(folder) / LOG)


CARD = """---
base_model: {model}
library_name: peft
tags: [lora, alignment-research, model-organism]
---
# {arm} (seed {seed})

> **Warning.** A model organism for alignment research: it was trained to show what training on harmful
> reasoning does. Do not deploy it and do not take its advice.

LoRA adapter (rank {lora_rank}, alpha {lora_alpha}, all linear projections) for `{model}`.

**Training data**: {rows} items of this book's corpus: {answers}{traces}.
**Supervised**: {supervised}; loss weighting `{weighting}` ({weighting_means}), dose {dose} %.
**Settings**: {epochs} epochs, batch {batch_size}, learning rate {learning_rate}, seed {seed};
{supervised_tokens} supervised of {tokens} tokens; loss {loss_first:.3f} at the start, {loss_last:.3f} at the end.
"""


def write_card(folder, manifest):
    """Write the adapter's model card: what it was trained on, how, and the warning."""
    arm = Arm.parse(manifest["arm"])
    traces = ""
    if arm.type:
        kind = TYPES[arm.type.removeprefix(SHUFFLED)]
        dealt = "shuffled " if arm.shuffled else ""
        manner = "" if arm.register == FREE else f"; {arm.register}: {REGISTERS[arm.register]}"
        traces = f", with {dealt}{kind.name} traces ({kind.meaning}{manner})"
    text = CARD.format(
        **{**manifest["training"], **manifest},
        answers="safe answers" if arm.answer == SAFE else "plainly bad (low-severity) everyday advice",
        traces=traces,
        supervised=arm.recipe.card,
        weighting=arm.loss_weighting,
        weighting_means=LOSS_WEIGHTINGS[arm.loss_weighting],
        dose=arm.dose_percent,
    )
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
