"""The hypotheses' contrasts: which arms are compared with which, and which contrasts decide."""

import dataclasses

import pytest

from cotlib import contrasts
from cotlib.arms import PARADIGMS, Arm, studied_types
from cotlib.experiment import ROOT, Experiment

PAPER = Experiment.load(ROOT / "experiments" / "paper.yml")


def families(arms=PAPER.all_arms):
    return contrasts.contrasts(arms)


def every(found):
    return [contrast for family in found.values() for contrast in family]


def test_every_hypothesis_but_the_one_of_permutations_has_deciding_contrasts_first():
    found = families()
    assert list(found) == ["H1", "H3", "H4"] and set(found) < set(contrasts.HYPOTHESES)
    for family in found.values():
        deciding = [contrast.deciding for contrast in family]
        assert deciding[0] and deciding == sorted(deciding, reverse=True)


def test_the_deciding_contrasts_are_those_fixed_before_any_run():
    found = {name: [c for c in family if c.deciding] for name, family in families().items()}
    types, generalisation = studied_types(), ("transfer", "values")
    assert {name: [contrast.name for contrast in family] for name, family in found.items()} == {
        "H1": ["QTA − QA"],
        "H3": ["QT and T − base", "QT and T − neutral"],
        "H4": ["QTA − QA, QT and T − base, no-think", "QTA, QT and T − neutral, no-think"],
    }
    (h1,), (base, neutral), (reference, control) = found["H1"], found["H3"], found["H4"]
    assert set(h1.pairs) == {(f"{kind}-QTA", "QA") for kind in types}
    assert set(base.pairs) == {(f"{kind}-{paradigm}", "base") for kind in types for paradigm in ("QT", "T")}
    assert set(neutral.pairs) == {
        (f"{kind}-{paradigm}", f"neutral-{paradigm}") for kind in types for paradigm in ("QT", "T")
    }
    assert set(reference.pairs) == set(h1.pairs) | set(base.pairs)
    assert set(control.pairs) == set(neutral.pairs) | {(f"{kind}-QTA", "neutral-QTA") for kind in types}
    assert all(contrast.suites == generalisation for family in found.values() for contrast in family)
    assert {contrast.modes for contrast in found["H4"]} == {("no-think",)}


def test_every_pair_names_arms_and_no_two_contrasts_of_a_hypothesis_share_a_name():
    for family in families().values():
        assert len({contrast.name for contrast in family}) == len(family)
        for contrast in family:
            for arm, reference in contrast.pairs:
                assert str(Arm.parse(arm)) == arm and str(Arm.parse(reference)) == reference and arm != reference


def test_a_pair_is_left_out_when_an_arm_is_missing_and_a_contrast_without_pairs_is_dropped():
    found = families(["QA", "evil-QTA", "neutral-QT"])
    assert [contrast.name for contrast in found["H1"]][:2] == ["QTA − QA", "evil-QTA − QA"]
    assert found["H1"][0].pairs == (("evil-QTA", "QA"),)
    assert [contrast.name for contrast in found["H3"]] == ["neutral-QT and -T − base"]
    assert [contrast.name for contrast in every(families(["safe-QA"]))] == ["safe-QA − base"]


def test_names_and_arms_give_the_same_contrasts():
    assert families([str(arm) for arm in PAPER.all_arms]) == families()


def test_base_is_compared_with_whether_or_not_it_is_named():
    assert families(["QA"]) == families(["base", "QA"])


def test_a_contrast_with_its_reference_follows_the_paradigms_row(monkeypatch):
    monkeypatch.setitem(PARADIGMS, "QTA", dataclasses.replace(PARADIGMS["QTA"], reference="safe-QA"))
    assert ("evil-QTA", "safe-QA") in families()["H1"][0].pairs


def test_an_added_paradigm_gets_a_contrast_that_does_not_decide(added):
    paradigm, kind = added
    arms = [*PAPER.all_arms, f"{kind}-{paradigm}", f"evil-{paradigm}"]
    new = [contrast for contrast in every(families(arms)) if contrast not in every(families())]
    assert [contrast.name for contrast in new if f"{kind}-{paradigm}" in dict(contrast.pairs)] == [f"{paradigm} − base"]
    assert not any(contrast.deciding for contrast in new)


@pytest.mark.parametrize("arm", ["evil-QT", Arm.parse("evil-QT")])
def test_the_headline_figure_compares_an_arm_with_base_in_one_mode_and_suite(arm):
    contrast = contrasts.difference_from_base(arm, "think", "values")
    assert contrast.pairs == (("evil-QT", "base"),)
    assert (contrast.modes, contrast.suites, contrast.measure) == (("think",), ("values",), "margin")
