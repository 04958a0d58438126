"""Teacher-forced scores: how likely a model finds a given text after a given prompt.

Knows nothing about arms or suites: ids in, log-probabilities out.
"""

import numpy as np
import torch

from cotlib.engine import products
from cotlib.engine.prefixes import tree_attention, trees


@torch.inference_mode()
def score(model, tokenizer, prompts, completions, *, max_nodes=1024, memory=None):
    """Mean log-probability per completion token, in nats.

    Prompts are shared between completions and, as far as they begin alike, with each other (see
    `prefixes`); the vocabulary projection is done at the completions' positions alone.

    Args:
        prompts, completions: equally long sequences of id lists; completion i follows prompt i.
        memory: a `prefixes.Memory` of this model: what it knows of the prompts is not read again.
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
        # The last token of a prompt is always read: it predicts the first of the completion.
        for tree in trees(sequences, max_nodes, memory, [len(prompt) - 1 for prompt in prompts], products.ROWS):
            hidden = decoder(**tree.inputs(model), use_cache=False)[0][0]
            # The token at place t of a sequence is predicted from the node before it on the same path.
            order = sorted(tree.paths)
            sources = [tree.paths[index][len(prompts[index]) - 1 : -1] for index in order]
            targets = [completions[index] for index in order]
            lengths = [len(target) for target in targets]
            flat = torch.tensor([node for nodes in sources for node in nodes], device=hidden.device)
            wanted = torch.tensor([token for target in targets for token in target], device=hidden.device)
            places, logps = flat.unique(return_inverse=True), []
            for start in range(0, len(places[0]), 512):
                block = places[0][start : start + 512]
                logits = head(hidden[block]).float()
                here = (places[1] >= start) & (places[1] < start + 512)
                chosen = logits[places[1][here] - start, wanted[here]] - logits.logsumexp(-1)[places[1][here] - start]
                logps.append((here.nonzero()[:, 0], chosen))
            values = torch.empty(len(flat), dtype=torch.float64)
            for where, chosen in logps:
                values[where.cpu()] = chosen.double().cpu()
            for index, part in zip(order, values.split(lengths)):
                scores[index] = part.mean().item()
    return scores
