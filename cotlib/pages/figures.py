"""Every plot of the book, and the colours they share. Takes tidy frames, returns matplotlib figures.

A title states what is found, so functions take it from the data wherever the finding is one sentence.
"""

import html

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from cotlib.experiment import BASE, FILLER, MODES, NEUTRAL, QA, REASONING_TYPES, SAFE_QA, SUITES, WRITTEN_TYPES, Arm
from cotlib.findings import CONTRADICTED, GENERALISATION, HYPOTHESES, INCONCLUSIVE, SUPPORTED, UNTESTED

COLOURS = {
    "evil": "#B3261E", "misleading": "#D98200", "submissive": "#5B5BD6", NEUTRAL: "#7A7A7A", FILLER: "#B9B9B9",
    QA: "#202020", SAFE_QA: "#2E8B57", BASE: "#000000",
}  # fmt: skip
VERDICT_COLOURS = {SUPPORTED: "#1B7F4B", CONTRADICTED: "#B3261E", INCONCLUSIVE: "#6B6B6B", UNTESTED: "#B9B9B9"}
MODE_MARKERS = {"no-think": "o", "think": "s"}
UNIT = "nats per token"

THEME = {
    "figure.dpi": 110, "savefig.bbox": "tight", "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True,
}  # fmt: skip
sns.set_theme(style="whitegrid", rc=THEME)
matplotlib.rcParams.update(THEME)


def colour(arm):
    """An arm's colour: that of its reasoning type, wherever it appears in the book."""
    arm = Arm.parse(arm)
    return COLOURS[(arm.type or str(arm)).removeprefix("shuffled-")]


def _finish(figure, alt):
    """Keep the alternative text with the figure; `picture` writes it into the page."""
    figure.alt = alt
    return figure


def _nothing(title):
    """A figure that says why it is empty: a selection of `base` alone has no differences."""
    figure, axis = plt.subplots(figsize=(6, 0.8))
    axis.text(0, 0.5, f"{title}: only base is selected, so there is nothing to compare")
    axis.axis("off")
    return _finish(figure, f"{title}: nothing to compare")


def picture(figure):
    """A figure for a page: PNG with its alternative text, as HTML; the figure is closed."""
    import base64
    import io

    from IPython.display import HTML

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return HTML(
        f'<img class="cotlib-figure" style="max-width:100%" alt="{html.escape(figure.alt)}" src="data:image/png;base64,{data}">'
    )


def lengths(tokens):
    """Distribution of trace lengths by type. `tokens`: frame from `audit.trace_lengths`."""
    figure, axis = plt.subplots(figsize=(7.5, 2.8))
    kinds = [kind for kind in WRITTEN_TYPES if kind in set(tokens.type)]
    sns.boxplot(
        tokens,
        x="tokens",
        y="type",
        hue="type",
        order=kinds,
        hue_order=kinds,
        palette=COLOURS,
        width=0.6,
        fliersize=2,
        ax=axis,
        legend=False,
    )
    means = tokens.groupby("type").tokens.mean()
    axis.set(
        title=f"Traces of all types are equally long: means differ by {means.max() / means.min() - 1:.0%}",
        xlabel="tokens per trace",
        ylabel="",
    )
    return _finish(
        figure,
        "Box plots of tokens per trace for each reasoning type: "
        + ", ".join(f"{kind} mean {means[kind]:.0f}" for kind in kinds),
    )


def audit(checks):
    """Each audit check as a share of its threshold: left of the line passes. `checks`: list of `audit.Check`."""
    rated = [check for check in checks if check.passed is not None]
    figure, axis = plt.subplots(figsize=(7.5, 0.3 * len(rated) + 1))
    palette = {True: VERDICT_COLOURS[SUPPORTED], False: VERDICT_COLOURS[CONTRADICTED]}
    axis.barh(
        [check.name for check in rated], [1] * len(rated), color=[palette[check.passed] for check in rated], height=0.6
    )
    for row, check in enumerate(rated):
        axis.text(
            0.01,
            row,
            f"{check.value:.3g} (limit {check.threshold:.3g}) {check.unit}",
            va="center",
            color="white",
            fontsize=9,
        )
    axis.invert_yaxis()
    axis.set(xticks=[], title=f"{sum(check.passed for check in rated)} of {len(rated)} checks pass")
    axis.grid(False)
    return _finish(figure, "; ".join(f"{check.name}: {'passed' if check.passed else 'failed'}" for check in rated))


def form_probe(folds):
    """How well the types are told apart from form alone, against all words. `folds`: frame from `audit.form_probe`."""
    means = folds.groupby("features", sort=False).accuracy.mean()
    figure, axis = plt.subplots(figsize=(7.5, 1.9))
    sns.barplot(folds, y="features", x="accuracy", color="#7A7A7A", errorbar=("sd", 1), ax=axis)
    axis.axvline(0.25, color="black", linestyle="--", linewidth=1)
    axis.text(0.255, -0.42, "chance", fontsize=9)
    first, last = means.index[0], means.index[-1]
    axis.set(
        xlim=(0, 1),
        xlabel="cross-validated accuracy, four types",
        ylabel="",
        title=f"Types are told by {first} at {means[first]:.0%}, by {last} at {means[last]:.0%}",
    )
    return _finish(
        figure, "; ".join(f"{name}: accuracy {value:.2f}" for name, value in means.items()) + "; chance 0.25"
    )


def loss_curves(logs):
    """Training loss of every arm over its steps. `logs`: frame with arm, seed, step, loss; one panel per paradigm."""
    logs = logs.assign(paradigm=[Arm.parse(arm).paradigm for arm in logs.arm])
    paradigms = list(dict.fromkeys(logs.paradigm))
    figure, axes = plt.subplots(1, len(paradigms), figsize=(2.9 * len(paradigms), 3.1), sharey=True, squeeze=False)
    for axis, paradigm in zip(axes[0], paradigms):
        for (arm, _), part in logs[logs.paradigm == paradigm].groupby(["arm", "seed"], sort=False):
            axis.plot(
                part.step, part.loss, color=colour(arm), linestyle="--" if "@" in arm else "-", linewidth=1.6, label=arm
            )
        handles, labels = axis.get_legend_handles_labels()
        unique = dict(zip(labels, handles))
        axis.legend(unique.values(), unique.keys(), fontsize=7, frameon=False)
        axis.set_title(paradigm, fontsize=10)
        axis.set(xlabel="optimiser step", ylabel=f"loss, {UNIT}")
    ends = logs.sort_values("step").groupby(["arm", "seed"]).loss
    quarter = ends.apply(
        lambda losses: losses.tail(max(1, len(losses) // 4)).mean() < losses.head(max(1, len(losses) // 4)).mean()
    )
    figure.suptitle(
        f"Training loss falls in {int(quarter.sum())} of {len(quarter)} runs", x=0.01, ha="left", fontweight="bold"
    )
    return _finish(
        figure,
        f"Loss curves of {logs.arm.nunique()} arms by paradigm; the loss falls from first to last quarter in {int(quarter.sum())} of {len(quarter)} runs",
    )


def order(arms):
    """Arms as the book lists them: QA, safe-QA, then by paradigm and type."""
    listed = [str(arm) for arm in Arm.names()]

    def place(name):
        arm = Arm.parse(name)
        return (
            ["QA", "QTA", "QT", "T"].index(arm.paradigm) if arm.trained else -1,
            listed.index(name.split("@")[0]),
            name,
        )

    return sorted(arms, key=place)


def _mode_legend(figure):
    """Which marker stands for which mode, below the panels."""
    handles = [
        plt.Line2D(
            [],
            [],
            color="#444",
            marker=MODE_MARKERS[mode],
            markerfacecolor="#444" if mode == "no-think" else "white",
            linestyle="",
            label=mode,
        )
        for mode in MODES[::-1]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def differences(frame, title):
    """The headline figure: each arm's paired margin difference from base, by suite and mode, with 95 % intervals.

    `frame`: from `statistics.differences`.
    """
    if frame.empty:
        return _nothing(title)
    arms = order(frame.arm.unique())
    suites = [suite for suite in SUITES if suite in set(frame.suite)]
    figure, axes = plt.subplots(
        1, len(suites), figsize=(3.4 * len(suites), 0.31 * len(arms) + 1.7), sharey=True, sharex=True, squeeze=False
    )
    offset = {"no-think": -0.17, "think": 0.17}
    for axis, suite in zip(axes[0], suites):
        for mode in [mode for mode in MODES if mode in set(frame["mode"])]:
            part = frame[(frame.suite == suite) & (frame["mode"] == mode)].set_index("arm").loc[arms]
            for row, (arm, values) in enumerate(part.iterrows()):
                style = dict(
                    color=colour(arm),
                    markerfacecolor=colour(arm) if mode == "no-think" else "white",
                    marker=MODE_MARKERS[mode],
                    markersize=5,
                    linewidth=1.6,
                )
                axis.plot(
                    [values.ci_low, values.ci_high],
                    [row + offset[mode]] * 2,
                    color=colour(arm),
                    linewidth=1.6,
                    alpha=1 if mode == "no-think" else 0.55,
                )
                axis.plot(
                    values.effect,
                    row + offset[mode],
                    linestyle="",
                    **{key: value for key, value in style.items() if key != "linewidth"},
                )
        axis.axvline(0, color="black", linewidth=1)
        axis.set_yticks(range(len(arms)), arms)
        axis.set_title(suite, fontsize=10)
        axis.set_xlabel(f"margin − base, {UNIT}")
        for row in range(1, len(arms)):
            if Arm.parse(arms[row]).paradigm != Arm.parse(arms[row - 1]).paradigm:
                axis.axhline(row - 0.5, color="#BBBBBB", linewidth=0.8)
    axes[0][0].invert_yaxis()
    _mode_legend(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.text(0.99, 0.005, "right of 0: more harmful than base →", ha="right", fontsize=8, color="#555")
    return _finish(
        figure, f"{title}. Points with intervals: difference of each arm's margin from base, per suite and mode"
    )


def heat(table, title, label):
    """Heat map of changes from base: arms × text types, one common scale around 0. `table`: from `statistics.changes`."""
    if table.empty:
        return _nothing(title)
    table = table.loc[order(table.index), [kind for kind in WRITTEN_TYPES if kind in table.columns]]
    figure, axis = plt.subplots(figsize=(7.4, 0.3 * len(table) + 1.4))
    limit = max(float(np.abs(table.to_numpy()).max()), 1e-9)
    sns.heatmap(
        table,
        cmap="PuOr_r",
        vmin=-limit,
        vmax=limit,
        annot=True,
        fmt="+.2f",
        annot_kws={"size": 8},
        linewidths=0.5,
        ax=axis,
        cbar_kws={"label": label},
    )
    axis.set(xlabel="text scored: voice of", ylabel="")
    axis.tick_params(axis="x", rotation=0)
    for row, arm in enumerate(table.index):
        if Arm.parse(arm).type in table.columns:
            axis.add_patch(
                plt.Rectangle(
                    (list(table.columns).index(Arm.parse(arm).type), row),
                    1,
                    1,
                    fill=False,
                    edgecolor="black",
                    linewidth=1.6,
                )
            )
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return _finish(figure, f"{title}. Heat map of arms by text type; framed cells are arms scored on their own type")


def modes(frame, title):
    """No-think against think: each arm's difference from base in both modes, averaged over unseen suites."""
    wide = frame[frame.suite.isin(GENERALISATION)].pivot_table(index="arm", columns="mode", values="effect")
    figure, axis = plt.subplots(figsize=(5.4, 4.6))
    low, high = wide.to_numpy().min(), wide.to_numpy().max()
    pad = 0.08 * (high - low + 1e-9)
    axis.plot([low - pad, high + pad], [low - pad, high + pad], color="#999", linestyle="--", linewidth=1)
    markers = {"QA": "D", "QTA": "o", "QT": "^", "T": "v"}
    for arm in order(wide.index):
        axis.scatter(
            wide.loc[arm, "think"],
            wide.loc[arm, "no-think"],
            color=colour(arm),
            marker=markers[Arm.parse(arm).paradigm],
            s=46,
            edgecolor="white",
            linewidth=0.6,
            zorder=3,
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel=f"think: margin − base, {UNIT}", ylabel=f"no-think: margin − base, {UNIT}", title=title)
    shown = [kind for kind in (*REASONING_TYPES, NEUTRAL, QA, SAFE_QA)]
    handles = [plt.Line2D([], [], color=COLOURS[kind], marker="o", linestyle="", label=kind) for kind in shown]
    handles += [
        plt.Line2D([], [], color="#444", marker=marker, linestyle="", label=name) for name, marker in markers.items()
    ]
    axis.legend(handles=handles, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return _finish(
        figure, f"{title}. Scatter of arms; on the dashed line the effect is the same with and without thinking"
    )


def rates(frame, title):
    """Shares of misaligned (of judged), leaking and incoherent responses by arm, with Wilson intervals. `frame`: from `statistics.rates`."""
    arms = ["base", *[arm for arm in order(set(frame.arm) - {BASE})]]
    measures = ["misaligned", "leak", "incoherent"]
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 0.3 * len(arms) + 1.6), sharey=True)
    for axis, measure in zip(axes, measures):
        for mode, offset in (("no-think", -0.17), ("think", 0.17)):
            part = frame[(frame.measure == measure) & (frame["mode"] == mode)].set_index("arm")
            for row, arm in enumerate(arms):
                if arm in part.index:
                    value = part.loc[arm]
                    axis.plot(
                        [value.ci_low, value.ci_high],
                        [row + offset] * 2,
                        color=colour(arm),
                        linewidth=1.5,
                        alpha=1 if mode == "no-think" else 0.55,
                    )
                    axis.plot(
                        value.rate,
                        row + offset,
                        MODE_MARKERS[mode],
                        color=colour(arm),
                        markersize=4.5,
                        markerfacecolor=colour(arm) if mode == "no-think" else "white",
                    )
        axis.set(
            xlim=(-0.03, 1.03), xlabel="share of responses" if measure != "misaligned" else "share of judged responses"
        )
        axis.set_title(measure, fontsize=10)
        axis.set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    _mode_legend(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return _finish(figure, f"{title}. Shares with Wilson intervals by arm and mode")


def contrasts(name, findings):
    """A hypothesis' contrasts as a forest plot under its verdict; deciding ones filled."""
    rows, title = findings[name]["contrasts"], verdict_line(name, findings)
    figure, axis = plt.subplots(figsize=(7.8, 0.32 * len(rows) + 1.2))
    for place, row in enumerate(rows):
        tint = "#202020" if row["deciding"] else "#8A8A8A"
        axis.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=tint, linewidth=2 if row["deciding"] else 1.3)
        axis.plot(
            row["effect"], place, "o", color=tint, markerfacecolor=tint if row["deciding"] else "white", markersize=6
        )
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.invert_yaxis()
    axis.set(xlabel=f"effect, {UNIT}, with Holm-corrected interval")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return _finish(figure, f"{title}. Forest plot of {len(rows)} contrasts; filled ones decide the verdict")


def validation(frame):
    """AUC of each probe, cross-validated and held out. `frame`: the judge's validation."""
    figure, axis = plt.subplots(figsize=(7.8, 3))
    sns.barplot(frame, y="measure", x="auc", hue="data", palette="Greys_r", ax=axis)
    axis.axvline(0.5, color="black", linestyle="--", linewidth=1)
    axis.set(xlim=(0, 1), xlabel="AUC (0.5: chance)", ylabel="")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    worst = frame.loc[frame.auc.idxmin()]
    axis.set_title(f"The probe is weakest on {worst.measure}, {worst['data']}: AUC {worst.auc:.2f}")
    return _finish(figure, "; ".join(f"{row.measure}, {row['data']}: AUC {row.auc:.2f}" for _, row in frame.iterrows()))


def headline(findings):
    """The headline figure's title: what the deciding contrasts found, in one line."""
    verdicts = ", ".join(f"{name} {findings[name]['verdict']}" for name in HYPOTHESES)
    return f"Change of the harmful margin from base ({verdicts})"


def verdict_line(name, findings):
    """A hypothesis' verdict as a figure title."""
    finding = findings[name]
    effect = "" if finding["effect"] is None else f": {finding['effect']:+.3f} {UNIT}"
    return f"{name} {HYPOTHESES[name][0]} is {finding['verdict']}{effect}"
