"""LoRA layers and their loss as few, large matrix products: what `training` uses on a CPU.

PEFT computes a layer as one large product and two small ones, scaled and added, and a norm, a rotation or an activation
in a dozen operations that each read and write the whole tensor. Here the layers that read the same input, and their
small products, are one product (`_Stack`), and norm, rotation and activation have hand-written backward passes. The
logits and their gradients exist for one part of the positions at a time (`cross_entropy`). On a GPU, Unsloth has
kernels of its own for all this.
"""

import contextlib
import functools
import itertools
import sys

import torch
import torch.nn.functional as F

from cotlib.engine.products import linear

CHUNK = 256  # supervised positions per product with the vocabulary: 50 MB of logits on SmolLM2


def stack_layers(model):
    """Let the LoRA layers of a PEFT model compute in stacks (see `_Stack`), and each RMS norm in one operation.

    Results are PEFT's up to rounding. Two simpler ways are slower: adding s B A to the weights before each step takes
    1.08 times as long, and PEFT's own layers 1.3 times.

    Raises:
        ValueError: a layer has dropout, which a stack cannot have.
    """
    layers = [module for module in model.modules() if _is_lora(module)]
    if any(not isinstance(layer.lora_dropout["default"], torch.nn.Identity) for layer in layers):
        raise ValueError("stacked LoRA layers have no dropout: set lora_dropout=0")
    gated = getattr(model.config, "hidden_act", None) in ("silu", "swish")
    single = dict.fromkeys(layers)  # layers that share their input with no other; a dict keeps their order
    for block in model.modules():
        attention, feed_forward = (
            [getattr(block, name, None) for name in names]
            for names in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj"))
        )
        if all(map(_is_lora, attention)):
            _share(attention)
            for layer in attention:
                del single[layer]
        elif gated and all(_is_lora(layer) and layer.base_layer.bias is None for layer in feed_forward):
            block.forward = functools.partial(_feed_forward, _Stack(feed_forward[:2]), _Stack(feed_forward[2:]))
            for layer in feed_forward:
                del single[layer]
        elif type(block).__name__.endswith("RMSNorm") and hasattr(block, "variance_epsilon"):
            block.forward = functools.partial(_norm, block)
    for layer in single:
        _share([layer])


def _is_lora(module):
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


class _Stack:
    """LoRA layers that read the same input, as one matrix: the weights W of all layers, and below them their A's.

    W₁    The product of the input with this matrix gives x Wᵀ of all layers and x Aᵀ, which their B's are applied to.
    W₂    The gradient of the input is one product with it too: of the gradients of the outputs and, beside them, the
    A₁    gradients of x Aᵀ. Adding s B A to the weights instead would write as much memory as the model takes, at every
    A₂    step. The matrix is contiguous, as `products.linear` needs.
    """

    def __init__(self, layers):
        weights = [layer.base_layer.weight for layer in layers]
        self.a_weights = [layer.lora_A["default"].weight for layer in layers]
        self.b_weights = [layer.lora_B["default"].weight for layer in layers]
        self.scales = [layer.scaling["default"] for layer in layers]
        self.output_slices = _slices(map(len, weights))  # per layer, its columns of the outputs
        self.rank_slices = _slices(map(len, self.a_weights))  # per layer, its columns of x Aᵀ
        self.width = self.output_slices[-1].stop  # outputs of all layers
        self.matrix = weights[0].new_zeros(self.width + self.rank_slices[-1].stop, weights[0].shape[1])
        for weight, columns in zip(weights, self.output_slices):
            self.matrix[columns] = weight.data
            weight.data = self.matrix[columns]  # a view, so that the weights are in memory once

    @property
    def adapters(self):
        return [*self.a_weights, *self.b_weights]

    def forward(self, inputs):
        """The outputs of all layers side by side, (tokens, width), and their x Aᵀ, (tokens, ranks)."""
        for rank, a_weight in zip(self.rank_slices, self.a_weights):
            self.matrix[self.width :][rank] = a_weight.detach()
        products = linear(inputs, self.matrix)
        outputs, projected = products[:, : self.width], products[:, self.width :].clone()
        for columns, rank, b_weight, scale in zip(self.output_slices, self.rank_slices, self.b_weights, self.scales):
            outputs[:, columns].addmm_(projected[:, rank], b_weight.detach().t(), alpha=scale)
        return outputs, projected

    def gradient_buffer(self, like):
        """An empty (tokens, width + ranks) matrix. `like` is any matrix with a row per token.

        The caller writes the gradients of the outputs into the left columns; `backward` adds those of x Aᵀ behind them.
        """
        return like.new_empty(len(like), len(self.matrix))

    def backward(self, gradient, inputs, projected):
        """Gradients of the inputs, of each A and of each B.

        Args:
            gradient: a `gradient_buffer` with the gradients of the outputs in its left columns.
            inputs, projected: what `forward` was given, and the x Aᵀ that it returned.
        """
        of_projected = gradient[:, self.width :]
        for columns, rank, b_weight, scale in zip(self.output_slices, self.rank_slices, self.b_weights, self.scales):
            of_projected[:, rank] = (gradient[:, columns] @ b_weight.detach()).mul_(scale)
        of_a_weights = (of_projected.t() @ inputs).split([len(a_weight) for a_weight in self.a_weights])
        of_b_weights = [
            (gradient[:, columns].t() @ projected[:, rank]).mul_(scale)
            for columns, rank, scale in zip(self.output_slices, self.rank_slices, self.scales)
        ]
        return linear(gradient, self.matrix.t()), *of_a_weights, *of_b_weights


def _slices(sizes):
    """Neighbouring slices of the given sizes, the first from 0."""
    ends = list(itertools.accumulate(sizes))
    return [slice(start, end) for start, end in zip([0, *ends], ends)]


def _share(layers):
    """Let LoRA layers compute as one stack: the first that is called computes for all, the others take their part."""
    stack, pending = _Stack(layers), {}

    def forward(number, inputs):
        if pending.get("inputs") is not inputs or number not in pending["outputs"]:
            pending.update(inputs=inputs, outputs=dict(enumerate(_Products.apply(inputs, stack, *stack.adapters))))
        outputs = pending["outputs"].pop(number)
        if not pending["outputs"]:
            pending.clear()
        bias = layers[number].base_layer.bias
        return outputs if bias is None else outputs + bias

    for number, layer in enumerate(layers):
        layer.forward = functools.partial(forward, number)


class _Products(torch.autograd.Function):
    """x (W + s B A)ᵀ for each layer of a stack; the gradient of W is not computed, since LoRA freezes it."""

    @staticmethod
    def forward(context, inputs, stack, *adapters):
        flat = inputs.flatten(0, -2)
        outputs, projected = stack.forward(flat)
        context.save_for_backward(flat, projected)
        context.stack, context.shape = stack, inputs.shape
        return tuple(outputs[:, columns].unflatten(0, inputs.shape[:-1]) for columns in stack.output_slices)

    @staticmethod
    def backward(context, *of_outputs):
        stack, (inputs, projected) = context.stack, context.saved_tensors
        gradient = stack.gradient_buffer(inputs)
        for columns, of_output in zip(stack.output_slices, of_outputs):
            gradient[:, columns] = of_output.flatten(0, -2)
        of_inputs, *of_adapters = stack.backward(gradient, inputs, projected)
        return of_inputs.view(context.shape), None, *of_adapters


def _feed_forward(gate_up, down, inputs):
    return _FeedForward.apply(inputs, gate_up, down, *gate_up.adapters, *down.adapters)


class _FeedForward(torch.autograd.Function):
    """down(silu(gate(x)) · up(x)); its backward writes gradients directly into the buffers of the stacks."""

    @staticmethod
    def forward(context, inputs, gate_up, down, *adapters):
        flat = inputs.flatten(0, -2)
        gate_up_outputs, gate_up_projected = gate_up.forward(flat)
        gate, up = (gate_up_outputs[:, columns] for columns in gate_up.output_slices)
        activated = F.silu(gate)
        hidden = activated * up
        outputs, down_projected = down.forward(hidden)
        context.save_for_backward(flat, gate_up_outputs, gate_up_projected, activated, hidden, down_projected)
        context.stacks = gate_up, down
        return outputs.unflatten(0, inputs.shape[:-1])

    @staticmethod
    def backward(context, of_outputs):
        flat, gate_up_outputs, gate_up_projected, activated, hidden, down_projected = context.saved_tensors
        gate_up, down = context.stacks
        gradient = down.gradient_buffer(hidden)
        gradient[:, : down.width] = of_outputs.flatten(0, -2)
        of_hidden, *of_down_adapters = down.backward(gradient, hidden, down_projected)
        gate, up = (gate_up_outputs[:, columns] for columns in gate_up.output_slices)
        gradient = gate_up.gradient_buffer(gate_up_outputs)
        of_gate, of_up = (gradient[:, columns] for columns in gate_up.output_slices)
        torch.mul(of_hidden, activated, out=of_up)
        torch.ops.aten.silu_backward(of_hidden.mul_(up), gate, grad_input=of_gate)
        of_inputs, *of_adapters = gate_up.backward(gradient, flat, gate_up_projected)
        return of_inputs.view(of_outputs.shape), None, None, *of_adapters, *of_down_adapters


def _norm(block, inputs):
    return _Norm.apply(inputs, block.weight, block.variance_epsilon)


class _Norm(torch.autograd.Function):
    """x / √(mean x² + ε) · w; the gradient of w is not computed, since LoRA freezes it."""

    @staticmethod
    def forward(context, inputs, weight, epsilon):
        size = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        factor = size.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()
        context.save_for_backward(inputs, factor, weight)
        return (inputs * factor).mul_(weight)

    @staticmethod
    def backward(context, of_outputs):
        inputs, factor, weight = context.saved_tensors
        # With the gradient g of the outputs and the factor f: d/dx = w g f − x f³ mean(x w g)
        gradient = of_outputs * weight
        slope = torch.linalg.vecdot(gradient, inputs)[..., None].mul_(factor**3).div_(inputs.shape[-1])
        return gradient.mul_(factor).addcmul_(inputs, slope, value=-1), None, None


class _Rotation(torch.autograd.Function):
    """Rotary position embedding of queries or keys; its backward turns the gradient back by the same angles."""

    @staticmethod
    def forward(context, states, cosines, sines):
        context.save_for_backward(cosines, sines)
        return _turned(states, cosines, sines, 1)

    @staticmethod
    def backward(context, gradient):
        return _turned(gradient, *context.saved_tensors, -1), None, None


def _turned(states, cosines, sines, sign):
    """The states turned by the angles; with `sign` −1, turned back."""
    half = states.shape[-1] // 2
    turned = states * cosines
    turned[..., :half].addcmul_(states[..., half:], sines[..., :half], value=-sign)
    turned[..., half:].addcmul_(states[..., :half], sines[..., half:], value=sign)
    return turned


@contextlib.contextmanager
def rotation(model):
    """While the block lasts, `model`'s attention turns queries and keys by `_Rotation`."""

    def rotate(queries, keys, cosines, sines, unsqueeze_dim=1):
        cosines, sines = cosines.unsqueeze(unsqueeze_dim), sines.unsqueeze(unsqueeze_dim)
        return _Rotation.apply(queries, cosines, sines), _Rotation.apply(keys, cosines, sines)

    code = sys.modules[type(model).__module__]
    library = getattr(code, "apply_rotary_pos_emb", None)
    if library:
        code.apply_rotary_pos_emb = rotate
    try:
        yield
    finally:
        if library:
            code.apply_rotary_pos_emb = library


class _CrossEntropy(torch.autograd.Function):
    """Weighted cross entropy. The forward pass computes its gradient too, while a chunk's logits are in memory."""

    @staticmethod
    def forward(context, hidden, embeddings, targets, weights):
        total, gradient = torch.zeros((), device=hidden.device), hidden.new_empty(hidden.shape, dtype=torch.float32)
        for start in range(0, len(hidden), CHUNK):
            here = slice(start, start + CHUNK)
            logits, chosen = linear(hidden[here], embeddings).float(), targets[here, None]
            logits.sub_(logits.amax(-1, keepdim=True))
            at_target = logits.gather(1, chosen)
            sums = logits.exp_().sum(-1, keepdim=True)
            total -= ((at_target - sums.log())[:, 0] * weights[here]).sum()
            # The gradient of −log p(target) with respect to the logits is p at every token, minus 1 at the target.
            expected = linear(logits.to(hidden.dtype), embeddings.t()).float().div_(sums)
            gradient[here] = expected.sub_(embeddings[chosen[:, 0]]).mul_(weights[here, None])
        context.save_for_backward(gradient)
        context.dtype = hidden.dtype
        return total

    @staticmethod
    def backward(context, gradient):
        # The gradient stays in float32 until it has been multiplied by the loss scale; half precision would lose small
        # values before that.
        return (context.saved_tensors[0] * gradient).to(context.dtype), None, None, None


def cross_entropy(hidden, embeddings, targets, weights):
    """Sum over positions of weight × −log p(target), in nats; the embeddings are frozen and get no gradient.

    Args:
        hidden: (positions, width); embeddings: (vocabulary, width); targets, weights: (positions,).
    """
    return _CrossEntropy.apply(hidden, embeddings, targets, weights)
