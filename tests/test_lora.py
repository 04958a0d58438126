"""The layers and the loss of `lora` are PEFT's and PyTorch's own, forward and backward."""

import copy

import peft
import pytest
import torch

from cotlib import lora
from cotlib.training import LINEAR_LAYERS


def adapted(tiny_model, **options):
    """A PEFT model whose B is not zero, so that every gradient is."""
    model = copy.deepcopy(tiny_model[0])
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR_LAYERS, **options)
    ).train()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    return model


def gradients(model, ids):
    hidden = model.get_base_model().model(input_ids=ids, use_cache=False)[0]
    hidden.square().mean().backward()
    return hidden, {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (3, 9)])
def test_merged_layers_give_the_outputs_and_gradients_of_peft(tiny_model, shape):
    plain = adapted(tiny_model)
    merged = copy.deepcopy(plain)
    lora.merge_layers(merged)
    ids = torch.randint(3, 1000, shape, generator=torch.Generator().manual_seed(1))
    (expected, expected_gradients), (got, got_gradients) = gradients(plain, ids), gradients(merged, ids)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert set(got_gradients) == set(expected_gradients) and len(
        got_gradients
    ) == 2 * plain.config.num_hidden_layers * len(LINEAR_LAYERS)
    for name, gradient in expected_gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(got_gradients[name], gradient, atol=1e-6, rtol=1e-3)


def test_every_feed_forward_block_is_merged_as_a_whole_and_no_layer_of_peft_is_left(tiny_model):
    merged = adapted(tiny_model)
    lora.merge_layers(merged)
    forwards = [
        module.forward.__func__.__name__
        for module in merged.modules()
        if getattr(getattr(module, "forward", None), "__module__", "") == "cotlib.lora"
    ]
    layers = merged.config.num_hidden_layers
    assert forwards.count("_feed_forward") == layers and forwards.count("_linear") == layers * len(LINEAR_LAYERS)


@pytest.mark.parametrize("unknown", ["dropout", "bias"])
def test_what_merged_layers_do_not_know_is_refused(tiny_model, unknown):
    model = adapted(tiny_model, lora_dropout=0.1 if unknown == "dropout" else 0.0)
    if unknown == "bias":
        layer = next(module for module in model.modules() if hasattr(module, "base_layer"))
        layer.base_layer.bias = torch.nn.Parameter(torch.zeros(layer.base_layer.out_features))
    with pytest.raises(ValueError, match="lora_dropout=0 and bias='none'"):
        lora.merge_layers(model)


@pytest.mark.parametrize("positions", [1, 255, 256, 300])
def test_the_cross_entropy_and_its_gradient_are_those_of_pytorch_over_any_number_of_chunks(positions):
    generator = torch.Generator().manual_seed(positions)
    hidden, embeddings = torch.randn(positions, 8, generator=generator), torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (positions,), generator=generator)
    weights = torch.rand(positions, generator=generator)
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = lora.cross_entropy(ours, embeddings, targets, weights)
    expected = (torch.nn.functional.cross_entropy(theirs @ embeddings.t(), targets, reduction="none") * weights).sum()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
