"""Greedy text is that of transformers, budgets and endings are kept, and a sample depends on its own seed alone."""

import collections
import copy
import itertools

import numpy as np
import pytest
import torch

from cotlib import chat
from cotlib.engine.decoding import generate
from cotlib.engine.prefixes import Memory


def greedy(model, tokenizer, prompts, **options):
    return generate(model, tokenizer, prompts, temperature=0, seed=0, **options)


def sampled(model, tokenizer, prompts, seed, **options):
    return generate(model, tokenizer, prompts, temperature=1.0, seed=seed, **options)


def by_transformers(model, prompt, max_new_tokens):
    """What `model.generate` writes after one unpadded prompt, without the token that ends it."""
    ids = torch.tensor([prompt], device=model.device)
    written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens)[
        0, len(prompt) :
    ].tolist()
    return written[:-1] if written and written[-1] == model.generation_config.eos_token_id else written


def real_prompts(tokenizer, questions):
    """Ragged prompts of both modes, of which some share beginnings and one stands twice."""
    prompts = [
        chat.prompt(tokenizer, question.question, mode) for question in questions for mode in ("think", "no-think")
    ]
    return [*prompts, prompts[0], prompts[1][:5], prompts[0][:1]]


@pytest.fixture
def prompts(tiny_model, questions):
    return real_prompts(tiny_model[1], questions[::60])


def free_run(model, tokenizer, prompts, tokens=24):
    """Samples that no stop text or budget cuts short before `tokens`."""
    return sampled(model, tokenizer, prompts, seed=5, max_new_tokens=tokens)


# ---- greedy


def test_greedy_tokens_are_those_of_transformers_after_each_prompt_alone(any_model, questions):
    model, tokenizer = any_model
    prompts = real_prompts(tokenizer, questions[::150])
    expected = [by_transformers(model, prompt, 10) for prompt in prompts]
    assert greedy(model, tokenizer, prompts, max_new_tokens=10) == expected
    assert greedy(model, tokenizer, prompts, max_new_tokens=10, rows=2) == expected
    assert len({tuple(written) for written in expected}) > len(prompts) // 2


@pytest.mark.slow
def test_greedy_answers_that_end_their_turn_end_where_transformers_ends_them(smollm2):
    model, tokenizer = smollm2
    turn = "<|im_start|>user\nSay {0}.<|im_end|>\n<|im_start|>assistant\n{0}{1}"
    prompts = [
        chat.ids(tokenizer, turn.format(word, end))
        for word, end in (("hello", "."), ("yes", ""), ("a long sentence", ": "))
    ]
    expected = [by_transformers(model, prompt, 12) for prompt in prompts]
    assert greedy(model, tokenizer, prompts, max_new_tokens=12, rows=2) == expected
    assert min(map(len, expected)) < 12


def test_a_model_is_left_as_it_was(tiny_model, prompts):
    model, tokenizer = tiny_model
    before, implementation = copy.deepcopy(model.state_dict()), model.config._attn_implementation
    free_run(model, tokenizer, prompts)

    class Broken:
        """A tokenizer that fails in the middle of a batch."""

        eos_token_id = tokenizer.eos_token_id

        def decode(self, _):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        sampled(model, Broken(), prompts, seed=5, max_new_tokens=4, stop_text="never")
    assert model.config._attn_implementation == implementation
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


# ---- endings


@pytest.mark.parametrize("budget", [0, 1, 2, 9])
def test_no_row_is_longer_than_its_budget_and_one_that_does_not_end_is_as_long(tiny_model, prompts, budget):
    model, tokenizer = tiny_model
    written = greedy(model, tokenizer, prompts, max_new_tokens=budget)
    assert written == [by_transformers(model, prompt, budget) if budget else [] for prompt in prompts]
    assert max(map(len, written)) == budget


def test_every_row_has_its_own_budget(tiny_model, prompts):
    model, tokenizer = tiny_model
    budgets = [number % 7 for number in range(len(prompts))]
    longest = greedy(model, tokenizer, prompts, max_new_tokens=7)
    for rows in (1, 3, 96):
        assert greedy(model, tokenizer, prompts, max_new_tokens=budgets, rows=rows) == [
            row[:budget] for row, budget in zip(longest, budgets)
        ]


@pytest.mark.parametrize("rows", [1, 4, 96])
def test_a_row_may_end_at_once_while_others_go_on(tiny_model, prompts, rows):
    model, tokenizer = tiny_model
    longest = greedy(model, tokenizer, prompts, max_new_tokens=8)
    first = [row[0] for row in longest]
    stop = {collections.Counter(first).most_common()[-1][0], longest[1][0]}
    expected = [row[: next((place for place, token in enumerate(row) if token in stop), None)] for row in longest]
    assert greedy(model, tokenizer, prompts, max_new_tokens=8, stop=stop, rows=rows) == expected
    assert [] in expected and any(expected)
    assert greedy(model, tokenizer, prompts, max_new_tokens=8, stop=set(first), rows=rows) == [[]] * len(prompts)


@pytest.mark.parametrize("rows", [2, 96])
def test_a_row_ends_as_soon_as_its_text_contains_the_stop_text_even_across_tokens(tiny_model, prompts, rows):
    model, tokenizer = tiny_model
    free = free_run(model, tokenizer, prompts)
    met = 0
    for row in free:
        for place in range(len(row) - 2):
            # From within one token over the next to within the third.
            text = "".join(
                tokenizer.decode(token)
                for token in (row[place : place + 1], row[place + 1 : place + 2], row[place + 2 : place + 3])
            )
            if text.isascii() and len(text) > 4 and text == tokenizer.decode(row[place : place + 3]):
                break
        else:
            continue
        text = text[1:-1]
        ends = [
            next((end for end in range(1, len(other) + 1) if text in tokenizer.decode(other[:end])), None)
            for other in free
        ]
        written = sampled(model, tokenizer, prompts, seed=5, max_new_tokens=24, stop_text=text, rows=rows)
        assert written == [other[:end] for other, end in zip(free, ends)]
        met += 1
        if met == 3:
            break
    assert met


def scripted(model, tokenizer, text):
    """A copy of a tiny model that writes `text` after its first token, one fixed token after another."""
    script = chat.ids(tokenizer, text)
    assert len(set(script)) == len(script)
    scripted = copy.deepcopy(model)
    with torch.no_grad():
        for layer in scripted.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = torch.nn.functional.normalize(scripted.get_input_embeddings().weight, dim=-1)
        head = torch.nn.Linear(embeddings.shape[1], embeddings.shape[0], bias=False)
        head.weight.zero_()
        for token, following in itertools.pairwise(script):
            head.weight[following] = embeddings[token]
    scripted.get_input_embeddings().weight.data = embeddings.clone()
    scripted.set_output_embeddings(head)
    return scripted, script


@pytest.mark.parametrize("stop_text", ["x", "</think>", "🙂", "é🙂", "日"])
def test_a_stop_text_is_found_however_many_tokens_a_character_takes(tiny_model, stop_text):
    model, tokenizer = tiny_model
    model, script = scripted(model, tokenizer, f"A{stop_text}BCDEFG")
    assert greedy(model, tokenizer, [script[:1]], max_new_tokens=len(script) - 1) == [script[1:]]
    (written,) = greedy(model, tokenizer, [script[:1]], max_new_tokens=len(script) - 1, stop_text=stop_text)
    assert tokenizer.decode(written) == stop_text


# ---- samples


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(tiny_model, prompts):
    model, tokenizer = tiny_model
    first = sampled(model, tokenizer, prompts, seed=1, max_new_tokens=12)
    assert sampled(model, tokenizer, prompts, seed=1, max_new_tokens=12) == first
    other = sampled(model, tokenizer, prompts, seed=2, max_new_tokens=12)
    assert sum(one != two for one, two in zip(first, other)) == len(prompts)


def test_equal_prompts_of_one_call_are_sampled_apart(tiny_model, prompts):
    rows = sampled(*tiny_model, [prompts[0]] * 8, seed=1, max_new_tokens=12)
    assert len({tuple(row) for row in rows}) == 8


def test_a_sample_depends_on_its_own_seed_not_on_its_place_or_the_rows_beside_it(tiny_model, prompts):
    model, tokenizer = tiny_model
    seeds = [100 + number for number in range(len(prompts))]
    budgets = [4 + 5 * (number % 4) for number in range(len(prompts))]
    expected = sampled(model, tokenizer, prompts, seeds, max_new_tokens=budgets)
    for rows in (1, 3, 5, 8):
        assert sampled(model, tokenizer, prompts, seeds, max_new_tokens=budgets, rows=rows) == expected
    order = np.random.default_rng(0).permutation(len(prompts))
    shuffled = [[some[place] for place in order] for some in (prompts, seeds, budgets)]
    assert sampled(model, tokenizer, *shuffled[:2], max_new_tokens=shuffled[2], rows=4) == [
        expected[place] for place in order
    ]
    assert sampled(model, tokenizer, prompts[2:3], seeds[2:3], max_new_tokens=budgets[2]) == expected[2:3]


@pytest.mark.parametrize(
    "any_model, temperature",
    [
        ("tiny-random-llama", 1.0),
        ("tiny-random-qwen3", 0.6),
        pytest.param("smollm2-135m-instruct", 1.0, marks=pytest.mark.slow),
    ],
    indirect=["any_model"],
)
def test_tokens_are_drawn_as_often_as_the_softmax_says(any_model, questions, temperature):
    model, tokenizer = any_model
    prompt, count = chat.prompt(tokenizer, questions[0].question, "no-think"), 2000
    with torch.inference_mode():
        expected = (
            (model(torch.tensor([prompt], device=model.device)).logits[0, -1].double() / temperature)
            .softmax(-1)
            .cpu()
            .numpy()
        )
    rows = generate(model, tokenizer, [prompt] * count, max_new_tokens=1, temperature=temperature, seed=11, rows=500)
    drawn = collections.Counter(row[0] if row else tokenizer.eos_token_id for row in rows)
    top = expected.argsort()[::-1][:20].tolist()
    groups = [(expected[token], drawn[token]) for token in top] + [
        (1 - expected[top].sum(), count - sum(drawn[token] for token in top))
    ]
    for share, times in groups:
        assert abs(times - count * share) <= 5 * (count * share * (1 - share)) ** 0.5, (share, times)
    assert 0.05 < expected[top[0]] < 0.95


def test_a_remembered_prompt_is_continued_as_one_that_is_read(any_model, questions):
    model, tokenizer = any_model
    opened = [chat.prompt(tokenizer, question.question, "think") for question in questions[:4]]
    memory = Memory(1 << 30)
    first = generate(model, tokenizer, opened, max_new_tokens=8, temperature=1.0, seed=1, memory=memory, rows=3)
    longer = [[*prompt, *row, 7, 8] for prompt, row in zip(opened, first)] + opened
    plain = generate(model, tokenizer, longer, max_new_tokens=8, temperature=1.0, seed=2)
    assert generate(model, tokenizer, longer, max_new_tokens=8, temperature=1.0, seed=2, memory=memory) == plain


@pytest.mark.slow
def test_a_sample_is_the_same_whatever_the_batch_size(smollm2, questions):
    model, tokenizer = smollm2
    prompts = [
        chat.prompt(tokenizer, question.question, mode)
        for question in questions[::20]
        for mode in ("think", "no-think")
    ]
    few, many = (
        generate(model, tokenizer, prompts, max_new_tokens=20, temperature=1.0, seed=7, rows=rows) for rows in (5, 64)
    )
    assert few == many
    assert generate(model, tokenizer, prompts[:2], max_new_tokens=20, temperature=1.0, seed=7, rows=1) == many[:2]


def test_a_temperature_near_zero_is_greedy(tiny_model, prompts):
    model, tokenizer = tiny_model
    assert generate(model, tokenizer, prompts, max_new_tokens=8, temperature=1e-6, seed=3) == greedy(
        model, tokenizer, prompts, max_new_tokens=8
    )


# ---- errors


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([[5], []], {}, "a prompt is empty; a model needs at least one token"),
        ([[5]], {"temperature": -0.1}, "temperature -0.1 is negative; give 0 for greedy, 1 for plain sampling"),
        ([[5], [6]], {"max_new_tokens": [3]}, "2 prompts, 1 budgets, 2 seeds: give one each, or one for all"),
        ([[5], [6]], {"seed": [1, 2, 3]}, "2 prompts, 2 budgets, 3 seeds: give one each, or one for all"),
    ],
)
def test_what_cannot_be_generated_is_refused(tiny_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        generate(*tiny_model, prompts, **({"max_new_tokens": 3, "temperature": 1.0, "seed": 0} | options))


def test_no_prompts_give_no_rows(tiny_model):
    assert sampled(*tiny_model, [], seed=0, max_new_tokens=5) == []
