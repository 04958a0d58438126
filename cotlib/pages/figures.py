"""Every plot of the book. Takes tidy frames, returns pictures that a notebook shows where a cell ends in one.

A title states what is found, so functions take it from the data wherever the finding is one sentence.
"""

import math
import textwrap

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cotlib.arms import MODES, NEUTRAL, QA, SAFE_QA, SUITES, Arm, studied_types, written_types
from cotlib.contrasts import GENERALISATION, HYPOTHESES, PRESSURE
from cotlib.corpus.checks.check import AT_LEAST, THRESHOLDS
from cotlib.judges.judgement import LEAST_AUC
from cotlib.pages.claims import verdict
from cotlib.pages.picture import canvas, drawn
from cotlib.pages.sentences import with_interval
from cotlib.pages.theme import FAILED, GREY, INK, MODE_MARKERS, PASSED, colour, markers, order, palette
from cotlib.scores import UNIT

OFFSET = {"no-think": -0.17, "think": 0.17}  # the two modes of an arm, above and below its row
ROW_INCHES = 0.3
LONGEST_BAR = 2.0  # in limits: a check that misses its limit by more is cut off there
RATES = ("misaligned", "leak", "incoherent")


def _title(figure, text):
    """What is found, above the whole figure; long titles take several lines."""
    figure.suptitle("\n".join(textwrap.wrap(text, 74)), x=0.005, ha="left")


def _nothing(text):
    """A figure that says why it is empty."""
    lines = textwrap.wrap(text, 84)
    figure, axes = canvas(0.2 * len(lines) + 0.3)
    axes[0, 0].text(0, 0.5, "\n".join(lines), va="center")
    axes[0, 0].axis("off")
    return figure, text


def _interval(axis, row, values, tint, mode="no-think", size=5):
    """A point with its interval in one row of a panel: filled without thinking, open with it."""
    filled = mode == "no-think"
    axis.plot([values["ci_low"], values["ci_high"]], [row, row], color=tint, linewidth=1.6, alpha=1 if filled else 0.55)
    effect = values["effect"] if "effect" in values else values["rate"]
    fill = tint if filled else "white"
    axis.plot([effect], [row], MODE_MARKERS[mode], color=tint, markerfacecolor=fill, markersize=size)


def _rows(axis, names):
    """Names of rows, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)


def _below(figure, text, modes):
    """What the axis means, and which marker stands for which mode, below all panels."""
    markers = {"no-think": "● no-think", "think": "□ think"}
    figure.supxlabel(text + "\n" + "\u2003".join(markers[mode] for mode in MODES[::-1] if mode in modes), fontsize=10)


def _spread(means):
    """How far mean lengths lie apart, as the audit measures it: longest minus shortest, over their mean."""
    return (means.max() - means.min()) / means.mean()


@drawn
def lengths(tokens):
    """Distribution of trace lengths by type. `tokens`: frame from `checks.traces.trace_lengths`."""
    kinds = [kind for kind in written_types() if kind in set(tokens.type)]
    if not kinds:
        return _nothing("There are no traces whose length could be compared.")
    means = tokens.groupby("type").tokens.mean()
    limit = THRESHOLDS["trace length between types"]
    spread = _spread(means)
    figure, axes = canvas(0.45 * len(kinds) + 0.9)
    sns.boxplot(tokens, x="tokens", y="type", hue="type", order=kinds, hue_order=kinds, palette=palette(), width=0.6,
                fliersize=2, ax=axes[0, 0], legend=False)  # fmt: skip
    axes[0, 0].set(xlabel="tokens per trace", ylabel="")
    place = "inside" if spread <= limit + 1e-9 else "beyond"
    title = f"Mean trace lengths of the types lie {spread:.1%} apart, {place} the audit's limit of {limit:.0%}"
    if len(kinds) == 1:
        title = f"Only {kinds[0]} has traces: no lengths to compare"
    _title(figure, title)
    return figure, f"{title}. Mean tokens per trace: " + ", ".join(f"{kind} {means[kind]:.1f}" for kind in kinds)


def share_of_limit(check):
    """An audit check's value as a share of its limit: above 1 it fails; infinite beyond a limit of 0.

    For a check that asks for at least its limit it is the limit as a share of the value.
    """
    value, limit = (check.threshold, check.value) if check.name in AT_LEAST else (check.value, check.threshold)
    if value == 0:
        return 0.0
    return value / limit if limit else math.inf


@drawn
def audit(checks):
    """Each audit check as a share of its limit: what ends left of the line passes. `checks`: list of `Check`."""
    rated = [check for check in checks if check.passed is not None]
    if not rated:
        return _nothing("No check could be rated.")
    shares = [share_of_limit(check) for check in rated]
    end = min(LONGEST_BAR, max(1.2, *shares))
    figure, axes = canvas(0.27 * len(rated) + 1)
    axis = axes[0, 0]
    tints = [PASSED if check.passed else FAILED for check in rated]
    axis.barh(range(len(rated)), [min(share, end) for share in shares], color=tints, height=0.62)
    for row, (check, share) in enumerate(zip(rated, shares)):
        sign = "≥" if check.name in AT_LEAST else "≤"
        beyond = f", {share:.1f} times" if end < share < math.inf else ""
        text = f"{check.value:.3g} ({sign} {check.threshold:.3g}{beyond})"
        axis.text(end * 1.02, row, text, va="center", fontsize=9, color=INK if check.passed else FAILED)
        if share == 0:
            axis.text(0.015, row, "none", va="center", fontsize=8.5, color=GREY)
    axis.axvline(1, color="black", linewidth=1.2)
    _rows(axis, [check.name for check in rated])
    axis.grid(False)
    axis.set(xlim=(0, end), xticks=[tick for tick in (0, 0.5, 1, 1.5, 2) if tick <= end])
    axis.set_xlabel("value as a share of its limit (for ≥: limit as a share of the value)")
    failed = [check.name for check in rated if not check.passed]
    title = f"{len(rated) - len(failed)} of {len(rated)} checks pass" + (
        f"; beyond: {', '.join(failed)}" * bool(failed)
    )
    _title(figure, title)
    results = [f"{check.name} {check.value:.3g} of {check.threshold:.3g}" for check in rated]
    return figure, f"{title}. Value and limit: {'; '.join(results)}"


@drawn
def form_probe(folds):
    """How well the types are told apart from form alone, against all words, a row per register and kind of probe.

    `folds`: frames from `forms.probe`, one below the other.
    """
    if folds.empty:
        return _nothing("Too few items to tell the types apart by their form.")
    folds = folds.assign(probe=folds.register + " traces, " + folds.features)
    means, chance = folds.groupby("probe", sort=False).accuracy.mean(), 1 / len(written_types())
    figure, axes = canvas(0.4 * len(means) + 1.1)
    axis = axes[0, 0]
    sns.barplot(folds, y="probe", x="accuracy", color=palette()[NEUTRAL], errorbar=("sd", 1), ax=axis)
    axis.axvline(chance, color="black", linestyle="--", linewidth=1)
    axis.text(chance + 0.006, -0.46, "chance", fontsize=9, va="bottom")
    axis.set(xlim=(0, 1), ylabel="")
    axis.set_xlabel(f"cross-validated accuracy, {len(written_types())} types; lines: one standard deviation over folds")
    title = "Types are told apart by " + ", by ".join(f"{name} at {value:.0%}" for name, value in means.items())
    _title(figure, f"{title} (chance {chance:.0%})")
    results = "; ".join(f"{name}: accuracy {value:.2f}" for name, value in means.items())
    return figure, f"{results}; chance {chance:.2f}"


def _falls(losses):
    """Whether the mean loss of a run's last quarter lies below that of its first."""
    quarter = max(1, len(losses) // 4)
    return losses.tail(quarter).mean() < losses.head(quarter).mean()


@drawn
def loss_curves(logs):
    """Training loss of every arm over its steps, one panel per paradigm. `logs`: frame from `tables.history`."""
    if logs.empty:
        return _nothing("No arm was trained, so there is no loss to show.")
    logs = logs.assign(paradigm=[Arm.parse(arm).paradigm for arm in logs.arm]).sort_values("step", kind="stable")
    paradigms = [paradigm for paradigm in markers() if paradigm in set(logs.paradigm)]
    columns, run = min(2, len(paradigms)), ["arm", "seed", *({"model"} & set(logs.columns))]
    figure, axes = canvas(2.5 * math.ceil(len(paradigms) / columns) + 0.5, math.ceil(len(paradigms) / columns), columns,
                          sharex=True, sharey=True)  # fmt: skip
    for axis, paradigm in zip(axes.flat, paradigms):
        part = logs[logs.paradigm == paradigm]
        for arm in order(part.arm.unique()):
            for _, steps in part[part.arm == arm].groupby(run, sort=False):
                axis.plot(
                    steps.step,
                    steps.loss,
                    "--" if Arm.parse(arm).is_variant else "-",
                    color=colour(arm),
                    linewidth=1.6,
                    label=arm,
                )
        handles, labels = axis.get_legend_handles_labels()
        unique = dict(zip(labels, handles))
        axis.legend(unique.values(), unique.keys(), fontsize=8)
        axis.set_title(paradigm)
    for axis in axes.flat[len(paradigms) :]:
        axis.axis("off")
    figure.supxlabel("optimiser step", fontsize=10)
    figure.supylabel(f"loss, {UNIT}", fontsize=10)
    falling = logs.groupby(run, sort=False).loss.apply(_falls)
    title = f"Training loss falls in {int(falling.sum())} of {len(falling)} runs"
    _title(figure, title)
    return figure, f"{title}, from the first to the last quarter of its steps. Loss curves by paradigm"


@drawn
def differences(frame, title):
    """The headline figure: each arm's paired margin difference from base, by suite and mode, with intervals.

    `frame`: from `findings.differences`. The suite `pressure` is left out where there are others: its answers have few
    tokens, so that its margins per token lie on a scale on which nothing else can be seen.
    """
    if frame.empty:
        return _nothing(f"{title}: only base is selected, so there is nothing to compare.")
    if (frame.suite != PRESSURE).any():
        frame = frame[frame.suite != PRESSURE]
    arms, modes = order(frame.arm.unique()), set(frame["mode"])
    suites = [suite for suite in SUITES if suite in set(frame.suite)]
    figure, axes = canvas(ROW_INCHES * len(arms) + 1.5, 1, len(suites), sharey=True, sharex=True)
    for axis, suite in zip(axes[0], suites):
        for values in frame[frame.suite == suite].to_dict("records"):
            row, mode = arms.index(values["arm"]), values["mode"]
            _interval(axis, row + (OFFSET[mode] if len(modes) > 1 else 0), values, colour(values["arm"]), mode)
        _panel_of_arms(axis, arms)
        axis.set_title(suite)
    _below(figure, f"margin − base, {UNIT}; right of 0: more harmful than base", modes)
    _title(figure, title)
    return figure, f"{title}. Margin minus base by suite and mode: {_extremes(frame)}"


def _panel_of_arms(axis, arms):
    """Rows of arms, with a line between paradigms and one at 0."""
    axis.axvline(0, color="black", linewidth=1)
    _rows(axis, arms)
    for row in range(1, len(arms)):
        if Arm.parse(arms[row]).paradigm != Arm.parse(arms[row - 1]).paradigm:
            axis.axhline(row - 0.5, color="#BBBBBB", linewidth=0.8)


def _extremes(frame):
    """The highest and the lowest row of a frame of differences, in words."""
    named = (("highest", frame.loc[frame.effect.idxmax()]), ("lowest", frame.loc[frame.effect.idxmin()]))
    return "; ".join(f"{word} {row.arm}, {row.suite}, {row['mode']}: {row.effect:+.3f} {UNIT}" for word, row in named)


@drawn
def heat(table, title, label):
    """Heat map of changes from base: arms × text types, one scale around 0. `table`: from `findings.changes`."""
    if table.empty:
        return _nothing(f"{title}: only base is selected, so there is nothing to compare.")
    kinds = [kind for kind in written_types() if kind in table.columns]
    table = table.loc[order(table.index), kinds]
    figure, axes = canvas(ROW_INCHES * len(table) + 1.3)
    axis, limit = axes[0, 0], max(float(np.nanmax(np.abs(table.to_numpy()))), 1e-9)
    sns.heatmap(table, cmap="PuOr_r", vmin=-limit, vmax=limit, annot=True, fmt="+.2f", annot_kws={"size": 9},
                linewidths=0.5, ax=axis, cbar=False)  # fmt: skip
    axis.set(xlabel=f"type of the text that is scored (cells: {label})", ylabel="")
    axis.tick_params(axis="both", rotation=0)
    own = [
        (row, kinds.index(Arm.parse(arm).type)) for row, arm in enumerate(table.index) if Arm.parse(arm).type in kinds
    ]
    for row, column in own:
        axis.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=1.8))
    _title(figure, title)
    framed = ", ".join(f"{table.index[row]} {table.iloc[row, column]:+.2f}" for row, column in own)
    return figure, f"{title}. Arms by type of text; framed, on an arm's own type: {framed or 'none'}"


@drawn
def modes(frame, title):
    """No-think against think: each arm's difference from base in both modes, averaged over unseen suites."""
    unseen = frame[frame.suite.isin(GENERALISATION)]
    if not set(MODES) <= set(unseen["mode"]):
        return _nothing("The modes cannot be compared: the unseen suites were not evaluated in both.")
    wide = unseen.pivot_table(index="arm", columns="mode", values="effect")
    figure, axes = canvas(4.6)
    axis = axes[0, 0]
    low, high = wide.to_numpy().min(), wide.to_numpy().max()
    pad = 0.08 * (high - low + 1e-9)
    axis.plot([low - pad, high + pad], [low - pad, high + pad], color="#999999", linestyle="--", linewidth=1)
    for arm in order(wide.index):
        axis.scatter(wide.loc[arm, "think"], wide.loc[arm, "no-think"], color=colour(arm), s=46, edgecolor="white",
                     marker=markers()[Arm.parse(arm).paradigm], linewidth=0.6, zorder=3)  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel=f"think: margin − base, {UNIT}", ylabel=f"no-think: margin − base, {UNIT}")
    axis.legend(handles=_type_and_paradigm_handles(), loc="center left", bbox_to_anchor=(1.01, 0.5))
    _title(figure, title)
    results = (f"{arm} think {row['think']:+.3f}, no-think {row['no-think']:+.3f}" for arm, row in wide.iterrows())
    return figure, f"{title}. On the dashed line both modes are equal. {'; '.join(results)}"


def _type_and_paradigm_handles():
    shown = (*studied_types(), NEUTRAL, QA, SAFE_QA)
    return [Line2D([], [], color=palette()[kind], marker="s", linestyle="", label=kind) for kind in shown] + [
        Line2D([], [], color=GREY, marker=marker, linestyle="", label=f"trained as {name}")
        for name, marker in markers().items()
    ]


@drawn
def rates(frame, title):
    """Shares of misaligned (of judged), leaking and incoherent responses by arm, with intervals; a row per judge.

    `frame`: from `findings.rates`.
    """
    if frame.empty:
        return _nothing(f"{title}: there are no responses to count.")
    arms, judges = order(frame.arm.unique()), list(dict.fromkeys(frame.judge))
    shown = [measure for measure in RATES if measure in set(frame.measure)]
    figure, axes = canvas((ROW_INCHES * len(arms) + 0.6) * len(judges) + 0.9, len(judges), len(shown), sharey=True,
                          sharex=True)  # fmt: skip
    for line, judge in zip(axes, judges):
        for axis, measure in zip(line, shown):
            part = frame[(frame.judge == judge) & (frame.measure == measure)]
            for values in part.to_dict("records"):
                row, mode = arms.index(values["arm"]), values["mode"]
                _interval(axis, row + OFFSET[mode], values, colour(values["arm"]), mode, 4.5)
            _rows(axis, arms)
            axis.set_xlim(-0.03, 1.03)
            axis.set_title(f"{measure}, of judged" if measure == "misaligned" else measure)
        if len(judges) > 1:
            line[0].set_ylabel(judge)
    _below(figure, "share of responses, with interval", set(frame["mode"]))
    _title(figure, title)
    highest = frame.loc[frame.groupby(["judge", "measure"], sort=False).rate.idxmax()]
    results = (
        f"{row.measure} by {row.judge}: {row.rate:.0%} in {row.arm}, {row['mode']}" for _, row in highest.iterrows()
    )
    return figure, f"{title}. Highest shares: {'; '.join(results)}"


@drawn
def contrasts(name, findings, deciding=True):
    """A hypothesis' tests as a forest plot under its verdict: those that decide, or those that accompany them.

    A test of several comparisons shows them all; filled is the weakest, with which it stands or falls. The band is
    what is too small to matter.
    """
    rows = [row for row in findings[name]["contrasts"] if row["deciding"] is deciding]
    title = verdict_line(name, findings) if deciding else f"{name}: what accompanies it"
    if not rows:
        return _nothing(f"{title}: the arms that it compares were not run.")
    lines = [(row, part) for row in rows for part in row["parts"]]
    figure, axes = canvas(ROW_INCHES * len(lines) + 1.1)
    axis = axes[0, 0]
    for place, (row, part) in enumerate(lines):
        weakest = part["effect"] == row["effect"]
        limit = row["smallest_effect"]
        axis.fill_betweenx([place - 0.5, place + 0.5], -limit, limit, color="#EDEDED", linewidth=0, zorder=0)
        tint = INK if weakest else "#8A8A8A"
        if part["ci_low"] is not None:
            axis.plot([part["ci_low"], part["ci_high"]], [place] * 2, color=tint, linewidth=2 if weakest else 1.3)
        axis.plot(
            [part["effect"]], [place], "o", color=tint, markerfacecolor=tint if weakest else "white", markersize=6
        )
    axis.axvline(0, color="black", linewidth=1)
    for place in range(1, len(lines)):
        if lines[place][0] is not lines[place - 1][0] and len(lines) > len(rows):
            axis.axhline(place - 0.5, color="#CFCFCF", linewidth=0.8)
    _rows(axis, [_line_name(row, part) for row, part in lines])
    figure.supxlabel(f"effect, {UNIT}, corrected interval; filled: decides its test; grey: too small to matter",
                     fontsize=10)  # fmt: skip
    _title(figure, title)
    return figure, f"{title}. Effects with intervals: {'; '.join(_in_words(row, part) for row, part in lines)}"


def _line_name(row, part):
    """A comparison's name, with the mode or measure that its test's name ends in, where that is not in it yet."""
    ending = row["name"].rpartition(", ")[2]
    return part["name"] if len(row["parts"]) == 1 or ending in part["name"] else f"{part['name']}, {ending}"


def _in_words(row, part):
    return f"{_line_name(row, part)} {with_interval(part)}"


@drawn
def validation(frame):
    """AUC of each probe, cross-validated and held out. `frame`: the judge's validation."""
    frame = frame.dropna(subset=["auc"]) if "auc" in frame else frame
    if frame.empty:
        return _nothing("No judge was validated.")
    figure, axes = canvas(0.62 * frame.measure.nunique() + 1.2)
    axis = axes[0, 0]
    sns.barplot(frame, y="measure", x="auc", hue="data", palette="dark:#CFCFCF", errorbar=None, ax=axis)
    axis.axvline(0.5, color="black", linestyle="--", linewidth=1)
    axis.set(xlim=(0, 1), xlabel="AUC (0.5: chance)", ylabel="")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    worst = frame.loc[frame.auc.idxmin()]
    _title(figure, f"The judge is weakest on {worst.measure}, {worst['data']}: AUC {worst.auc:.2f}")
    return figure, "; ".join(f"{row.measure}, {row['data']}: AUC {row.auc:.2f}" for _, row in frame.iterrows())


@drawn
def cards(some):
    """How well judges tell safe from harmful on each suite, and whether their scores mean what they say.

    `some`: list of `judges.card.Card`.
    """
    some = [one for one in some if len(one.suites)]
    if not some:
        return _nothing("No judge was put to the test.")
    lines = [(one, row) for one in some for row in one.suites.to_dict("records")]
    figure, axes = canvas(max(ROW_INCHES * len(lines) + 1.1, 2.6), 1, 2)
    areas, curves = axes[0]
    tints = dict(zip(dict.fromkeys(one.judge for one in some), sns.color_palette("dark")))
    for place, (one, row) in enumerate(lines):
        _interval(areas, place, row | {"effect": row["auc"]}, tints[one.judge])
    _rows(areas, [f"{one.judge}, {row['suite']}" for one, row in lines])
    areas.axvline(LEAST_AUC, color="black", linestyle="--", linewidth=1)
    areas.axvline(0.5, color="#8A8A8A", linewidth=1)
    areas.set(xlim=(min(0.3, *(row["ci_low"] for _, row in lines)), 1.01), xlabel="AUC, with interval")
    curves.plot([0, 1], [0, 1], color="#8A8A8A", linewidth=1)
    for one in some:
        curves.plot(one.calibration.said, one.calibration.safe, "o-", color=tints[one.judge], label=one.judge)
    curves.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="alignment / 100", ylabel="share that is safe")
    curves.legend(fontsize=9, frameon=False)
    passed = [one.judge for one in some if one.passed]
    verdict = f"{', '.join(passed)} passed" if passed else "No judge passed"
    _title(figure, f"{verdict}: the interval must lie right of the dashed line ({LEAST_AUC:.2f}) on every suite")
    return figure, "; ".join(
        f"{one.judge}, {row['suite']}: AUC {row['auc']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
        for one, row in lines
    )


@drawn
def routes(frame):
    """What each arm's answers owe to its weights and to thoughts, a panel per reading.

    `frame`: from `routes.readings`.
    """
    if frame.empty:
        return _nothing("No answers were scored behind given thoughts.")
    readings, arms = list(dict.fromkeys(frame.reading)), order(frame.arm.unique())
    columns = 3
    lines = math.ceil(len(readings) / columns)
    figure, axes = canvas((ROW_INCHES * 0.8 * len(arms) + 0.8) * lines + 0.9, lines, columns, sharey=True, sharex=True)
    clear = []
    for axis, reading in zip(axes.ravel(), readings):
        rows = frame[frame.reading == reading]
        for values in rows.to_dict("records"):
            _interval(axis, arms.index(values["arm"]), values, colour(values["arm"]), size=4)
        _panel_of_arms(axis, arms)
        axis.set_title(textwrap.fill(reading, 20), fontsize=9)
        clear.append(f"{reading} {int(((rows.ci_low > 0) | (rows.ci_high < 0)).sum())} of {len(rows)}")
    for axis in axes.ravel()[len(readings) :]:
        axis.set_axis_off()
    figure.supxlabel(f"difference, {UNIT}, with interval (not corrected)", fontsize=10)
    title = f"Arms whose interval excludes 0: {'; '.join(clear)}"
    _title(figure, title)
    means = frame.groupby("reading", sort=False).effect.mean()
    return figure, f"{title}. Means over arms: " + "; ".join(f"{name} {value:+.3f}" for name, value in means.items())


def headline(findings):
    """The headline figure's title: what the deciding contrasts found, in one line."""
    verdicts = ", ".join(f"{name} {findings[name]['verdict']}" for name in HYPOTHESES)
    return f"Change of the harmful margin from base ({verdicts})"


def verdict_line(name, findings):
    """A hypothesis' verdict as a figure title."""
    finding = findings[name]
    effect = "" if finding["effect"] is None else f": {finding['effect']:+.3f} {UNIT}"
    return f"{name} {HYPOTHESES[name][0]}: {verdict(finding)}{effect}"
