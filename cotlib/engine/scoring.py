"""Teacher-forced scores: how likely a model finds a given text after a given prompt.

Works on token ids and returns log-probabilities; knows nothing of arms or suites.
"""

import numpy as np
import torch

from cotlib.engine import products
from cotlib.engine.prefixes import tree_attention, trees

POSITIONS = 512  # hidden states per product with the vocabulary: 100 MB of logits on SmolLM2


@torch.inference_mode()
def score(model, tokenizer, prompts, completions, *, max_nodes=1024, memory=None):
    """Mean log-probability per completion token, in nats.

    A beginning that several prompts or completions share goes through the model once (see `prefixes`). Only the
    positions that predict a token of a completion are projected to the vocabulary.

    Args:
        prompts, completions: equally long sequences of id lists; completion i follows prompt i.
        max_nodes: how many tokens go through the model at once.
        memory: a `prefixes.Memory` of this model; prompt tokens that it holds do not go through the model again.
    Returns:
        float64 array, one value per pair.
    Raises:
        ValueError: lengths differ, or a prompt or completion is empty.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions: give one prompt per completion")
    for index, (prompt, completion) in enumerate(zip(prompts, completions)):
        if not len(prompt) or not len(completion):
            raise ValueError(f"pair {index} has an empty prompt or completion: there is nothing to score")
    sequences = [list(prompt) + list(completion) for prompt, completion in zip(prompts, completions)]
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    scores = np.empty(len(sequences))
    with tree_attention(model), products.fast(model):
        # The last token of a prompt must go through the model: it predicts the first token of the completion.
        for tree in trees(sequences, max_nodes, memory, [len(prompt) - 1 for prompt in prompts], products.ROWS):
            hidden = decoder(**tree.inputs(model), use_cache=False)[0][0]
            order = sorted(tree.paths)
            # The token at place t of a sequence is predicted at the node before it on the same path.
            sources = [tree.paths[index][len(prompts[index]) - 1 : -1] for index in order]
            targets = [completions[index] for index in order]
            logps = _log_probabilities(head, hidden, sources, targets)
            for index, part in zip(order, logps.split([len(target) for target in targets])):
                scores[index] = part.mean().item()
    return scores


def _log_probabilities(head, hidden, sources, targets):
    """Log-probability of every target token, all sequences one after the other: (tokens,) float64 on the CPU.

    Args:
        head: the projection to the vocabulary; hidden: (nodes, width).
        sources, targets: for each sequence, the nodes that predict its tokens and the tokens themselves.
    """
    nodes = torch.tensor([node for path in sources for node in path], device=hidden.device)
    tokens = torch.tensor([token for target in targets for token in target], device=hidden.device)
    # A node that predicts tokens of several sequences is projected once.
    distinct, place = nodes.unique(return_inverse=True)
    logps = torch.empty(len(nodes), dtype=torch.float64)
    for start in range(0, len(distinct), POSITIONS):
        logits = head(hidden[distinct[start : start + POSITIONS]]).float()
        here = (place >= start) & (place < start + POSITIONS)
        rows = place[here] - start
        chosen = logits[rows, tokens[here]] - logits.logsumexp(-1)[rows]
        logps[here.cpu()] = chosen.double().cpu()
    return logps
