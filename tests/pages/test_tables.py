"""Tables fit their page and say why they are empty."""

import json

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


def test_agreement_is_a_table_of_pairs_or_one_sentence():
    columns = ["judges", "responses", "spearman", "kappa"]
    assert "<table" not in tables.agreement(pd.DataFrame(columns=columns)).data
    assert "it takes two judges" in tables.agreement(pd.DataFrame(columns=columns)).data
    assert "probe and llm" in tables.agreement(pd.DataFrame([["probe and llm", 40, 0.5, 0.4]], columns=columns)).data


def test_a_run_without_responses_has_empty_tables_and_a_sentence():
    nothing = pd.DataFrame()
    assert tables.marks(nothing).empty and tables.judged(nothing).empty and tables.scored(nothing).empty
    assert tables.judged_line(nothing) == "No responses to judge"
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
