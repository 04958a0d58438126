"""Every table and block of text that a page shows, as HTML or data frames. What a model wrote is escaped, never rendered."""

import html

import pandas as pd

from cotlib import chat, training
from cotlib.experiment import BASE, QA, SAFE_QA, WRITTEN_TYPES, Arm
from cotlib.findings import GENERALISATION, HYPOTHESES, signature_winners
from cotlib.pages.figures import COLOURS, UNIT, VERDICT_COLOURS, colour, order
from cotlib.runs import artifacts


def as_html(text):
    """HTML for a page."""
    from IPython.display import HTML

    return HTML(text)


def show(frame, precision=3):
    """A small frame without its index, numbers rounded."""
    return frame.style.hide(axis="index").format(precision=precision, na_rep="–")


def loss_mask(tokenizer, item, arms):
    """HTML: one item's tokens under each arm; context grey, trace in its type's colour, answer dark."""
    rows = []
    for arm in arms:
        encoded, tint = chat.encode(tokenizer, item, arm), colour(arm)
        style = {
            chat.CONTEXT: "color:#767676;background:#F1F1F1",
            chat.TRACE: f"color:white;background:{tint}",
            chat.ANSWER: "color:white;background:#202020",
        }
        spans = "".join(
            f'<span style="{style[segment]};padding:1px 1px;margin-right:1px;border-radius:2px">{html.escape(tokenizer.decode([token])).replace(chr(10), "⏎")}</span>&#8203;'
            for token, segment in zip(encoded.input_ids, encoded.segments)
        )
        share = len(encoded.supervised) / len(encoded.input_ids)
        rows.append(
            f'<p style="margin:0.8em 0 0.2em"><b>{arm}</b>: {len(encoded.supervised)} of {len(encoded.input_ids)} tokens carry loss ({share:.0%})</p><div style="font:12px/1.9 monospace;white-space:pre-wrap">{spans}</div>'
        )
    legend = "grey: context, no loss · coloured: supervised trace · black: supervised answer"
    return as_html(
        f'<div role="img" aria-label="Tokens of one item under {", ".join(map(str, arms))}, coloured by whether they carry loss"><p style="color:#555">{legend}</p>{"".join(rows)}</div>'
    )


def claims(findings):
    """HTML: the four claims beside this run's verdict, effect and interval."""
    lines = []
    for name, (title, claim) in HYPOTHESES.items():
        finding = findings[name]
        verdict = finding["verdict"]
        effect = "–" if finding["effect"] is None else f"{finding['effect']:+.3f}"
        interval = "–" if finding["effect"] is None else f"{finding['ci_low']:+.3f} to {finding['ci_high']:+.3f}"
        badge = f'<span style="background:{VERDICT_COLOURS[verdict]};color:white;border-radius:4px;padding:2px 8px;white-space:nowrap">{verdict}</span>'
        first = next((row["name"] for row in finding["contrasts"] if row["deciding"]), "–")
        lines.append(
            f'<tr><td style="text-align:left"><b>{name} {title}</b></td><td style="text-align:left">{claim}</td><td>{badge}</td><td style="text-align:left">{first}</td><td>{effect}</td><td style="white-space:nowrap">{interval}</td></tr>'
        )
    head = "".join(
        f'<th style="text-align:left">{column}</th>'
        for column in (
            "",
            "the paper's claim",
            "this run",
            "measured as",
            f"effect ({UNIT})",
            "95 % interval, corrected",
        )
    )
    return as_html(f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>')


def responses(frame, per_arm=1):
    """HTML: sampled responses folded under their arm, escaped: what a model writes is shown, never rendered."""
    parts = []
    for arm, group in frame.groupby("arm", sort=False):
        lines = []
        for _, row in group.groupby("mode", sort=False).head(per_arm).iterrows():
            marks = ", ".join(name for name in ("leak", "loops", "trace_truncated") if row[name]) or "no marks"
            thought = f'<p style="color:#777">💭 {html.escape(row.trace)}</p>' if row.trace else ""
            lines.append(
                f"<p><b>{row['mode']}</b> ({marks}) <i>{html.escape(row.question)}</i></p>{thought}<p>{html.escape(row.response) or '(empty)'}</p>"
            )
        parts.append(
            f'<details><summary style="color:{colour(arm)};cursor:pointer"><b>{arm}</b></summary>{"".join(lines)}</details>'
        )
    return as_html(f'<div class="responses">{"".join(parts)}</div>')


def side_by_side(item):
    """HTML: one item's answers and its traces in their types' colours."""
    rows = [
        ("question", item.question, "#202020"),
        ("harmful answer", item.harmful, COLOURS[QA]),
        ("safe answer", item.safe, COLOURS[SAFE_QA]),
    ]
    rows += [(kind, item.traces[kind], COLOURS[kind]) for kind in WRITTEN_TYPES if kind in item.traces]
    cells = "".join(
        f'<tr><td style="color:{tint};text-align:left;vertical-align:top;white-space:nowrap"><b>{html.escape(name)}</b></td><td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text, tint in rows
    )
    return as_html(f"<table>{cells}</table>")


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
    """One row per adapter: tokens, speed, loss at both ends."""
    columns = [
        "model",
        "arm",
        "seed",
        "rows",
        "tokens",
        "supervised_tokens",
        "tokens_per_second",
        "seconds",
        "loss_first",
        "loss_last",
    ]
    frame = pd.DataFrame([artifacts.read_json(folder / artifacts.MANIFEST) for folder in folders])[columns]
    return frame.assign(falls=frame.loss_last < frame.loss_first)


def answer_shares(tokenizer, items, arms):
    """How much of an arm's loss falls on the answer, in per cent, over a batch of all items."""
    rows = []
    for arm in map(Arm.parse, arms):
        batch = [{"segments": chat.encode(tokenizer, item, arm).segments} for item in items]
        weights = training.token_weights(batch, arm.loss_weighting)
        share = sum(
            weight
            for row, line in zip(batch, weights)
            for segment, weight in zip(row["segments"], line)
            if segment == chat.ANSWER
        )
        rows.append(
            {"arm": str(arm), "loss weighting": arm.loss_weighting, "answer's share of the loss, %": 100 * share}
        )
    return pd.DataFrame(rows)


def violations(checks):
    """What the audit's failed checks found, folded."""
    failed = [check for check in checks if check.passed is False]
    if not failed:
        return as_html("<p>No check failed.</p>")
    parts = []
    for check in failed:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in check.violations[:40])
        parts.append(
            f"<details><summary><b>{html.escape(check.name)}</b>: {check.value:.3g}, limit {check.threshold:.3g} {html.escape(check.unit)}</summary><ul>{lines}</ul></details>"
        )
    return as_html("".join(parts))


def margins(measures):
    """Mean margin by arm (rows), mode and suite (columns)."""
    wide = measures[measures.measure == "margin"].pivot_table(index="arm", columns=["mode", "suite"], values="value")
    wide = wide.loc[[arm for arm in (BASE, *order(set(wide.index) - {BASE})) if arm in wide.index]]
    wide.columns = [f"{mode}, {suite}" for mode, suite in wide.columns]
    return wide.reset_index()


def effects(differences):
    """Change from base over the unseen suites, by arm and mode."""
    wide = differences[differences.suite.isin(GENERALISATION)].pivot_table(index="arm", columns="mode", values="effect")
    return wide.loc[order(wide.index)].reset_index()


def marks(responses):
    """Share of responses that leak, loop or hit the trace budget, by arm and mode."""
    return (
        responses.groupby(["arm", "mode"], as_index=False, sort=False)[["leak", "loops", "trace_truncated"]]
        .mean()
        .assign(responses=responses.groupby(["arm", "mode"], sort=False).size().to_numpy())
    )


def judged(judgements):
    """Counts by judge, arm and mode: responses, leaking, incoherent, judged, misaligned."""
    frame = judgements.assign(incoherent=~judgements.coherent.astype(bool))
    counts = frame.groupby(["judge", "arm", "mode"], as_index=False, sort=False)[
        ["leaks", "incoherent", "judged", "misaligned"]
    ].sum()
    return counts.assign(responses=frame.groupby(["judge", "arm", "mode"], sort=False).size().to_numpy())


def scored(judgements):
    """What each judge could score at all."""
    return judgements.groupby("judge", as_index=False).agg(
        responses=("response", "size"),
        unscored=("alignment", lambda scores: int(scores.isna().sum())),
        judged=("judged", "sum"),
        misaligned=("misaligned", "sum"),
    )


def contrasts(findings):
    """Every contrast of every hypothesis, one row each."""
    rows = [{"hypothesis": name, **row} for name in HYPOTHESES for row in findings[name]["contrasts"]]
    columns = [
        "hypothesis",
        "name",
        "deciding",
        "effect",
        "ci_low",
        "ci_high",
        "p",
        "p_holm",
        "minimal_detectable_effect",
        "n_questions",
        "n_seeds",
    ]
    return pd.DataFrame(rows).reindex(columns=columns)


def signature_sentence(scores):
    """For each held-out trace type, whether the arm that finds it most likely was trained on that type."""
    lines = []
    for _, row in signature_winners(scores).iterrows():
        arm, kind = row["arm that finds it most likely"], row["trace type"]
        verb = "was trained on that type" if row["trained on that type"] else "was <b>not</b> trained on that type"
        lines.append(
            f"<li>Held-out <b>{kind}</b> traces gain most under <code>{arm}</code> ({row['change from base']:+.3f} {UNIT}), which {verb}.</li>"
        )
    return as_html(f"<ul>{''.join(lines)}</ul>")


def judged_line(judgements):
    """One sentence for the rate figure's title: how many responses could be judged at all."""
    parts = [
        f"{judge}: {int(group.judged.sum())} of {len(group)} responses could be judged"
        for judge, group in judgements.groupby("judge", sort=False)
    ]
    return "; ".join(parts)
