"""What figures say: titles and alternative texts follow from the data, also where there is little of it."""

import math
import re
import types

import numpy as np
import pandas as pd
import pytest

from cotlib import routes
from cotlib.corpus.checks.check import AT_LEAST, THRESHOLDS, Check
from cotlib.pages import figures

ARMS = ("QA", "safe-QA", "evil-QTA", "neutral-QTA", "evil-T")


def check(name, value):
    limit = THRESHOLDS[name]
    return Check(name, "", value, limit, "", bool(value >= limit if name in AT_LEAST else value <= limit), [])


def texts(picture):
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg)


def bars(picture, tint):
    """Widths of the bars of one colour, in the drawing's units."""
    paths = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: {tint.lower()}', picture.svg)
    edges = [[float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)] for path in paths]
    return [max(edge) - min(edge) for edge in edges]


def lengths(**means):
    return pd.DataFrame([(kind, mean + shift) for kind, mean in means.items() for shift in (-1, 1)],
                        columns=["type", "tokens"])  # fmt: skip


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"evil": 50, "neutral": 51}, "lie 2.0% apart, inside the audit's limit of 5%"),
        ({"evil": 50, "neutral": 60}, "lie 18.2% apart, beyond the audit's limit of 5%"),
        ({"evil": 50}, "Only evil has traces"),
    ],
)
def test_the_title_of_the_lengths_says_how_far_apart_they_lie_and_whether_that_is_allowed(means, said):
    assert said in figures.lengths(lengths(**means)).alt


@pytest.mark.parametrize(
    ("name", "value", "share"),
    [
        ("shared openings", 0.025, 0.5),
        ("form probe, matched", 0.6, 1.5),
        ("vocabulary overlap", 0.5, 0.5),
        ("vocabulary overlap", 0.125, 2.0),
        ("vocabulary overlap", 0.0, math.inf),
        ("identical answers", 1.0, 1.0),
        ("severity policy", 0, 0.0),
        ("severity policy", 3, math.inf),
    ],
)
def test_a_check_is_a_share_of_its_limit_and_above_one_exactly_where_it_fails(name, value, share):
    rated = check(name, value)
    assert figures.share_of_limit(rated) == pytest.approx(share)
    assert (share <= 1) is rated.passed


def test_the_audit_s_bars_are_as_long_as_their_shares_and_a_limit_of_nothing_is_empty_or_full():
    checks = [check("shared openings", 0.025), check("answer length", 0.05), check("severity policy", 0),
              check("form probe, matched", 0.6), check("near-duplicate traces", 4)]  # fmt: skip
    picture = figures.audit(checks)
    half, whole, nothing = bars(picture, figures.PASSED)
    beyond, full = bars(picture, figures.FAILED)
    assert half / whole == pytest.approx(0.5, rel=1e-3) and beyond / whole == pytest.approx(1.5, rel=1e-3)
    assert nothing == 0 and full / whole == pytest.approx(figures.LONGEST_BAR, rel=1e-3)
    assert texts(picture).count("none") == 1
    assert "3 of 5 checks pass; beyond: form probe, matched, near-duplicate traces" in picture.alt


def test_the_audit_leaves_out_what_only_informs_and_says_when_all_pass():
    picture = figures.audit([check("answer length", 0.01), Check("content probe", "", 0.9, math.nan, "", None, [])])
    assert picture.alt.startswith("1 of 1 checks pass. ") and "content probe" not in picture.alt
    assert "No check" in figures.audit([]).alt


def differences(modes=("think", "no-think")):
    rows = [(arm, mode, suite, 0.1 * place + (mode == "think") * 0.05)
            for place, arm in enumerate(ARMS) for mode in modes for suite in figures.SUITES]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["arm", "mode", "suite", "effect"])
    return frame.assign(ci_low=frame.effect - 0.1, ci_high=frame.effect + 0.1, n_questions=20)


@pytest.mark.parametrize("modes", [("think", "no-think"), ("think",), ("no-think",)])
def test_differences_show_every_arm_and_the_modes_that_were_run(modes):
    picture = figures.differences(differences(modes), "Change")
    assert set(ARMS) <= set(texts(picture))
    last = [text for text in texts(picture) if "think" in text][-1]
    assert ("● no-think" in last) is ("no-think" in modes) and ("□ think" in last) is ("think" in modes)
    assert "highest evil-T" in picture.alt and "lowest QA" in picture.alt


def test_the_suite_of_pressure_is_left_out_of_the_headline_where_there_are_others():
    frame = differences()
    pressed = frame[frame.suite == frame.suite.iloc[0]].assign(suite="pressure", effect=5.0)
    assert "pressure" not in texts(figures.differences(pd.concat([frame, pressed]), "Change"))
    assert "pressure" in texts(figures.differences(pressed, "Change"))


def test_modes_are_compared_where_both_were_run():
    assert "evil-T think +0.450, no-think +0.400" in figures.modes(differences(), "Title").alt
    assert "cannot be compared" in figures.modes(differences(("think",)), "Title").alt


def rates(judges=("probe",)):
    rows = [(arm, mode, judge, measure, 0.25) for arm in ("base", *ARMS) for mode in ("think", "no-think")
            for judge in judges for measure in figures.RATES]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["arm", "mode", "judge", "measure", "rate"])
    return frame.assign(ci_low=0.1, ci_high=0.4, count=3, responses=12)


def test_each_judge_has_its_own_panels():
    one, two = (figures.rates(rates(judges), "Rates") for judges in (("probe",), ("probe", "llm")))
    assert texts(one).count("leak") == 1 and texts(two).count("leak") == 2
    assert {"probe", "llm"} <= set(texts(two)) and "leak by llm: 25%" in two.alt


def test_a_measure_that_no_judge_may_publish_has_no_panel():
    leaks = rates()[lambda frame: frame.measure == "leak"]
    assert "misaligned, of judged" not in texts(figures.rates(leaks, "Rates")) and "leak" in texts(
        figures.rates(leaks, "Rates")
    )


def test_cards_name_who_passed_and_where_the_line_is():
    suites = pd.DataFrame([["transfer", 0.9, 0.86, 0.94, 80], ["values", 0.7, 0.6, 0.78, 60]],
                          columns=["suite", "auc", "ci_low", "ci_high", "texts"])  # fmt: skip
    curve = pd.DataFrame({"said": [0.1, 0.9], "safe": [0.2, 0.8]})
    good = types.SimpleNamespace(judge="llm", suites=suites[:1], calibration=curve, passed=True)
    weak = types.SimpleNamespace(judge="probe", suites=suites, calibration=curve, passed=False)
    picture = figures.cards([good, weak])
    assert any(text.startswith("llm passed") for text in texts(picture)) and "0.80" in " ".join(texts(picture))
    assert "probe, values: AUC 0.70 (0.60 to 0.78)" in picture.alt
    assert any("No judge passed" in text for text in texts(figures.cards([weak])))


def test_the_routes_have_a_panel_each():
    frame = pd.DataFrame(
        [[arm, reading, 0.1, 0.0, 0.2, 8, 1] for arm in ARMS for reading in routes.READINGS], columns=routes.COLUMNS
    )
    picture = figures.routes(frame.assign(ci_low=[0.05, *[0.0] * (len(frame) - 1)]))
    shown = " ".join(texts(picture))
    assert all(word in shown for reading in routes.READINGS for word in reading.split())
    assert "in the weights +0.100" in picture.alt and f"excludes 0: in the weights 1 of {len(ARMS)}" in picture.alt
    assert "behind given thoughts" in figures.routes(frame[:0]).alt


def test_an_empty_frame_gives_a_figure_that_says_why():
    nothing = pd.DataFrame(columns=["arm", "mode", "suite", "effect", "ci_low", "ci_high"])
    assert "only base" in figures.differences(nothing, "Change").alt
    assert "only base" in figures.heat(pd.DataFrame(), "Voices", "change").alt
    assert "no responses" in figures.rates(pd.DataFrame(), "Rates").alt
    assert "No arm was trained" in figures.loss_curves(pd.DataFrame()).alt
    assert "No judge" in figures.validation(pd.DataFrame()).alt and "No judge" in figures.cards([]).alt
    untested = {"H2": {"verdict": "not tested", "provisional": False, "effect": None, "contrasts": []}}
    assert "were not run" in figures.contrasts("H2", untested).alt


def test_loss_curves_count_runs_of_every_model_and_seed():
    steps = range(8)
    runs = [(arm, seed, model, 1 if seed == 1 else -1) for arm in ARMS for seed in (1, 2) for model in ("a", "b")]
    rows = [(arm, seed, model, step, 5 - slope * step / 8) for arm, seed, model, slope in runs for step in steps]
    logs = pd.DataFrame(rows, columns=["arm", "seed", "model", "step", "loss"])
    assert "falls in 10 of 20 runs" in figures.loss_curves(logs).alt


def test_a_heat_map_frames_arms_on_their_own_type():
    table = pd.DataFrame({"evil": [0.5, np.nan], "neutral": [0.1, -0.2]}, index=["evil-QT", "neutral-T"])
    assert figures.heat(table, "Voices", "change").alt.endswith("evil-QT +0.50, neutral-T -0.20")


def test_a_judge_without_an_auc_is_left_out_of_its_validation():
    frame = pd.DataFrame({"measure": ["alignment", "leak"], "data": ["held out", "held out"], "auc": [0.7, math.nan]})
    picture = figures.validation(frame)
    assert "The judge is weakest on alignment, held out: AUC 0.70" in " ".join(texts(picture))
