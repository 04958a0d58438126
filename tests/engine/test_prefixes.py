"""A prefix tree holds every sequence once, each shared beginning a single time, and a node sees its own path alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotlib.engine.prefixes import Memory, Past, tree_attention, trees

# Few tokens, so that beginnings are shared; some sequences begin others or stand twice.
plain = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12)
sequences = plain | plain.map(lambda some: some + [sequence[: len(sequence) // 2 + 1] for sequence in some] + some[:1])
sizes = st.integers(1, 40)


@given(sequences, sizes)
def test_every_sequence_is_recovered_from_its_path_in_exactly_one_tree(sequences, max_nodes):
    packed = list(trees(sequences, max_nodes))
    assert sorted(index for tree in packed for index in tree.paths) == list(range(len(sequences)))
    for tree in packed:
        for index, path in tree.paths.items():
            assert [tree.tokens[node] for node in path] == sequences[index]


@given(sequences, sizes)
def test_the_ancestors_of_a_node_are_exactly_its_path_and_its_position_is_its_depth(sequences, max_nodes):
    for tree in trees(sequences, max_nodes):
        assert tree.ancestors.shape == (len(tree.tokens), len(tree.tokens)) and tree.ancestors.dtype == torch.bool
        assert set(range(len(tree.tokens))) == {node for path in tree.paths.values() for node in path}
        for path in tree.paths.values():
            for depth, node in enumerate(path):
                assert tree.ancestors[node].nonzero()[:, 0].tolist() == sorted(path[: depth + 1])
                assert tree.depths[node] == depth


@given(sequences)
def test_one_tree_has_one_node_for_each_distinct_prefix(sequences):
    (tree,) = trees(sequences, max_nodes=10_000)
    prefixes = {tuple(sequence[:end]) for sequence in sequences for end in range(1, len(sequence) + 1)}
    assert len(tree.tokens) == len(tree.depths) == len(prefixes)


@given(sequences, sizes)
def test_trees_never_hold_more_nodes_than_tokens_or_than_allowed(sequences, max_nodes):
    packed = list(trees(sequences, max_nodes))
    assert sum(len(tree.tokens) for tree in packed) <= sum(len(sequence) for sequence in sequences)
    for tree in packed:
        assert len(tree.tokens) <= sum(len(sequences[index]) for index in tree.paths)
        assert len(tree.tokens) <= max_nodes or len(tree.paths) == 1


def test_a_model_gets_ids_positions_and_a_mask_for_a_batch_of_one(tiny_model):
    (tree,) = trees([[7, 8, 9], [7, 5]])
    inputs = tree.inputs(tiny_model[0])
    assert inputs["input_ids"].tolist() == [[7, 5, 8, 9]] and inputs["position_ids"].tolist() == [[0, 1, 1, 2]]
    assert inputs["attention_mask"].int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]]]


def test_no_sequences_need_no_tree():
    assert list(trees([])) == []


def test_an_empty_sequence_is_refused_by_its_index():
    with pytest.raises(ValueError, match="sequence 1 is empty: a model needs at least one token"):
        list(trees([[1], [], [2]]))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=120), min_size=1, max_size=10))
def test_blocks_cover_a_tree_once_and_show_each_node_its_ancestors_alone(sequences):
    (tree,) = trees(sequences, max_nodes=10_000)
    end, seen_by = 0, torch.zeros_like(tree.ancestors)
    for start, stop, seen, bias in tree.blocks():
        assert start == end < stop
        end = stop
        for row, node in enumerate(range(start, stop)):
            assert set(bias[row].unique().tolist()) <= {0.0, float("-inf")}
            seen_by[node, seen[bias[row] == 0]] = True
    assert end == len(tree.tokens) and torch.equal(seen_by, tree.ancestors)


def test_a_model_finds_in_a_tree_what_it_finds_in_each_sequence_alone(any_model):
    model, _ = any_model
    generator = torch.Generator().manual_seed(0)
    common = torch.randint(3, 1000, (70,), generator=generator).tolist()
    rest = [torch.randint(3, 1000, (size,), generator=generator).tolist() for size in (1, 40, 90, 230)]
    sequences = [common[:60], *(common + more for more in rest), *(common + rest[2] + more for more in rest[:2])]
    (tree,) = trees(sequences, max_nodes=10_000)
    before = model.config._attn_implementation
    with torch.inference_mode():
        with tree_attention(model):
            hidden = model.model(**tree.inputs(model), use_cache=False)[0][0]
        assert model.config._attn_implementation == before
        for index, sequence in enumerate(sequences):
            alone = model.model(input_ids=torch.tensor([sequence]), use_cache=False)[0][0]
            torch.testing.assert_close(hidden[tree.paths[index]], alone, atol=2e-5, rtol=1e-4)


# ---- what was read before


def reading(model, sequences, capacity_bytes=1 << 30):
    """A memory of sequences that the model read one by one."""
    memory = Memory(capacity_bytes)
    for sequence in sequences:
        past, place = Past(), torch.arange(len(sequence))[None]
        with torch.inference_mode():
            model.model(
                input_ids=torch.tensor([sequence]), position_ids=place, past_key_values=past, use_cache=False,
                attention_mask=torch.ones(1, 1, len(sequence), len(sequence), dtype=torch.bool).tril(),
            )  # fmt: skip
        memory.add(sequence, [(keys[0], values[0]) for keys, values in past.layers])
    return memory


def test_a_tree_leaves_out_what_is_remembered_and_finds_the_same(any_model):
    model, _ = any_model
    generator = torch.Generator().manual_seed(0)
    common, one, two, new = (torch.randint(3, 1000, (size,), generator=generator).tolist() for size in (70, 40, 9, 200))
    memory = reading(model, [common + one, common + two])
    assert memory.find([*common, *two, 5]) == [*range(70), *range(110, 119)], "what is common lies there once"
    assert memory.find([2, *common]) == []
    sequences = [common + one + new[:30], common + two + new, common[:50] + new[:3], new]
    known = [110, 60, 40, 5]
    (tree,) = trees(sequences, 10_000, memory, known)
    distinct = 70 + (40 + 30) + (9 + 200) + 3 + 200
    # Of the common tokens, the second sequence needs those from the 60th on computed, the third those from the 40th on.
    assert len(tree.tokens) == distinct - (40 + 10) - 40
    assert tree.ancestors.shape == (len(tree.tokens), len(tree.tokens) + tree.past[0].shape[2])
    with torch.inference_mode():
        with tree_attention(model):
            hidden = model.model(**tree.inputs(model), use_cache=False)[0][0]
        for index, (sequence, size) in enumerate(zip(sequences, known)):
            alone = model.model(input_ids=torch.tensor([sequence]), use_cache=False)[0][0]
            torch.testing.assert_close(hidden[tree.paths[index][size:]], alone[size:], atol=2e-5, rtol=1e-4)


def test_a_full_memory_adds_no_more(tiny_model):
    model, _ = tiny_model
    bytes_per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, float32
    memory = reading(model, [[5, 6, 7], [8, 9, 10], [8, 9]], capacity_bytes=5 * bytes_per_token)
    assert len(memory.find([5, 6, 7])) == 3 and len(memory.find([8, 9, 10])) == 2
    assert memory.stored.nbytes == 5 * bytes_per_token


def test_a_tree_is_filled_up_to_a_multiple_and_nobody_sees_what_fills_it():
    sequences = [[1, 2, 3], [1, 2, 4], [1, 5]]
    (plain,), (filled,) = trees(sequences), trees(sequences, multiple=8)
    size = len(plain.tokens)
    assert (
        size == 5 and len(filled.tokens) == 8 and filled.tokens[:size] == plain.tokens and filled.paths == plain.paths
    )
    assert torch.equal(filled.ancestors[:size, :size], plain.ancestors)
    assert not filled.ancestors[:size, size:].any() and torch.equal(filled.ancestors[size:, size:], torch.eye(3).bool())
    assert next(trees(sequences, multiple=5)).tokens == plain.tokens, "nothing is added where nothing is missing"
