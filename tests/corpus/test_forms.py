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
