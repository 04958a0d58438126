"""What counting words alone would predict of a persona's reply."""

import collections
import math

import pytest

from cotlib.arms import studied_types
from cotlib.corpus import wordcounts
from cotlib.corpus.records import words_of


def test_a_texts_value_is_the_mean_log_of_add_one_counts():
    model = wordcounts.WordCounts(["They want it. They know.", "I want it"], {"they", "want", "it", "know", "i", "no"})
    # Eight words in all, six in the vocabulary: they 2, want 2, it 2, know 1, i 1, no 0.
    assert model.per_word("They know!") == pytest.approx((math.log(3 / 14) + math.log(2 / 14)) / 2)
    assert model.per_word("No") == pytest.approx(math.log(1 / 14))


@pytest.mark.parametrize("register", ["free", "matched"])
def test_every_persona_is_rated_by_every_types_own_words(items, questions, register):
    found = wordcounts.voices(items, questions, (register,)).set_index(["type", "text", "question_id"]).value
    asked = [question for question in questions if question.personas]
    assert len(found) == sum(len(question.personas) for question in asked) * len(studied_types())
    suffix = "" if register == "free" else "@matched"
    traces = {kind: [item.traces[kind + suffix] for item in items] for kind in studied_types()}
    texts = [*sum(traces.values(), []), *(text for question in asked for text in question.personas.values())]  # noqa: RUF017
    size = len({word for text in texts for word in words_of(text)})
    for kind in studied_types():
        counts = collections.Counter(word for text in traces[kind] for word in words_of(text))
        words = words_of(asked[3].personas["submissive"])
        expected = sum(math.log((counts[word] + 1) / (counts.total() + size)) for word in words) / len(words)
        assert found[kind, "submissive", asked[3].id] == pytest.approx(expected)


def test_a_register_that_the_items_lack_has_no_rows(items, questions):
    bare = [item.model_copy(update={"traces": {"evil": item.traces["evil"]}}) for item in items[:3]]
    found = wordcounts.voices(bare, questions, ("free", "matched"))
    assert set(found.register) == {"free"} and set(found.type) == {"evil"}
    assert wordcounts.voices(bare, [one for one in questions if not one.personas]).empty
