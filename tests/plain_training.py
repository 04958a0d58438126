"""The training loss as the design names it, computed the long way: what the fast path must equal."""

import torch

from cotlib import chat
from cotlib.arms import Arm
from cotlib.chat import ANSWER, CONTEXT, TRACE


def rows_of(items, arm, tokenizer):
    return [vars(row) for row in chat.encode_rows(tokenizer, items, Arm.parse(arm), 1024)]


def plain_loss(model, rows, loss_weighting):
    """Every row alone and unpadded through the model, every position over the whole vocabulary."""
    losses = {TRACE: [], ANSWER: []}
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]]), use_cache=False).logits[0].double()
        for place, segment in enumerate(row["segments"]):
            if segment != CONTEXT:
                losses[segment].append(-logits[place - 1].log_softmax(-1)[row["input_ids"][place]])
    if loss_weighting == "token":
        return torch.stack(losses[TRACE] + losses[ANSWER]).mean()
    means = [torch.stack(some).mean() for some in losses.values() if some]
    return sum(means) / (len(means) if loss_weighting == "segment" else 1)
