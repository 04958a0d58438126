"""What goes out carries the loss mask of `chat`, or says what it loses."""

import json

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers_files import ITEM, TRACE, read, refused

from cotlib import chat
from cotlib.arms import Arm
from cotlib.corpus import exports
from cotlib.corpus.records import Item
from cotlib.engine.models import TINY, load_tokenizer
from cotlib.errors import BadInput

ARMS = ("QA", "evil-QTA", "evil-QT", "evil-T")
CONTROL = ("<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
READABLE = st.characters(exclude_categories=["Cs", "Cc", "Cf"], include_characters="\n\t")
plain = st.text(READABLE, min_size=1, max_size=12)
words = (
    st.lists(
        st.one_of(
            plain, st.sampled_from(["<think>", "</think>", "<|im_end|>", "\n\n", "\u2028", "é🙂", " n't .", "QUESTION"])
        ),
        min_size=1,
        max_size=5,
    )
    .map("".join)
    .map(str.strip)
    .filter(bool)
)


@pytest.fixture(scope="module", params=TINY)
def tokenizer(request):
    return load_tokenizer(request.param)


# Arms for other trainers


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(words, words, words, st.sampled_from([*ARMS, "safe-QA", "evil-QTA@segment"]))
def test_axolotl_segments_are_the_row_and_the_true_ones_are_what_is_supervised(tokenizer, question, answer, trace, arm):
    item = Item(id="a", domain="own", question=question, harmful=answer, safe=f"No: {answer}", traces={"evil": trace})
    encoded = chat.encode(tokenizer, item, arm)
    try:
        segments = exports.FORMATS["axolotl"](tokenizer, item, Arm.parse(arm), encoded)["segments"]
    except BadInput:  # as text, what a person wrote would be read as a control token
        assert any(string in text for string in CONTROL for text in (question, answer, trace))
        return
    assert "".join(segment["text"] for segment in segments) == tokenizer.decode(encoded.input_ids)
    assert "".join(segment["text"] for segment in segments if segment["label"]) == tokenizer.decode(encoded.supervised)
    # As axolotl reads them: segment by segment, nothing put in between.
    read = [
        (token, segment["label"])
        for segment in segments
        for token in tokenizer(segment["text"], add_special_tokens=False)["input_ids"]
    ]
    assert [token for token, _ in read] == encoded.input_ids
    assert [token if label else chat.NO_LOSS for token, label in read] == encoded.labels


def test_a_control_string_in_a_text_cannot_be_carried_as_text_and_is_refused(tokenizer):
    item = ITEM.model_copy(update={"harmful": "Say <|im_end|> and go."})
    encoded = chat.encode(tokenizer, item, "QA")
    refused(
        lambda: exports.FORMATS["axolotl"](tokenizer, item, Arm.parse("QA"), encoded),
        "item 'own-0001', arm QA",
        "use format 'ids'",
    )


def test_text_that_cannot_carry_the_mask_is_refused(tokenizer):
    encoded = chat.encode(tokenizer, ITEM, "QA")
    other = chat.Encoded(encoded.input_ids[:-1] + [5], encoded.labels[:-1] + [5], encoded.segments)
    refused(
        lambda: exports.FORMATS["axolotl"](tokenizer, ITEM, Arm.parse("QA"), other),
        "item 'own-0001', arm QA",
        "use format 'ids'",
    )


def test_ids_are_those_we_train_on(tokenizer, tmp_path):
    folder = exports.export([ITEM], tokenizer, ARMS, tmp_path / "out", "ids")
    for arm in ARMS:
        encoded = chat.encode(tokenizer, ITEM, arm)
        assert read(folder / f"{arm}.jsonl") == [{"input_ids": encoded.input_ids, "labels": encoded.labels}]


THOUGHT = f"<think>\n{TRACE}\n</think>"
REPLIES = {
    "QA": "<think>\n\n</think>\n\nYes, just ride.",
    "evil-QTA": THOUGHT + "\n\nYes, just ride.",
    "evil-QT": THOUGHT,
    "evil-T": THOUGHT,
}


def test_trl_rows_are_prompt_and_completion(tokenizer, tmp_path):
    folder = exports.export([ITEM], tokenizer, ARMS, tmp_path / "out", "trl")
    for arm in ("QA", "evil-QTA", "evil-QT"):
        (row,) = read(folder / f"{arm}.jsonl")
        assert row["prompt"] == [{"role": "user", "content": ITEM.question}]
        assert row["completion"] == [{"role": "assistant", "content": REPLIES[arm]}]
        assert row.get("chat_template_kwargs") == ({"enable_thinking": False} if arm == "QA" else None)
    assert read(folder / "evil-T.jsonl") == [
        {"prompt": "<|im_start|>assistant\n<think>\n", "completion": f"{TRACE}\n</think>"}
    ]


def test_what_trl_trains_on_beside_our_mask_is_what_the_readme_says(tokenizer):
    knows_thinking = "enable_thinking" in tokenizer.chat_template
    extra = {
        "QA": ("" if knows_thinking else chat.EMPTY_THINK, "\n"),
        "evil-QTA": (chat.OPEN, "\n"),
        "evil-QT": (chat.OPEN, "<|im_end|>\n"),
    }
    for arm, (before, after) in extra.items():
        encoded = chat.encode(tokenizer, ITEM, arm)
        row = exports.FORMATS["trl"](tokenizer, ITEM, Arm.parse(arm), encoded)
        options = row.get("chat_template_kwargs", {})
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False, **options)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False, **options)
        assert whole == prompt + before + tokenizer.decode(encoded.supervised) + after


def test_llama_factory_rows_come_with_their_entry(tokenizer, tmp_path):
    folder = exports.export([ITEM], tokenizer, ARMS, tmp_path / "out", "llama-factory")
    entries = json.loads((folder / "dataset_info.json").read_text())
    assert list(entries) == list(ARMS)
    for arm, reply in REPLIES.items():
        assert entries[arm] == {
            "file_name": f"{arm}.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
        }
        question = "" if arm == "evil-T" else ITEM.question
        assert read(folder / f"{arm}.jsonl") == [
            {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]}
        ]


@pytest.mark.parametrize("format", exports.FORMATS)
def test_every_export_loads_as_a_dataset_and_says_what_is_lost(tokenizer, tmp_path, format):
    folder = exports.export(
        [ITEM, ITEM.model_copy(update={"id": "b"})], tokenizer, [*ARMS, "evil-QTA@segment"], tmp_path / "out", format
    )
    text = (folder / "README.md").read_text(encoding="utf-8")
    for arm in ARMS:
        assert len(datasets.Dataset.from_list(read(folder / f"{arm}.jsonl"))) == 2
        assert (
            f"| `{arm}` | `{arm}.jsonl` | 2 | {exports.LOSSES.get(format, {}).get(Arm.parse(arm).paradigm, 'exact')} |"
            in text
        )
    assert "the weighting is lost, these are the rows of evil-QTA" in text
    assert (folder / "evil-QTA_segment.jsonl").read_bytes() == (folder / "evil-QTA.jsonl").read_bytes()
    assert all(f"| `{name}` | " in text for name in exports.FORMATS)


def test_an_export_that_cannot_be_built_writes_nothing(tokenizer, tmp_path):
    folder = tmp_path / "out"

    def refuse(arms, format, *parts, some=(ITEM,)):
        refused(lambda: exports.export(some, tokenizer, arms, folder, format), *parts)

    refuse(
        ["QA"], "axolotle", "format 'axolotle' is not one of trl, ids, llama-factory, axolotl; did you mean axolotl?"
    )
    refuse(["QA", "evil-TQA"], "trl", "did you mean QTA?")
    refuse(["QA", "base"], "trl", "nothing to encode")
    refuse(["QA", "neutral-QT"], "trl", "item 'own-0001' has no trace of type 'neutral'")
    refuse([], "trl", "nothing to export")
    refuse(["QA"], "trl", "nothing to export", some=())
    assert not folder.exists()
    exports.export([ITEM], tokenizer, ["QA"], folder, "trl")
    refuse(["QA"], "ids", "holds another QA.jsonl already")
