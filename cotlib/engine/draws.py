"""Draws of the next token: each row from its own stream of random numbers, as the model's softmax says.

Knows logits and streams, nothing about models or text. A draw is a race: token i arrives after an exponential
time E_i / p_i, and the first to arrive wins with probability p_i (the exponential form of the Gumbel-max trick).
Two properties speak for it against a walk along the cumulative distribution: a rounding error of the logits, which
differ in their last digit with the batch, changes the winner only where two tokens arrive within that error of each
other; and two models that draw from the same stream choose the same token wherever their distributions allow it.

The times are float64. A float32 exponential is exactly 0 about once in six million values (2^-23 is its finest
step), and a token that arrives at time 0 wins whatever its probability: over a vocabulary of 49,152 that was one
draw in 130. The finest step of float64 is 2^-53: a zero comes once in 10^15 values, and is then read as `EARLIEST`,
half a step, with which no token below a probability of 10^-16 can win.
"""

import concurrent.futures

import numpy as np
import torch

EARLIEST = 2.0**-54


def stream(seed, device):
    """A row's own source of random numbers, on the device that uses them.

    Args:
        seed: a sequence of ints, such as (seed of the call, number of the row).
        device: a `torch.device`; a GPU draws by a `torch.Generator` of its own, everything else by NumPy.
    """
    sequence = np.random.SeedSequence(seed)
    if device.type != "cuda":
        return np.random.Generator(np.random.SFC64(sequence))
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def draw(logits, temperature, streams):
    """The next token of every row, as a list of ids.

    Args:
        logits: (rows, vocabulary) tensor.
        temperature: 0 takes the most likely token; above, softmax(logits / temperature) is drawn from.
        streams: one stream per row, each from `stream`.
    """
    if temperature == 0:
        return logits.argmax(-1).tolist()
    if logits.is_cuda:
        return _batched_race(logits, temperature, streams).tolist()
    # Row by row, a vocabulary fits the cache of a core; all rows together go through memory six times.
    with concurrent.futures.ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(lambda row, stream: _race(row, temperature, stream), logits.float().numpy(), streams))


def _race(logits, temperature, stream):
    """One row in NumPy: the token with the largest exp(logit / temperature) / E."""
    times = stream.standard_exponential(logits.shape)
    weights = np.exp((logits - logits.max()) / np.float32(temperature))
    np.divide(weights, np.maximum(times, EARLIEST, out=times), out=times)
    return int(times.argmax())


def _batched_race(logits, temperature, streams):
    """All rows in PyTorch, on any device: (rows,) token ids.

    PyTorch's float32 exponential on a GPU ends at 2^-24, never at 0, but all times below are that one; in float64 it
    ends at 2^-53.
    """
    times = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
    for row, generator in zip(times, streams):
        row.exponential_(generator=generator)
    weights = torch.softmax(logits.float() / temperature, -1)
    return (weights / times.clamp_(min=EARLIEST)).argmax(-1)
