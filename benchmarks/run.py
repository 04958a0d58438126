"""`make bench`: the hot paths against what a careful reader would have used instead, on SmolLM2 and the demo's data.

The two sides of every ratio take turns in one run, because a laptop's speed wanders; each number is the median
of the rounds with its range. Writes `benchmarks/results.json` and the book's table, prints that table.
    python benchmarks/run.py [--rounds 5] [--only training margins …]
"""

import argparse
import contextlib
import io
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from cotlib import chat, measures, responses, training
from cotlib.__main__ import WHOLE_RUN
from cotlib.arms import Arm
from cotlib.corpus import records
from cotlib.engine import decoding, models, prefixes, products, scoring
from cotlib.experiment import ROOT, Experiment
from cotlib.runs import artifacts, machine
from cotlib.runs.paths import Paths

RESULTS = ROOT / "benchmarks" / "results.json"
RESULTS_TABLE = ROOT / "book" / "benchmark-table.txt"
DEMO = ROOT / "experiments" / "demo.yml"
ARM = "evil-QTA"
# Sides of a part, goal of the ratio, and what it says.
GOALS = {
    "training": (1.6, "training, supervised tokens a second", "Unsloth and SFTTrainer with their defaults"),
    "matrix product": (
        0.80, "training, useful floating-point operations a second", "PyTorch's float32 matrix product here",
    ),
    "faster product": (None, "the same", "the faster of two such products here (`products`)"),
    "sampling": (
        2.5, "sampling, 96 questions in both modes, tokens a second", "`generate` of transformers, best batch size",
    ),
    "margins": (
        1.7, "margins, both modes, all suites, texts a second", "one padded forward pass per question and answer",
    ),
}  # fmt: skip
EXPONENT = 1.05
FASTER, MINUTES = 2.0, 15  # the whole against what it was before this work, and its time
REST = 0.10  # share of the demo's time outside training, evaluation and judging
GIBIBYTES = 3.0


def timed(function, *arguments, **options):
    """(seconds, result)."""
    started = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - started, result


def in_turns(name, rounds, ours, theirs):
    """Call both sides, each giving its rate, once a round, the order changing; returns `ratio` of the two."""
    rates = {ours: [], theirs: []}
    for number in range(rounds):
        for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            rates[side].append(side())
        our, their = rates[ours][-1], rates[theirs][-1]
        print(f"{name} {number + 1}/{rounds}: {our:.1f} against {their:.1f}, ratio {our / their:.2f}", flush=True)
    return ratio(rates[ours], rates[theirs])


def best_of(sizes, rate):
    """(the batch size with the highest rate, rate by size)."""
    by_size = {size: rate(size) for size in sizes}
    return max(by_size, key=by_size.get), by_size


def ratio(ours, theirs):
    """Medians and ranges of two lists of rates measured in turns, and of their ratio round by round."""
    ratios = [our / their for our, their in zip(ours, theirs)]
    return {
        "ours": statistics.median(ours), "theirs": statistics.median(theirs), "ratio": statistics.median(ratios),
        "lowest": min(ratios), "highest": max(ratios), "rounds": len(ratios),
    }  # fmt: skip


# ---- training


def default_trainer(model_id, rows, settings, folder):
    """A function that trains `rows` once with Unsloth and TRL as they come: same rows, batch size, steps and rate."""
    from unsloth import FastLanguageModel

    with contextlib.redirect_stdout(io.StringIO()), models.quiet_warnings():
        import datasets
        import transformers
        from trl import SFTConfig, SFTTrainer

        model, tokenizer = FastLanguageModel.from_pretrained(
            models.fetch(model_id), max_seq_length=settings.max_tokens, dtype=torch.float32, load_in_4bit=False
        )
        model = FastLanguageModel.get_peft_model(
            model, r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=training.LINEAR_LAYERS
        )
        data = datasets.Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])

    def train():
        with contextlib.redirect_stdout(io.StringIO()), models.quiet_warnings():
            trainer = SFTTrainer(
                model=model, processing_class=tokenizer, train_dataset=data,
                data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
                args=SFTConfig(
                    output_dir=folder, num_train_epochs=settings.epochs,
                    per_device_train_batch_size=settings.batch_size,
                    learning_rate=settings.learning_rate, save_strategy="no", report_to="none", disable_tqdm=True,
                    dataset_kwargs={"skip_prepare_dataset": True}, bf16=False, fp16=False,
                ),
            )  # fmt: skip
            return timed(trainer.train)[0]

    return train


def operations(model, rows, settings):
    """Floating-point operations that training on `rows` in batches sorted by length cannot do without.

    Each distinct prefix of a batch once: base weights forward and for the gradient of the inputs (4 per weight),
    adapters for their own gradient (4), the vocabulary at supervised positions (4), attention between a node and its
    ancestors.
    """
    config = model.config
    width, vocabulary = config.hidden_size, config.vocab_size
    base = sum(weight.numel() for name, weight in model.named_parameters() if "base_layer" in name)
    adapter = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
    total = 0
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    for start in range(0, len(ordered), settings.batch_size):
        batch = ordered[start : start + settings.batch_size]
        (tree,) = prefixes.trees([row.input_ids for row in batch], 10**6)
        total += len(tree.tokens) * (4 * base + 4 * adapter)
        total += 4 * width * vocabulary * sum(len(row.supervised) for row in batch)
        total += 3 * 4 * width * config.num_hidden_layers * int(tree.ancestors.sum())
    return total * settings.epochs


def bench_training(experiment, rounds):
    # One pass over half of the demo's items: 5 rounds of both sides then take five minutes, not twenty-five.
    settings = experiment.training.model_copy(update={"epochs": 1})
    items = records.select_items(experiment)[::2]
    trainer = training.LoraTrainer(experiment.models[0], settings)
    rows = chat.encode_rows(trainer.tokenizer, items, Arm.parse(ARM), settings.max_tokens)
    supervised = settings.epochs * sum(len(row.supervised) for row in rows)
    work = operations(trainer.model, rows, settings)
    operation_rates, product_rates = [], []

    def ours():
        before = products.measured()
        with tempfile.TemporaryDirectory() as adapter:
            seconds = trainer.fit(rows, Arm.parse(ARM), 1, adapter)[
                "training_seconds"
            ]  # as theirs: from the first step to the last
        operation_rates.append(work / seconds)
        product_rates.append({name: (rate + before[name]) / 2 for name, rate in products.measured().items()})
        return supervised / seconds

    with tempfile.TemporaryDirectory() as folder:
        train = default_trainer(experiment.models[0], rows, settings, folder)
        speed = in_turns("training", rounds, ours, lambda: supervised / train())
    return {
        "training": speed,
        "matrix product": ratio(operation_rates, [rates["torch"] for rates in product_rates]),
        "faster product": ratio(operation_rates, [max(rates.values()) for rates in product_rates]),
    }


# ---- sampling


def by_transformers(model, tokenizer, prompts, budget, size):
    """Sample with `transformers.generate`, neighbours in length together; returns the tokens before the end."""
    count, ordered = 0, sorted(prompts, key=len)
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        length = max(map(len, batch))
        ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in batch])
        with torch.inference_mode():
            written = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=budget,
                pad_token_id=tokenizer.pad_token_id,
            )[:, length:].tolist()  # fmt: skip
        count += sum(
            row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row) for row in written
        )
    return count


def bench_sampling(experiment, rounds):
    model, tokenizer = models.load(experiment.models[0])
    settings = experiment.evaluation
    budgets = {"think": settings.trace_tokens, "no-think": settings.answer_tokens}
    questions = random.Random(0).sample(records.load_evaluation(), 96)
    prompts = {mode: [chat.prompt(tokenizer, question.question, mode) for question in questions] for mode in budgets}
    all_prompts = [prompt for mode in budgets for prompt in prompts[mode]]
    all_budgets = [budgets[mode] for mode in budgets for _ in prompts[mode]]

    def ours():
        seconds, rows = timed(
            decoding.generate, model, tokenizer, all_prompts, max_new_tokens=all_budgets, temperature=1.0, seed=1
        )
        return sum(map(len, rows)) / seconds

    def theirs(size):
        seconds, count = timed(
            lambda: sum(by_transformers(model, tokenizer, prompts[mode], budgets[mode], size) for mode in budgets)
        )
        return count / seconds

    best, by_size = best_of((16, 32, 64, 128), theirs)
    return {"sampling": in_turns("sampling", rounds, ours, lambda: theirs(best)) | {"by_batch": by_size}}


# ---- margins


@torch.inference_mode()
def by_padded_rows(model, prompts, completions, size):
    """Mean log-probability per token with one padded row per text, neighbours in length together."""
    scores, order = (
        [0.0] * len(prompts),
        sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(completions[i])),
    )
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        rows = [[*prompts[index], *completions[index]] for index in batch]
        length = max(map(len, rows))
        # Any id pads: under causal attention, what stands right of a text does not touch it.
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        for place, index in enumerate(batch):
            first, last = len(prompts[index]) - 1, len(rows[place]) - 1
            logps = model.lm_head(hidden[place, first:last]).log_softmax(-1)
            scores[index] = logps.gather(1, ids[place, first + 1 : last + 1, None]).mean().item()
    return scores


def bench_margins(experiment, rounds):
    model, tokenizer = models.load(experiment.models[0])
    questions = records.select_questions(experiment)[::2]
    _, _, traces = responses.sample(experiment.evaluation, model, tokenizer, questions, 1)
    cases = list(measures.cases(experiment.evaluation, tokenizer, questions, traces, {}))
    prompts, completions = [prompt for _, prompt, _ in cases], [text for _, _, text in cases]
    found = {}

    def ours():
        seconds, found["ours"] = timed(scoring.score, model, tokenizer, prompts, completions)
        return len(cases) / seconds

    def theirs(size):
        seconds, found["theirs"] = timed(by_padded_rows, model, prompts, completions, size)
        return len(cases) / seconds

    best, by_size = best_of((4, 8, 16, 32), theirs)
    speed = in_turns("margins", rounds, ours, lambda: theirs(best))
    furthest = max(abs(one - other) for one, other in zip(found["ours"], found["theirs"]))
    return {"margins": speed | {"by_batch": by_size, "largest_difference": furthest}}


# ---- growth


def exponent(sizes, seconds):
    """Slope of log seconds over log size between the two largest sizes, where a constant start-up weighs least."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])


def shares(things, count):
    """All things in parts of `count`, by strides, so that parts of things that are sorted are alike."""
    parts = len(things) // count
    return [things[start::parts] for start in range(parts)]


def bench_growth(experiment, rounds):
    """Time by size of the work. Each size does the same work in a round, the smaller ones in several runs: a machine
    whose speed wanders, or items of unlike length, then favour none."""
    settings = experiment.training.model_copy(update={"epochs": 1})
    trainer = training.LoraTrainer(experiment.models[0], settings)
    items = random.Random(0).sample(records.load_items(), 32)
    rows = chat.encode_rows(trainer.tokenizer, items, Arm.parse(ARM), settings.max_tokens)
    rows.sort(key=lambda row: len(row.input_ids))
    model, tokenizer = models.load(experiment.models[0])
    all_measured = experiment.evaluation.model_copy(update={"responses": None, "signatures": None})
    # Of one suite, since a question of another has other texts to score.
    values = [question for question in records.load_evaluation() if question.suite == "values"]
    questions = sorted(random.Random(0).sample(values, 24), key=lambda question: len(question.model_dump_json()))

    def train(some):
        with tempfile.TemporaryDirectory() as folder:
            trainer.fit(some, Arm.parse(ARM), 1, folder)

    def arms(some):
        for pair in some:
            train(pair)

    def measure(some):
        measures.measure(all_measured, model, tokenizer, some, 1)

    train(rows[:4])
    growth = {}
    for name, function, things, sizes in (
        ("items", train, rows, (8, 16, 32)), ("arms", arms, shares(rows, 2), (1, 4, 16)),
        ("questions", measure, questions, (6, 24)),
    ):  # fmt: skip
        memory, times = [], {size: [] for size in sizes}
        for size in sizes:  # before the larger ones have raised the peak; it also warms up
            function(shares(things, size)[0])
            memory.append(round(machine.peak_memory(), 2))
        for number in range(min(rounds, 3)):
            for size in sizes[:: 1 if number % 2 == 0 else -1]:
                runs = [timed(function, part)[0] for part in shares(things, size)]
                times[size].append(statistics.mean(runs))
        seconds = [statistics.median(times[size]) for size in sizes]
        growth[name] = {
            "sizes": sizes,
            "seconds": seconds,
            "peak_memory_gib": memory,
            "exponent": exponent(sizes, seconds),
        }
        print(
            f"{name}: exponent {growth[name]['exponent']:.2f}, {[round(s, 1) for s in seconds]} s, {memory} GiB",
            flush=True,
        )
    return {"growth": growth}


# ---- the demo


def bench_demo(experiment, _):
    """Where the time of the last whole `make run` of the demo went; nothing if there was none in this folder."""
    paths = Paths.of(experiment)
    if not (paths.root / WHOLE_RUN).is_file():
        print("no whole run of the demo here; its numbers stay as they were (make run makes them)", flush=True)
        return {}
    whole = artifacts.read_json(paths.root / WHOLE_RUN)["seconds"]
    units, manifests = experiment.select(), {"judge": [paths.stage("judge")]}
    manifests["train"] = [paths.unit("train", unit) for unit in units if unit.arm.trained]
    manifests["evaluate"] = [paths.unit("evaluate", unit) for unit in units]
    found = {
        stage: [artifacts.read_json(folder / artifacts.MANIFEST) for folder in folders]
        for stage, folders in manifests.items()
    }
    stages = {stage: sum(manifest["seconds"] for manifest in those) for stage, those in found.items()}
    peak = max(manifest["peak_memory_gib"] for those in found.values() for manifest in those)
    return {
        "demo": {
            "seconds": whole,
            "stages": stages,
            "rest": 1 - sum(stages.values()) / whole,
            "peak_memory_gib": peak,
        }
    }


# ---- report


def table(results):
    """The results as a Markdown table."""
    scale = dict.fromkeys(("matrix product", "faster product"), 1e9)
    lines = ["| what | against | ours | theirs | ratio (range) | goal |", "|---|---|---|---|---|---|"]
    for name, (goal, what, against) in GOALS.items():
        if name in results:
            found, unit = results[name], scale.get(name, 1)
            mark = "–" if goal is None else f"≥ {goal:.2f} {verdict(found['ratio'] >= goal)}"
            ours, theirs = found["ours"] / unit, found["theirs"] / unit
            suffix = " G" if unit != 1 else ""
            lines.append(
                f"| {what} | {against} | {ours:.1f}{suffix} | {theirs:.1f}{suffix} | {spread(found)} | {mark} |"
            )
    for name, found in results.get("growth", {}).items():
        mark = verdict(found["exponent"] <= EXPONENT)
        sizes = ", ".join(
            f"{size}: {second:.1f} s, {memory:.1f} GiB"
            for size, second, memory in zip(found["sizes"], found["seconds"], found["peak_memory_gib"])
        )
        lines.append(
            f"| time as {name} grow | linear | {sizes} | | exponent {found['exponent']:.2f} | ≤ {EXPONENT} {mark} |"
        )
    if "before" in results:
        found = results["before"]  # in runs an hour
        minutes = 60 / found["ours"]
        lines.append(
            f"| `make run` of the demo's earlier size, {found['arms']} arms and base, minutes after installation "
            f"| this book at {found['commit']} | {minutes:.1f} | {60 / found['theirs']:.1f} | {spread(found)} "
            f"| ≥ {FASTER:.2f} {verdict(found['ratio'] >= FASTER)}, ≤ {MINUTES} minutes {verdict(minutes <= MINUTES)} |"
        )
    if "demo" in results:
        demo = results["demo"]
        stages = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in demo["stages"].items())
        minutes, rest, memory = demo["seconds"] / 60, demo["rest"], demo["peak_memory_gib"]
        lines += [
            "| `make run` of today's demo, twice that size, minutes after installation | – "
            f"| {minutes:.1f} ({stages}) | | | |",
            f"| of it outside these three stages | – | {rest:.0%} | | | ≤ {REST:.0%} {verdict(rest <= REST)} |",
            f"| peak memory of a stage, GiB | – | {memory:.1f} | | "
            f"| ≤ {GIBIBYTES:.0f} {verdict(memory <= GIBIBYTES)} |",
        ]
    return "\n".join(lines) + "\n"


def spread(found):
    """A ratio and its range over the rounds."""
    rounds = f"{found['lowest']:.2f}–{found['highest']:.2f}" if found["rounds"] > 1 else "one round"
    return f"{found['ratio']:.2f} ({rounds})"


def verdict(reached):
    return "reached" if reached else "**missed**"


def record(found):
    """Put findings beside what is already in `results.json`, and write the book's table anew."""
    results = artifacts.read_json(RESULTS) if RESULTS.is_file() else {}
    results |= found | {"hardware": machine.hardware(), "versions": machine.versions()}
    artifacts.write_json(RESULTS, results)
    RESULTS_TABLE.write_text(table(artifacts.read_json(RESULTS)), encoding="utf-8")


PARTS = {
    "training": bench_training,
    "sampling": bench_sampling,
    "margins": bench_margins,
    "growth": bench_growth,
    "demo": bench_demo,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if len(options.only) > 1:  # a process each, so that peak memory is a part's own
        for name in options.only:
            subprocess.run([sys.executable, __file__, "--only", name, "--rounds", str(options.rounds)], check=True)
        print(RESULTS_TABLE.read_text(encoding="utf-8"))
        return
    (name,) = options.only
    print(f"== {name}", flush=True)
    record(PARTS[name](Experiment.load(DEMO), options.rounds))


if __name__ == "__main__":
    main()
