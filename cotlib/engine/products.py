"""The float32 matrix product of a CPU: PyTorch's own, or oneDNN's where that one is faster.

PyTorch computes float32 products by MKL, which uses only a part of what some processors can do: on an AMD EPYC with
AVX-512, oneDNN, which is part of PyTorch too, is 2.2 times as fast with the same precision. Which of the two is faster
is measured on every machine. Training, sampling and scoring compute through this module.
"""

import contextlib
import functools
import time
import types

import torch

from cotlib.engine import models
from cotlib.runs import artifacts, machine

MEASURED = "products.json"  # file in the cache folder
# oneDNN must be this many times as fast to be used. With a smaller lead, another measurement could turn out the other
# way, and the last digits of results would change with it.
WORTH_IT = 1.15
KEPT_SECONDS = 7 * 24 * 3600
BUSY = 0.5  # load per core above which a measurement is doubtful
FEW_ROWS = 256  # up to this many rows, W xᵀ is faster than x Wᵀ in PyTorch
# For each new number of rows oneDNN compiles a product, which takes 2 ms and keeps 1.5 MB. So rows of zeros are added
# up to a multiple of this. Trees already have such a number of nodes (`prefixes.trees`), which saves copying them.
ROWS = 32


def linear(inputs, weight):
    """x Wᵀ; in float32 on a CPU by the faster of the two products.

    Args:
        inputs: (rows, depth).
        weight: (outputs, depth), contiguous or the transpose of a contiguous matrix. PyTorch multiplies others, such as
            some columns of a matrix, because oneDNN does so at less than 0.5 GFLOP/s.
    Returns:
        (rows, outputs). Not differentiable: for use within a `torch.autograd.Function`, and for inference.
    """
    if not _for_onednn(inputs, weight):
        return inputs @ weight.t()
    return _onednn(inputs, weight)


def _for_onednn(inputs, weight):
    plain = weight.is_contiguous() or weight.t().is_contiguous()
    return plain and inputs.device.type == "cpu" and inputs.dtype == weight.dtype == torch.float32 and prefers_onednn()


def _onednn(inputs, weight):
    filled = _filled(inputs)
    return torch.ops.mkldnn._linear_pointwise(filled, weight, None, "none", [], "")[: len(inputs)]


def _filled(rows):
    """The rows, and rows of zeros behind them up to a multiple of `ROWS`."""
    missing = -len(rows) % ROWS
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


@contextlib.contextmanager
def fast(model):
    """While the block lasts, the linear layers of a model on a CPU compute by `linear`; for inference only.

    Sampling and scoring spend most of their time in these products. For few rows PyTorch computes W xᵀ instead, which
    is 1.2 times as fast as x Wᵀ.
    """
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear and layer.bias is None]
    if model.device.type != "cpu":
        layers = []
    layers = [layer for layer in layers if "forward" not in vars(layer)]  # those of an outer block stay as they are
    for layer in layers:
        layer.forward = types.MethodType(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer, inputs):
    flat = inputs.flatten(0, -2)
    if _for_onednn(flat, layer.weight) or len(flat) > FEW_ROWS:
        products = linear(flat, layer.weight)
    else:
        # MKL works on 16 rows at a time, and 30 rows take longer than 32.
        products = (layer.weight @ _filled(flat).t()).t()[: len(flat)]
    return products.unflatten(0, inputs.shape[:-1])


@functools.cache
def prefers_onednn():
    """Whether oneDNN's product is the faster one on this machine.

    Measured and then read from the cache folder, so that runs on a machine compute alike. An answer that is older than
    a week, or was taken while other programs kept the processor busy, is replaced as soon as the processor is free.
    """
    file = models.cache_folder() / MEASURED
    this_machine = artifacts.digest(machine.hardware(), machine.versions()["torch"])
    with artifacts.lock(file):
        known, load = _known(file), machine.load()
        if _outdated(known.get(this_machine), load):
            known[this_machine] = measured() | {"time": time.time(), "load": load}
            artifacts.write_json(file, known)
        speeds = known[this_machine]
    return speeds["onednn"] >= WORTH_IT * speeds["torch"]


def _outdated(speeds, load):
    """Whether to measure again, at this load of the processor now."""
    if speeds is None:
        return True
    doubtful = speeds["load"] > BUSY or time.time() - speeds["time"] > KEPT_SECONDS
    return doubtful and load <= BUSY


def _known(file):
    """Speeds by machine, as the file holds them; without damaged entries, which are measured again."""
    try:
        found = dict(artifacts.read_json(file))
    except (OSError, ValueError, TypeError):
        return {}
    return {
        name: speeds
        for name, speeds in found.items()
        if isinstance(speeds, dict)
        and all(isinstance(speeds.get(key), float) for key in ("torch", "onednn", "time", "load"))
    }


def measured(rows=512, outputs=1536, depth=576, rounds=5, products=20):
    """Floating-point operations per second of both products, {"torch": …, "onednn": …}, at a training step's size.

    The two take turns for some rounds, and the best round of each counts.
    """
    # Its own random numbers: those of a run must not depend on whether speeds were measured before.
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(count, depth, generator=generator) for count in (rows, outputs))
    sides = {"torch": lambda: inputs @ weight.t(), "onednn": lambda: _onednn(inputs, weight)}
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        del sides["onednn"]
    best = {"torch": 0.0, "onednn": 0.0}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, product in sides.items():
                product()
                started = time.perf_counter()
                for _ in range(products):
                    product()
                seconds = time.perf_counter() - started
                best[name] = max(best[name], 2 * rows * outputs * depth * products / seconds)
    return best
