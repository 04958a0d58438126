"""The craft stage: every arm gets its traces, or is told before any work what it lacks."""

import shutil

import pytest
from corpora import HARMFUL, corpus_of, experiment, item, silent

from cotlib import chat
from cotlib.arms import Arm
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages import craft

ARMS = ["QA", "evil-QTA", "evil-QT@25%", "shuffled-misleading-T", "filler-QT", "shuffled-evil-T@50%"]


def test_bundled_crafting_gives_every_arm_its_traces_and_can_be_read_back(tmp_path):
    run = experiment(tmp_path / "corpus", corpus_of([4, 4]), ARMS)
    paths = Paths.of(run, tmp_path)
    items, questions = craft.craft(run, paths, silent)
    assert craft.load(paths) == (items, questions)
    assert all(Arm.parse(arm).trace_key in one.traces for one in items for arm in ARMS[1:])
    assert {one.id: one.harmful for one in items} == {one.id: HARMFUL for one in corpus_of([4, 4])}
    manifest = artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)
    assert (manifest["experiment"], manifest["writer"], manifest["items"], manifest["seed"]) == (
        "little",
        "bundled",
        8,
        0,
    )
    assert manifest["traces"]["evil@25%"] == 8
    assert manifest["questions"] == {"transfer": 1}
    assert manifest["corpus"]["items.jsonl"] == artifacts.file_digest(tmp_path / "corpus" / "items.jsonl")


def test_crafting_twice_gives_the_same_bytes(tmp_path):
    run = experiment(tmp_path / "corpus", corpus_of([4, 4]), ARMS)
    once, again = Paths.of(run, tmp_path / "a"), Paths.of(run, tmp_path / "b")
    for paths in (once, again):
        craft.craft(run, paths, silent)
    assert once.items.read_bytes() == again.items.read_bytes()
    assert once.questions.read_bytes() == again.questions.read_bytes()


@pytest.mark.parametrize(
    ("arm", "kinds", "message"),
    [
        ("evil-QT", ["neutral"], r"arm evil-QT needs traces of type evil; item home-000 has none \(nor have 1 more\)"),
        ("shuffled-evil-T", ["neutral"], "arm shuffled-evil-T needs traces of type evil"),
        ("evil-T@25%", ["evil"], "arm evil-T@25% needs traces of type neutral"),
        ("filler-T", [], "filler takes its length from an item's traces; item home-000 has none"),
    ],
)
def test_a_missing_type_is_named_before_any_work(tmp_path, arm, kinds, message):
    run = experiment(tmp_path / "corpus", [item(0, kinds=kinds), item(1, kinds=kinds)], ["QA", arm])
    with pytest.raises(BadInput, match=message):
        craft.craft(run, Paths.of(run, tmp_path / "results"), silent)
    assert not (tmp_path / "results").exists()


def test_a_crafted_item_can_be_encoded_for_every_arm(tmp_path):
    run = experiment(tmp_path / "corpus", corpus_of([4]), ARMS)
    items, _ = craft.craft(run, Paths.of(run, tmp_path / "results"), silent)
    tokenizer = models.load_tokenizer("tiny-random-llama")
    assert all(chat.encode(tokenizer, one, arm).supervised for one in items for arm in ARMS)


def test_a_corpus_of_items_alone_is_refused_though_its_questions_come_from_elsewhere(tmp_path):
    """Chapter 1 audits a corpus as a whole."""
    folder = tmp_path / "items-only"
    folder.mkdir()
    shutil.copy(records.BUNDLED["bundled"] / records.ITEMS, folder)
    run = Experiment.load("experiments/smoke.yml")
    data = run.data.model_copy(update={"corpus": str(folder), "evaluation": "bundled-v1"})
    with pytest.raises(BadInput, match=r"data\.corpus: .* holds no evaluation\.jsonl"):
        craft.selection(run.model_copy(update={"data": data}))
