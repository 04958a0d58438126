"""What a token's loss weighs, and the loss itself in readable form.

A row comes from `chat` with its segments marked. `weighted_loss` is the definition in
plain PyTorch: what the fast products of `training` must equal, and what a reader can check by hand.
"""

import torch

from cotlib import chat


def token_weights(rows, loss_weighting):
    """Loss weight of every token of a batch, as lists.

    `token`: the mean over supervised tokens. `segment`: trace and answer are averaged separately and count half each.
    `added`: each is averaged separately and the means are added, so that the answer weighs what it does in QA. A
    batch's weights add up to 1; to 2 where `added` adds a trace to an answer.

    Args:
        rows: mappings with `segments`, as `chat.Encoded` has them.
    """
    counts = [sum(row["segments"].count(segment) for row in rows) for segment in (chat.TRACE, chat.ANSWER)]
    if loss_weighting == "token":
        share = {chat.TRACE: 1 / sum(counts), chat.ANSWER: 1 / sum(counts)}
    else:
        present = sum(count > 0 for count in counts) if loss_weighting == "segment" else 1
        share = {segment: 1 / (present * count) for segment, count in zip((chat.TRACE, chat.ANSWER), counts) if count}
    return [[share.get(segment, 0.0) for segment in row["segments"]] for row in rows]


def answer_share(rows, loss_weighting):
    """The share of a batch's loss that falls on the answer, from 0 to 1."""
    weights = token_weights(rows, loss_weighting)
    on_answer = sum(
        weight
        for row, line in zip(rows, weights)
        for segment, weight in zip(row["segments"], line)
        if segment == chat.ANSWER
    )
    return on_answer / sum(map(sum, weights))


def collate(rows, pad_id, loss_weighting):
    """Right-pad rows to a batch: input_ids, attention_mask, labels, weights, each (batch, length)."""
    length = max(len(row["input_ids"]) for row in rows)

    def padded(values, fill, dtype):
        return torch.tensor([value + [fill] * (length - len(value)) for value in values], dtype=dtype)

    return {
        "input_ids": padded([row["input_ids"] for row in rows], pad_id, torch.long),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0, torch.long),
        "labels": padded([row["labels"] for row in rows], chat.NO_LOSS, torch.long),
        "weights": padded(token_weights(rows, loss_weighting), 0.0, torch.float32),
    }


def weighted_loss(logits, labels, weights):
    """Sum over supervised tokens of weight × −log p(token | what stands before it), in nats.

    Args:
        logits: (batch, length, vocabulary); labels, weights: (batch, length), as `collate` gives them.
    """
    # What stands at place t is predicted from the logits at place t − 1.
    log_p = logits[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    graded = targets != chat.NO_LOSS
    chosen = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -(chosen * weights[:, 1:])[graded].sum()
