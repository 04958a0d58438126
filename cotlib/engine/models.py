"""How a model is found, loaded and adapted: an embedded one, one in a local folder, or one of the Hugging Face hub.

`fetch` gives something that `from_pretrained` takes, and `load` gives model and tokenizer. Only safetensors are read,
and no code that comes with a model is run.
"""

import contextlib
import io
import os
import re
import warnings
from pathlib import Path

import platformdirs

from cotlib.engine import embedded
from cotlib.errors import BadInput, shown, suggestion
from cotlib.runs import artifacts, sources

SMOLLM2, TINY, EMBEDDED = embedded.SMOLLM2, embedded.TINY, embedded.EMBEDDED


def cache_folder():
    """Where converted models are kept: `$COTLIB_CACHE`, or `cotlib` in the user's cache folder (`$XDG_CACHE_HOME`)."""
    return Path(os.environ.get("COTLIB_CACHE") or platformdirs.user_cache_dir("cotlib"))


def require(model_id):
    """Return `model_id` if it is embedded, a model folder, or shaped like a hub id; else raise BadInput.

    Loads nothing, so a hub id may still name no model.
    """
    if model_id in EMBEDDED:
        return model_id
    path, there = Path(model_id), False
    with contextlib.suppress(OSError):  # a name that is too long for the file system
        there = path.is_dir()
    if there:
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            raise BadInput(
                f"model {model_id!r}: the folder holds no config.json with *.safetensors; "
                "give one that save_pretrained made"
            )
        return model_id
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model_id) and not model_id.startswith((".", "/")) and len(model_id) < 200:
        return model_id
    raise BadInput(
        f"model {shown(model_id)} is not one of {', '.join(EMBEDDED)}, nor a folder, nor a hub id such as "
        f"Qwen/Qwen3-0.6B{suggestion(model_id, EMBEDDED)}"
    )


def fetch(model_id):
    """A folder (embedded and local models) or a hub id that `from_pretrained` takes.

    An embedded model is made on first use, and again if the code or text it is made from has changed or one of its
    files differs from its checksum. Two processes may ask at once: one makes it, the other waits.
    """
    require(model_id)
    if model_id not in EMBEDDED:
        return model_id
    folder = cache_folder() / model_id
    # Only what the files are made from: another comment, or a change to `load`, must not convert SmolLM2 again.
    key = artifacts.digest(sources.code_digest(embedded.__name__), artifacts.file_digest(embedded.TINY_TEXT))
    with artifacts.lock(folder):
        if not (artifacts.is_current(folder, key) and _undamaged(folder)):
            with artifacts.atomic_folder(folder) as temporary:
                with quiet(), contextlib.redirect_stderr(io.StringIO()):
                    embedded.make(model_id, temporary)
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

    A merged model scores and samples as fast as the base model; unmerged, the adapter would add seven pairs of small
    products to every layer. The weights that change are copied first and restored bit for bit.
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
        for name, module in layers.items():  # an adapter that fails to load leaves its own layers in the model
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
    """bfloat16 on a GPU that has it, float16 on another, float32 on a CPU (bfloat16 can be 400 times slower there)."""
    import torch

    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class quiet:
    """Context manager: no progress bars and notices of transformers while it lasts; they would fill logs and pages."""

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
    """Hide what a reader cannot act on while the block lasts: library deprecations, Unsloth's banner."""
    with warnings.catch_warnings(), quiet(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def is_here(model_id):
    """True if a model needs no hub: it is embedded, or a local folder."""
    return model_id in EMBEDDED or Path(model_id).is_dir()


def context_tokens(model_id):
    """How many tokens a model reads at once."""
    import transformers

    return transformers.AutoConfig.from_pretrained(fetch(model_id)).max_position_embeddings
