"""Batched sampling: a decode loop over a preallocated key-value cache.

Works on token ids and models; knows nothing of arms. The prompts go through the model as prefix trees, so what they
share is computed once. Rows that end leave the batch, and waiting ones take their place. Each row draws by its own
seed, so a sample does not depend on which other rows are in the batch.
"""

import torch

from cotlib.engine import draws, products
from cotlib.engine.prefixes import Past, attending, tree_attention, trees

ATTENTION = "cotlib_grouped"
PREFILL_NODES = 512  # prompt tokens that go through the model at once
CPU_CACHE_BYTES = 2 << 30


def generate(
    model, tokenizer, prompts, *, max_new_tokens, temperature, seed, stop=(), stop_text=None, rows=192, memory=None
):
    """Continue each prompt until it ends its turn, reaches `stop_text`, or has `max_new_tokens` new tokens.

    Args:
        prompts: id lists of any lengths.
        max_new_tokens: one budget, or one per prompt.
        temperature: 0 takes the most likely token, 1 samples from the model's own distribution.
        seed: an int (row i draws from the stream (seed, i)), or one int per prompt.
        stop: further token ids that end a row, beside the tokenizer's end-of-sequence token and the model's.
        stop_text: a row also ends as soon as its decoded text contains this.
        rows: how many rows are in the batch at most; there are fewer if their cache would exceed `memory_budget`.
        memory: a `prefixes.Memory` of this model. Prompt tokens that it holds do not go through the model again, and
            what the rows read and write is added to it.
    Returns:
        list of id lists, new tokens only; the ending token is not part of them, a found `stop_text` is.
    Raises:
        ValueError: an empty prompt, a negative temperature, or lists of the wrong length.
    """
    budgets, seeds = _per_prompt(prompts, max_new_tokens, seed)
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative; give 0 for greedy, 1 for plain sampling")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt is empty; a model needs at least one token")
    endings = set(stop) | _end_tokens(model, tokenizer)
    streams = [draws.stream(row, model.device) for row in seeds]
    produced = [[] for _ in prompts]

    def goes_on(index, token):
        """Note a row's new token; False if the row ends with it."""
        if token in endings:
            return False
        produced[index].append(token)
        found = stop_text and _contains(tokenizer, produced[index], stop_text)
        return len(produced[index]) < budgets[index] and not found

    # Sorted, prompts that begin alike are neighbours, so that those admitted together share most of a tree.
    waiting = [index for index in range(len(prompts)) if budgets[index] > 0]
    waiting.sort(key=lambda index: (list(prompts[index]), index))
    if not waiting:
        return produced
    length = max(len(prompts[index]) + budgets[index] for index in waiting)
    rows = max(1, min(rows, len(waiting), memory_budget(model.device) // (length * _bytes_per_token(model))))
    with torch.inference_mode(), attending(model, ATTENTION, _attend), products.fast(model):
        batch = _Batch(model, rows, length)
        while waiting or batch.live:
            free = rows - len(batch.live)
            # Many prompts at once are cheaper than one by one: wait until a quarter of the rows are free.
            if waiting and (free * 4 >= rows or not batch.live):
                admitted, waiting = waiting[:free], waiting[free:]
                batch.admit(admitted, [prompts[index] for index in admitted], memory)
            tokens = draws.draw(batch.logits, temperature, [streams[index] for index in batch.live])
            keep = [row for row, (index, token) in enumerate(zip(batch.live, tokens)) if goes_on(index, token)]
            if memory:
                for row in sorted(set(range(len(batch.live))) - set(keep)):
                    batch.remember(row, [*prompts[batch.live[row]], *produced[batch.live[row]]], memory)
            batch.advance(keep, tokens)
    return produced


def _per_prompt(prompts, max_new_tokens, seed):
    """(budgets, seeds), one of each per prompt; a seed is a tuple of ints."""
    count = len(prompts)
    budgets = [max_new_tokens] * count if isinstance(max_new_tokens, int) else list(max_new_tokens)
    seeds = [(seed, index) for index in range(count)] if isinstance(seed, int) else [(int(number),) for number in seed]
    if len(budgets) != count or len(seeds) != count:
        raise ValueError(f"{count} prompts, {len(budgets)} budgets, {len(seeds)} seeds: give one each, or one for all")
    return budgets, seeds


def _contains(tokenizer, ids, text):
    # The text may begin and end within a token and has at most as many tokens as bytes, so the last ones are enough.
    return text in tokenizer.decode(ids[-len(text.encode()) - 2 :])


def _end_tokens(model, tokenizer):
    """Ids that end a turn: the tokenizer's end of sequence, and those of the model's generation settings."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *configured] if token is not None}


def memory_budget(device):
    """Bytes that the key-value cache may take: half of what a GPU has free, `CPU_CACHE_BYTES` elsewhere."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_CACHE_BYTES


def _bytes_per_token(model):
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.dtype.itemsize


class _Batch:
    """The rows being decoded and their cache. Rows in use come first, free ones behind them."""

    def __init__(self, model, rows, length):
        self.model, self.device = model, model.device
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.cache = _RowCache(rows, length)
        # Per row in use: the index of its prompt, its tokens in the cache, the logits of its next token.
        self.live, self.lengths, self.logits = [], [], None

    def admit(self, indices, prompts, memory):
        """Put new prompts through the model and give them the first free rows."""
        last = [None] * len(prompts)  # hidden state of each prompt's last token
        first = len(self.live)
        # The last token of a prompt must go through the model: its hidden state gives the first new token.
        for tree in trees(prompts, PREFILL_NODES, memory, [len(prompt) - 1 for prompt in prompts], products.ROWS):
            past = Past(tree.past)
            with tree_attention(self.model):
                hidden = self.decoder(**tree.inputs(self.model) | {"past_key_values": past}, use_cache=True)[0][0]
            self.cache.fill([first + number for number in tree.paths], past.layers, list(tree.paths.values()))
            for number, path in tree.paths.items():
                last[number] = hidden[path[-1]]
        logits = self.head(torch.stack(last))
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])
        self.live += indices
        self.lengths += [len(prompt) for prompt in prompts]

    def remember(self, row, tokens, memory):
        """Add a row's tokens to the memory, except those that have not gone through the model yet."""
        size = self.lengths[row]
        memory.add(tokens[:size], [[part[row, :, :size] for part in pair] for pair in self.cache.layers])

    def advance(self, keep, tokens):
        """Drop the rows that are not in `keep`, and put the new tokens of the others through the model."""
        if len(keep) < len(self.live):
            keep = self.cache.compact(keep, self.lengths)
            self.live = [self.live[row] for row in keep]
            self.lengths = [self.lengths[row] for row in keep]
        if not keep:
            self.logits = None
            return
        self.cache.place(self.lengths, self.device)
        ids = torch.tensor([[tokens[row]] for row in keep], device=self.device)
        positions = torch.tensor(self.lengths, device=self.device)[:, None]
        hidden = self.decoder(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self.cache.mask,
            past_key_values=self.cache,
            use_cache=True,
        )[0]
        self.lengths = [length + 1 for length in self.lengths]
        self.logits = self.head(hidden[:, 0])


class _RowCache:
    """Keys and values of all rows, (rows, heads, length, width) per layer, in one tensor that is allocated once.

    A cache that grows is copied at every step, which at 96 rows takes as long as the attention.
    """

    def __init__(self, rows, length):
        self.rows, self.length, self.layers = rows, length, []

    def fill(self, rows, layers, paths):
        """Copy the keys and values along each path of a tree into its row."""
        if not self.layers:
            first = layers[0][0]
            shape = (len(layers), 2, self.rows, first.shape[1], self.length, first.shape[3])
            self.layers = [(keys, values) for keys, values in first.new_zeros(shape)]
        # All rows are written at once. Behind a shorter path the cache holds the root's values, which are masked until
        # the row's own tokens replace them.
        width, device = max(map(len, paths)), self.layers[0][0].device
        nodes = torch.tensor([path + [0] * (width - len(path)) for path in paths], device=device)
        where = torch.tensor(rows, device=device)
        for stored, recorded in zip(self.layers, layers):
            for target, source in zip(stored, recorded):
                target[where, :, :width] = source[0][:, nodes].transpose(0, 1)

    def compact(self, keep, lengths):
        """Move the last rows in use into the places of dropped ones, so that no row is free before one in use.

        Returns:
            list: for each row in use, which row it was before.
        """
        order = list(range(len(keep)))
        kept = set(keep)
        spare = [row for row in keep if row >= len(keep)]
        for row in range(len(keep)):
            if row not in kept:
                order[row] = spare.pop()
                size = lengths[order[row]]
                for stored in self.layers:
                    for part in stored:
                        part[row, :, :size] = part[order[row], :, :size]
        return order

    def place(self, lengths, device):
        """Set where the next token of each row in use is written, and what it attends to."""
        self.live, self.width = len(lengths), max(lengths) + 1
        self.where = torch.tensor(lengths, device=device)
        self.index = torch.arange(self.live, device=device)
        self.mask = (torch.arange(self.width, device=device)[None] <= self.where[:, None])[:, None, None]

    def update(self, keys, values, layer, *_, **__):
        """What the model's attention layers call: store the new keys and values, return all of the rows in use."""
        stored_keys, stored_values = self.layers[layer]
        stored_keys[self.index, :, self.where] = keys[:, :, 0]
        stored_values[self.index, :, self.where] = values[:, :, 0]
        return stored_keys[: self.live, :, : self.width], stored_values[: self.live, :, : self.width]


def _attend(module, query, key, value, attention_mask, scaling=None, **_):
    """Attention of one new token per row that reads each key once for all query heads that share it.

    The library's own function first copies keys and values for every query head, three times as much memory on SmolLM2.
    """
    batch, heads, _, width = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], width)
    weights = torch.matmul(grouped, key.transpose(2, 3)) * scaling
    weights = weights.masked_fill(~attention_mask, float("-inf")).softmax(-1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights, value).reshape(batch, 1, heads, width), None
