"""What the benchmarks make of their times: parts of equal work, exponents, and a table that does not flatter."""

import json
import sys

import pytest

from cotlib.experiment import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import run as benchmarks


@pytest.mark.parametrize("count", [1, 4, 16])
def test_the_parts_of_a_size_cover_all_of_the_work_once(count):
    parts = benchmarks.shares(list(range(16)), count)
    assert sorted(number for part in parts for number in part) == list(range(16))
    assert {len(part) for part in parts} == {count}


def test_time_in_proportion_to_size_has_exponent_one_whatever_the_smallest_run_took():
    assert benchmarks.exponent((8, 16, 32), [3.0, 10.0, 20.0]) == pytest.approx(1)
    assert benchmarks.exponent((6, 24), [5.0, 80.0]) == pytest.approx(2)


def test_the_committed_table_is_that_of_the_committed_results():
    results = json.loads(benchmarks.RESULTS.read_text(encoding="utf-8"))
    assert benchmarks.RESULTS_TABLE.read_text(encoding="utf-8") == benchmarks.table(results)
    assert set(benchmarks.GOALS) | {"growth", "demo", "before"} <= set(results), "every goal has a measurement"


def test_a_ratio_below_its_goal_is_marked_as_missed():
    speeds = {"ours": 2.0, "theirs": 1.0, "lowest": 1.0, "highest": 3.0, "rounds": 5}
    goal = benchmarks.GOALS["sampling"][0]
    (below,) = benchmarks.table({"sampling": speeds | {"ratio": goal - 0.01}}).splitlines()[2:]
    (above,) = benchmarks.table({"sampling": speeds | {"ratio": goal}}).splitlines()[2:]
    assert "**missed**" in below and "reached" in above and "missed" not in above


def test_the_whole_run_is_reached_only_if_both_its_ratio_and_its_minutes_are():
    ratios = {"ratio": 2.4, "lowest": 2.4, "highest": 2.4, "rounds": 1}
    found = {"commit": "1234567", "arms": 15, "theirs": 1.5, "ours": 3.6, **ratios}
    (slow,) = benchmarks.table({"before": found}).splitlines()[2:]
    assert "2.40 (one round)" in slow and "≥ 2.00 reached, ≤ 15 minutes **missed**" in slow
