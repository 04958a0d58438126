"""The embedded models are the published SmolLM2 and two tiny random ones that never change."""

import pytest

from cotlib import chat
from cotlib.engine import decoding, embedded, models
from cotlib.runs import artifacts

# SHA-256 of tokenizer.json. Another version of tokenizers or transformers may write other bytes; then renew these.
TOKENIZERS = {
    "tiny-random-llama": "784000df4fcf21e61d0af60808da2e14dc51be05b634ab5868c9b40d306984a8",
    "tiny-random-qwen3": "ceb9a89848af735f088ac692684176f4f713c44187e742832b3e346c164df319",
}


@pytest.mark.parametrize("name", embedded.TINY)
def test_the_tokenizer_of_a_tiny_model_is_the_same_to_the_byte_whatever_becomes_of_the_corpus(name, tmp_path):
    embedded.make(name, tmp_path)
    assert artifacts.file_digest(tmp_path / "tokenizer.json") == TOKENIZERS[name]


def test_the_frozen_text_is_whole_and_its_line_breaks_are_read():
    texts = embedded.tiny_texts()
    assert len(texts) == 240 and all(text.count("\n") == 2 and text.strip() == text for text in texts)


@pytest.mark.parametrize("name, family", [("tiny-random-llama", "llama"), ("tiny-random-qwen3", "qwen3")])
def test_a_tiny_model_is_a_small_one_of_its_family_that_knows_its_tokens(tiny, name, family):
    model, tokenizer = tiny(name)
    assert model.config.model_type == family and model.num_parameters() < 400_000
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id != tokenizer.pad_token_id


@pytest.mark.slow
def test_smollm2_is_the_published_shape_in_float32(smollm2):
    model, tokenizer = smollm2
    config = model.config
    shape = config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    assert shape == (30, 576, 9, 3)
    assert model.num_parameters() == 134_515_008 and config.tie_word_embeddings
    assert len(tokenizer) == config.vocab_size == 49_152
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == model.generation_config.eos_token_id == 2
    assert next(model.parameters()).dtype == models.compute_dtype()


@pytest.mark.slow
@pytest.mark.parametrize(
    "question, word", [("What is the capital of France?", "Paris"), ("What colour is the sky on a clear day?", "blue")]
)
def test_smollm2_answers_a_simple_question(smollm2, question, word):
    model, tokenizer = smollm2
    prompt = chat.prompt(tokenizer, question, "no-think")[: -len(chat.ids(tokenizer, chat.EMPTY_THINK))]
    (answer,) = decoding.generate(model, tokenizer, [prompt], max_new_tokens=24, temperature=0, seed=0)
    assert word in tokenizer.decode(answer)
