"""What the book says of each claim: every verdict has its wording, and all of it is rendered here."""

import copy

import pytest

from cotlib.contrasts import CONTRADICTED, HYPOTHESES, INCONCLUSIVE, NO_EFFECT, SUPPORTED, UNTESTED
from cotlib.pages import claims

ROW = {
    "family": "per type and mode", "name": "evil-QTA, no-think", "deciding": True, "effect": 0.123, "ci_low": 0.051,
    "ci_high": 0.2, "p": 0.001, "p_holm": 0.006, "verdict": SUPPORTED, "minimal_detectable_effect": 0.083,
    "smallest_effect": 0.05, "n_questions": 300, "n_seeds": 6, "parts": [],
}  # fmt: skip


def findings(verdict, provisional=False, **changed):
    found = {
        "verdict": verdict, "provisional": provisional, "headline": None if verdict == UNTESTED else ROW["name"],
        "contrasts": [] if verdict == UNTESTED else [ROW | changed],
    }  # fmt: skip
    return {name: copy.deepcopy(found) for name in HYPOTHESES}


POSSIBLE = [
    (name, verdict)
    for name in HYPOTHESES
    for verdict in (SUPPORTED, NO_EFFECT, INCONCLUSIVE, UNTESTED, *((CONTRADICTED,) if name == "H2" else ()))
]


@pytest.mark.parametrize(("name", "verdict"), POSSIBLE)
def test_every_verdict_of_every_claim_has_two_sentences_of_its_own(name, verdict):
    found = findings(verdict)
    first, second = claims.finding(name, found), claims.rests_on(name, found)
    assert first.endswith(".") and second.endswith(".") and "{" not in first + second
    others = {claims.finding(name, findings(other)) for claim, other in POSSIBLE if claim == name and other != verdict}
    assert first not in others and len(others) == sum(claim == name for claim, _ in POSSIBLE) - 1
    if verdict in (SUPPORTED, CONTRADICTED) or (verdict == INCONCLUSIVE and name != "H2"):
        assert "+0.123 nats per token (+0.051 to +0.200)" in first
    if verdict == NO_EFFECT:
        assert "0.05 nats per token" in first
    if verdict != UNTESTED:
        assert "300 questions and six training runs of each arm" in second
    assert ("below 0.08 can be missed" in second) is (verdict == INCONCLUSIVE)


def test_a_verdict_of_few_training_runs_says_that_it_is_provisional():
    said = claims.rests_on("H1", findings(SUPPORTED, provisional=True, n_seeds=1))
    assert "one training run of each arm, so it is provisional" in said
    assert "supported (provisional)" in claims.summary(findings(SUPPORTED, provisional=True, n_seeds=1)).data


def test_semantics_says_which_of_its_two_halves_is_shown():
    found = findings(INCONCLUSIVE)
    voice = ROW | {"family": "diagonals", "name": "persona diagonal, matched traces"}
    patterns = [ROW | {"family": "patterns", "name": f"pattern {n}", "verdict": INCONCLUSIVE} for n in range(5)]
    found["H2"] |= {"contrasts": [voice, *patterns], "headline": voice["name"]}
    said = claims.finding("H2", found)
    assert "they do speak in the voice of their own reasoning, +0.123" in said
    assert "none of the five predicted patterns is shown" in said
    patterns[2]["verdict"] = SUPPORTED
    found["H2"]["contrasts"] = [voice | {"verdict": INCONCLUSIVE}, *patterns]
    said = claims.finding("H2", found)
    assert "a voice of their own is not shown" in said and "1 of 5 predicted patterns is shown (pattern 2)" in said


@pytest.mark.parametrize("name", ["H3", "H4"])
def test_a_claim_that_rests_on_a_voice_has_words_for_its_rival(name):
    found = findings(SUPPORTED)
    voice = ROW | {"name": "submissive-QT, own voice"}
    found[name] |= {"contrasts": [voice], "headline": voice["name"]}
    assert "no arm that speaks to it" in claims.rival(name, found)
    diagonal = ROW | {"family": "diagonals", "name": "persona diagonal, free traces", "effect": 0.044}
    found["H2"]["contrasts"].append(diagonal)
    assert "words" in claims.rival(name, found) and "+0.044" in claims.rival(name, found)


def test_only_semantics_can_be_contradicted():
    assert {name for name, wording in claims.FOUND.items() if CONTRADICTED in wording} == {"H2"}


def test_the_rival_explanation_is_told_with_this_runs_numbers_where_it_has_them():
    found = findings(INCONCLUSIVE)
    assert "no arm that speaks to it" in claims.rival("H1", found)
    neutral = ROW | {"family": "form and content, QTA", "name": "neutral-QTA − QA", "deciding": False, "effect": -0.117}
    found["H1"]["contrasts"].append(neutral)
    assert "change the margin from QA by -0.117 nats per token" in claims.rival("H1", found)
    assert all(claims.rival(name, found).startswith("The strongest rival explanation is") for name in HYPOTHESES)


def test_the_rivals_tests_are_among_those_that_the_claims_have():
    from cotlib.contrasts import contrasts
    from cotlib.experiment import Experiment
    from cotlib.findings import DIAGONALS

    known = {
        (name, family.name, test.name)
        for name, some in contrasts(Experiment.load("experiments/laptop.yml").arms).items()
        for family in some
        for test in family.tests
    }
    for label in DIAGONALS.values():
        known |= {("H2", claims.DIAGONALS, name) for name in (label, f"{label}: word counts not taken out")}
    of = lambda name: "H2" if name == claims.OWN_VOICE else name
    assert all(
        (of(name), family, test) in known for name, (_, tests) in claims.RIVALS.items() for family, test, _ in tests
    )


def test_a_page_shows_verdict_and_sentences_as_text():
    shown = claims.summary(findings(INCONCLUSIVE)).data
    assert all(f"<b>{name} {title}</b>" in shown for name, (title, _) in HYPOTHESES.items())
    assert shown.count("inconclusive") == 4 and "evil-QTA without thinking" in shown
    assert "rival" in claims.answer("H2", findings(SUPPORTED)).data
