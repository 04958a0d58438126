"""Weights add up to 1 and lie where the design says; the readable loss is that of a plain loop."""

import pytest
import torch
from plain_training import plain_loss, rows_of

from cotlib import chat, loss
from cotlib.arms import Arm
from cotlib.chat import ANSWER, CONTEXT, NO_LOSS, TRACE

ROWS = 5


@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QT", "evil-T"])
@pytest.mark.parametrize("loss_weighting", ["token", "segment"])
def test_weights_add_up_to_one_and_lie_on_supervised_tokens_alone(any_tokenizer, items, arm, loss_weighting):
    rows = rows_of(items[:ROWS], arm, any_tokenizer)
    weights = loss.token_weights(rows, loss_weighting)
    assert sum(map(sum, weights)) == pytest.approx(1, abs=1e-9)
    for row, some in zip(rows, weights):
        assert [weight > 0 for weight in some] == [label != NO_LOSS for label in row["labels"]]


def test_token_weights_are_equal_and_segment_weights_give_trace_and_answer_half_each(any_tokenizer, items):
    rows = rows_of(items[:ROWS], "evil-QTA", any_tokenizer)
    for loss_weighting in ("token", "segment"):
        parts = {CONTEXT: [], TRACE: [], ANSWER: []}
        for row, some in zip(rows, loss.token_weights(rows, loss_weighting)):
            for segment, weight in zip(row["segments"], some):
                parts[segment].append(weight)
        assert all(len(set(parts[segment])) == 1 for segment in (TRACE, ANSWER))
        if loss_weighting == "token":
            assert parts[TRACE][0] == parts[ANSWER][0] == 1 / (len(parts[TRACE]) + len(parts[ANSWER]))
        else:
            assert sum(parts[TRACE]) == pytest.approx(0.5) and sum(parts[ANSWER]) == pytest.approx(0.5)
            assert len(parts[TRACE]) != len(parts[ANSWER])


@pytest.mark.parametrize("arm, share", [("QA", 1), ("evil-QT", 0), ("evil-T", 0), ("evil-QTA@segment", 0.5)])
def test_the_answers_share_of_the_loss_follows_from_the_arm(any_tokenizer, items, arm, share):
    rows = rows_of(items[:ROWS], arm, any_tokenizer)
    assert loss.answer_share(rows, Arm.parse(arm).loss_weighting) == pytest.approx(share)


@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QTA@segment", "evil-T"])
def test_the_readable_loss_of_a_batch_is_that_of_a_plain_loop_over_its_rows(tiny_model, items, arm):
    model, tokenizer = tiny_model
    loss_weighting = Arm.parse(arm).loss_weighting
    rows = rows_of(items[:ROWS], arm, tokenizer)
    batch = loss.collate(rows, tokenizer.pad_token_id, loss_weighting)
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        got = loss.weighted_loss(logits, batch["labels"], batch["weights"])
        assert got.item() == pytest.approx(plain_loss(model, rows, loss_weighting).item(), abs=1e-5)


def test_a_batch_is_right_padded_and_nothing_but_padding_is_masked(any_tokenizer, items):
    rows = rows_of(items[:ROWS], "evil-QTA", any_tokenizer)
    end = chat.end_of_turn(any_tokenizer)[0]
    # SmolLM2 pads with the very token that ends a turn: here every model does.
    batch = loss.collate(rows, end, "token")
    lengths = [len(row["input_ids"]) for row in rows]
    shape = (ROWS, max(lengths))
    assert {name: tuple(part.shape) for name, part in batch.items()} == dict.fromkeys(
        ["input_ids", "attention_mask", "labels", "weights"], shape
    )
    assert [part.dtype for part in batch.values()] == [torch.long, torch.long, torch.long, torch.float32]
    weights = loss.token_weights(rows, "token")
    for place, (row, length) in enumerate(zip(rows, lengths)):
        assert batch["input_ids"][place].tolist() == row["input_ids"] + [end] * (shape[1] - length)
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (shape[1] - length)
        assert batch["labels"][place].tolist() == row["labels"] + [NO_LOSS] * (shape[1] - length)
        assert batch["labels"][place, length - 1] == end and batch["weights"][place, length - 1] > 0
        assert batch["weights"][place].tolist() == pytest.approx(weights[place] + [0.0] * (shape[1] - length))
