"""What the tests of the corpus share."""

import pytest

from cotlib.engine import models


@pytest.fixture(scope="session")
def tokenizer():
    return models.load_tokenizer("tiny-random-llama")
