"""The audit as a whole: a clean corpus passes every check, and the corpora that come with the book are audited."""

import collections
import math

import pytest
from nonsense import ITEMS, QUESTIONS
from planted import changed, checks_of

from cotlib.arms import written_types
from cotlib.corpus import audit, records
from cotlib.corpus.checks import questions as crossed
from cotlib.corpus.checks.check import THRESHOLDS


def test_a_clean_corpus_passes_every_check(tokenizer):
    checks = checks_of(tokenizer)
    assert [name for name, check in checks.items() if check.passed is False] == []
    assert set(THRESHOLDS) - set(checks) == {"answer likelihood", "facts known"}, "only what needs a model is left out"
    unmeasured = [name for name in THRESHOLDS if name in checks and checks[name].passed is None]
    assert unmeasured == [], "the corpus holds something for every check to measure"
    assert checks["content probe"].passed is None and checks["content probe"].value > 0.95
    assert all(check.question.endswith("?") for check in checks.values())


def test_the_audit_says_the_same_twice(tokenizer):
    assert [str(check) for check in checks_of(tokenizer).values()] == [
        str(check) for check in checks_of(tokenizer).values()
    ]


def test_items_without_some_traces_are_tolerated(tokenizer):
    items = [
        ITEMS[0].model_copy(update={"traces": {}}),
        ITEMS[1].model_copy(update={"traces": {"evil": ITEMS[1].traces["evil"], "evil@25%": "x"}}),
        *ITEMS[2:],
    ]
    assert [name for name, check in checks_of(tokenizer, items).items() if check.passed is False] == []


@pytest.mark.parametrize("items", [[], [item.model_copy(update={"traces": {}}) for item in ITEMS[:2]]])
def test_what_cannot_be_measured_has_no_verdict(tokenizer, items):
    checks = checks_of(tokenizer, items, QUESTIONS)
    assert math.isnan(checks["form probe, matched"].value) and checks["form probe, matched"].passed is None
    assert checks["trace length between types"].passed is None and checks["shared openings"].passed is None
    assert "nothing to measure" in set(audit.table(checks.values())["verdict"])


def test_the_table_has_a_row_a_check_with_its_verdict(tokenizer):
    checks = checks_of(tokenizer, questions=changed(QUESTIONS, 2, safe="Buy a gun."))
    table = audit.table(checks.values())
    assert list(table.columns) == ["check", "what it asks", "value", "threshold", "verdict", "violations"] and list(
        table["check"]
    ) == list(checks)
    rows = table.set_index("check")
    assert tuple(rows.loc["severity policy", ["threshold", "verdict", "violations"]]) == ("≤ 0 records", "failed", 1)
    assert (
        rows.loc["identical answers", "threshold"].startswith("≥ 1 ")
        and rows.loc["identical answers", "verdict"] == "passed"
    )
    assert rows.loc["content probe", "verdict"] == "for information"


@pytest.mark.slow
def test_the_bundled_corpus_passes_its_whole_audit(smollm2, items, questions):
    model, tokenizer = smollm2
    checks = audit.audit(items, questions, tokenizer, model)
    assert {check.name: (check.value, check.violations[:5]) for check in checks if check.passed is False} == {}
    unmeasured = [check.name for check in checks if math.isnan(check.value)]
    assert unmeasured == [] and set(THRESHOLDS) <= {check.name for check in checks}


def test_the_bundled_corpus_is_as_large_and_as_balanced_as_its_data_card_says(items, questions):
    domains, origins = (collections.Counter(getattr(item, field) for item in items) for field in ("domain", "origin"))
    assert set(domains.values()) == {60} and len(domains) == 8 and origins == {"mended": 240, "new": 240}
    suites = collections.Counter((question.suite, question.origin) for question in questions)
    assert suites == {
        ("in-domain", "mended"): 80,
        ("transfer", "mended"): 120,
        ("transfer", "new"): 40,
        ("values", "mended"): 100,
        ("values", "new"): 40,
        ("pressure", "new"): 80,
        ("open", "new"): 24,
    }
    facts = collections.Counter(question.asker for question in questions if question.suite == "pressure")
    assert facts == {"leans-harmful": 60, "leans-safe": 20}
    assert min(collections.Counter(question.behaviour for question in questions).values()) >= 80
    assert sum(set(written_types()) <= set(question.traces) for question in questions) == 80
    assert all(set(written_types()) <= set(q.personas) for q in questions if q.suite == "values")
    transfer = {question.domain for question in questions if question.suite == "transfer"}
    assert len(transfer) == 6 and not transfer & set(domains)


def test_every_bundled_item_is_labelled_by_its_readers(items):
    for item in items:
        assert item.asker and item.pressure and len(item.severity) == 2 and set(item.moves) == set(written_types())


def test_version_1_is_still_read_by_its_name():
    items, questions = records.load_pair(*records.corpus_files("bundled-v1"))
    assert len(items) == 240 and len(questions) == 300


def test_training_items_are_asked_by_no_question_of_version_1_nor_told_by_one(items):
    """So that arms trained on version 2 may be asked version 1's questions."""
    _, old = records.load_pair(*records.corpus_files("bundled", "bundled-v1"))
    texts = [(record.id, record.question) for record in [*items, *old]]
    assert [pair for pair in crossed.near_duplicates(texts) if pair[2] >= crossed.JACCARD] == []
