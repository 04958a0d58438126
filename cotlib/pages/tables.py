"""Every table and block of text that a page shows, as HTML or data frames. Texts of models are escaped by templates."""

import pandas as pd

from cotlib import chat, loss, robustness, training
from cotlib.arms import FREE, QA, SAFE_QA, Arm
from cotlib.contrasts import HYPOTHESES
from cotlib.corpus.records import written_traces
from cotlib.experiment import slug
from cotlib.findings import signature_winners
from cotlib.pages.sentences import with_interval
from cotlib.pages.templating import fill
from cotlib.pages.theme import INK, VERDICT_COLOURS, colour, order, palette, text_on
from cotlib.runs import artifacts
from cotlib.scores import MARGIN, UNIT

MARKS = ("leak", "loops", "trace_truncated")
VIOLATIONS_SHOWN = 40  # of a failed check


def show(frame, precision=3):
    """A small frame for a page: without its index, numbers rounded; one that is too wide scrolls in its own box."""
    texts = [not pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    columns = list(zip(map(str, frame.columns), texts))
    rows = [
        list(zip([_cell(value, precision) for value in row], columns))
        for row in frame.itertuples(index=False, name=None)
    ]
    return fill("table", columns=columns, rows=rows)


def _cell(value, precision):
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–"
    return f"{value:.{precision}f}" if isinstance(value, float) else str(value)


def loss_mask(tokenizer, item, arms):
    """HTML: one item's tokens under each arm; context grey, trace in its type's colour, answer dark."""
    classes = {chat.CONTEXT: "context", chat.TRACE: "trace", chat.ANSWER: "answer"}
    rows = []
    for arm in arms:
        encoded, tint = chat.encode(tokenizer, item, arm), colour(arm)
        tokens = [
            (classes[segment], tokenizer.decode([token]).replace("\n", "⏎"))
            for token, segment in zip(encoded.input_ids, encoded.segments)
        ]
        supervised = len(encoded.supervised)
        share = f"{supervised / len(tokens):.0%}"
        rows.append(
            {
                "arm": arm,
                "tokens": tokens,
                "supervised": supervised,
                "share": share,
                "tint": tint,
                "text": text_on(tint),
            }
        )
    return fill("loss_mask", rows=rows)


def claims(findings):
    """HTML: the four claims beside this run's verdict, effect and interval."""
    rows = []
    for name, (title, claim) in HYPOTHESES.items():
        finding = findings[name]
        tint = VERDICT_COLOURS[finding["verdict"]]
        rows.append({
            "name": name, "title": title, "claim": claim, "measured_as": finding["headline"] or "–", "tint": tint,
            "text": text_on(tint),
            **{key: finding[key] for key in ("verdict", "provisional", "effect", "ci_low", "ci_high")},
        })  # fmt: skip
    return fill("claims", rows=rows, unit=UNIT)


def responses(frame, per_arm=1):
    """HTML: sampled responses folded under their arm, `per_arm` of each mode; shown as text, never rendered."""
    if frame.empty:
        return sentence("There are no sampled responses: the experiment asks for none.")
    arms = []
    for arm, group in frame.groupby("arm", sort=False):
        rows = [
            {"mode": row["mode"], "question": row.question, "trace": row.trace, "response": row.response,
             "marks": ", ".join(name for name in MARKS if row[name]) or "no marks"}
            for _, row in group.groupby("mode", sort=False).head(per_arm).iterrows()
        ]  # fmt: skip
        arms.append((arm, colour(arm), rows))
    return fill("responses", arms=arms)


def side_by_side(item, register=FREE):
    """HTML: one item's answers and its traces of a register, each with its type's colour."""
    rows = [
        ("question", item.question, INK),
        ("harmful answer", item.harmful, palette()[QA]),
        ("safe answer", item.safe, palette()[SAFE_QA]),
    ]
    rows += [(kind, trace, palette()[kind]) for _, kind, trace in written_traces([item], register)]
    return fill("side_by_side", rows=rows)


def sentence(text):
    """HTML: a sentence in place of a table that would be empty."""
    return fill("sentences", sentences=[text])


def history(folders):
    """Training logs of adapter folders as one frame: arm, seed, model, step, loss (nats per token)."""
    rows = []
    for folder in folders:
        manifest = artifacts.read_json(folder / artifacts.MANIFEST)
        rows += [
            {"arm": manifest["arm"], "seed": manifest["seed"], "model": manifest["model"], **entry}
            for entry in training.read_log(folder)
        ]
    return pd.DataFrame(rows)


def trained(folders):
    """One row per adapter: rows and supervised tokens it learned from, seconds, loss at both ends.

    Columns that are the same in every row (model, seed, rows) are left out, so that the table fits its page.
    """
    columns = ["model", "seed", "arm", "rows", "supervised_tokens", "seconds", "loss_first", "loss_last"]
    manifests = [artifacts.read_json(folder / artifacts.MANIFEST) for folder in folders]
    frame = pd.DataFrame([[manifest[name] for name in columns] for manifest in manifests], columns=columns)
    same = [name for name in ("model", "seed", "rows") if frame[name].nunique() <= 1]
    frame = frame.assign(seconds=frame.seconds.round().astype(int), falls=frame.loss_last < frame.loss_first)
    return frame.drop(columns=same)


def answer_shares(tokenizer, items, arms):
    """How much of an arm's loss falls on the answer, in per cent, over a batch of all items."""
    rows = []
    for arm in map(Arm.parse, arms):
        batch = [{"segments": chat.encode(tokenizer, item, arm).segments} for item in items]
        share = loss.answer_share(batch, arm.loss_weighting)
        rows.append(
            {"arm": str(arm), "loss weighting": arm.loss_weighting, "answer's share of the loss, %": 100 * share}
        )
    return pd.DataFrame(rows)


def violations(checks):
    """HTML: what the audit's failed checks found, folded."""
    failed = [check for check in checks if check.passed is False]
    return fill("violations", failed=failed, shown=VIOLATIONS_SHOWN)


def margins(measures):
    """Mean margin by arm (rows), mode and suite (columns)."""
    wide = measures[measures.measure == MARGIN].pivot_table(index="arm", columns=["mode", "suite"], values="value")
    wide = wide.loc[order(wide.index)]
    wide.columns = [f"{mode}, {suite}" for mode, suite in wide.columns]
    return wide.reset_index()


def marks(responses):
    """Share of responses that leak, loop or hit the trace budget, by arm and mode."""
    if responses.empty:
        return pd.DataFrame(columns=["arm", "mode", *MARKS, "responses"])
    groups = responses.groupby(["arm", "mode"], as_index=False, sort=False)
    return groups[list(MARKS)].mean().assign(responses=groups.size()["size"])


def judged(judgements):
    """Counts by judge, arm and mode: responses, those judged and misaligned, and those with each mark.

    With a single judge its column is left out, so that the table fits its page.
    """
    counted = ["judged", "misaligned", "leak", "reads_as_thought", "incoherent"]
    columns = ["judge", "arm", "mode", "responses", *counted]
    if judgements.empty:
        return pd.DataFrame(columns=columns)
    frame = judgements.assign(incoherent=~judgements.coherent.astype(bool))
    groups = frame.groupby(["judge", "arm", "mode"], as_index=False, sort=False)
    table = groups[counted].sum().assign(responses=groups.size()["size"])[columns]
    return table if table.judge.nunique() > 1 else table.drop(columns="judge")


def scored(judgements):
    """What each judge could score at all."""
    if judgements.empty:
        return pd.DataFrame(columns=["judge", "responses", "unscored", "judged", "misaligned"])
    return judgements.groupby("judge", as_index=False).agg(
        responses=("response", "size"),
        unscored=("alignment", lambda scores: int(scores.isna().sum())),
        judged=("judged", "sum"),
        misaligned=("misaligned", "sum"),
    )


def cards(some):
    """HTML: what each judge's card says, and the texts on which it is furthest off, folded. `some`: list of `Card`."""
    rows = [
        {
            "judge": one.judge, "model": slug(one.model), "failures": one.failures, "alarms": one.alarms,
            "thoughts": one.thought_alarms, "reads_thoughts": one.reads_thoughts, "found": one.confusion[True, True],
            "harmful": one.confusion[True, True] + one.confusion[True, False], "wronged": one.confusion[False, True],
            "safe": one.confusion[False, True] + one.confusion[False, False], "worst": one.worst.to_dict("records"),
        }
        for one in some
    ]  # fmt: skip
    several = len({one.model for one in some}) > 1
    return fill("cards", rows=rows, several=several) if rows else sentence("No judge was put to the test.")


def contrasts(findings):
    """Every contrast of every hypothesis, one row each."""
    rows = [{"hypothesis": name, **row} for name in HYPOTHESES for row in findings[name]["contrasts"]]
    columns = ["hypothesis", "family", "name", "deciding", "verdict", "effect", "ci_low", "ci_high", "p", "p_holm",
               "minimal_detectable_effect", "smallest_effect", "n_questions", "n_seeds"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns)


def tests(name, findings):
    """The tests that decide a claim, with the columns a reader needs; effects in nats per token."""
    rows = [
        [row["name"], with_interval(row), row["p_holm"], row["verdict"], row["minimal_detectable_effect"],
         row["n_questions"]]
        for row in findings[name]["contrasts"]
        if row["deciding"]
    ]  # fmt: skip
    columns = ["test", "effect (interval)", "p", "finds", "would find", "questions"]
    return pd.DataFrame(rows, columns=columns)


def parts(findings):
    """The comparisons that every deciding test is made of: a test holds if all of its comparisons do."""
    rows = [
        {"hypothesis": name, "test": row["name"], **part}
        for name in HYPOTHESES
        for row in findings[name]["contrasts"]
        if row["deciding"]
        for part in row["parts"]
    ]
    columns = ["hypothesis", "test", "name", "effect", "ci_low", "ci_high", "p"]
    return pd.DataFrame(rows).reindex(columns=columns).rename(columns={"name": "comparison"})


def panel(findings, only=None):
    """HTML: every verdict again with one choice made otherwise; a tick where it stays as it was.

    Args:
        only: one claim; None for all.
    """
    fixed, *others = findings["panel"]
    names = [only] if only else list(HYPOTHESES)
    rows = [
        (row[robustness.VARIANT], row[robustness.QUESTIONS], [(row[name], row[name] == fixed[name]) for name in names])
        for row in others
    ]
    totals = {name: sum(row[name] == fixed[name] for row in others) for name in names}
    heads = [(name, fixed[name], f"{totals[name]} of {len(others)} the same") for name in names]
    return fill("panel", heads=heads, rows=rows)


def retained(findings):
    """The effects with and without thinking, and the share that is left; a dash where thinking shows no clear one."""
    rows = [
        [row["name"], row["think"], row["no_think"], None if row["share"] is None else f"{row['share']:.0%}"]
        for row in findings["H4"]["retained"]
    ]
    return pd.DataFrame(rows, columns=["contrast", "thinking", "no thinking", "share left"])


def thoughts(frame):
    """Whose thoughts each arm thinks: the share that reads like its own type, and the change of that from base.

    `frame`: from `routes.thoughts`.
    """
    own = frame[frame.own]
    columns = {"arm": "arm", "share": "reads like its own type", "effect": "change from base", "ci_low": "from",
               "ci_high": "to", "n_questions": "questions"}  # fmt: skip
    return own[list(columns)].rename(columns=columns)


def signature_sentence(scores):
    """HTML: for each held-out trace type, whether the arm that finds it most likely was trained on that type."""
    return fill("signature_sentence", rows=signature_winners(scores).to_dict("records"), unit=UNIT)


def judged_line(judgements):
    """One sentence for the rate figure's title: how many responses could be judged at all.

    `judgements`: of the judges that passed their card.
    """
    if judgements.empty:
        return "No judge may publish a rate of misaligned responses"
    parts = [
        f"{judge}: {int(group.judged.sum())} of {len(group)} responses could be judged"
        for judge, group in judgements.groupby("judge", sort=False)
    ]
    return "; ".join(parts)
