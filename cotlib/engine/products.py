"""The float32 matrix product of a CPU: PyTorch's own, or oneDNN's where that one is faster.

PyTorch hands float32 products to MKL, which leaves half of a processor unused that it does not know: on an AMD EPYC with
AVX-512 oneDNN, in the same PyTorch, is 2.2 times as fast, with the same precision. Which of the two it is, is measured once a machine.
Knows tensors and layers, nothing about models; `lora`, `margins`, `generation` and `judging` compute through it.
"""

import contextlib
import functools
import time
import types

import torch

from cotlib.engine import models
from cotlib.runs import artifacts

MEASURED = "products.json"
# One that is hardly faster may be the slower one tomorrow, and results should not change in their last digits with it.
WORTH_IT = 1.15
FEW_ROWS = 256
# oneDNN compiles a product anew for each number of rows, which takes 2 ms and keeps 1.5 MB: rows are filled up to a multiple of this.
# Trees come filled, so that it costs them no copy.
ROWS = 32


def linear(inputs, weight):
    """x Wᵀ, in float32 by the faster product of this machine.

    Args:
        inputs: (rows, depth); weight: (outputs, depth), contiguous or the transpose of what is: oneDNN
            multiplies anything else, such as some columns of a matrix, by a loop of under 0.5 GFLOP/s.
    Returns:
        (rows, outputs). Not differentiable: for the inside of a `torch.autograd.Function`, and for inference.
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
    """The rows, and empty ones up to a multiple of `ROWS`."""
    missing = -len(rows) % ROWS
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


@contextlib.contextmanager
def fast(model):
    """While it lasts, the linear layers of a model on a CPU compute by `linear`; for inference only.

    Decoding 192 rows and scoring trees are mostly these products. For few rows PyTorch's own is asked for W xᵀ, 1.2 times as fast as x Wᵀ.
    """
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear and layer.bias is None]
    if model.device.type != "cpu":
        layers = []
    layers = [layer for layer in layers if "forward" not in vars(layer)]  # once, where blocks are nested
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
        # MKL's kernels work on 16 rows at a time: 30 take longer than 32.
        products = (layer.weight @ _filled(flat).t()).t()[: len(flat)]
    return products.unflatten(0, inputs.shape[:-1])


@functools.cache
def prefers_onednn():
    """Whether oneDNN's product is the faster one here. Measured once, then read from the cache folder, so that runs on one machine agree."""
    file = models.cache_folder() / MEASURED
    machine = artifacts.digest(artifacts.hardware(), artifacts.versions()["torch"])
    with artifacts.lock(file):
        known = _known(file)
        if machine not in known:
            known[machine] = measured()
            artifacts.write_json(file, known)
        speeds = known[machine]
    return speeds["onednn"] >= WORTH_IT * speeds["torch"]


def _known(file):
    """Speeds by machine, as far as the file holds them: what was never measured or is damaged is measured again."""
    try:
        found = dict(artifacts.read_json(file))
    except (OSError, ValueError, TypeError):
        return {}
    return {
        machine: speeds
        for machine, speeds in found.items()
        if isinstance(speeds, dict) and all(isinstance(speeds.get(side), float) for side in ("torch", "onednn"))
    }


def measured(rows=512, outputs=1536, depth=576, rounds=5, products=20):
    """Floating-point operations a second of both products at a training step's size, the best of rounds that take turns: {torch, onednn}."""
    # A stream of its own: a run's draws must not depend on whether this was asked.
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
