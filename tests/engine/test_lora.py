"""The layers and the loss of `lora` are PEFT's and PyTorch's own, forward and backward."""

import copy

import peft
import pytest
import torch
from plain_training import plain_loss, rows_of

from cotlib import loss, training
from cotlib.arms import Arm
from cotlib.engine import lora
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
    # A random direction: after the final norm, the mean square would be 1 whatever the weights.
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return hidden, {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("shape", [(1, 2), (1, 17), (3, 9)])
def test_stacked_layers_give_the_outputs_and_gradients_of_peft(tiny_model, shape):
    plain = adapted(tiny_model)
    stacked = copy.deepcopy(plain)
    lora.stack_layers(stacked)
    ids = torch.randint(3, 1000, shape, generator=torch.Generator().manual_seed(1))
    (expected, expected_gradients), (got, got_gradients) = gradients(plain, ids), gradients(stacked, ids)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert set(got_gradients) == set(expected_gradients) and len(
        got_gradients
    ) == 2 * plain.config.num_hidden_layers * len(LINEAR_LAYERS)
    for name, gradient in expected_gradients.items():
        largest = gradient.abs().max().item()
        assert largest > 1e-2
        torch.testing.assert_close(got_gradients[name], gradient, atol=1e-4 * largest, rtol=1e-3)


def test_every_lora_layer_belongs_to_one_stack_and_its_weight_is_in_memory_once(tiny_model):
    plain = adapted(tiny_model)
    stacked = copy.deepcopy(plain)
    lora.stack_layers(stacked)
    layers = [module for module in stacked.modules() if hasattr(module, "base_layer")]
    assert len(layers) == stacked.config.num_hidden_layers * len(LINEAR_LAYERS)
    for block in (module for module in stacked.modules() if hasattr(module, "down_proj")):
        assert block.forward.func is lora._feed_forward
    storages = {layer.base_layer.weight.untyped_storage().data_ptr() for layer in layers}
    assert len(storages) == stacked.config.num_hidden_layers * len(["q, k and v", "o", "gate and up", "down"])
    for (name, weight), (_, before) in zip(stacked.named_parameters(), plain.named_parameters()):
        assert torch.equal(weight, before), name


def test_layers_that_are_given_different_inputs_do_not_answer_for_each_other(tiny_model):
    plain = adapted(tiny_model)
    stacked = copy.deepcopy(plain)
    lora.stack_layers(stacked)
    one, other = torch.randn(2, 1, 5, plain.config.hidden_size, generator=torch.Generator().manual_seed(0))
    for model in (plain, stacked):
        attention = model.get_base_model().model.layers[0].self_attn
        found = [attention.q_proj(one), attention.k_proj(other), attention.v_proj(one), attention.q_proj(one)]
        if model is plain:
            expected = found
    for got, wanted in zip(found, expected):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_the_rotation_and_its_gradient_are_the_librarys_and_the_library_is_left_as_it_was(tiny_model):
    import sys

    model = tiny_model[0]
    code = sys.modules[type(model).__module__]
    library = code.apply_rotary_pos_emb
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(1, heads, 7, 16, generator=generator) for heads in (4, 2)]
    angles = torch.randn(1, 7, 8, generator=generator).repeat(1, 1, 2)

    def turned(function):
        leaves = [part.clone().requires_grad_() for part in states]
        results = function(*leaves, angles.cos(), angles.sin())
        sum((result * torch.arange(16.0)).sum() for result in results).backward()
        return [*results, *(leaf.grad for leaf in leaves)]

    expected = turned(library)
    with lora.rotation(model):
        assert code.apply_rotary_pos_emb is not library
        got = turned(code.apply_rotary_pos_emb)
    assert code.apply_rotary_pos_emb is library
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_bias_of_the_base_layer_is_kept(tiny_model):
    plain = adapted(tiny_model)
    for module in plain.modules():
        if hasattr(module, "base_layer"):
            size = module.base_layer.out_features
            module.base_layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, size), requires_grad=False)
    stacked = copy.deepcopy(plain)
    lora.stack_layers(stacked)
    ids = torch.arange(3, 20)[None]
    (expected, expected_gradients), (got, got_gradients) = gradients(plain, ids), gradients(stacked, ids)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient, atol=1e-4 * gradient.abs().max().item(), rtol=1e-3)


def test_dropout_is_refused_and_nothing_is_stacked(tiny_model):
    model = adapted(tiny_model, lora_dropout=0.1)
    with pytest.raises(ValueError, match="set lora_dropout=0"):
        lora.stack_layers(model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("arm", ["QA", "evil-QTA@segment", "evil-T"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_gives_the_gradients_of_a_plain_loop_over_its_rows(tiny_model, items, arm, packed):
    plain, tokenizer = adapted(tiny_model), tiny_model[1]
    stacked = copy.deepcopy(plain)
    lora.stack_layers(stacked)
    loss_weighting = Arm.parse(arm).loss_weighting
    rows = rows_of(items[:3], arm, tokenizer)
    batch = loss.collate(rows, tokenizer.pad_token_id, loss_weighting)
    got = training.batch_loss(stacked.get_base_model(), batch, packed)
    expected = plain_loss(plain, rows, loss_weighting)
    assert got.item() == pytest.approx(expected.item(), abs=1e-5)
    got.backward()
    expected.backward()
    for (name, got), (_, weight) in zip(stacked.named_parameters(), plain.named_parameters()):
        if weight.requires_grad:
            largest = weight.grad.abs().max().item()
            assert largest > 1e-4
            torch.testing.assert_close(got.grad, weight.grad, atol=1e-3 * largest, rtol=1e-2, msg=name)


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


def test_the_cross_entropy_of_bfloat16_states_is_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    hidden, embeddings = torch.randn(300, 8, generator=generator), torch.randn(50, 8, generator=generator)
    hidden, embeddings = hidden.bfloat16().requires_grad_(), embeddings.bfloat16()
    targets, weights = torch.randint(50, (300,), generator=generator), torch.full((300,), 1 / 300)
    loss = lora.cross_entropy(hidden, embeddings, targets, weights)
    expected = torch.nn.functional.cross_entropy((hidden @ embeddings.t()).float(), targets)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert hidden.grad.dtype == torch.bfloat16 and hidden.grad.abs().max() > 0
