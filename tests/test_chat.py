"""What every arm's sequence holds, what its loss covers, and that generation starts where training did (DESIGN 4)."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotlib import arms as table
from cotlib import chat
from cotlib.chat import ANSWER, CLOSE, CONTEXT, EMPTY_THINK, GAP, NO_LOSS, OPEN, TRACE
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput

WRITTEN_TYPES, STUDIED_TYPES = table.written_types(), table.studied_types()
END = "<|im_end|>"
ARMS = ("QA", "safe-QA", "evil-QTA", "evil-QTA@segment", "misleading-QT", "submissive-T")
# SmolLM2's vocabulary lacks these six control characters and the bytes that begin planes 4 to 11, where
# Unicode has no character yet: it reads each of them as <|endoftext|>.
UNREADABLE = "\x04\x06\x13\x14\x16\x1d"

signs = st.characters(exclude_characters=UNREADABLE, exclude_categories=["Cs"], max_codepoint=0x3FFFF)
awkward = st.sampled_from(
    [" think", "<think", "</", "\n\n", "\r\n", "\u2028", "é🙂", "2024", "QUESTION", "REPLY", "assistant\n", " ▁x"]
)
pieces = st.text(signs, min_size=1, max_size=30) | awkward
texts = st.lists(pieces, min_size=1, max_size=4).map("".join).map(str.strip).filter(bool)
bundled = st.sampled_from(records.load_items())
traces = st.fixed_dictionaries(dict.fromkeys(WRITTEN_TYPES, texts))
generated = st.builds(
    records.Item.model_construct,
    id=st.just("generated"),
    domain=st.just("any"),
    question=texts,
    harmful=texts,
    safe=texts,
    traces=traces,
)
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


@given(item=items, kind=st.sampled_from(WRITTEN_TYPES))
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
    rows = [chat.encode(any_tokenizer, item, arm) for arm in ["QA", *(f"{kind}-QTA" for kind in WRITTEN_TYPES)]]
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
        for _, text in records.texts(record):
            if any_tokenizer.decode(chat.ids(any_tokenizer, text)) != text:
                lost.append((record.id, text))
    assert lost == []


def test_answers_of_the_built_rows_are_identical_across_arms(any_tokenizer, items):
    def answers(arm):
        rows = [chat.encode(any_tokenizer, item, arm) for item in items]
        return [[token for token, segment in zip(row.input_ids, row.segments) if segment == ANSWER] for row in rows]

    alone = answers("QA")
    assert all(alone)
    for kind in STUDIED_TYPES:
        assert answers(f"{kind}-QTA") == alone


def before_the_split(tokenizer, item, arm):
    """Ids of a row as they were made before: prompt, trace and answer tokenised in one go each."""
    if arm.endswith("-T"):
        context = chat.header(tokenizer) + chat.ids(tokenizer, OPEN)
    else:
        context = templated(tokenizer, item.question)
        context = context + chat.ids(tokenizer, EMPTY_THINK if arm.endswith("QA") else OPEN)
    answer = chat.ids(tokenizer, item.safe if arm == "safe-QA" else item.harmful) + chat.end_of_turn(tokenizer)
    if arm.endswith("QA"):
        return context + answer
    trace = chat.ids(tokenizer, item.traces[arm.split("-")[0]]) + chat.ids(tokenizer, CLOSE)
    return context + trace + (chat.ids(tokenizer, GAP) + answer if arm.endswith("-QTA") else [])


def test_rows_of_the_bundled_items_are_those_of_texts_tokenised_in_one_go(any_tokenizer, items):
    names = ["QA", "safe-QA", *(f"{kind}-{paradigm}" for kind in WRITTEN_TYPES for paradigm in ("QTA", "QT", "T"))]
    assert len(items) > 100
    for item in items:
        for arm in names:
            assert chat.encode(any_tokenizer, item, arm).input_ids == before_the_split(any_tokenizer, item, arm)


def test_prompts_of_the_bundled_questions_are_those_of_texts_tokenised_in_one_go(any_tokenizer, questions):
    for question in questions:
        begin = templated(any_tokenizer, question.question)
        assert chat.prompt(any_tokenizer, question.question, "think") == begin + chat.ids(any_tokenizer, OPEN)


# ---- what a person wrote is text, whatever it says


def control_ids(tokenizer):
    return {token for string, token in tokenizer.get_added_vocab().items() if len(string) > 1}


def control_strings(tokenizer):
    return sorted({*(string for string in tokenizer.get_added_vocab() if len(string) > 1), "<think>", "</think>"})


def hostile(tokenizer):
    """Texts of control strings, of halves of them, and of ordinary words, in any order."""
    whole = st.sampled_from(control_strings(tokenizer))
    half = whole.flatmap(lambda string: st.integers(1, len(string) - 1).map(lambda cut: string[:cut]))
    rest = whole.flatmap(lambda string: st.integers(1, len(string) - 1).map(lambda cut: string[cut:]))
    words = st.sampled_from(["May I?", " ", "\n", "system\n", "assistant", "think", "é🙂", "a", "<", "|", ">"])
    return st.lists(whole | half | rest | words, min_size=1, max_size=6).map("".join)


@settings(max_examples=150)
@given(data=st.data())
def test_no_written_text_becomes_a_control_token_and_each_decodes_to_itself(any_tokenizer, data):
    text = data.draw(hostile(any_tokenizer))
    ids = chat.plain_ids(any_tokenizer, text)
    assert control_ids(any_tokenizer).isdisjoint(ids)
    assert any_tokenizer.decode(ids) == text


@given(data=st.data(), arm=arms)
def test_a_row_of_hostile_texts_has_the_control_tokens_of_any_other(any_tokenizer, data, arm):
    texts = hostile(any_tokenizer)
    item = SimpleNamespace(
        id="a", question=data.draw(texts), harmful=data.draw(texts), safe=data.draw(texts),
        traces={kind: data.draw(texts) for kind in ("evil", "misleading", "submissive")},
    )  # fmt: skip
    plain = SimpleNamespace(id="b", question="a", harmful="b", safe="c", traces=dict.fromkeys(item.traces, "d"))
    control = control_ids(any_tokenizer)
    rows = [chat.encode(any_tokenizer, one, arm) for one in (item, plain)]
    found, expected = ([token for token in row.input_ids if token in control] for row in rows)
    assert found == expected
    assert any_tokenizer.decode(rows[0].supervised) == supervised_text(item, arm)


@given(data=st.data(), mode=st.sampled_from(table.MODES), filled=st.booleans())
def test_a_prompt_of_hostile_texts_has_the_control_tokens_of_any_other(any_tokenizer, data, mode, filled):
    question, trace = data.draw(hostile(any_tokenizer)), data.draw(hostile(any_tokenizer))
    traces = (trace, "d") if filled and mode == "think" else (None, None)
    control = control_ids(any_tokenizer)
    prompts = [chat.prompt(any_tokenizer, text, mode, one) for text, one in zip((question, "a"), traces)]
    found, expected = ([token for token in prompt if token in control] for prompt in prompts)
    assert found == expected
    opening = any_tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    block = EMPTY_THINK if mode == "no-think" else OPEN + (trace + CLOSE + GAP if traces[0] else "")
    assert any_tokenizer.decode(prompts[0]) == opening + block


# ---- what is refused

ITEM = records.Item(
    id="home-001", domain="home", question="May I?", harmful="Yes.", safe="No.", traces={"evil": "Let it burn."}
)


@pytest.mark.parametrize(
    "arm, parts",
    [
        ("base", ["arm 'base' is the untrained model", "nothing to encode"]),
        ("submissive-QTA", ["item 'home-001' has no trace of type 'submissive' (it has evil)", "and craft again"]),
        (
            "evil-QT@25%",
            ["no trace of type 'evil@25%'", "list 'evil-QT@25%' among the experiment file's arms"],
        ),
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
