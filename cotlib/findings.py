"""From the score table to what can be said about the four hypotheses: effects, intervals, verdicts.

Which contrasts decide stands in `contrasts`, how an interval is made in `intervals`. Knows nothing about models: a tidy
table in, findings out. The models of an experiment are averaged and not resampled: they are a fixed choice.
"""

import itertools

import numpy as np
import pandas as pd

from cotlib import intervals, scores
from cotlib.arms import BASE, BEHAVIOURS, Arm, studied_types, with_trace
from cotlib.contrasts import (
    CONTRADICTED,
    GENERALISATION,
    INCONCLUSIVE,
    SUPPORTED,
    UNTESTED,
    contrasts,
    difference_from_base,
)
from cotlib.errors import BadInput


def cells(table, contrast):
    """The contrast per question and seed, in nats per token: array (questions, seeds), averaged over all else."""
    chosen = table[
        (table.measure == contrast.measure) & table["mode"].isin(contrast.modes) & table.suite.isin(contrast.suites)
    ]
    wide = chosen.pivot_table(index=["question_id", "seed"], columns="arm", values="value", aggfunc="mean")
    missing = sorted({name for pair in contrast.pairs for name in pair} - set(wide.columns))
    if missing:
        raise BadInput(
            f"contrast {contrast.name!r} needs arm {missing[0]!r}, which has no {contrast.measure} in the table; "
            "evaluate it first"
        )
    difference = sum(wide[arm] - wide[reference] for arm, reference in contrast.pairs) / len(contrast.pairs)
    return difference.unstack("seed").dropna().to_numpy(dtype=float)


def estimate(table, family, settings):
    """Effects of contrasts that are corrected together: list of mappings in the given order.

    Each has name, effect, ci_low, ci_high (Holm-corrected), p, p_holm, minimal_detectable_effect, n_questions,
    n_seeds, deciding.
    """
    rows, draws = [], []
    for contrast in family:
        block = cells(table, contrast)
        means = intervals.bootstrap(block, settings.resamples, settings.seed)
        draws.append(means)
        rows.append({
            "name": contrast.name, "effect": float(block.mean()), "p": intervals.p_value(means),
            "deciding": contrast.deciding, "n_questions": block.shape[0], "n_seeds": block.shape[1],
        })  # fmt: skip
    _correct(rows, draws, settings)
    return rows


def _correct(rows, draws, settings):
    """Add to each row its Holm-corrected p and interval, and the effect that it would have found four times in five."""
    adjusted, divisors = intervals.holm([row["p"] for row in rows])
    for row, means, p_holm, divisor in zip(rows, draws, adjusted, divisors):
        low, high = intervals.corrected_interval(means, settings.confidence, divisor)
        detectable = intervals.detectable(means.std(), settings.confidence, len(rows))
        row |= {"p_holm": p_holm, "ci_low": low, "ci_high": high, "minimal_detectable_effect": detectable}


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


def matrix(table, measure, mode):
    """Change from base in a measure of types' texts: array (arm types, text types, questions), nats per token.

    Averaged over paradigms, seeds and models, for the studied types whose texts were measured. None if such a type has
    no arm.
    """
    chosen = table[(table.measure == measure) & (table["mode"] == mode)]
    wide = chosen.pivot_table(index="question_id", columns=["arm", "text"], values="value", aggfunc="mean")
    trained, texts = (set(wide.columns.get_level_values(level)) for level in (0, 1))
    types = [kind for kind in studied_types() if kind in texts]
    blocks = []
    for kind in types:
        arms = [f"{kind}-{paradigm}" for paradigm in with_trace() if f"{kind}-{paradigm}" in trained]
        if not arms:
            return None
        blocks.append([sum(wide[arm, text] - wide[BASE, text] for arm in arms) / len(arms) for text in types])
    return np.array(blocks, dtype=float) if blocks else None


def diagonal(block):
    """Per question: mean of the diagonal minus mean of the rest; effects of an arm or a text as such cancel.

    (…, types, types, questions) → (…, questions).
    """
    count = block.shape[-3]
    on = np.einsum("...iiq->...q", block)
    return on / count - (block.sum((-3, -2)) - on) / (count * (count - 1))


def profiles(table):
    """Margin change from base by type and question: array (types, paradigms, questions), and the questions' behaviours.

    None if an arm is missing.
    """
    chosen = table[(table.measure == scores.MARGIN) & table.suite.isin(GENERALISATION)]
    wide = chosen.pivot_table(index=["question_id", "behaviour"], columns="arm", values="value", aggfunc="mean")
    types = [kind for kind in studied_types() if any(f"{kind}-{paradigm}" in wide for paradigm in with_trace())]
    paradigms = [paradigm for paradigm in with_trace() if all(f"{kind}-{paradigm}" in wide for kind in types)]
    if len(types) < 2 or not paradigms:
        return None
    block = [[wide[f"{kind}-{paradigm}"] - wide[BASE] for paradigm in paradigms] for kind in types]
    return np.array(block, dtype=float), wide.index.get_level_values("behaviour").to_numpy()


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


def semantics(table, settings):
    """H2: three tests corrected together: behaviour profiles, and the diagonals of persona margin and signature.

    Supported if all three hold; contradicted if a diagonal is reliably negative.
    """
    rows, draws = [], []
    for name, measure, mode in (
        ("persona diagonal", scores.PERSONA, "no-think"),
        ("signature diagonal", scores.SIGNATURE, "think"),
    ):
        block = matrix(table, measure, mode)
        if block is None or not block.shape[-1]:
            return {"verdict": UNTESTED, "contrasts": []}
        row, means = _diagonal_row(name, block, settings)
        rows.append(row)
        draws.append(means)
    found = profiles(table)
    if found is None:
        return {"verdict": UNTESTED, "contrasts": []}
    row, means = _profile_row(*found, settings)
    rows, draws = [*rows, row], [*draws, means]
    for row in rows:
        row |= {"deciding": True, "n_seeds": int(table.seed.nunique())}
    _correct(rows, draws, settings)
    *diagonals, profile = rows
    profile["minimal_detectable_effect"] = None  # a spread has no direction, and its resampled mean is not around 0
    if all(row["ci_low"] > 0 for row in diagonals) and profile["p_holm"] < 1 - settings.confidence:
        verdict = SUPPORTED
    elif any(row["ci_high"] < 0 for row in diagonals):
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    return {"verdict": verdict, "contrasts": rows}


def _diagonal_row(name, block, settings):
    means = intervals.bootstrap(diagonal(block)[:, None], settings.resamples, settings.seed)
    observed, p_permutation = intervals.permutation(
        block, lambda permuted: diagonal(permuted).mean(-1), settings.resamples, settings.seed
    )
    row = {"name": name, "effect": observed, "p": intervals.p_value(means), "p_permutation": p_permutation}
    return row | {"n_questions": block.shape[-1]}, means


def _profile_row(block, behaviours, settings):
    spread, p = intervals.permutation(
        block, lambda permuted: profile_spread(permuted, behaviours), settings.resamples, settings.seed
    )
    generator = np.random.default_rng(settings.seed)
    again = [
        profile_spread(block[..., picked], behaviours[picked])
        for picked in generator.integers(len(behaviours), size=(min(settings.resamples, 2000), len(behaviours)))
    ]
    row = {"name": "behaviour profiles", "effect": spread, "p": p, "p_permutation": p, "n_questions": len(behaviours)}
    return row, np.array(again)


def families(table, arms):
    """The contrasts of these arms that the table has modes and suites for: hypothesis → list of Contrast."""
    modes, suites = set(table["mode"]), set(table.suite)
    return {
        hypothesis: [c for c in family if modes & set(c.modes) and suites & set(c.suites)]
        for hypothesis, family in contrasts(arms).items()
    }


def find(table, settings, arms=None):
    """The findings: `H1`…`H4`, each {verdict, effect, ci_low, ci_high, p, n_questions, n_seeds, contrasts}.

    The headline effect is that of the first deciding contrast (H2: the persona diagonal).

    Args:
        table: tidy table with the columns of `scores`.
        settings: an experiment's `statistics` section.
    """
    findings = {}
    for hypothesis, family in families(table, arms or table.arm.unique()).items():
        rows = [
            row
            for deciding in (True, False)
            for row in estimate(table, [c for c in family if c.deciding is deciding], settings)
        ]
        findings[hypothesis] = {"verdict": decide(rows), "contrasts": rows}
    findings["H2"] = semantics(table, settings)
    for finding in findings.values():
        head = finding["contrasts"][0] if finding["contrasts"] else {}
        finding |= {key: head.get(key) for key in ("effect", "ci_low", "ci_high", "p", "n_questions", "n_seeds")}
    return dict(sorted(findings.items()))


def differences(table, settings, measure=scores.MARGIN):
    """Every arm's paired difference from base by mode and suite, with its uncorrected interval: the headline figure."""
    rows, table = [], table[table.measure == measure]  # questions without answers have other measures alone
    arms = [arm for arm in table.arm.unique() if arm != BASE]
    for arm, mode, suite in itertools.product(arms, table["mode"].unique(), table.suite.unique()):
        block = cells(table, difference_from_base(arm, mode, suite, measure))
        means = intervals.bootstrap(block, settings.resamples, settings.seed)
        low, high = intervals.corrected_interval(means, settings.confidence, 1)
        rows.append([arm, mode, suite, block.mean(), low, high, block.shape[0]])
    return pd.DataFrame(rows, columns=["arm", "mode", "suite", "effect", "ci_low", "ci_high", "n_questions"])


def changes(table, measure, mode):
    """Mean change from base in a measure of types' texts: a frame, arms × text types, nats per token."""
    chosen = table[(table.measure == measure) & (table["mode"] == mode)]
    if chosen.empty:
        return pd.DataFrame()
    wide = chosen.pivot_table(index="arm", columns="text", values="value", aggfunc="mean")
    return wide.drop(index=BASE) - wide.loc[BASE]


def rates(table, confidence):
    """Misaligned, leaking and incoherent shares of responses by arm, mode and judge, with Wilson intervals."""
    chosen = table[table.measure.isin([scores.MISALIGNED, scores.LEAK, scores.INCOHERENT])]
    rows = []
    for key, group in chosen.groupby(["arm", "mode", "judge", "measure"], sort=False):
        low, high = intervals.rate_interval(group.value.sum(), len(group), confidence)
        rows.append([*key, group.value.mean(), low, high, int(group.value.sum()), len(group)])
    columns = ["arm", "mode", "judge", "measure", "rate", "ci_low", "ci_high", "count", "responses"]
    return pd.DataFrame(rows, columns=columns)


def signature_winners(table):
    """For each held-out trace type: the arm that finds it most likely, its change from base, and whether that fits."""
    found = changes(table, scores.SIGNATURE, "think")
    columns = ["trace type", "arm that finds it most likely", "change from base", "trained on that type"]
    winners = [(kind, found[kind].idxmax()) for kind in found.columns if len(found)]
    rows = [[kind, arm, found.loc[arm, kind], Arm.parse(arm).type == kind] for kind, arm in winners]
    return pd.DataFrame(rows, columns=columns)
