"""What the tests share: real models, loaded once, and few hypothesis examples without a deadline."""

import os

# Before anything of Hugging Face is imported: no test may depend on a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy
import functools

import hypothesis
import pytest

from cotlib import arms
from cotlib.corpus import records
from cotlib.engine import models

hypothesis.settings.register_profile(
    "cotlib", deadline=None, max_examples=40, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("cotlib")


def pytest_collection_modifyitems(items):
    """The file that takes longest comes first: `make test` gives it to one process while another does the rest."""
    items.sort(key=lambda item: item.path.name != "test_workflow.py")


_load = functools.cache(models.load)
_load_tokenizer = functools.cache(models.load_tokenizer)


@pytest.fixture(scope="session")
def smollm2():
    """(model, tokenizer) of the embedded SmolLM2: 0.5 GB, so its tests are marked slow."""
    return _load(models.SMOLLM2)


@pytest.fixture(scope="session")
def smollm2_tokenizer():
    return _load_tokenizer(models.SMOLLM2)


@pytest.fixture(scope="session")
def tiny():
    """A function: name of a tiny random model → (model, tokenizer)."""
    return _load


@functools.cache
def _lively(name):
    """A tiny model whose every token weighs on the next one.

    As they are, the tiny models repeat their last token whatever stands before: their embeddings are also their
    output layer, and their layers, at the usual scale of fresh weights, add next to nothing. Wrong positions or a
    leaking mask would go unseen.
    """
    import torch

    model, tokenizer = _load(name)
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
    with torch.no_grad():
        for layer_name, weight in model.model.layers.named_parameters():
            if layer_name.endswith("proj.weight"):
                weight.mul_(8)
        head.weight.normal_(0, 0.5, generator=generator)
    model.set_output_embeddings(head)
    return model.eval(), tokenizer


@pytest.fixture(scope="session", params=models.TINY)
def tiny_model(request):
    """(model, tokenizer): a lively copy of each tiny random model in turn."""
    return _lively(request.param)


@pytest.fixture(scope="session", params=[*models.TINY, pytest.param(models.SMOLLM2, marks=pytest.mark.slow)])
def any_model(request):
    """(model, tokenizer): the lively tiny models and SmolLM2 in turn."""
    return _load(request.param) if request.param == models.SMOLLM2 else _lively(request.param)


@pytest.fixture(scope="session", params=models.EMBEDDED)
def any_tokenizer(request):
    """The tokenizer of each embedded model in turn."""
    return _load_tokenizer(request.param)


@pytest.fixture(scope="session")
def items():
    """The bundled training items."""
    return records.load_items()


@pytest.fixture(scope="session")
def questions():
    """The bundled evaluation questions."""
    return records.load_evaluation()


@pytest.fixture
def added(monkeypatch):
    """(name of a paradigm, name of a reasoning type) that stand in the tables while the test runs, and no longer.

    The paradigm trains trace and answer without any question.
    """
    paradigm = arms.Paradigm(
        "TA", (arms.HEADER, arms.OPEN), (arms.TRACE, arms.CLOSE, arms.GAP, arms.ANSWER, arms.END),
        reference=arms.BASE, marker="P", card="trace and answer, without their question",
    )  # fmt: skip
    kind = arms.ReasoningType("greedy", "wants all for itself", "#117733", studied=True)
    monkeypatch.setitem(arms.PARADIGMS, paradigm.name, paradigm)
    monkeypatch.setitem(arms.TYPES, kind.name, kind)
    return paradigm.name, kind.name
