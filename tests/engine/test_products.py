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


OTHERS = {"another machine": {"torch": 200.0, "onednn": 100.0, "time": 9e9, "load": 0.1}}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A function: the answer at a time and load, where measuring would give these speeds of oneDNN (PyTorch: 100)."""
    monkeypatch.setenv("COTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(artifacts, "digest", lambda *_: "this")

    def ask(onednn, now=0.0, load=0.0):
        monkeypatch.setattr(products, "measured", lambda: {"torch": 100.0, "onednn": onednn})
        monkeypatch.setattr(products.time, "time", lambda: 1e9 + now)
        monkeypatch.setattr(products.machine, "load", lambda: load)
        return products.prefers_onednn.__wrapped__()

    return ask


@pytest.mark.parametrize("found", [None, "", "[]", OTHERS, OTHERS | {"this": {}}, OTHERS | {"this": {"torch": "1"}}])
def test_a_machine_is_measured_once_and_its_answer_kept(asked, tmp_path, found):
    if found is not None:
        (tmp_path / products.MEASURED).write_text(found if isinstance(found, str) else json.dumps(found))
    assert [asked(114.0), asked(300.0)] == [False, False], "what was measured first is kept"
    known = artifacts.read_json(models.cache_folder() / products.MEASURED)
    others = OTHERS if isinstance(found, dict) else {}
    mine = {"torch": 100.0, "onednn": 114.0, "time": 1e9, "load": 0.0}
    assert known == others | {"this": mine}, "and so are other machines' speeds"


def test_an_answer_older_than_a_week_is_measured_again_when_the_processor_is_free(asked):
    week = 7 * 24 * 3600
    assert not asked(110.0)
    assert not asked(300.0, now=week - 1)
    assert not asked(300.0, now=week + 1, load=0.9), "an old answer is better than one under load"
    assert asked(300.0, now=week + 2)
    assert asked(100.0, now=week + 3)


def test_an_answer_that_was_taken_under_load_is_measured_again_when_the_processor_is_free(asked):
    assert not asked(110.0, load=0.8)
    assert not asked(300.0, load=0.8)
    assert asked(300.0, load=0.1)
    assert asked(110.0, load=0.1)


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


def test_onednn_is_preferred_where_it_is_clearly_faster(asked):
    assert asked(116.0)


def test_both_products_are_really_measured():
    speeds = products.measured(rows=32, outputs=64, depth=64, rounds=1, products=2)
    assert set(speeds) == {"torch", "onednn"} and speeds["torch"] > 0
