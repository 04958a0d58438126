"""The form probe sees function words, punctuation and lengths, and nothing of what a trace is about."""

import numpy as np
import pytest
from nonsense import ITEMS, NOUNS

from cotlib.arms import written_types
from cotlib.corpus import forms


def test_the_form_probe_reports_every_fold_and_its_confusion():
    probe = forms.probe(ITEMS)
    assert list(probe.columns) == ["register", "features", "fold", "accuracy"] and len(probe) == 2 * forms.FOLDS
    means = probe.groupby("features")["accuracy"].mean()
    assert means["form"] < 0.5 < means["words"]
    confusion = forms.confusion(ITEMS)
    assert list(confusion.index) == list(confusion.columns) == list(written_types())
    assert np.allclose(confusion.sum(axis=1), 1) and np.mean(np.diag(confusion)) == pytest.approx(means["form"])


def test_form_features_do_not_see_content_words():
    one = forms.features_of("I'd rather they mustn't buy the helmet; who needs it?")
    other = forms.features_of("I’d rather they mustn’t sell the boat; who wants it?")
    assert one == other and len(one) == len(forms.FEATURES)
    seen = {name for name, value in zip(forms.FEATURES, one) if value}
    assert seen == {
        "i",
        "'d",
        "rather",
        "they",
        "must",
        "n't",
        "the",
        "who",
        "it",
        ";",
        "?",
        "words",
        "sentences",
        "words per sentence",
    }
    assert not set(forms.FUNCTION_WORDS) & set(NOUNS) and len(set(forms.FUNCTION_WORDS)) == len(forms.FUNCTION_WORDS)


def pair(number, harmful, safe):
    return ITEMS[number].model_copy(update={"harmful": harmful, "safe": safe})


def test_the_harmful_one_of_two_answers_is_chosen_by_form_and_a_tie_is_half_right():
    marked = [pair(number, "You may do it.", "Never do it!") for number in range(20)]
    assert forms.answer_choices(marked).tolist() == [1.0] * 20
    turned = [pair(20, "Never do it!", "You may do it."), pair(21, "Bread goes in.", "Milk goes in.")]
    assert forms.answer_choices(marked, turned).tolist() == [0.0, 0.5]
    assert forms.answer_choices([pair(number, "Bread goes in.", "Milk goes in.") for number in range(9)]).mean() == 0.5
    assert len(forms.answer_choices(marked[:4])) == 0


def test_answers_marked_at_random_are_chosen_at_chance():
    rng = np.random.default_rng(0)
    texts = ("You may do it.", "Never do it!")
    some = [pair(number % 30, *(texts if rng.random() < 0.5 else texts[::-1])) for number in range(400)]
    assert abs(forms.answer_choices(some).mean() - 0.5) < 0.08


def test_a_feature_that_no_learned_pair_differs_in_decides_nothing():
    """Rates per 100 words of two answers may differ by a rounding error where their counts are the same."""
    known = np.zeros((10, len(forms.FEATURES)))
    known[:, 0], known[:, 1] = 1.0, 1e-15
    asked = np.zeros((1, len(forms.FEATURES)))
    asked[0, :2] = 0.1, -5.0
    assert forms._chosen(known, asked).tolist() == [1.0]
