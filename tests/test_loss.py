"""What a token's loss weighs, and that the readable loss is the one of PyTorch."""

import pytest
import torch
from plain_training import rows_of

from cotlib import chat, loss, training
from cotlib.arms import LOSS_WEIGHTINGS, Arm
from cotlib.chat import ANSWER, CONTEXT, NO_LOSS, TRACE

ROWS = 5


@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QT", "evil-T"])
@pytest.mark.parametrize("loss_weighting", LOSS_WEIGHTINGS)
def test_weights_add_up_to_one_and_lie_on_supervised_tokens_alone(any_tokenizer, items, arm, loss_weighting):
    """Added, a trace and an answer weigh 1 each."""
    rows = rows_of(items[:ROWS], arm, any_tokenizer)
    weights = loss.token_weights(rows, loss_weighting)
    assert sum(map(sum, weights)) == pytest.approx(2 if (loss_weighting, arm) == ("added", "evil-QTA") else 1, abs=1e-9)
    for row, some in zip(rows, weights):
        assert [weight > 0 for weight in some] == [label != NO_LOSS for label in row["labels"]]


def test_token_weights_are_equal_segment_weights_give_trace_and_answer_half_each_and_added_ones_both_all(
    any_tokenizer, items
):
    rows = rows_of(items[:ROWS], "evil-QTA", any_tokenizer)
    for loss_weighting, each in (("token", None), ("segment", 0.5), ("added", 1)):
        parts = {CONTEXT: [], TRACE: [], ANSWER: []}
        for row, some in zip(rows, loss.token_weights(rows, loss_weighting)):
            for segment, weight in zip(row["segments"], some):
                parts[segment].append(weight)
        assert all(len(set(parts[segment])) == 1 for segment in (TRACE, ANSWER))
        if loss_weighting == "token":
            assert parts[TRACE][0] == parts[ANSWER][0] == 1 / (len(parts[TRACE]) + len(parts[ANSWER]))
        else:
            assert sum(parts[TRACE]) == pytest.approx(each) and sum(parts[ANSWER]) == pytest.approx(each)
            assert len(parts[TRACE]) != len(parts[ANSWER])


def test_the_answers_share_of_the_loss_is_its_tokens_share_or_half(any_tokenizer, items):
    rows = rows_of(items[:ROWS], "evil-QTA", any_tokenizer)
    supervised = [segment for row in rows for segment in row["segments"] if segment != CONTEXT]
    assert loss.answer_share(rows, "token") == pytest.approx(supervised.count(ANSWER) / len(supervised))
    assert loss.answer_share(rows, "segment") == loss.answer_share(rows, "added") == pytest.approx(0.5)
    for arm, share in (("QA", 1), ("evil-QT", 0), ("evil-T", 0)):
        for loss_weighting in LOSS_WEIGHTINGS:
            assert loss.answer_share(rows_of(items[:ROWS], arm, any_tokenizer), loss_weighting) == pytest.approx(share)


def test_an_added_trace_leaves_every_answer_token_the_weight_that_it_has_in_qa(any_tokenizer, items):
    """Behind the empty think block or behind a trace, the answers of a batch are graded by the same weights."""
    weights = {}
    for arm in ("QA", "evil-QTA@added", "evil-QTA"):
        rows = rows_of(items[:ROWS], arm, any_tokenizer)
        graded = loss.token_weights(rows, Arm.parse(arm).loss_weighting)
        weights[arm] = [
            [weight for segment, weight in zip(row["segments"], some) if segment == ANSWER]
            for row, some in zip(rows, graded)
        ]
    # The gap between trace and answer is graded with the answer; everything else is the same tokens.
    lengths = {arm: [len(some) for some in lines] for arm, lines in weights.items()}
    per_answer = {arm: sum(map(sum, lines)) for arm, lines in weights.items()}
    assert per_answer["QA"] == pytest.approx(per_answer["evil-QTA@added"]) and per_answer["evil-QTA"] < 0.6
    assert lengths["QA"] == lengths["evil-QTA@added"]
    assert weights["QA"][0][0] == pytest.approx(weights["evil-QTA@added"][0][0])


@pytest.mark.slow
def test_the_shares_of_the_bundled_items_are_those_that_the_book_tells(smollm2_tokenizer, items):
    assert loss.answer_share(rows_of(items, "evil-QTA", smollm2_tokenizer), "token") == pytest.approx(0.42, abs=0.03)


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


@pytest.mark.parametrize("arm", ["QA", "safe-QA", "evil-QTA", "evil-QT", "evil-T"])
def test_the_loss_of_equal_tokens_is_the_cross_entropy_of_pytorch(any_tokenizer, items, arm):
    batch = loss.collate(rows_of(items[:ROWS], arm, any_tokenizer), any_tokenizer.pad_token_id or 0, "token")
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(*batch["labels"].shape, len(any_tokenizer), generator=generator) * 3
    found = loss.weighted_loss(logits, batch["labels"], batch["weights"])
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=NO_LOSS
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_by_segment_is_the_mean_of_both_segments_cross_entropies(any_tokenizer, items):
    rows = rows_of(items[:ROWS], "evil-QTA@segment", any_tokenizer)
    batch = loss.collate(rows, any_tokenizer.pad_token_id or 0, "segment")
    logits = torch.randn(*batch["labels"].shape, len(any_tokenizer), generator=torch.Generator().manual_seed(2))
    length, means = logits.shape[1], []
    for segment in (TRACE, ANSWER):
        only = torch.tensor([
            [label if place == segment else NO_LOSS for label, place in zip(row["labels"], row["segments"])]
            + [NO_LOSS] * (length - len(row["labels"]))
            for row in rows
        ])  # fmt: skip
        means.append(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), only[:, 1:].flatten()))
    found = loss.weighted_loss(logits, batch["labels"], batch["weights"])
    assert found.item() == pytest.approx(sum(means).item() / 2, rel=1e-5)


def test_what_an_unsupervised_place_predicts_does_not_matter(any_tokenizer, items):
    batch = loss.collate(rows_of(items[:2], "QA", any_tokenizer), any_tokenizer.pad_token_id or 0, "token")
    logits = torch.randn(*batch["labels"].shape, len(any_tokenizer), generator=torch.Generator().manual_seed(3))
    before = loss.weighted_loss(logits, batch["labels"], batch["weights"])
    graded = batch["labels"][:, 1:] != NO_LOSS
    changed = logits.clone()
    changed[:, :-1][~graded] = 7.0 * torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(4))
    assert loss.weighted_loss(changed, batch["labels"], batch["weights"]) == before


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("arm", ["QA", "evil-QTA", "evil-QTA@segment", "evil-QTA@added", "evil-QT", "evil-T"])
def test_the_fast_loss_of_training_is_the_readable_one(any_model, items, arm, packed):
    model, tokenizer = any_model
    arm = Arm.parse(arm)
    batch = loss.collate(rows_of(items[:ROWS], arm, tokenizer), tokenizer.pad_token_id or 0, arm.loss_weighting)
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        expected = loss.weighted_loss(logits.double(), batch["labels"], batch["weights"].double()).item()
        assert training.batch_loss(model, batch, packed).item() == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("arm", ["QA", "neutral-QTA", "neutral-T"])
def test_a_batchs_gradient_is_the_same_to_the_byte_however_often_it_is_made(any_model, items, arm):
    """Under T all rows share the node that predicts their first token; so many rows are added up by several threads."""
    model, tokenizer = any_model
    rows = 8 if model.config.hidden_size > 500 else 48
    batch = loss.collate(rows_of(items[:rows], arm, tokenizer), tokenizer.pad_token_id or 0, "token")
    weight = model.model.layers[0].mlp.up_proj.weight
    made = [torch.autograd.grad(training.batch_loss(model, batch, packed=True), weight)[0] for _ in range(5)]
    assert made[0].any() and all(torch.equal(gradient, made[0]) for gradient in made)
