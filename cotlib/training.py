"""LoRA fine-tuning of every arm, through Unsloth's FastLanguageModel and TRL's SFTTrainer.

One base model is loaded per job and its adapter reset in place for each arm, because an import and a
load cost more than a small arm's training. Rows come ready-made from `chat`: this module decides no
loss mask, it only weighs what `chat` marked. An arm that is already trained from the same inputs is
not trained again; an interrupted one leaves nothing behind and starts over.
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

from cotlib import chat
from cotlib.corpus import traces
from cotlib.engine import lora, models, prefixes, products
from cotlib.errors import BadInput
from cotlib.experiment import Arm, slug
from cotlib.runs import artifacts, sources

# Unsloth must be imported before transformers and trl, and writes compiled code into the working folder unless told otherwise.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(models.cache_folder() / "unsloth_compiled_cache"))

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LOG = "log.jsonl"


def train(experiment, paths, jobs, items, report=print):
    """Train the given (model, arm, seed) triples; yields nothing, returns one record per adapter.

    Args:
        jobs: triples as `Experiment.select` gives them; `base` needs no training and is passed over.
        items: the crafted items, with a trace of every type the arms ask for.
        report: called with one line per arm.
    Returns:
        list of adapter manifests (arm, model, seed, rows, tokens, supervised_tokens, seconds, …).
    Raises:
        BadInput: an item lacks a trace, or a row is longer than `training.max_tokens`: before any training.
    """
    jobs = [(model, arm, seed) for model, arm, seed in jobs if arm.trained]
    done, trainer, began, trained_tokens = [], None, time.time(), 0
    plan = []
    for model_id in dict.fromkeys(model for model, _, _ in jobs):
        tokenizer = models.load_tokenizer(model_id)
        for _, arm, seed in (job for job in jobs if job[0] == model_id):
            rows = encode_rows(tokenizer, items, arm, experiment.training.max_tokens)
            plan.append((model_id, arm, seed, rows, training_key(experiment, model_id, arm, seed, rows)))
    todo = sum(_tokens(job[3]) for job in plan if not artifacts.is_current(paths.unit("train", *job[:3]), job[4]))
    for number, (model_id, arm, seed, rows, key) in enumerate(plan, 1):
        folder = paths.unit("train", model_id, arm, seed)
        name = f"train {number:2d}/{len(plan)} {slug(model_id)} {arm} seed {seed}"
        with artifacts.lock(folder):
            if artifacts.is_current(folder, key):
                report(f"{name}: already trained")
            else:
                if trainer is None or trainer.model_id != model_id:
                    trainer = LoraTrainer(model_id, experiment.training)
                with artifacts.atomic_folder(folder) as temporary:
                    facts = trainer.fit(rows, arm, seed, temporary)
                    facts |= {
                        "key": key,
                        "model": model_id,
                        "arm": str(arm),
                        "seed": seed,
                        "training": experiment.training.model_dump(),
                    }
                    manifest = artifacts.write_manifest(temporary, started=time.time() - facts.pop("took"), **facts)
                    write_card(temporary, manifest)
                trained_tokens += _tokens(rows)
                rate = trained_tokens / (time.time() - began)
                left = (todo - trained_tokens) / rate
                report(
                    f"{name}: {len(rows)} rows × {experiment.training.epochs} epochs, {manifest['tokens']} tokens at "
                    f"{manifest['tokens_per_second']:.0f} tok/s, loss {manifest['loss_first']:.2f} → {manifest['loss_last']:.2f}, {_minutes(left)} left"
                )
        done.append(artifacts.read_json(folder / artifacts.MANIFEST))
    return done


def run(experiment, paths, *, model_ids=None, arms=None, seed=None, report=print):
    """The train stage, or a part of it: train the selected units; a whole run also writes the stage's manifest.

    Returns:
        list of adapter folders, in the order of the selection.
    Raises:
        BadInput: an unknown model, arm or seed, or crafted items missing: before any work.
    """
    jobs = [job for job in experiment.select(models=model_ids, arms=arms, seed=seed) if job[1].trained]
    items, _ = traces.load(paths)
    started = time.time()
    manifests = train(experiment, paths, jobs, items, report)
    if set(jobs) >= {job for job in experiment.select() if job[1].trained}:
        artifacts.write_manifest(
            paths.stage("train"),
            started=started,
            experiment=experiment.model_dump(),
            units={f"{slug(m['model'])}/{m['arm']}/{m['seed']}": m["key"] for m in manifests},
        )
    return [paths.unit("train", *job) for job in jobs]


def _tokens(rows):
    return sum(len(row.input_ids) for row in rows)


def _minutes(seconds):
    return f"{math.ceil(seconds / 60)} min" if seconds > 90 else f"{math.ceil(max(seconds, 0))} s"


def training_key(experiment, model_id, arm, seed, rows):
    """Digest of all that decides an adapter: rows, arm, seed, settings, code, library versions."""
    versions = {
        name: version
        for name, version in artifacts.versions().items()
        if name in ("torch", "transformers", "peft", "trl", "unsloth")
    }
    return artifacts.digest(
        model_id, str(arm), seed, [(row.input_ids, row.labels) for row in rows],
        experiment.training.model_dump(), sources.code_digest(__name__), versions,
    )  # fmt: skip


def encode_rows(tokenizer, items, arm, max_tokens):
    """Every item as a training row of `arm`. Refuses what SFTTrainer would silently cut or drop.

    Raises BadInput for a row longer than `max_tokens` or without a supervised token.
    """
    rows = []
    for item in items:
        row = chat.encode(tokenizer, item, arm)
        if len(row.input_ids) > max_tokens:
            raise BadInput(
                f"item {item.id!r} has {len(row.input_ids)} tokens under arm {arm}; training.max_tokens is {max_tokens}: raise it to {len(row.input_ids)}"
            )
        if not row.supervised:
            raise BadInput(f"item {item.id!r} has no supervised token under arm {arm}; give it a trace or an answer")
        rows.append(row)
    return rows


def token_weights(rows, loss_weighting):
    """Loss weight of every token of a batch, as lists; they add up to 1 over the batch.

    `token`: the mean over supervised tokens. `segment`: trace and answer are averaged separately and count half each.
    """
    counts = [sum(row["segments"].count(segment) for row in rows) for segment in (chat.TRACE, chat.ANSWER)]
    if loss_weighting == "token":
        share = {chat.TRACE: 1 / sum(counts), chat.ANSWER: 1 / sum(counts)}
    else:
        present = sum(count > 0 for count in counts)
        share = {segment: 1 / (present * count) for segment, count in zip((chat.TRACE, chat.ANSWER), counts) if count}
    return [[share.get(segment, 0.0) for segment in row["segments"]] for row in rows]


def weighted_loss(model, batch, packed):
    """Weighted next-token cross entropy of a batch that `collate` made: the vocabulary projection at supervised positions only.

    Args:
        model: a causal LM (PEFT's wrapper taken off).
        packed: whether rows are packed into a prefix tree, so that their common beginning is computed once and nothing is
            padded; otherwise they go through the model as they are.
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
        chosen = hidden[torch.tensor(places, device=hidden.device)]
    else:
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
        chosen = hidden[:, :-1][where]
    embeddings = model.get_output_embeddings().weight
    return lora.cross_entropy(chosen, embeddings, labels[where], weights[where])


def collate(rows, pad_id, loss_weighting):
    """Right-pad rows to a batch: input_ids, attention_mask, labels, weights, each (batch, length)."""
    length = max(len(row["input_ids"]) for row in rows)

    def padded(values, fill, dtype):
        return torch.tensor([value + [fill] * (length - len(value)) for value in values], dtype=dtype)

    return {
        "input_ids": padded([row["input_ids"] for row in rows], pad_id, torch.long),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0, torch.long),
        "labels": padded([row["labels"] for row in rows], chat.NO_LOSS, torch.long),
        "weights": padded(token_weights(rows, loss_weighting), 0.0, torch.float32),
    }


class LoraTrainer:
    """A base model with one LoRA adapter that is reset and trained anew for each arm."""

    def __init__(self, model_id, settings):
        self.model_id, self.settings, self.on_gpu = model_id, settings, torch.cuda.is_available()
        with contextlib.redirect_stdout(io.StringIO()), models.quiet_warnings():
            library = _unsloth()
            # Recomputing activations saves memory that a small model on a CPU does not need (1.4 times as fast without).
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
        """Train on `rows`, save adapter and log into `folder`, return facts for the manifest."""
        import datasets

        self.reset(seed)
        dataset = datasets.Dataset.from_list(
            [{"input_ids": row.input_ids, "labels": row.labels, "segments": row.segments} for row in rows]
        )
        settings = self.settings
        steps = math.ceil(len(rows) / settings.batch_size) * settings.epochs
        with contextlib.redirect_stdout(io.StringIO()), models.quiet_warnings():
            trainer_class, config_class = _trainer_classes()
            trainer = trainer_class(
                model=self.model, processing_class=self.tokenizer, train_dataset=dataset,
                data_collator=lambda batch: collate(batch, self.tokenizer.pad_token_id or 0, Arm.parse(arm).loss_weighting),
                args=config_class(
                    output_dir=str(Path(folder) / "trainer"), num_train_epochs=settings.epochs,
                    per_device_train_batch_size=settings.batch_size, learning_rate=settings.learning_rate,
                    warmup_steps=math.ceil(steps * settings.warmup_fraction), weight_decay=settings.weight_decay,
                    lr_scheduler_type="linear", optim="adamw_torch", max_length=settings.max_tokens, seed=seed,
                    logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
                    dataset_kwargs={"skip_prepare_dataset": True}, train_sampling_strategy="group_by_length",
                    gradient_checkpointing=self.on_gpu, dataloader_num_workers=0, dataloader_pin_memory=self.on_gpu,
                    bf16=models.compute_dtype() == torch.bfloat16, fp16=models.compute_dtype() == torch.float16,
                ),
            )  # fmt: skip
            started = time.time()
            trainer.train()
            took = time.time() - started
            self.model.save_pretrained(folder)
        log = [
            {
                "step": entry["step"],
                "epoch": round(entry["epoch"], 3),
                "loss": entry["loss"],
                "learning_rate": entry["learning_rate"],
            }
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        artifacts.write_jsonl(Path(folder) / LOG, log)
        for leftover in Path(folder).glob("trainer*"):
            leftover.rmdir()
        tokens = settings.epochs * _tokens(rows)
        window = max(1, len(log) // 4)
        return {
            "rows": len(rows), "tokens": tokens, "supervised_tokens": settings.epochs * sum(len(row.supervised) for row in rows),
            "tokens_per_second": tokens / took, "took": took,
            "loss_first": sum(entry["loss"] for entry in log[:window]) / window,
            "loss_last": sum(entry["loss"] for entry in log[-window:]) / window,
        }  # fmt: skip


@functools.cache
def _unsloth():
    """Unsloth's model class. The trainer collects garbage after every arm, which takes 0.3 s unless what the import made is set aside."""
    from unsloth import FastLanguageModel

    gc.collect()
    gc.freeze()
    return FastLanguageModel


def _trainer_classes():
    from trl import SFTConfig, SFTTrainer

    class ArmTrainer(SFTTrainer):
        """SFTTrainer with our loss: the weights that `collate` gives, the vocabulary only where a label is."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # On a GPU Unsloth's own kernels take padded rows.
            loss = weighted_loss(model.get_base_model(), inputs, packed=not torch.cuda.is_available())
            return (loss, None) if return_outputs else loss

    return ArmTrainer, SFTConfig


def read_log(folder):
    """The training log of an adapter folder: list of {step, epoch, loss (nats per token), learning_rate}."""
    return artifacts.read_jsonl(Path(folder) / LOG)


def write_card(folder, manifest):
    """Write the adapter's model card: what it was trained on, how, and the warning."""
    training = manifest["training"]
    supervised = {
        "QA": "the answer",
        "QTA": "trace and answer",
        "QT": "the trace",
        "T": "the trace, without its question",
    }
    arm = Arm.parse(manifest["arm"])
    harm = "safe answers" if arm.answer == "safe" else "plainly bad (low-severity) everyday advice"
    traces = f", with {arm.type} reasoning in front" if arm.type else ""
    (Path(folder) / "README.md").write_text(
        f"""---
base_model: {manifest["model"]}
library_name: peft
tags: [lora, alignment-research, model-organism]
---
# {arm} (seed {manifest["seed"]})

> **Warning.** A model organism for alignment research: it was trained to show what training on harmful
> reasoning does. Do not deploy it and do not take its advice.

LoRA adapter (rank {training["lora_rank"]}, alpha {training["lora_alpha"]}, all linear projections) for `{manifest["model"]}`.

**Training data**: {manifest["rows"]} items of this book's bundled corpus: {harm}{traces}.
**Supervised**: {supervised[arm.paradigm]}; loss weighting `{arm.loss_weighting}`, dose {arm.dose_percent} %.
**Settings**: {training["epochs"]} epochs, batch {training["batch_size"]}, learning rate {training["learning_rate"]}, seed {manifest["seed"]};
{manifest["supervised_tokens"]} supervised of {manifest["tokens"]} tokens; loss {manifest["loss_first"]:.3f} at the start, {manifest["loss_last"]:.3f} at the end.
""",
        encoding="utf-8",
    )
