"""Draws of the next token: each row from its own stream of random numbers, as the model's softmax says.

Works on logits and random streams; knows nothing of models or text. A draw is a race: token i arrives at the time
E_i / p_i, where E_i is exponential, and the first to arrive wins with probability p_i (the Gumbel-max trick in its
exponential form). The usual way, inverting the cumulative distribution, lacks two properties that we need. Logits
differ in their last digit with the batch; here that changes the winner only if two tokens arrive at almost the same
time. And two models that draw from the same stream mostly choose the same token where their distributions are alike.

The times are float64. A float32 exponential is exactly 0 about once in six million values (2^-23 is its finest
step), and a token that arrives at time 0 wins whatever its probability: over a vocabulary of 49,152 that was one
draw in 130. The finest step of float64 is 2^-53, so a zero comes once in 10^15 values. It is replaced by `EARLIEST`,
half a step; at that time no token with a probability below 10^-16 can win.
"""

import concurrent.futures

import numpy as np
import torch

EARLIEST = 2.0**-54  # in units of the exponential's mean


def stream(seed, device):
    """The random numbers of one row, made on the device that uses them.

    Args:
        seed: a sequence of ints, such as (seed of the call, number of the row).
        device: a `torch.device`. A GPU gets a `torch.Generator`, everything else one of NumPy.
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
    # One row fits into the cache of a processor core; all rows together would be read from memory six times.
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

    The smallest value of PyTorch's float32 exponential on a GPU is 2^-24 instead of 0, and it stands for all smaller
    times, which is too coarse as well; in float64 the smallest value is 2^-53.
    """
    times = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
    for row, generator in zip(times, streams):
        row.exponential_(generator=generator)
    weights = torch.softmax(logits.float() / temperature, -1)
    return (weights / times.clamp_(min=EARLIEST)).argmax(-1)
