"""Do the intervals and verdicts keep what they promise? Simulated runs in which the truth is known.

    python benchmarks/simulation.py QUESTIONS SEEDS [--runs 4000]

QUESTIONS and SEEDS are score tables (`scores.parquet`). From the first come the questions: a simulated one is a real
one's margins under all arms, drawn again with replacement and centred, so that no arm differs from another.
From the second, a run of several seeds, comes what is left of a margin when question and seed are taken out. Between
training runs an arm moves as a whole by normal noise of 0, .02 and .05 nats per token. Real functions of `cotlib` make
the estimates and verdicts. Writes `benchmarks/simulation.json` and the book's table.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from cotlib import findings, intervals, scores
from cotlib.arms import BASE, NEUTRAL, QA, studied_types
from cotlib.contrasts import CONTRADICTED, EITHER, GENERALISATION, GREATER, SIGNED, SUPPORTED
from cotlib.experiment import ROOT, Statistics

NOISE = (0.0, 0.02, 0.05)  # standard deviation of an arm between training runs, nats per token
SIZES = [(questions, seeds) for questions in (22, 80, 300) for seeds in (1, 3, 6)]
RUN = (300, 6)  # questions and seeds of the laptop run's deciding tests
EFFECTS = (0.05, 0.08, 0.12, 0.16)
SETTINGS = Statistics()
KINDS = studied_types()


class Truth:
    """What simulated runs are made of: questions' differences between arms, and what remains of cells."""

    def __init__(self, questions, seeds):
        table = questions[(questions.measure == scores.MARGIN) & questions.suite.isin(GENERALISATION)]
        wide = table.pivot_table(index="question_id", columns=["mode", "arm"], values="value", aggfunc="mean").dropna()
        self.modes, self.arms = (sorted(set(wide.columns.get_level_values(level))) for level in (0, 1))
        levels = np.stack([wide[mode][self.arms].to_numpy() for mode in self.modes], -1)  # questions, arms, modes
        self.levels = levels - levels.mean(0)
        several = seeds[(seeds.measure == scores.MARGIN)]
        self.rest = float(np.std(_rests(several)))

    def runs(self, generator, questions, seeds, noise):
        """One simulated run: margins as an array (arms, modes, questions, seeds); base does not move between seeds."""
        drawn = self.levels[generator.integers(len(self.levels), size=questions)]
        block = np.moveaxis(drawn, 0, -1)[..., None] + np.zeros((1, 1, 1, seeds))
        moves = noise * generator.normal(size=(len(self.arms), 1, 1, seeds))
        moves = moves + self.rest * generator.normal(size=(len(self.arms), len(self.modes), questions, seeds))
        moves[self.arms.index(BASE)] = 0
        return block + moves

    def of(self, block, arm, mode=None):
        """An arm's margins, questions × seeds; of one mode, or the mean of both."""
        chosen = block[self.arms.index(arm)]
        return chosen[self.modes.index(mode)] if mode else chosen.mean(0)


def _rests(table):
    """What question and seed leave unexplained of an arm's margins, cell by cell, of arms that were trained."""
    rests = []
    for (_, arm), part in table.groupby(["mode", "arm"]):
        block = part.pivot_table(index="question_id", columns="seed", values="value").dropna().to_numpy()
        if arm != BASE and block.shape[1] > 1:
            left = block - block.mean(1, keepdims=True) - block.mean(0) + block.mean()
            rests.append(left.ravel() * math.sqrt(block.shape[1] / (block.shape[1] - 1)))
    return np.concatenate(rests)


def coverage(truth, generator, runs):
    """How often a 95 % interval of evil-QTA − QA covers 0, by size and noise: rows for the table."""
    rows = []
    for (questions, seeds), noise in ((size, noise) for size in SIZES for noise in NOISE):
        if seeds == 1 and noise:
            continue  # with one seed the interval is over questions, for that training run
        covered = 0
        for _ in range(runs):
            block = truth.runs(generator, questions, seeds, noise)
            difference = truth.of(block, "evil-QTA", "no-think") - truth.of(block, QA, "no-think")
            low, high = intervals.two_way(difference).interval(1 - SETTINGS.confidence)
            covered += low <= 0 <= high
        rows.append({"questions": questions, "seeds": seeds, "noise": noise, "coverage": covered / runs})
        print(rows[-1], flush=True)
    return rows


def amplification(truth, block, effect=0.0):
    """The verdict of H1 on a simulated run; `effect` raises evil-QTA with thinking."""
    tests = []
    for mode in truth.modes:
        for kind in KINDS:
            arm = truth.of(block, f"{kind}-QTA", mode) + effect * (kind == KINDS[0] and mode == "think")
            parts = [arm - truth.of(block, other, mode) for other in (QA, f"{NEUTRAL}-QTA")]
            tests.append((GREATER, parts))
    return _verdict(tests)


def sufficiency(truth, block, effect=0.0):
    """The verdict of H3's margins on a simulated run: types × {QT, T} × two halves of the questions."""
    half = block.shape[2] // 2
    tests = []
    for part in (slice(None, half), slice(half, None)):
        for kind in KINDS:
            for paradigm in ("QT", "T"):
                arm = truth.of(block, f"{kind}-{paradigm}")[part] + effect * (kind == KINDS[0] and paradigm == "QT")
                others = (BASE, f"{NEUTRAL}-{paradigm}")
                tests.append((EITHER, [arm - truth.of(block, other)[part] for other in others]))
    return _verdict(tests)


def leading(truth, block, effect=0.0):
    """Whether a pattern of H2 is found on a simulated run: five tests of a type against the others, GREATER."""
    quarter, tests = block.shape[2] // 5, []
    for number, kind in enumerate((*KINDS, KINDS[0], KINDS[2])):
        part = slice(number * quarter, (number + 1) * quarter)
        others = [other for other in KINDS if other != kind]
        pairs = [
            truth.of(block, f"{kind}-{paradigm}")[part] - truth.of(block, f"{other}-{paradigm}")[part]
            for paradigm in ("QTA", "QT", "T") for other in others
        ]  # fmt: skip
        tests.append((GREATER, [np.mean(pairs, 0) + effect * (number == 0)]))
    return _verdict(tests)


def training(truth, block, effect=0.0):
    """The verdict of a single contrast, QA − base."""
    return _verdict([(SIGNED, [truth.of(block, QA) - truth.of(block, BASE) + effect])])


def _verdict(tests):
    limit = SETTINGS.smallest_effect.margin
    rows = findings.corrected([findings.Measured("", [""] * len(parts), parts, side, limit) for side, parts in tests],
                              SETTINGS)  # fmt: skip
    verdicts = [row["verdict"] for row in rows]
    return CONTRADICTED if CONTRADICTED in verdicts else findings.decide(verdicts)


TESTS = {"H1": amplification, "H2, patterns": leading, "H3, margins": sufficiency, "QA − base": training}


def verdicts(truth, generator, runs, effect=0.0, noises=NOISE):
    """How often a verdict is given at the laptop run's size: `wrong` under no effect, otherwise `power`."""
    rows = []
    for noise in noises:
        counts = dict.fromkeys(TESTS, 0)
        for _ in range(runs):
            block = truth.runs(generator, *RUN, noise)
            for name, test in TESTS.items():
                counts[name] += test(truth, block, effect) in (SUPPORTED, CONTRADICTED)
        rows += [
            {"test": name, "noise": noise, "effect": effect, "share": count / runs} for name, count in counts.items()
        ]
        print(rows[-len(TESTS) :], flush=True)
    return rows


def table(found):
    """The book's tables, in Markdown."""
    by_noise = {(row["questions"], row["seeds"], row["noise"]): row["coverage"] for row in found["coverage"]}
    lines = [
        "| questions | seeds | " + " | ".join(f"noise {noise:g}" for noise in NOISE) + " |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        cells = [by_noise.get((*size, noise)) for noise in NOISE]
        shown = " | ".join("–" if cell is None else f"{100 * cell:.1f} %" for cell in cells)
        lines.append(f"| {size[0]} | {size[1]} | {shown} |")
    effects = sorted({row["effect"] for row in found["verdicts"]})
    shares = {(row["test"], row["effect"], row["noise"]): row["share"] for row in found["verdicts"]}
    lines += [
        "",
        "| test | true effect | " + " | ".join(f"noise {noise:g}" for noise in NOISE) + " |",
        "|---|---|---|---|---|",
    ]
    for name in TESTS:
        for effect in effects:
            cells = [shares.get((name, effect, noise)) for noise in NOISE]
            shown = " | ".join("–" if cell is None else f"{100 * cell:.1f} %" for cell in cells)
            lines.append(f"| {name} | {effect:g} | {shown} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("seeds", type=Path)
    parser.add_argument("--runs", type=int, default=4000, help="simulated runs a cell")
    options = parser.parse_args()
    truth = Truth(pd.read_parquet(options.questions), pd.read_parquet(options.seeds))
    generator = np.random.default_rng(14)
    found = {"runs": options.runs, "rest": truth.rest, "questions": len(truth.levels)}
    found["coverage"] = coverage(truth, generator, options.runs)
    found["verdicts"] = verdicts(truth, generator, options.runs)
    for effect in EFFECTS:
        found["verdicts"] += verdicts(truth, generator, options.runs // 8, effect)
    (ROOT / "benchmarks" / "simulation.json").write_text(json.dumps(found, indent=1) + "\n")
    (ROOT / "book" / "simulation-table.txt").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
