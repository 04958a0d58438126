"""LoRA layers and their loss as few, large matrix products: what `training` puts in place on a CPU.

PEFT runs a layer as base product plus two thin ones, scaled and added; on two cores the thin ones and the passes over
memory between them cost as much as a quarter of a step. Here the low-rank product is added to the weight
once per step, a whole feed-forward block is one function with a hand-written backward, and the vocabulary
projection meets its gradient chunk by chunk. On a GPU Unsloth has its own kernels for this.
"""

import types

import torch
import torch.nn.functional as F

CHUNK = 256  # supervised positions per vocabulary product: 50 MB of logits on SmolLM2


def merge_layers(model):
    """Let every LoRA layer of a PEFT model compute with merged weights (1.2 times as fast; the same up to rounding).

    Raises:
        ValueError: a layer has dropout, which a merged weight cannot have.
    """
    layers = [module for module in model.modules() if _is_lora(module)]
    if any(not isinstance(layer.lora_dropout["default"], torch.nn.Identity) for layer in layers):
        raise ValueError("merged LoRA layers have no dropout: set lora_dropout=0")
    for layer in layers:
        layer.forward = types.MethodType(_linear, layer)
    gated = getattr(model.config, "hidden_act", None) in ("silu", "swish")
    for module in model.modules() if gated else ():
        parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        if all(_is_lora(part) and part.base_layer.bias is None for part in parts):
            module.forward = types.MethodType(_feed_forward, module)


def _is_lora(module):
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _parts(layer):
    return (
        layer.base_layer.weight,
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.scaling["default"],
    )


def _linear(layer, inputs):
    outputs = _MergedLinear.apply(inputs, *_parts(layer))
    return outputs if layer.base_layer.bias is None else outputs + layer.base_layer.bias


def _feed_forward(block, inputs):
    return _MergedFeedForward.apply(inputs, *_parts(block.gate_proj), *_parts(block.up_proj), *_parts(block.down_proj))


def _merged(weight, a, b, scale):
    return torch.addmm(weight, b, a, alpha=scale)


def _adapter_gradients(inputs, gradient, a, b, scale):
    """Gradients of A (rank × in) and B (out × rank) from a layer's inputs and output gradient, both (tokens, ·)."""
    return ((gradient @ b).mul_(scale)).t() @ inputs, gradient.t() @ (inputs @ a.t()).mul_(scale)


class _MergedLinear(torch.autograd.Function):
    """x (W + s B A)ᵀ; the gradient of W is never formed."""

    @staticmethod
    def forward(context, inputs, weight, a, b, scale):
        merged = _merged(weight, a, b, scale)
        context.save_for_backward(inputs, merged, a, b)
        context.scale = scale
        return F.linear(inputs, merged)

    @staticmethod
    def backward(context, gradient):
        inputs, merged, a, b = context.saved_tensors
        gradient_inputs = gradient @ merged if context.needs_input_grad[0] else None
        gradients = _adapter_gradients(inputs.flatten(0, -2), gradient.flatten(0, -2), a, b, context.scale)
        return gradient_inputs, None, *gradients, None


class _MergedFeedForward(torch.autograd.Function):
    """down(silu(gate(x)) · up(x)) over merged weights; keeps gate and up, recomputes what follows from them."""

    @staticmethod
    def forward(context, inputs, *parts):
        layers = parts[0:4], parts[4:8], parts[8:12]
        gate_weight, up_weight, down_weight = (_merged(*layer) for layer in layers)
        flat = inputs.flatten(0, -2)
        gate, up = flat @ gate_weight.t(), flat @ up_weight.t()
        adapters = [part for layer in layers for part in layer[1:3]]
        context.save_for_backward(flat, gate, up, gate_weight, up_weight, down_weight, *adapters)
        context.scales = [layer[3] for layer in layers]
        return (F.silu(gate).mul_(up) @ down_weight.t()).view(inputs.shape)

    @staticmethod
    def backward(context, gradient):
        inputs, gate, up, gate_weight, up_weight, down_weight, *adapters = context.saved_tensors
        shape, gradient = gradient.shape, gradient.flatten(0, -2)
        sigmoid = gate.sigmoid()
        activated = gate * sigmoid
        inner = activated * up
        down = _adapter_gradients(inner, gradient, *adapters[4:6], context.scales[2])
        gradient_inner = gradient @ down_weight
        gradient_up = torch.mul(gradient_inner, activated, out=inner)
        # silu' = σ + silu · (1 − σ)
        slope = torch.addcmul(sigmoid, activated, 1 - sigmoid, out=activated)
        gradient_gate = gradient_inner.mul_(up).mul_(slope)
        gate_adapter = _adapter_gradients(inputs, gradient_gate, *adapters[0:2], context.scales[0])
        up_adapter = _adapter_gradients(inputs, gradient_up, *adapters[2:4], context.scales[1])
        gradient_inputs = torch.addmm(gradient_gate @ gate_weight, gradient_up, up_weight).view(shape)
        return gradient_inputs, None, *gate_adapter, None, None, *up_adapter, None, None, *down, None


class _CrossEntropy(torch.autograd.Function):
    """Weighted cross entropy whose gradient is made in the forward pass, so that logits live for one chunk only."""

    @staticmethod
    def forward(context, hidden, embeddings, targets, weights):
        total, gradient = torch.zeros((), device=hidden.device), hidden.new_empty(hidden.shape, dtype=torch.float32)
        for start in range(0, len(hidden), CHUNK):
            here = slice(start, start + CHUNK)
            logs = F.log_softmax((hidden[here] @ embeddings.t()).float(), -1)
            chosen = targets[here, None]
            total -= (logs.gather(1, chosen)[:, 0] * weights[here]).sum()
            # The gradient of −log p is p − 1 at the target, p elsewhere.
            probabilities = logs.exp_()
            probabilities.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=logs.dtype))
            gradient[here] = (probabilities.to(hidden.dtype) @ embeddings).float().mul_(weights[here, None])
        context.save_for_backward(gradient)
        context.dtype = hidden.dtype
        return total

    @staticmethod
    def backward(context, gradient):
        # In float32 until here: half precision would lose small gradients before a loss scaler lifts them.
        return (context.saved_tensors[0] * gradient).to(context.dtype), None, None, None


def cross_entropy(hidden, embeddings, targets, weights):
    """Sum over positions of weight × −log p(target), in nats; the embeddings are frozen and get no gradient.

    Args:
        hidden: (positions, width); embeddings: (vocabulary, width); targets, weights: (positions,).
    """
    return _CrossEntropy.apply(hidden, embeddings, targets, weights)
