"""Draws follow the softmax at the vocabularies of real models, tail included, and each row has a stream of its own."""

import numpy as np
import pytest
import torch
from scipy import stats

from cotlib.engine import draws

SMOLLM2, QWEN3 = 49_152, 151_936
VOCABULARIES = [SMOLLM2, pytest.param(QWEN3, marks=pytest.mark.slow)]
CPU = torch.device("cpu")
# With a graphics card, what is true here of draws is asked of its own generator, too.
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
on_every_device = pytest.mark.parametrize("device", DEVICES, ids=str)


def drawn_on(device, logits, temperature, count, seed=0):
    """`count` draws from one distribution by the public function: array of token ids."""
    drawn, logits = [], logits.to(device)
    for start in range(0, count, 1000):
        rows = min(1000, count - start)
        streams = [draws.stream((seed, start + row), device) for row in range(rows)]
        drawn += draws.draw(logits.expand(rows, -1), temperature, streams)
    return np.array(drawn)


def as_on_a_gpu(logits, temperature, count, seed=0):
    """The same by the function that a GPU uses, which runs on any device."""
    drawn = []
    for start in range(0, count, 100):
        rows = min(100, count - start)
        streams = [torch.Generator().manual_seed(1_000_000 * seed + start + row) for row in range(rows)]
        drawn += draws._batched_race(logits.expand(rows, -1), temperature, streams).tolist()
    return np.array(drawn)


def peaked(vocabulary, rivals=1e-9):
    """Logits of a distribution whose most likely token leaves its rivals `rivals` in all."""
    logits = torch.full((vocabulary,), np.log(rivals / (vocabulary - 1)))
    logits[vocabulary // 3] = np.log1p(-rivals)
    return logits


@pytest.mark.slow
@on_every_device
@pytest.mark.parametrize("vocabulary", [SMOLLM2, QWEN3])
def test_twenty_thousand_draws_from_a_peaked_distribution_take_no_rival(vocabulary, device):
    drawn = drawn_on(device, peaked(vocabulary), 1.0, 20_000)
    assert (drawn == vocabulary // 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [SMOLLM2, QWEN3])
def test_no_rival_wins_by_the_gpus_function_either(vocabulary):
    drawn = as_on_a_gpu(peaked(vocabulary), 1.0, 20_000 if vocabulary == SMOLLM2 else 6_000)
    assert (drawn == vocabulary // 3).all()


def embedded(vocabulary):
    """Logits of a known distribution: seven tokens far apart with 99 % together, and a falling tail over all others.

    Returns (logits, groups): the group of every token, the seven heads first, then four parts of the tail.
    """
    heads = np.linspace(0, vocabulary - 1, 7).astype(int)
    probability = np.arange(1, vocabulary + 1, dtype=np.float64) ** -0.5
    probability[heads] = 0
    probability *= 0.01 / probability.sum()
    probability[heads] = 0.99 * np.array([0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02])
    groups = 7 + np.arange(vocabulary) * 4 // vocabulary
    groups[heads] = np.arange(7)
    return torch.from_numpy(np.log(probability)).float(), groups


@on_every_device
@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_distribution_over_the_whole_vocabulary_is_drawn_as_it_is(vocabulary, temperature, device):
    logits, groups = embedded(vocabulary)
    expected = np.bincount(groups, weights=(logits.double() / temperature).softmax(-1).numpy())
    drawn = np.bincount(groups[drawn_on(device, logits, temperature, 12_000, seed=1)], minlength=len(expected))
    assert stats.chisquare(drawn, expected * 12_000).pvalue > 1e-4
    # The test would notice if one draw in 130 came from anywhere in the vocabulary, as it once did.
    spoilt = (1 - 1 / 130) * expected + 1 / 130 * np.bincount(groups) / vocabulary
    assert stats.chisquare(spoilt * 12_000, expected * 12_000).pvalue < 1e-4


@pytest.mark.slow
def test_the_gpus_function_draws_the_distribution_as_it_is():
    logits, groups = embedded(SMOLLM2)
    expected = np.bincount(groups, weights=logits.double().softmax(-1).numpy())
    drawn = np.bincount(groups[as_on_a_gpu(logits, 1.0, 10_000, seed=2)], minlength=len(expected))
    assert stats.chisquare(drawn, expected * 10_000).pvalue > 1e-4


@on_every_device
def test_a_row_draws_the_same_whatever_stands_beside_it(device):
    logits = torch.randn(6, SMOLLM2, generator=torch.Generator().manual_seed(0)).to(device)
    together = draws.draw(logits, 1.0, [draws.stream((5, row), device) for row in range(6)])
    alone = [draws.draw(logits[row : row + 1], 1.0, [draws.stream((5, row), device)])[0] for row in range(6)]
    assert together == alone
    assert len(set(together)) == 6


@on_every_device
def test_two_models_that_share_a_stream_mostly_draw_the_same_token(device):
    generator = torch.Generator().manual_seed(0)
    one = 3 * torch.randn(SMOLLM2, generator=generator)
    other = one + 0.05 * torch.randn(SMOLLM2, generator=generator)
    same = (drawn_on(device, one, 1.0, 1000) == drawn_on(device, other, 1.0, 1000)).mean()
    apart = (drawn_on(device, one, 1.0, 1000) == drawn_on(device, other, 1.0, 1000, seed=1)).mean()
    assert same > 0.8 > 0.1 > apart


@on_every_device
def test_the_generator_of_times_is_fine_enough_at_its_small_end(device):
    """The shortest of n times is as short as it should be: float32 gives 0 here, and 2^-24 on a graphics card."""
    stream, parts = draws.stream((11,), device), 100 if device.type == "cuda" else 10
    shortest = np.inf
    for _ in range(parts):
        if device.type == "cuda":
            times = torch.empty(10**7, dtype=torch.float64, device=device).exponential_(generator=stream)
        else:
            times = stream.standard_exponential(10**7)
        shortest = min(shortest, float(times.min()))
    # It is 1 / n in the mean; more than 20 / n, or less than a millionth of 1 / n, comes once in a million seeds.
    assert 1e-6 < shortest * parts * 10**7 < 20 and shortest > draws.EARLIEST


@pytest.mark.parametrize("earliest", [0.0, 5e-324])
def test_a_time_of_zero_wins_for_no_token_that_cannot_come(earliest):
    class Stream:
        """Times at both ends of what a generator can give."""

        def standard_exponential(self, size):
            times = np.full(size, 100.0)
            times[[0, 2]] = earliest
            return times

    logits = torch.tensor([[-50.0, 1.0, float("-inf")], [float("-inf"), 0.0, float("-inf")]])
    assert draws.draw(logits, 1.0, [Stream(), Stream()]) == [1, 1]


def test_a_temperature_of_zero_takes_the_most_likely_token():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.0]])
    assert draws.draw(logits, 0, [None, None]) == [1, 0]
