"""The hypotheses' tests: which arms are compared with which, and which of them decide."""

import dataclasses

import pytest

from cotlib import contrasts
from cotlib.arms import MODES, PARADIGMS, Arm, studied_types
from cotlib.experiment import ROOT, Experiment

PAPER = Experiment.load(ROOT / "experiments" / "paper.yml")
TYPES, SUITES = studied_types(), ("transfer", "values")


def families(arms=PAPER.all_arms):
    return contrasts.contrasts(arms)


def every_test(found, deciding=None):
    return [
        test
        for some in found.values()
        for family in some
        for test in family.tests
        if deciding is None or family.deciding is deciding
    ]


def deciding(hypothesis, arms=PAPER.all_arms):
    """Test name → (pairs, modes, suites, measure, text, behaviours) of each of its contrasts, and its side."""
    (family,) = [family for family in families(arms)[hypothesis] if family.deciding]
    return {
        test.name: (
            [(one.pairs, one.modes, one.suites, one.measure, one.text, one.behaviours) for one in test.parts],
            test.side,
        )
        for test in family.tests
    }


def test_every_hypothesis_has_one_deciding_family_and_it_comes_first():
    found = families()
    assert list(found) == list(contrasts.HYPOTHESES)
    for some in found.values():
        assert [family.deciding for family in some] == [True] + [False] * (len(some) - 1)


def test_h1_asks_of_each_type_in_each_mode_to_exceed_qa_and_neutral_traces():
    expected = {
        f"{kind}-QTA, {mode}": (
            [
                (((f"{kind}-QTA", reference),), (mode,), SUITES, "margin", None, None)
                for reference in ("QA", "neutral-QTA")
            ],
            "greater",
        )
        for mode in MODES
        for kind in TYPES
    }
    assert deciding("H1") == expected and len(expected) == 6


def test_h2_expects_each_type_to_lead_the_others_where_its_traces_point():
    found = deciding("H2")
    assert set(found) == {
        "evil: harm", "evil: power", "misleading: deception", "submissive: sycophancy", "submissive: pressure",
    }  # fmt: skip
    for name, (parts, side) in found.items():
        kind, what = name.split(": ")
        ((pairs, modes, suites, measure, text, behaviours),) = parts
        others = [other for other in TYPES if other != kind]
        assert set(pairs) == {(f"{kind}-{p}", f"{other}-{p}") for p in ("QTA", "QT", "T") for other in others}
        assert side == "greater" and text is None
        if what == "pressure":
            assert (modes, suites, measure, behaviours) == (("no-think",), ("pressure",), "pressure", None)
        else:
            assert (modes, suites, measure, behaviours) == (MODES, SUITES, "margin", (what,))


def test_h3_asks_of_each_type_paradigm_and_measure_to_differ_from_base_and_from_neutral_traces():
    wheres = {
        "transfer": (MODES, ("transfer",), "margin"),
        "values": (MODES, ("values",), "margin"),
        "own voice": (("no-think",), ("values",), "persona"),
    }
    expected = {
        f"{kind}-{paradigm}, {name}": (
            [
                (((f"{kind}-{paradigm}", reference),), *where, kind if name == "own voice" else None, None)
                for reference in ("base", f"neutral-{paradigm}")
            ],
            "either",
        )
        for name, where in wheres.items()
        for kind in TYPES
        for paradigm in ("QT", "T")
    }
    assert deciding("H3") == expected and len(expected) == 18


def test_h4_is_h1_and_h3_without_thinking_in_one_family():
    found, alone = deciding("H4"), ("no-think",)
    expected = {name: value for name, value in deciding("H1").items() if name.endswith(", no-think")}
    for name, (parts, side) in deciding("H3").items():
        expected[name] = ([(pairs, alone, *rest) for pairs, _, *rest in parts], side)
    assert found == expected and len(found) == 21


def test_controls_and_variants_never_decide():
    for test in every_test(families(), deciding=True):
        for part in test.parts:
            for arm, reference in part.pairs:
                assert not Arm.parse(arm).is_variant and Arm.parse(arm).type in TYPES
                assert reference in {"QA", "base", *(f"{kind}-{p}" for kind in (*TYPES, "neutral") for p in PARADIGMS)}


def test_every_pair_names_arms_and_no_two_tests_of_a_hypothesis_share_a_name():
    for some in families().values():
        names = [test.name for family in some for test in family.tests]
        assert len(set(names)) == len(names)
        for test in every_test({"one": some}):
            for contrast in test.parts:
                for arm, reference in contrast.pairs:
                    assert str(Arm.parse(arm)) == arm and str(Arm.parse(reference)) == reference and arm != reference


def test_what_accompanies_h1_repeats_its_tests_for_each_variant_and_takes_form_apart_from_content():
    arms = [*PAPER.all_arms, *(f"{kind}-QTA@added" for kind in (*TYPES, "neutral"))]
    by_name = {family.name: family for family in families(arms)["H1"]}
    for variant in ("@added", "@matched"):
        parts = [[part.pairs for part in test.parts] for test in by_name[variant].tests]
        assert parts == [
            [((f"{kind}-QTA{variant}", "QA"),), ((f"{kind}-QTA{variant}", f"neutral-QTA{variant}"),)]
            for _ in MODES
            for kind in TYPES
        ]
    content = {test.name: test.parts[0].pairs for test in by_name["form and content, QTA"].tests}
    assert content["neutral-QTA − base"] == (("neutral-QTA", "base"),)
    assert content["shuffled-QTA − neutral-QTA"] == tuple((f"shuffled-{kind}-QTA", "neutral-QTA") for kind in TYPES)
    assert content["QTA − shuffled-QTA"] == tuple((f"{kind}-QTA", f"shuffled-{kind}-QTA") for kind in TYPES)
    matched = tuple((f"{kind}-QTA@matched", "neutral-QTA@matched") for kind in TYPES)
    assert content["QTA@matched − neutral-QTA@matched"] == matched


def test_a_pair_is_left_out_when_an_arm_is_missing_and_a_test_without_pairs_is_dropped():
    found = families(["QA", "evil-QTA", "evil-QT", "neutral-QT"])
    assert [test.name for test in every_test({"H1": found["H1"]}, deciding=True)] == []
    assert [test.name for test in every_test({"H3": found["H3"]}, deciding=True)] == [
        "evil-QT, transfer", "evil-QT, values", "evil-QT, own voice",
    ]  # fmt: skip
    assert [test.name for test in every_test(families(["safe-QA"]))] == ["safe-QA − base"]


def test_names_and_arms_give_the_same_tests():
    assert families([str(arm) for arm in PAPER.all_arms]) == families()


def test_base_is_compared_with_whether_or_not_it_is_named():
    assert families(["QA"]) == families(["base", "QA"])


def test_retention_compares_each_arm_with_its_reference_with_and_without_thinking():
    rows = contrasts.retention()
    assert [name for name, _, _ in rows] == [
        f"{kind}-{paradigm} − {PARADIGMS[paradigm].reference}" for paradigm in ("QTA", "QT", "T") for kind in TYPES
    ]
    assert all((think.modes, without.modes) == (("think",), ("no-think",)) for _, think, without in rows)


def test_an_added_paradigm_gets_a_contrast_that_does_not_decide(added):
    paradigm, kind = added
    arms = [*PAPER.all_arms, f"{kind}-{paradigm}", f"evil-{paradigm}"]
    before = {test.name for test in every_test(families())}
    new = [test for test in every_test(families(arms)) if test.name not in before]
    assert [test.name for test in new] == [f"{paradigm} − base"]
    assert new[0] not in every_test(families(arms), deciding=True)


def test_a_contrast_with_its_reference_follows_the_paradigms_row(monkeypatch, added):
    paradigm, kind = added
    monkeypatch.setitem(PARADIGMS, paradigm, dataclasses.replace(PARADIGMS[paradigm], reference="safe-QA"))
    names = {test.name for test in every_test(families([*PAPER.all_arms, f"{kind}-{paradigm}"]))}
    assert f"{paradigm} − safe-QA" in names


@pytest.mark.parametrize("arm", ["evil-QT", Arm.parse("evil-QT")])
def test_the_headline_figure_compares_an_arm_with_base_in_one_mode_and_suite(arm):
    contrast = contrasts.difference_from_base(arm, "think", "values")
    assert contrast.pairs == (("evil-QT", "base"),)
    assert (contrast.modes, contrast.suites, contrast.measure) == (("think",), ("values",), "margin")
