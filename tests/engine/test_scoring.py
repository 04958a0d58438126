"""A score is the plain mean log-probability per completion token, however prompts and completions are packed."""

import numpy as np
import pytest
import torch

from cotlib import chat
from cotlib.engine import decoding, prefixes, scoring


@torch.inference_mode()
def one_by_one(model, prompts, completions):
    """Each pair alone through the model, every position projected to the whole vocabulary."""
    values = []
    for prompt, completion in zip(prompts, completions):
        logits = model(torch.tensor([prompt + completion], device=model.device), use_cache=False).logits[0]
        logps = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
        values.append(logps[range(len(completion)), completion].mean().item())
    return np.array(values)


def agrees(model, tokenizer, prompts, completions, **options):
    scores = scoring.score(model, tokenizer, prompts, completions, **options)
    assert scores.dtype == np.float64 and scores.shape == (len(prompts),)
    np.testing.assert_allclose(scores, one_by_one(model, prompts, completions), atol=1e-4, rtol=0)


def real_pairs(tokenizer, questions):
    """Both answers and a trace of a few questions, after the prompts of both modes."""
    prompts, completions = [], []
    for question in questions:
        for mode in ("no-think", "think"):
            for text in (question.harmful, question.safe):
                prompts.append(chat.prompt(tokenizer, question.question, mode))
                completions.append(chat.ids(tokenizer, text))
    return prompts, completions


def random_ids(generator, lengths, size=1000):
    return [generator.integers(3, size, length).tolist() for length in lengths]


def test_real_questions_score_as_one_by_one(any_model, questions):
    model, tokenizer = any_model
    agrees(model, tokenizer, *real_pairs(tokenizer, questions[:2]))


@pytest.mark.parametrize("max_nodes", [1, 40, 1024])
def test_unrelated_prompts_of_any_length_score_as_one_by_one_in_trees_of_any_size(any_model, max_nodes):
    model, tokenizer = any_model
    generator = np.random.default_rng(max_nodes)
    prompts = random_ids(generator, [1, 2, 30, 9, 5, 17])
    agrees(model, tokenizer, prompts, random_ids(generator, [1, 12, 1, 20, 3, 6]), max_nodes=max_nodes)


def test_completions_that_share_prompts_and_beginnings_score_as_one_by_one(tiny_model):
    model, tokenizer = tiny_model
    prompt, other = random_ids(np.random.default_rng(0), [12, 8])
    completions = [[5], [5, 6], [5, 6, 7], [8, 6, 7], [5, 6, 7], other]
    agrees(model, tokenizer, [prompt] * 6, completions)
    # The same sequence cut at another place: what was prompt is now completion.
    agrees(
        model,
        tokenizer,
        [prompt, prompt[:4], prompt[:1], prompt + other[:3]],
        [other, prompt[4:] + other, prompt[1:] + other, other[3:]],
    )


def test_prompts_that_were_sampled_from_are_not_read_again_and_score_as_one_by_one(any_model, questions):
    model, tokenizer = any_model
    memory = prefixes.Memory(1 << 30)
    opened = [chat.prompt(tokenizer, question.question, "think") for question in questions[:3]]
    written = decoding.generate(
        model, tokenizer, opened, max_new_tokens=6, temperature=1.0, seed=1, memory=memory, rows=2
    )
    prompts, completions = real_pairs(tokenizer, questions[:2])
    for start, trace in zip(opened, written):
        prompts += [start, start + trace + [7, 8], start + trace]
        completions += [trace + [9], [9, 10], [11]]
    for prompt, trace in zip(opened, written):
        assert len(memory.find(prompt + trace)) >= len(prompt + trace) - 1
    agrees(model, tokenizer, prompts, completions, memory=memory)


def test_more_positions_than_one_projection_takes_score_as_one_by_one(tiny_model):
    model, tokenizer = tiny_model
    generator = np.random.default_rng(1)
    agrees(model, tokenizer, random_ids(generator, [4, 4, 4]), random_ids(generator, [600, 1, 580]), max_nodes=2000)


def test_scores_keep_the_order_of_their_pairs(tiny_model):
    model, tokenizer = tiny_model
    generator = np.random.default_rng(2)
    prompts, completions = random_ids(generator, [6] * 12), random_ids(generator, [4] * 12)
    scores = scoring.score(model, tokenizer, prompts, completions)
    order = generator.permutation(12)
    shuffled = scoring.score(
        model, tokenizer, [prompts[place] for place in order], [completions[place] for place in order], max_nodes=25
    )
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-4, rtol=0)
    assert np.unique(scores.round(4)).size == 12


def test_a_likelier_completion_scores_higher(tiny_model):
    model, tokenizer = tiny_model
    prompt = random_ids(np.random.default_rng(3), [10])[0]
    with torch.inference_mode():
        ranked = model(torch.tensor([prompt])).logits[0, -1].argsort(descending=True).tolist()
    scores = scoring.score(model, tokenizer, [prompt] * 3, [[ranked[0]], [ranked[10]], [ranked[-1]]])
    assert scores[0] > scores[1] > scores[2]


def test_nothing_to_score_gives_no_scores(tiny_model):
    assert scoring.score(*tiny_model, [], []).shape == (0,)


@pytest.mark.parametrize(
    "prompts, completions, message",
    [
        ([[1]], [[2], [3]], "1 prompts but 2 completions: give one prompt per completion"),
        ([[1], []], [[2], [3]], "pair 1 has an empty prompt or completion"),
        ([[1], [2]], [[], [3]], "pair 0 has an empty prompt or completion"),
    ],
)
def test_pairs_that_are_none_are_refused(tiny_model, prompts, completions, message):
    with pytest.raises(ValueError, match=message):
        scoring.score(*tiny_model, prompts, completions)
