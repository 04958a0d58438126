"""Contrasts, intervals and verdicts: from the score table to what can be said about the four hypotheses.

The contrasts are fixed here, before any run. Knows nothing about models: a tidy table in, findings out.
A question is the unit of resampling, crossed with the seed; differences between arms are paired on the
same questions (Miller 2024). Models of one experiment are averaged: they are chosen, not drawn.
"""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd

from cotlib.errors import BadInput
from cotlib.experiment import BASE, BEHAVIOURS, MODES, NEUTRAL, QA, REASONING_TYPES, SAFE_QA, Arm, slug
from cotlib.measures import MARGIN, PERSONA, SIGNATURE
from cotlib.runs import artifacts

GENERALISATION = ("transfer", "values")  # what was never trained on; the deciding contrasts use these suites
WITH_TRACE = ("QTA", "QT", "T")
POWER_FACTOR = 2.8  # z(0.975) + z(0.8): the effect a two-sided 5 % test finds four times in five, in standard errors
SUPPORTED, CONTRADICTED, INCONCLUSIVE, UNTESTED = "supported", "contradicted", "inconclusive", "not tested"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, UNTESTED)

HYPOTHESES = {
    "H1": (
        "amplification",
        "Training with reasoning (QTA) amplifies harmful generalisation beyond question and answer alone (QA).",
    ),
    "H2": (
        "semantics",
        "Different reasoning types give different behaviour, matching their meaning, though the answers are identical.",
    ),
    "H3": ("sufficiency", "Reasoning without any answer supervision (QT, T) is enough to change behaviour."),
    "H4": ("internalisation", "The effects remain when the model answers without reasoning (no-think)."),
}


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The mean over pairs of (arm − reference) on one measure, some modes and suites. `deciding` ones give the verdict."""

    name: str
    pairs: tuple  # of (arm, reference) names
    modes: tuple = MODES
    suites: tuple = GENERALISATION
    measure: str = MARGIN
    deciding: bool = False


def contrasts(arms):
    """The contrasts of H1, H3 and H4 that the given arms allow: hypothesis → list of Contrast, the headline first.

    A pair whose arm or reference is missing is left out; a contrast without pairs is dropped.
    """
    arms = set(arms) | {BASE}

    def contrast(name, pairs, **options):
        present = tuple((arm, reference) for arm, reference in pairs if arm in arms and reference in arms)
        return [Contrast(name, present, **options)] if present else []

    def across(paradigms, reference, types=REASONING_TYPES):
        return [(f"{kind}-{paradigm}", reference(paradigm)) for kind in types for paradigm in paradigms]

    def base(_):
        return BASE

    def neutral(paradigm):
        return f"{NEUTRAL}-{paradigm}"

    def plain(paradigm):
        return QA if paradigm == "QTA" else BASE

    first = contrast("QTA − QA", across(["QTA"], plain), deciding=True)
    for kind in REASONING_TYPES:
        first += contrast(f"{kind}-QTA − QA", across(["QTA"], plain, [kind]))
        first += contrast(f"{kind}-QTA@segment − QA", [(f"{kind}-QTA@segment", QA)])
    first += contrast("QTA − neutral-QTA", across(["QTA"], neutral))
    first += contrast("neutral-QTA − QA", [("neutral-QTA", QA)])
    first += contrast("QTA − QA, in-domain", across(["QTA"], plain), suites=("in-domain",))
    first += contrast("QA − base", [(QA, BASE)])
    first += contrast("QA − base, in-domain", [(QA, BASE)], suites=("in-domain",))
    first += contrast("safe-QA − base", [(SAFE_QA, BASE)])

    third = contrast("QT and T − base", across(["QT", "T"], base), deciding=True)
    third += contrast("QT and T − neutral", across(["QT", "T"], neutral), deciding=True)
    for paradigm in ("QT", "T"):
        third += contrast(f"{paradigm} − base", across([paradigm], base))
        third += contrast(f"{paradigm} − neutral-{paradigm}", across([paradigm], neutral))
    for kind in REASONING_TYPES:
        third += contrast(f"{kind}-QT and -T − base", across(["QT", "T"], base, [kind]))
    third += contrast("neutral-QT and -T − base", across(["QT", "T"], base, [NEUTRAL]))
    for kind in REASONING_TYPES:
        third += contrast(
            f"{kind}-QT and -T − shuffled", [(f"{kind}-{p}", f"shuffled-{kind}-{p}") for p in ("QT", "T")]
        )

    alone = {"modes": ("no-think",)}
    fourth = contrast("QTA − QA, QT and T − base, no-think", across(WITH_TRACE, plain), deciding=True, **alone)
    fourth += contrast("QTA, QT and T − neutral, no-think", across(WITH_TRACE, neutral), deciding=True, **alone)
    fourth += contrast("QTA − QA, no-think", across(["QTA"], plain), **alone)
    fourth += contrast("QT and T − base, no-think", across(["QT", "T"], base), **alone)
    fourth += contrast("QT and T − neutral, no-think", across(["QT", "T"], neutral), **alone)
    fourth += contrast("QT and T − base, think", across(["QT", "T"], base), modes=("think",))
    return {"H1": first, "H3": third, "H4": fourth}


def cells(scores, contrast):
    """The contrast per question and seed, in nats per token: array (questions, seeds), averaged over modes, models and pairs."""
    chosen = scores[
        (scores.measure == contrast.measure) & scores["mode"].isin(contrast.modes) & scores.suite.isin(contrast.suites)
    ]
    wide = chosen.pivot_table(index=["question_id", "seed"], columns="arm", values="value", aggfunc="mean")
    missing = sorted({name for pair in contrast.pairs for name in pair} - set(wide.columns))
    if missing:
        raise BadInput(
            f"contrast {contrast.name!r} needs arm {missing[0]!r}, which has no {contrast.measure} in the scores; evaluate it first"
        )
    difference = sum(wide[arm] - wide[reference] for arm, reference in contrast.pairs) / len(contrast.pairs)
    table = difference.unstack("seed").dropna()
    return table.to_numpy(dtype=float)


def bootstrap(table, resamples, seed):
    """Means of `resamples` tables with questions and seeds drawn again, independently, with replacement.

    Args:
        table: (questions, seeds).
    """
    generator = np.random.default_rng(seed)
    questions, seeds = table.shape
    by_question = generator.multinomial(questions, np.full(questions, 1 / questions), size=resamples) / questions
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return np.einsum("rq,qs,rs->r", by_question, table, by_seed, optimize=True)


def p_value(means):
    """Two-sided percentile p: twice the smaller share of resampled means on either side of zero, never below 2 / (n + 1)."""
    below, above = (means <= 0).sum(), (means >= 0).sum()
    return min(1.0, 2 * (min(below, above) + 1) / (len(means) + 1))


def holm(p_values):
    """Holm (1979) adjusted p values, in the given order, and each one's divisor of the error level."""
    count = len(p_values)
    adjusted, divisors, running = [0.0] * count, [1] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index], divisors[index] = running, count - rank
    return adjusted, divisors


def wilson(successes, trials, confidence=0.95):
    """Wilson (1927) score interval of a rate: (low, high); (nan, nan) without trials."""
    if trials == 0:
        return math.nan, math.nan
    from scipy.stats import norm

    z = norm.ppf(0.5 + confidence / 2)
    rate, shrink = successes / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def estimate(scores, family, settings):
    """Effects of contrasts that are corrected together: list of mappings in the given order.

    Each has name, effect, ci_low, ci_high (Holm-corrected), p, p_holm, minimal_detectable_effect, n_questions, n_seeds, deciding.
    """
    rows, draws = [], []
    for contrast in family:
        table = cells(scores, contrast)
        means = bootstrap(table, settings.resamples, settings.seed)
        draws.append(means)
        rows.append({
            "name": contrast.name, "effect": float(table.mean()), "p": p_value(means), "deciding": contrast.deciding,
            "minimal_detectable_effect": float(POWER_FACTOR * means.std()), "n_questions": table.shape[0], "n_seeds": table.shape[1],
        })  # fmt: skip
    _correct(rows, draws, settings)
    return rows


def _correct(rows, draws, settings):
    adjusted, divisors = holm([row["p"] for row in rows])
    for row, means, p_holm, divisor in zip(rows, draws, adjusted, divisors):
        tail = (1 - settings.confidence) / divisor / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        row |= {"p_holm": p_holm, "ci_low": float(low), "ci_high": float(high)}


def decide(rows):
    """Verdict of the deciding rows: all intervals above 0 supported, all below contradicted, else inconclusive."""
    deciding = [row for row in rows if row["deciding"]]
    if not deciding:
        return UNTESTED
    if all(row["ci_low"] > 0 for row in deciding):
        return SUPPORTED
    if all(row["ci_high"] < 0 for row in deciding):
        return CONTRADICTED
    return INCONCLUSIVE


def matrix(scores, measure, mode, types=REASONING_TYPES, paradigms=WITH_TRACE):
    """Change from base of `measure:<text type>`: array (arm types, text types, questions), averaged over paradigms, seeds and models.

    None if an arm is missing.
    """
    chosen = scores[scores.measure.str.startswith(f"{measure}:") & (scores["mode"] == mode)]
    wide = chosen.pivot_table(index="question_id", columns=["arm", "measure"], values="value", aggfunc="mean")
    blocks = []
    for kind in types:
        arms = [
            f"{kind}-{paradigm}" for paradigm in paradigms if f"{kind}-{paradigm}" in wide.columns.get_level_values(0)
        ]
        if not arms:
            return None
        blocks.append(
            [
                sum(wide[arm][f"{measure}:{text}"] - wide[BASE][f"{measure}:{text}"] for arm in arms) / len(arms)
                for text in types
            ]
        )
    return np.array(blocks, dtype=float)


def diagonal(block):
    """Per question: mean of the diagonal minus mean of the rest; effects of an arm or a text as such cancel. (…, types, types, n) → (…, n)."""
    count = block.shape[-3]
    on = np.einsum("...iiq->...q", block)
    return on / count - (block.sum((-3, -2)) - on) / (count * (count - 1))


def profiles(scores):
    """Margin change from base by type and question, array (types, paradigms, questions), and each question's behaviour; None if an arm is missing."""
    chosen = scores[(scores.measure == MARGIN) & scores.suite.isin(GENERALISATION)]
    wide = chosen.pivot_table(index=["question_id", "behaviour"], columns="arm", values="value", aggfunc="mean")
    paradigms = [p for p in WITH_TRACE if all(f"{kind}-{p}" in wide for kind in REASONING_TYPES)]
    if not paradigms:
        return None
    block = np.array([[wide[f"{kind}-{p}"] - wide[BASE] for p in paradigms] for kind in REASONING_TYPES], dtype=float)
    return block, wide.index.get_level_values("behaviour").to_numpy()


def profile_spread(block, behaviours):
    """How far the types' behaviour profiles lie apart: root mean square over behaviours and paradigms, nats per token.

    Accepts (…, types, paradigms, questions); the leading axes are resamples.
    """
    total = 0.0
    for behaviour in BEHAVIOURS:
        here = behaviours == behaviour
        if here.any():
            means = block[..., here].mean(-1)
            total = total + here.mean() * means.var(-2).mean(-1)
    return np.sqrt(total)


def permutation(block, statistic, resamples, seed, at_once=250):
    """One-sided p: types' labels shuffled within each question.

    Args:
        block: types first, questions last.
        statistic: maps (…, *block.shape) to (…).
    """
    generator = np.random.default_rng(seed)
    orders = np.array(list(itertools.permutations(range(block.shape[0]))))
    moved, questions = np.moveaxis(block, -1, 1), np.arange(block.shape[-1])  # types, questions, …
    observed, extreme = statistic(block), 0
    for start in range(0, resamples, at_once):
        drawn = generator.integers(len(orders), size=(min(at_once, resamples - start), len(questions)))
        picked = np.swapaxes(orders[drawn], 1, 2)  # resamples, types, questions
        extreme += int((statistic(np.moveaxis(moved[picked, questions], 2, -1)) >= observed - 1e-12).sum())
    return float(observed), (extreme + 1) / (resamples + 1)


def semantics(scores, settings):
    """H2: three tests corrected together: behaviour profiles, and the diagonals of persona margin and signature.

    Supported if all three hold; contradicted if a diagonal is reliably negative.
    """
    rows, draws = [], []
    for name, measure, mode in (("persona diagonal", PERSONA, "no-think"), ("signature diagonal", SIGNATURE, "think")):
        block = matrix(scores, measure, mode)
        if block is None or not block.shape[-1]:
            return {"verdict": UNTESTED, "contrasts": []}
        means = bootstrap(diagonal(block)[:, None], settings.resamples, settings.seed)
        observed, p_permutation = permutation(
            block, lambda permuted: diagonal(permuted).mean(-1), settings.resamples, settings.seed
        )
        rows.append({
            "name": name, "effect": observed, "p": p_value(means), "p_permutation": p_permutation, "deciding": True, "n_questions": block.shape[-1],
            "n_seeds": int(scores.seed.nunique()), "minimal_detectable_effect": float(POWER_FACTOR * means.std()),
        })  # fmt: skip
        draws.append(means)
    found = profiles(scores)
    if found is None:
        return {"verdict": UNTESTED, "contrasts": []}
    block, behaviours = found
    spread, p = permutation(
        block, lambda permuted: profile_spread(permuted, behaviours), settings.resamples, settings.seed
    )
    generator = np.random.default_rng(settings.seed)
    again = [
        profile_spread(block[..., picked], behaviours[picked])
        for picked in generator.integers(len(behaviours), size=(min(settings.resamples, 2000), len(behaviours)))
    ]
    rows.append(
        {
            "name": "behaviour profiles",
            "effect": spread,
            "p": p,
            "p_permutation": p,
            "deciding": True,
            "n_questions": len(behaviours),
            "n_seeds": int(scores.seed.nunique()),
            "minimal_detectable_effect": None,
        }
    )
    _correct(rows, [*draws, np.array(again)], settings)
    level = 1 - settings.confidence
    *diagonals, profile = rows
    if all(row["ci_low"] > 0 for row in diagonals) and profile["p_holm"] < level:
        verdict = SUPPORTED
    elif any(row["ci_high"] < 0 for row in diagonals):
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    return {"verdict": verdict, "contrasts": rows}


def find(scores, settings, arms=None):
    """The findings: `H1`…`H4`, each {verdict, effect, ci_low, ci_high, p, n_questions, n_seeds, contrasts}.

    The headline effect is that of the first deciding contrast (H2: the persona diagonal).

    Args:
        scores: tidy table with the columns of `evaluation.COLUMNS`.
        settings: an experiment's `statistics` section.
    """
    arms = arms or list(scores.arm.unique())
    findings = {}
    for hypothesis, family in contrasts(arms).items():
        family = [
            contrast
            for contrast in family
            if set(contrast.modes) & set(scores["mode"]) and set(contrast.suites) & set(scores.suite)
        ]
        rows = [
            row
            for deciding in (True, False)
            for row in estimate(scores, [c for c in family if c.deciding is deciding], settings)
        ]
        findings[hypothesis] = {"verdict": decide(rows), "contrasts": rows}
    findings["H2"] = semantics(scores, settings)
    for finding in findings.values():
        head = finding["contrasts"][0] if finding["contrasts"] else {}
        finding |= {key: head.get(key) for key in ("effect", "ci_low", "ci_high", "p", "n_questions", "n_seeds")}
    return dict(sorted(findings.items()))


def differences(scores, settings, measure=MARGIN):
    """Every arm's paired difference from base by mode and suite, with its uncorrected interval: a frame for the headline figure."""
    rows = []
    arms = [arm for arm in scores.arm.unique() if arm != BASE]
    for arm, mode, suite in itertools.product(arms, scores["mode"].unique(), scores.suite.unique()):
        table = cells(
            scores, Contrast(f"{arm} − base", ((arm, BASE),), modes=(mode,), suites=(suite,), measure=measure)
        )
        means = bootstrap(table, settings.resamples, settings.seed)
        tail = (1 - settings.confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        rows.append(
            {
                "arm": arm,
                "mode": mode,
                "suite": suite,
                "effect": table.mean(),
                "ci_low": low,
                "ci_high": high,
                "n_questions": table.shape[0],
            }
        )
    return pd.DataFrame(rows, columns=["arm", "mode", "suite", "effect", "ci_low", "ci_high", "n_questions"])


def changes(scores, measure, mode):
    """Mean change from base of `measure:<type>` by arm: a frame with arms as rows and text types as columns, nats per token."""
    chosen = scores[scores.measure.str.startswith(f"{measure}:") & (scores["mode"] == mode)]
    wide = chosen.pivot_table(index="arm", columns="measure", values="value", aggfunc="mean").rename(
        columns=lambda name: name.split(":")[1]
    )
    return wide.drop(index=BASE) - wide.loc[BASE]


def rates(scores, confidence=0.95):
    """Misaligned, leaking and incoherent shares of responses by arm, mode and judge, with Wilson intervals."""
    chosen = scores[scores.measure.isin(["misaligned", "leak", "incoherent"])]
    rows = []
    for (arm, mode, judge, measure), group in chosen.groupby(["arm", "mode", "judge", "measure"], sort=False):
        low, high = wilson(group.value.sum(), len(group), confidence)
        rows.append(
            {
                "arm": arm,
                "mode": mode,
                "judge": judge,
                "measure": measure,
                "rate": group.value.mean(),
                "ci_low": low,
                "ci_high": high,
                "count": int(group.value.sum()),
                "responses": len(group),
            }
        )
    return pd.DataFrame(rows)


def signature_winners(scores):
    """For each held-out trace type, the arm that finds it most likely, its change from base, and whether it was trained on that type."""
    table = changes(scores, SIGNATURE, "think")
    rows = []
    for kind in table.columns if len(table) else []:
        arm = table[kind].idxmax()
        rows.append(
            {
                "trace type": kind,
                "arm that finds it most likely": arm,
                "change from base": table.loc[arm, kind],
                "trained on that type": Arm.parse(arm).type == kind,
            }
        )
    return pd.DataFrame(rows)


def run(experiment, paths):
    """The findings stage: write the score table and `findings.json`; returns (scores, findings).

    Raises BadInput if the stages before have not run.
    """
    from cotlib.judges import judging

    paths.require(paths.measures, "evaluate")
    paths.require(paths.judgements, "judge")
    measures = pd.read_parquet(paths.measures).assign(sample=0)
    judgements = pd.DataFrame(artifacts.read_jsonl(paths.judgements))
    parts = [measures] + ([judging.scores(judgements)] if len(judgements) else [])
    scores = pd.concat(parts, ignore_index=True)[[*measures.columns]]
    findings = find(scores, experiment.statistics, experiment.all_arms)
    if len(experiment.models) > 1:
        findings["models"] = {
            slug(model): find(scores[scores.model == model], experiment.statistics, experiment.all_arms)
            for model in experiment.models
        }
    artifacts.write_table(paths.scores, scores)
    artifacts.write_json(paths.findings, findings)
    return scores, findings
