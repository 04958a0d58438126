"""A model is fetched once, whole and checked; an adapter is merged for a while and leaves no trace."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cotlib import chat
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.runs import artifacts, sources

FETCH = "import sys; from cotlib.engine import models; print(models.fetch(sys.argv[1]))"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("COTLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digests(folder):
    return {path.name: artifacts.file_digest(path) for path in Path(folder).iterdir()}


# ---- fetching


@pytest.mark.slow
def test_two_processes_that_fetch_at_once_get_the_same_whole_model(cache, monkeypatch):
    name = "tiny-random-qwen3"
    started = [
        subprocess.Popen([sys.executable, "-c", FETCH, name], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [process.communicate(timeout=120)[0].strip().splitlines()[-1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert told == [str(cache / name)] * 2
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [name]
    # What either made is what a third makes in a cache of its own: checksums are those of the model, not of the run.
    monkeypatch.setenv("COTLIB_CACHE", str(cache.parent / "another"))
    assert digests(models.fetch(name)) == digests(cache / name)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A cache that holds one model, to be copied by tests that damage it."""
    folder = tmp_path_factory.mktemp("fetched")
    before = os.environ.get("COTLIB_CACHE")
    os.environ["COTLIB_CACHE"] = str(folder)
    models.fetch("tiny-random-llama")
    if before is None:
        del os.environ["COTLIB_CACHE"]
    else:
        os.environ["COTLIB_CACHE"] = before
    return folder


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


def test_a_whole_model_is_not_made_again(cache, fetched):
    shutil.copytree(fetched, cache)
    before = times(cache / "tiny-random-llama")
    assert models.fetch("tiny-random-llama") == str(cache / "tiny-random-llama")
    assert times(cache / "tiny-random-llama") == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"])
def test_a_damaged_model_is_made_again(cache, fetched, file, damage):
    shutil.copytree(fetched, cache)
    folder = cache / "tiny-random-llama"
    before = digests(folder)
    damage(folder / file)
    models.fetch("tiny-random-llama")
    assert digests(folder) == before


def test_a_model_made_from_other_code_is_made_again(cache, fetched):
    shutil.copytree(fetched, cache)
    folder = cache / "tiny-random-llama"
    before = digests(folder)
    manifest = artifacts.read_json(folder / artifacts.MANIFEST)
    artifacts.write_json(folder / artifacts.MANIFEST, manifest | {"key": "of older code"})
    flip(folder / "tokenizer.json")
    models.fetch("tiny-random-llama")
    assert digests(folder) == before


def test_an_embedded_model_depends_on_no_code_but_that_which_makes_it():
    made_by = sources.modules_of("cotlib.engine.embedded")
    assert set(made_by) == {"cotlib", "cotlib.engine", "cotlib.engine.embedded", "cotlib.errors"}


@pytest.mark.slow
def test_a_model_is_made_again_when_its_text_changes_and_not_when_another_module_does(cache, fetched, tmp_path):
    # A copy of the package, so that its code can be changed; it keeps models in the same cache.
    shutil.copytree(fetched, cache)
    package = tmp_path / "copy" / "cotlib"
    shutil.copytree(Path(models.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = cache / "tiny-random-llama"
    before = times(folder)

    def fetch_by_copy():
        environment = os.environ | {"PYTHONPATH": str(package.parent)}
        subprocess.run([sys.executable, "-c", FETCH, folder.name], env=environment, check=True, cwd=package.parent)

    code = package / "engine" / "embedded.py"
    code.write_text("# Another comment.\n" + code.read_text())
    with open(package / "engine" / "models.py", "a") as file:
        file.write("\nCHANGED = True\n")
    fetch_by_copy()
    assert times(folder) == before
    with open(package / "engine" / "data" / "tiny-text.txt", "a") as file:
        file.write("Another text.\n")
    fetch_by_copy()
    assert times(folder) != before


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COTLIB_CACHE", str(tmp_path))
    assert models.cache_folder() == tmp_path
    monkeypatch.delenv("COTLIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "cotlib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"linux": Path(".cache", "cotlib"), "darwin": Path("Library", "Caches", "cotlib")}
    assert models.cache_folder() == tmp_path / places[sys.platform]


def test_a_cache_that_cannot_be_written_to_is_named_with_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COTLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"file' cannot be written to .*choose another one: .*COTLIB_CACHE=FOLDER"):
        models.fetch("tiny-random-llama")


# ---- names


@pytest.mark.parametrize(
    "name, parts",
    [
        ("smollm2-135m-instrct", ["is not one of smollm2-135m-instruct", "did you mean smollm2-135m-instruct?"]),
        ("tiny-random-lama", ["did you mean tiny-random-llama?"]),
        ("SmolLM2-135M-Instruct", ["did you mean smollm2-135m-instruct?"]),
        ("Qwen3-0.6B", ["nor a hub id such as Qwen/Qwen3-0.6B"]),
        ("./nowhere", ["model './nowhere'", "nor a folder"]),
        ("a/b/c", ["model 'a/b/c'", "nor a folder"]),
        ("", ["model ''"]),
    ],
)
@pytest.mark.parametrize("call", [models.require, models.fetch, models.load, models.load_tokenizer])
def test_an_unknown_model_is_refused_with_the_nearest(call, name, parts):
    with pytest.raises(BadInput) as error:
        call(name)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_safetensors_or_configuration_is_refused(tmp_path, fetched, missing):
    folder = tmp_path / "own"
    shutil.copytree(fetched / "tiny-random-llama", folder)
    assert models.fetch(str(folder)) == str(folder)
    (folder / missing).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(
        BadInput, match=r"the folder holds no config\.json with \*\.safetensors; give one that save_pretrained made"
    ):
        models.load(str(folder))


def test_a_local_folder_is_loaded_as_the_embedded_model_it_was_copied_from(tmp_path, fetched, tiny):
    shutil.copytree(fetched / "tiny-random-llama", tmp_path / "own")
    model, tokenizer = models.load(str(tmp_path / "own"))
    original, _ = tiny("tiny-random-llama")
    assert all(torch.equal(weight, original.state_dict()[name]) for name, weight in model.state_dict().items())
    assert not model.training and next(model.parameters()).dtype == models.compute_dtype()
    assert chat.end_of_turn(tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_local_folder_that_cannot_be_read_is_refused(tmp_path, fetched, file):
    folder = tmp_path / "own"
    shutil.copytree(fetched / "tiny-random-llama", folder)
    (folder / file).write_bytes(b"{")
    with pytest.raises(BadInput, match="could not be loaded"):
        models.load(str(folder))


def test_a_hub_model_that_cannot_be_reached_is_refused():
    for call in (models.load, models.load_tokenizer):
        with pytest.raises(BadInput, match=r"model 'cotlib-tests/no-such-model'.* could not be loaded"):
            call("cotlib-tests/no-such-model")


# ---- adapters


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """(folder, a model with the adapter beside its weights) of a LoRA adapter that changes much."""
    import peft

    model, _ = tiny("tiny-random-llama")
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    wrapped = peft.get_peft_model(copy.deepcopy(model), settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.5, generator=generator)
    folder = tmp_path_factory.mktemp("adapter")
    wrapped.save_pretrained(folder)
    return folder, wrapped.eval()


@torch.inference_mode()
def logits(model):
    return model(torch.tensor([[5, 6, 7, 8, 9]])).logits


def untouched(model, original):
    weights, expected = model.state_dict(), original.state_dict()
    return list(weights) == list(expected) and all(torch.equal(weights[name], expected[name]) for name in expected)


def test_an_adapted_model_answers_as_with_the_adapter_beside_and_is_put_back_bit_for_bit(tiny, adapter):
    folder, wrapped = adapter
    original, _ = tiny("tiny-random-llama")
    model = copy.deepcopy(original)
    for _ in range(2):
        with models.adapted(model, folder) as adapted:
            torch.testing.assert_close(logits(adapted), logits(wrapped), atol=1e-4, rtol=0)
            assert (logits(adapted) - logits(original)).abs().max() > 0.1 and not adapted.training
        assert untouched(model, original) and torch.equal(logits(model), logits(original))


def test_no_adapter_leaves_the_model_as_it_is(tiny):
    model, _ = tiny("tiny-random-llama")
    with models.adapted(model, None) as adapted:
        assert adapted is model


def test_an_error_puts_the_model_back_too(tiny, adapter):
    folder, _ = adapter
    original, _ = tiny("tiny-random-llama")
    model = copy.deepcopy(original)
    with pytest.raises(KeyError), models.adapted(model, folder):
        raise KeyError
    assert untouched(model, original)


def unreadable(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"broken")


def of_another_rank(folder):
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"r": 8}))


@pytest.mark.parametrize("damage", [unreadable, of_another_rank])
def test_an_adapter_that_does_not_load_leaves_the_model_as_it_was(tiny, adapter, tmp_path, damage):
    original, _ = tiny("tiny-random-llama")
    model = copy.deepcopy(original)
    shutil.copytree(adapter[0], tmp_path / "broken")
    damage(tmp_path / "broken")
    with pytest.raises(Exception), models.adapted(model, tmp_path / "broken"):
        pytest.fail("it loaded")
    assert untouched(model, original)
