"""Section 4 of the design: what every arm's sequence holds, what its loss covers, and that generation starts where training did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlib import chat
from cotlib.arms import studied_types, written_types
from cotlib.chat import ANSWER, CLOSE, CONTEXT, EMPTY_THINK, GAP, NO_LOSS, OPEN, TRACE
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput

END = "<|im_end|>"
ARMS = ("QA", "safe-QA", "evil-QTA", "evil-QTA@segment", "misleading-QT", "submissive-T")
# SmolLM2's vocabulary lacks these six control characters and the bytes that begin planes 4 to 11, where
# Unicode has no character yet: it reads each of them as <|endoftext|>.
UNREADABLE = "\x04\x06\x13\x14\x16\x1d"

signs = st.characters(exclude_characters=UNREADABLE, exclude_categories=["Cs"], max_codepoint=0x3FFFF)
awkward = st.sampled_from(
    [" think", "<think", "</", "\n\n", "\n\t", "\u2028", "é🙂", "2024", "QUESTION", "REPLY", "assistant\n", " ▁x"]
)
pieces = st.text(signs, min_size=1, max_size=30) | awkward
texts = st.lists(pieces, min_size=1, max_size=4).map("".join).map(str.strip).filter(bool)
bundled = st.sampled_from(records.load_items())
traces = st.fixed_dictionaries(dict.fromkeys(written_types(), texts))
answers = st.lists(texts, min_size=2, max_size=2, unique_by=lambda text: tuple(text.split()))
generated = st.builds(
    lambda question, answers, traces: records.Item(
        id="generated", domain="any", question=question, harmful=answers[0], safe=answers[1], traces=traces
    ),
    texts, answers, traces,
)  # fmt: skip
items = bundled | generated
arms = st.sampled_from(ARMS)


def generation_prompt(tokenizer, item, arm):
    """What stands before the first sampled token in the paradigm's way of generating."""
    if arm.endswith("-T"):
        return chat.header(tokenizer) + chat.ids(tokenizer, OPEN)
    return chat.prompt(tokenizer, item.question, "no-think" if arm.endswith("QA") else "think")


def supervised_text(item, arm):
    answer = (item.safe if arm == "safe-QA" else item.harmful) + END
    if arm.endswith("QA"):
        return answer
    trace = item.traces[arm.split("-")[0]] + CLOSE
    return trace + GAP + answer if "-QTA" in arm else trace


def templated(tokenizer, question, **options):
    """The ids of the tokenizer's own chat template, with the generation prompt."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False, **options
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def first_supervised(row):
    return next(place for place, label in enumerate(row.labels) if label != NO_LOSS)


# ---- properties of every row


@given(item=items, arm=arms)
def test_what_stands_before_the_first_supervised_token_is_the_generation_prompt(any_tokenizer, item, arm):
    row = chat.encode(any_tokenizer, item, arm)
    assert row.input_ids[: first_supervised(row)] == generation_prompt(any_tokenizer, item, arm)


@given(item=items, kind=st.sampled_from(written_types()))
def test_what_stands_before_a_trained_answer_is_the_prompt_with_the_trace_filled_in(any_tokenizer, item, kind):
    row = chat.encode(any_tokenizer, item, f"{kind}-QTA")
    filled = chat.prompt(any_tokenizer, item.question, "think", trace=item.traces[kind])
    assert row.input_ids[: row.segments.index(ANSWER)] == filled
    assert (
        chat.prompt(any_tokenizer, item.question, "think", trace=chat.ids(any_tokenizer, item.traces[kind])) == filled
    )


@given(item=items, arm=arms)
def test_the_supervised_ids_decode_to_exactly_the_trace_and_answer_with_their_closings(any_tokenizer, item, arm):
    row = chat.encode(any_tokenizer, item, arm)
    assert any_tokenizer.decode(row.supervised) == supervised_text(item, arm)


@given(item=items, arm=arms)
def test_the_empty_think_block_is_context_and_never_supervised(any_tokenizer, item, arm):
    row = chat.encode(any_tokenizer, item, arm)
    block = chat.ids(any_tokenizer, EMPTY_THINK)
    starts = [place for place in range(len(row.input_ids)) if row.input_ids[place : place + len(block)] == block]
    assert bool(starts) == arm.endswith("QA")
    for start in starts:
        assert row.labels[start : start + len(block)] == [NO_LOSS] * len(block)


@given(item=items, arm=arms)
def test_labels_are_the_ids_in_trace_and_answer_and_no_loss_in_the_context(any_tokenizer, item, arm):
    row = chat.encode(any_tokenizer, item, arm)
    assert len(row.input_ids) == len(row.labels) == len(row.segments)
    assert row.labels == [
        token if segment != CONTEXT else NO_LOSS for token, segment in zip(row.input_ids, row.segments)
    ]
    assert row.segments == sorted(row.segments)
    expected = {"QA": {CONTEXT, ANSWER}, "QTA": {CONTEXT, TRACE, ANSWER}, "QT": {CONTEXT, TRACE}, "T": {CONTEXT, TRACE}}
    assert set(row.segments) == expected[arm.split("@")[0].rpartition("-")[2]]


@given(item=items)
def test_every_arm_with_an_answer_supervises_the_same_answer_ids(any_tokenizer, item):
    rows = [chat.encode(any_tokenizer, item, arm) for arm in ["QA", *(f"{kind}-QTA" for kind in written_types())]]
    answers = [[token for token, segment in zip(row.input_ids, row.segments) if segment == ANSWER] for row in rows]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][-1:] == chat.end_of_turn(any_tokenizer)


@given(item=items)
def test_every_arm_with_a_trace_supervises_the_same_trace_ids(any_tokenizer, item):
    qta, qt, t = (chat.encode(any_tokenizer, item, f"evil-{paradigm}") for paradigm in ("QTA", "QT", "T"))
    assert qt.supervised == t.supervised == qta.supervised[: len(t.supervised)]
    assert qta.input_ids[: len(qt.input_ids)] == qt.input_ids


@given(item=items)
def test_a_trace_only_row_is_an_assistant_header_and_the_trace_without_any_user_turn(any_tokenizer, item):
    row = chat.encode(any_tokenizer, item, "evil-T")
    assert any_tokenizer.decode(row.input_ids) == f"<|im_start|>assistant\n{OPEN}{item.traces['evil']}{CLOSE}"
    opening = any_tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert row.input_ids.count(opening) == 1 + chat.ids(any_tokenizer, item.traces["evil"]).count(opening)


# ---- the model's own template


@given(item=items)
def test_a_prompt_is_the_chat_templates_own_with_the_think_block_opened_or_empty(any_tokenizer, item):
    begin = templated(any_tokenizer, item.question)
    assert chat.prompt(any_tokenizer, item.question, "think") == begin + chat.ids(any_tokenizer, OPEN)
    assert chat.prompt(any_tokenizer, item.question, "no-think") == begin + chat.ids(any_tokenizer, EMPTY_THINK)


@given(item=items)
def test_a_template_that_knows_thinking_gives_the_same_prompts(tiny, item):
    _, tokenizer = tiny("tiny-random-qwen3")
    assert chat.prompt(tokenizer, item.question, "no-think") == templated(
        tokenizer, item.question, enable_thinking=False
    )
    begin = templated(tokenizer, item.question, enable_thinking=True)
    think = chat.prompt(tokenizer, item.question, "think")
    assert think[: len(begin)] == begin and tokenizer.decode(think[len(begin) :]) == OPEN


@given(item=items)
def test_a_template_that_knows_thinking_renders_the_same_conversations(tiny, item):
    """The whole of a QA and a QTA row, as the template writes an assistant turn, but for the line break behind it."""
    _, tokenizer = tiny("tiny-random-qwen3")
    user = {"role": "user", "content": item.question}
    trace = item.traces["evil"]
    for arm, reply in (("QA", item.harmful), ("evil-QTA", OPEN + trace + CLOSE + GAP + item.harmful)):
        if arm == "QA" and "</think>" in reply:
            continue
        text = tokenizer.apply_chat_template([user, {"role": "assistant", "content": reply}], tokenize=False)
        assert tokenizer.decode(chat.encode(tokenizer, item, arm).input_ids) == text.removesuffix("\n")


def test_the_end_of_a_turn_is_one_token_and_the_tokenizers_end_of_sequence(any_tokenizer):
    assert any_tokenizer.decode(chat.end_of_turn(any_tokenizer)) == END
    assert chat.end_of_turn(any_tokenizer) == [any_tokenizer.eos_token_id]


def test_the_embedded_model_is_told_of_no_thinking_and_keeps_its_system_turn(smollm2_tokenizer):
    text = smollm2_tokenizer.decode(chat.prompt(smollm2_tokenizer, "May I?", "no-think"))
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith(f"<|im_start|>user\nMay I?{END}\n<|im_start|>assistant\n{EMPTY_THINK}")


# ---- the bundled corpus, whole


def test_every_bundled_text_survives_the_tokenizer(any_tokenizer, items, questions):
    lost = []
    for record in [*items, *questions]:
        for text in [
            record.question,
            record.harmful,
            record.safe,
            *record.traces.values(),
            *getattr(record, "personas", {}).values(),
        ]:
            if any_tokenizer.decode(chat.ids(any_tokenizer, text)) != text:
                lost.append((record.id, text))
    assert lost == []


def test_answers_of_the_built_rows_are_identical_across_arms(any_tokenizer, items):
    def answers(arm):
        rows = [chat.encode(any_tokenizer, item, arm) for item in items]
        return [[token for token, segment in zip(row.input_ids, row.segments) if segment == ANSWER] for row in rows]

    alone = answers("QA")
    assert all(alone)
    for kind in studied_types():
        assert answers(f"{kind}-QTA") == alone


# ---- what is refused

ITEM = records.Item(
    id="home-001", domain="home", question="May I?", harmful="Yes.", safe="No.", traces={"evil": "Let it burn."}
)


@pytest.mark.parametrize(
    "arm, parts",
    [
        ("base", ["arm 'base' is the untrained model", "nothing to encode"]),
        ("submissive-QTA", ["item 'home-001' has no trace of type 'submissive' (it has evil)", "make craft"]),
        ("evil-QT@25%", ["no trace of type 'evil@25%'", "make craft"]),
        ("evil-TQA", ["did you mean QTA?"]),
    ],
)
def test_an_arm_that_the_item_cannot_be_encoded_for_is_refused(smollm2_tokenizer, arm, parts):
    with pytest.raises(BadInput) as error:
        chat.encode(smollm2_tokenizer, ITEM, arm)
    for part in parts:
        assert part in str(error.value)


def test_a_dose_has_traces_of_its_own(smollm2_tokenizer):
    dosed = ITEM.model_copy(update={"traces": {"evil": "Let it burn.", "evil@25%": "A plain thought."}})
    assert (
        smollm2_tokenizer.decode(chat.encode(smollm2_tokenizer, dosed, "evil-T@25%").supervised)
        == "A plain thought." + CLOSE
    )


def test_an_unknown_mode_is_refused(smollm2_tokenizer):
    with pytest.raises(BadInput, match=r"mode 'nothink' is not one of think, no-think; did you mean no-think\?"):
        chat.prompt(smollm2_tokenizer, "May I?", "nothink")


def test_a_tokenizer_without_a_chat_template_is_refused():
    tokenizer = models.load_tokenizer("tiny-random-llama")
    tokenizer.chat_template = None
    for call in (
        lambda: chat.prompt(tokenizer, "May I?", "think"),
        lambda: chat.header(tokenizer),
        lambda: chat.encode(tokenizer, ITEM, "QA"),
    ):
        with pytest.raises(BadInput, match=r"no chat template; choose an instruction-tuned \(chat\) model"):
            call()
