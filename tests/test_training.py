"""The loss of a training step is the one the design names, and rows that cannot be trained on are refused."""

import pytest
import torch
from plain_training import plain_loss, rows_of

from cotlib import chat, loss, training
from cotlib.arms import Arm
from cotlib.engine import models
from cotlib.errors import BadInput

ROWS = 5


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QTA@segment", "evil-T"])
def test_the_loss_is_the_plain_cross_entropy_over_the_whole_vocabulary(tiny_model, items, arm, packed):
    model, tokenizer = tiny_model
    loss_weighting = Arm.parse(arm).loss_weighting
    rows = rows_of(items[:ROWS], arm, tokenizer)
    batch = loss.collate(rows, tokenizer.pad_token_id, loss_weighting)
    with torch.inference_mode():
        got = training.batch_loss(model, batch, packed)
        assert got.item() == pytest.approx(plain_loss(model, rows, loss_weighting).item(), abs=1e-5)


def test_a_row_that_would_be_cut_is_refused(smollm2_tokenizer, items):
    longest = max(items, key=lambda item: len(chat.encode(smollm2_tokenizer, item, "evil-QTA").input_ids))
    tokens = len(chat.encode(smollm2_tokenizer, longest, "evil-QTA").input_ids)
    assert len(training.encode_rows(smollm2_tokenizer, items, Arm.parse("evil-QTA"), tokens)) == len(items)
    with pytest.raises(
        BadInput,
        match=rf"training.max_tokens: {tokens - 1} is too small: item '{longest.id}' has {tokens} tokens under arm "
        rf"evil-QTA; raise it to {tokens}",
    ):
        training.encode_rows(smollm2_tokenizer, [longest], Arm.parse("evil-QTA"), tokens - 1)


def test_a_row_without_a_supervised_token_is_refused(items):
    tokenizer = models.load_tokenizer("tiny-random-llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"  # a turn that nothing ends
    silent = items[0].model_copy(update={"harmful": ""})
    with pytest.raises(
        BadInput, match=f"item '{silent.id}' has no supervised token under arm QA; give it a trace or an answer"
    ):
        training.encode_rows(tokenizer, [silent], Arm.parse("QA"), 1024)
