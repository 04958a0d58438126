"""`products` gives PyTorch's own products, whichever side computes them, and asks a machine once which is faster."""

import copy
import json

import pytest
import torch

from cotlib.engine import models, products
from cotlib.runs import artifacts


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def side(request, monkeypatch):
    """Both sides in turn, whatever this machine prefers."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: request.param)


@pytest.mark.parametrize("rows", [1, 15, 16, 30, 256, 257, 300])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_as_exact_as_pytorchs_own(side, rows, transposed):
    inputs, weight = random(rows, 64), random(64, 96).t() if transposed else random(96, 64)
    exact = inputs.double() @ weight.double().t()
    torch.testing.assert_close(products.linear(inputs, weight).double(), exact, atol=5e-5, rtol=1e-5)


def test_some_columns_of_a_matrix_are_not_given_to_onednn(monkeypatch):
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    monkeypatch.setattr(products, "_onednn", lambda *_: pytest.fail("oneDNN multiplies these by its slowest loop"))
    inputs, weight = random(5, 8), random(4, 16)[:, :8]
    torch.testing.assert_close(products.linear(inputs, weight), inputs @ weight.t())


def test_half_precision_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(products, "prefers_onednn", lambda: pytest.fail("asked for the float32 product"))
    inputs, weight = random(5, 8).bfloat16(), random(4, 8).bfloat16()
    assert products.linear(inputs, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 17, 256, 300])
def test_a_model_computes_the_same_while_its_products_are_fast_and_is_left_as_it_was(side, tiny_model, rows):
    model = copy.deepcopy(tiny_model[0])
    ids = torch.randint(3, 1000, (1, rows), generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        expected = model(ids).logits
        with products.fast(model):
            with products.fast(model):
                got = model(ids).logits
            assert "forward" in vars(model.get_output_embeddings())
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)
    assert not any("forward" in vars(layer) for layer in model.modules())


OTHERS = {"another machine": {"torch": 200.0, "onednn": 100.0}}


@pytest.mark.parametrize("found", [None, "", "[]", OTHERS, OTHERS | {"this": {}}, OTHERS | {"this": {"torch": "1"}}])
def test_a_machine_is_measured_once_and_its_answer_kept(monkeypatch, tmp_path, found):
    monkeypatch.setenv("COTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(artifacts, "digest", lambda *_: "this")
    if found is not None:
        (tmp_path / products.MEASURED).write_text(found if isinstance(found, str) else json.dumps(found))
    ask, answers = products.prefers_onednn.__wrapped__, []
    for speeds in ({"torch": 100.0, "onednn": 114.0}, {"torch": 100.0, "onednn": 300.0}):
        monkeypatch.setattr(products, "measured", lambda speeds=speeds: speeds)
        answers.append(ask())
    assert answers == [False, False], "what was measured first is kept"
    known = artifacts.read_json(models.cache_folder() / products.MEASURED)
    others = OTHERS if isinstance(found, dict) else {}
    assert known == others | {"this": {"torch": 100.0, "onednn": 114.0}}, "and so are other machines' speeds"


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 300])
def test_onednn_meets_few_different_numbers_of_rows(monkeypatch, tiny_model, rows):
    met = []
    operator = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *given: met.append(len(given[0])) or operator(*given)
    )
    with torch.inference_mode(), products.fast(tiny_model[0]):
        logits = tiny_model[0](torch.ones(1, rows, dtype=torch.int64)).logits
    assert logits.shape[1] == rows
    assert met and not any(number % products.ROWS for number in met)


def test_onednn_is_preferred_where_it_is_clearly_faster(monkeypatch, tmp_path):
    monkeypatch.setenv("COTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(products, "measured", lambda: {"torch": 100.0, "onednn": 116.0})
    assert products.prefers_onednn.__wrapped__()


def test_both_products_are_really_measured():
    speeds = products.measured(rows=32, outputs=64, depth=64, rounds=1, products=2)
    assert set(speeds) == {"torch", "onednn"} and speeds["torch"] > 0
