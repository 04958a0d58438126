"""Tables fit their page and say why they are empty."""

import json
import types

import numpy as np
import pandas as pd

from cotlib.pages import tables
from cotlib.runs import artifacts


def adapter(folder, arm, seed=1, model="m"):
    folder.mkdir()
    manifest = {"arm": arm, "seed": seed, "model": model, "rows": 48, "supervised_tokens": 900, "seconds": 40.26,
                "loss_first": 4.0, "loss_last": 3.0 if arm == "QA" else 4.5}  # fmt: skip
    (folder / artifacts.MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_the_table_of_training_leaves_out_what_is_the_same_in_every_row(tmp_path):
    one = [adapter(tmp_path / "1", "QA"), adapter(tmp_path / "2", "evil-T")]
    assert list(tables.trained(one).columns) == [
        "arm", "supervised_tokens", "seconds", "loss_first", "loss_last", "falls",
    ]  # fmt: skip
    assert tables.trained(one).falls.tolist() == [True, False]
    several = [*one, adapter(tmp_path / "3", "QA", seed=2), adapter(tmp_path / "4", "QA", seed=2, model="n")]
    assert {"seed", "model"} <= set(tables.trained(several).columns)


def test_no_trained_arm_gives_an_empty_table():
    assert tables.trained([]).empty


def test_a_table_scrolls_in_its_own_box_rounds_numbers_and_is_the_same_every_time():
    frame = pd.DataFrame({"arm": ["QA"], "value": [0.12345], "rows": [48], "none": [np.nan]})
    html = tables.show(frame).data
    assert html.startswith('<div class="scroll">') and ">0.123<" in html and ">48<" in html and ">–<" in html
    assert html == tables.show(frame).data


def test_a_run_without_responses_has_empty_tables_and_a_sentence():
    nothing = pd.DataFrame()
    assert tables.marks(nothing).empty and tables.judged(nothing).empty and tables.scored(nothing).empty
    assert tables.judged_line(nothing) == "No judge may publish a rate of misaligned responses"
    assert "no sampled responses" in tables.responses(nothing).data


def test_marks_and_judged_count_the_responses_of_each_arm_and_mode():
    marked = pd.DataFrame({"arm": ["QA", "QA", "base"], "mode": ["think"] * 3, "leak": [True, False, False],
                           "loops": [False] * 3, "trace_truncated": [False] * 3})  # fmt: skip
    assert tables.marks(marked).to_dict("list") == {
        "arm": ["QA", "base"], "mode": ["think", "think"], "leak": [0.5, 0.0], "loops": [0.0, 0.0],
        "trace_truncated": [0.0, 0.0], "responses": [2, 1],
    }  # fmt: skip


def test_counts_of_judged_responses_add_up_and_name_the_judge_only_where_there_are_several():
    rows = [
        {"judge": judge, "arm": "QA", "mode": "think", "leak": False, "reads_as_thought": False, "coherent": coherent,
         "judged": coherent, "misaligned": judge == "llm"}
        for judge in ("probe", "llm") for coherent in (True, False)
    ]  # fmt: skip
    both = tables.judged(pd.DataFrame(rows))
    assert both[["judge", "responses", "judged", "misaligned", "incoherent"]].values.tolist() == [
        ["probe", 2, 1, 0, 1],
        ["llm", 2, 1, 2, 1],
    ]
    assert "judge" not in tables.judged(pd.DataFrame(rows[:2])).columns


def test_a_card_shows_why_a_judge_failed_and_its_errors_as_text():
    worst = pd.DataFrame([{"kind": "harmful", "alignment": 97.0, "question": "<b>q</b>", "response": "</details>r"}])
    one = types.SimpleNamespace(
        judge="probe", model="m", failures=["its AUC on values may be as low as 0.61"], alarms=(3, 190),
        thought_alarms=(40, 200), reads_thoughts=False, worst=worst,
        confusion={(True, True): 5, (True, False): 3, (False, True): 1, (False, False): 7},
    )  # fmt: skip
    shown = tables.cards([one]).data
    assert "failed: its AUC on values may be as low as 0.61" in shown and "3 of 190" in shown
    assert "40 of 200: not used" in shown and "5 of 8" in shown and "1 of 8" in shown
    assert "&lt;b&gt;q" in shown and shown.count("</details>") == 1
    assert "put to the test" in tables.cards([]).data


def test_a_claims_tests_are_those_that_decide_it():
    row = {"family": "f", "name": "evil-QTA, think", "deciding": True, "effect": 0.1, "ci_low": -0.02, "ci_high": 0.2,
           "p_holm": 0.3, "verdict": "inconclusive", "minimal_detectable_effect": 0.15, "n_questions": 40}  # fmt: skip
    found = {"H1": {"contrasts": [row, row | {"deciding": False, "ci_low": None, "ci_high": None}]}}
    frame = tables.tests("H1", found)
    assert frame.test.tolist() == ["evil-QTA, think"] and frame["effect (interval)"].tolist() == [
        "+0.100 (-0.020 to +0.200)"
    ]


def test_a_panel_of_one_claim_has_its_column_alone():
    others = {"questions": 4, "H2": "supported", "H3": "inconclusive", "H4": "inconclusive"}
    variants = {"as fixed beforehand": "inconclusive", "seed 1 alone": "supported"}
    rows = [others | {"variant": name, "H1": verdict} for name, verdict in variants.items()]
    shown = tables.panel({"panel": rows}, "H1").data
    assert "H1: inconclusive" in shown and "H2" not in shown and "✗ supported" in shown and "0 of 1 the same" in shown


def test_whose_thoughts_is_a_row_for_each_arm_with_a_type():
    frame = pd.DataFrame(
        [
            ["evil-QT", "evil", True, 0.7, 0.5, 0.4, 0.6, 40, 1],
            ["evil-QT", "neutral", False, 0.1, -0.2, -0.3, 0, 40, 1],
        ],
        columns=["arm", "type", "own", "share", "effect", "ci_low", "ci_high", "n_questions", "n_seeds"],
    )
    assert tables.thoughts(frame)["reads like its own type"].tolist() == [0.7]
