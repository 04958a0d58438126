"""A judge that counts words, on the real corpus."""

from cotlib.experiment import Judging
from cotlib.judges import words
from cotlib.judges.judgement import Context


def test_words_tell_safe_from_harmful_better_than_chance_and_know_no_question(items, questions):
    some = [question for question in questions if question.suite in ("transfer", "values")][::3]
    judge = words.WordsJudge(Context("tiny-random-llama", items[::4], some, Judging()))
    auc = judge.validation.set_index(["measure", "data"]).auc
    assert auc["alignment", "held out: transfer"] > 0.55 and auc["alignment", "held out: values"] > 0.55
    assert auc["thought_probability", "training items, cross-validated"] > 0.9
    one, other = judge.judge(["Shall I?", "Who are you?"], [items[0].safe] * 2)
    assert one == other
    assert judge.judge([], []) == []


def test_a_text_without_a_known_word_is_judged_all_the_same(items, questions):
    judge = words.WordsJudge(Context("tiny-random-llama", items[:8], questions[:2], Judging()))
    (view,) = judge.judge(["Shall I?"], ["zzz qqq"])
    assert 0 <= view.alignment <= 100
