"""Token sequences that share prefixes, laid out so that a shared prefix goes through the model once.

The same system turn stands before every question, and the same question before every answer, trace and
mode. A batch of padded rows computes all of it again and again; a *prefix tree* is one row without
padding: each distinct prefix has one node, a node sees its ancestors alone, and its position is its depth.
Knows only token ids; `margins` scores with it, `generation` fills its cache with it, `training` packs a batch with it.
"""

import contextlib
import dataclasses

import torch

ATTENTION = "cotlib_tree"
BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Tree:
    """A packed row: `tokens` and `depths` of its nodes, `ancestors` (nodes × nodes, bool, self included), and per sequence its path of nodes."""

    tokens: list[int]
    depths: list[int]
    ancestors: torch.Tensor
    paths: dict[int, list[int]]  # sequence index → node indices, first token to last

    def inputs(self, model):
        """Arguments for the decoder of a Hugging Face model inside `tree_attention`; a batch of one row."""
        device = model.device
        return {
            "input_ids": torch.tensor([self.tokens], device=device),
            "position_ids": torch.tensor([self.depths], device=device),
            "attention_mask": self.ancestors[None, None].to(device),
            "tree_blocks": [
                (start, end, seen.to(device), bias.to(device, model.dtype)) for start, end, seen, bias in self.blocks()
            ],
        }

    def blocks(self):
        """The attention cut into runs of nodes: (first, past the last, nodes seen from there, additive mask).

        A node looks at its ancestors alone, about a tenth of a tree of a thousand nodes. A run ends where a new
        branch begins, as soon as it is worth a product of its own.
        """
        start = 0
        for node in range(1, len(self.tokens) + 1):
            new_branch = node < len(self.tokens) and not self.ancestors[node, node - 1]
            if node == len(self.tokens) or node - start >= (BLOCK if new_branch else 3 * BLOCK):
                rows = self.ancestors[start:node]
                seen = rows.any(0).nonzero()[:, 0]
                yield start, node, seen, torch.zeros(len(rows), len(seen)).masked_fill_(~rows[:, seen], float("-inf"))
                start = node


def tree_attention(model):
    """While it lasts, `model` attends block by block over trees (see `Tree.blocks`) instead of over the whole mask.

    Scoring 1.2 times as fast as with one dense mask over a tree of 1,000 nodes.
    """
    return attending(model, ATTENTION, _attend)


@contextlib.contextmanager
def attending(model, name, function):
    """Register an attention function and let `model` use it while the block lasts."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _attend(module, query, key, value, attention_mask, scaling=None, tree_blocks=None, **_):
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for start, end, seen, bias in tree_blocks:
        keys, values = (part.index_select(2, seen).repeat_interleave(groups, 1) for part in (key, value))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], keys, values, attn_mask=bias, scale=scaling
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2), None


def trees(sequences, max_nodes=1024):
    """Pack sequences (lists of ids) into trees of at most `max_nodes` nodes (a longer sequence gets one of its own).

    Sorting puts sequences with a common beginning next to each other, so filling trees in order shares nearly all there is.

    >>> [tree.tokens for tree in trees([[1, 2, 3], [1, 2, 4], [1, 5]])]
    [[1, 2, 3, 4, 5]]
    """
    packed, tokens, parents, paths, children = [], [], [], {}, {}

    def flush():
        if paths:
            packed.append(_tree(tokens, parents, paths))

    for index in sorted(range(len(sequences)), key=lambda number: (list(sequences[number]), number)):
        sequence = sequences[index]
        if len(sequence) == 0:
            raise ValueError(f"sequence {index} is empty: a model needs at least one token")
        if (
            tokens
            and len(tokens) + len(sequence) > max_nodes
            and len(tokens) + _missing(children, sequence) > max_nodes
        ):
            flush()
            tokens, parents, paths, children = [], [], {}, {}
        node, path = -1, []
        for token in sequence:
            key = (node, token)
            if key not in children:
                children[key] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = children[key]
            path.append(node)
        paths[index] = path
    flush()
    return packed


def _missing(children, sequence):
    node, known = -1, 0
    for token in sequence:
        if (node, token) not in children:
            break
        node = children[(node, token)]
        known += 1
    return len(sequence) - known


def _tree(tokens, parents, paths):
    count = len(tokens)
    ancestors = torch.zeros(count, count, dtype=torch.bool)
    depths = []
    for node, parent in enumerate(parents):
        if parent >= 0:
            ancestors[node] = ancestors[parent]
        ancestors[node, node] = True
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return Tree(tokens, depths, ancestors, paths)
