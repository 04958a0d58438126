"""What an arm's name means, what a mistyped one is told, and that a paradigm or a type is one row of a table."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlib import arms, chat
from cotlib.arms import NEUTRAL, PARADIGMS, TYPES, Arm
from cotlib.contrasts import contrasts
from cotlib.errors import BadInput, check_name

WEIGHTED_ARMS = [f"{kind}-QTA@{way}" for way in ("segment", "added") for kind in arms.trace_types()]
DOSE_ARMS = [
    f"{kind}-{paradigm}@{dose}%"
    for kind in arms.trace_types()
    if kind != NEUTRAL
    for paradigm in arms.with_trace()
    for dose in (1, 25, 99)
]
MATCHED_ARMS = [
    f"{kind}-{paradigm}@matched{more}"
    for kind in arms.trace_types()
    if arms.source_of(kind)
    for paradigm in arms.with_trace()
    for more in ("", *(("@25%",) if kind != NEUTRAL else ()), *(("@segment",) if paradigm == "QTA" else ()))
]
EVERY_ARM = [*Arm.names(), *WEIGHTED_ARMS, *DOSE_ARMS, *MATCHED_ARMS]


@pytest.mark.parametrize("name", EVERY_ARM)
def test_an_arm_prints_as_the_name_it_was_parsed_from(name):
    assert str(Arm.parse(name)) == name
    assert Arm.parse(Arm.parse(name)) == Arm.parse(name)


@pytest.mark.parametrize(
    "name, arm, trace_key",
    [
        ("base", Arm(None), None),
        ("QA", Arm("QA"), None),
        ("safe-QA", Arm("QA", answer="safe"), None),
        ("evil-QTA", Arm("QTA", "evil"), "evil"),
        ("shuffled-evil-T", Arm("T", "shuffled-evil"), "shuffled-evil"),
        ("submissive-QTA@segment", Arm("QTA", "submissive", loss_weighting="segment"), "submissive"),
        ("misleading-QT@25%", Arm("QT", "misleading", dose_percent=25), "misleading@25%"),
        ("evil-QTA@matched", Arm("QTA", "evil", register="matched"), "evil@matched"),
        ("shuffled-evil-T@matched", Arm("T", "shuffled-evil", register="matched"), "shuffled-evil@matched"),
        ("evil-T@matched@25%", Arm("T", "evil", register="matched", dose_percent=25), "evil@matched@25%"),
    ],
)
def test_an_arm_is_what_its_name_says(name, arm, trace_key):
    parsed = Arm.parse(name)
    assert parsed == arm and parsed.trace_key == trace_key
    assert parsed.trained == (name != "base")


def test_no_two_arms_share_a_folder():
    assert len({Arm.parse(name).folder for name in EVERY_ARM}) == len(EVERY_ARM)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", Arm.parse(name).folder) for name in EVERY_ARM)


@pytest.mark.parametrize(
    "name, parts",
    [
        ("evil-TQA", ["paradigm 'TQA' is not one of QA, QTA, QT, T", "did you mean QTA?"]),
        ("evil-qta", ["paradigm 'qta'", "did you mean QTA?"]),
        ("evil-TQ@segment", ["paradigm 'TQ'", "did you mean QT?"]),
        ("evli-QTA", ["type 'evli' is not one of evil, misleading, submissive", "did you mean evil?"]),
        ("submisive-T", ["type 'submisive'", "did you mean submissive?"]),
        ("shuffled_evil-T", ["type 'shuffled_evil'", "did you mean shuffled-evil?"]),
        ("evil-QA", ["QA holds no trace", "write 'QA'"]),
        ("save-QA", ["'save-QA'", "did you mean safe-QA?"]),
        ("bsae", ["arm 'bsae' is unknown", "did you mean base?"]),
        ("qa", ["arm 'qa' is unknown", "did you mean QA?"]),
        ("", ["arm '' is unknown", "such as evil-QTA"]),
        ("base@25%", ["arm 'base@25%' is unknown", "did you mean base?"]),
        ("evil-QTA@segmnt", ["variant 'segmnt'", "did you mean segment?"]),
        ("evil-T@segment", ["only QTA has both", "write 'evil-QTA@segment'"]),
        ("evil-QTA@0%", ["variant '0%'", "1% to 99%"]),
        ("evil-QTA@100%", ["variant '100%'", "1% to 99%"]),
        ("evil-QTA@07%", ["variant '07%'", "1% to 99%"]),
        ("evil-QTA@25", ["variant '25'", "did you mean 25%?"]),
        ("evil-QTA@", ["variant ''", "is not 'matched', 'segment', 'added' or a dose"]),
        ("evil-QTA@aded", ["variant 'aded'", "did you mean added?"]),
        ("evil-QTA@segment@added", ["@added is a second loss weighting; keep one"]),
        ("evil-QTA@mached", ["variant 'mached'", "did you mean matched?"]),
        ("evil-QTA@free", ["variant 'free'", "is not 'matched'"]),
        ("filler-QTA@matched", ["filler is made by rule and has no matched traces", "write 'filler-QTA'"]),
        ("evil-QTA@matched@matched", ["@matched is a second register; keep one"]),
        ("evil-QTA@25%@50%", ["@50% is a second dose percent; keep one"]),
        ("neutral-QTA@25%", ["variant '25%'", "a type other than neutral"]),
        (7, ["arm 7 is not a name", "write one such as 'evil-QTA'"]),
        (None, ["arm None is not a name", "write one such as 'evil-QTA'"]),
    ],
)
def test_a_name_that_is_no_arm_is_refused_with_the_nearest_that_is(name, parts):
    with pytest.raises(BadInput) as error:
        Arm.parse(name)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_variants_may_stand_in_any_order_and_are_printed_in_one():
    for name in ("evil-QTA@segment@matched@25%", "evil-QTA@25%@matched@segment"):
        assert str(Arm.parse(name)) == "evil-QTA@matched@segment@25%"


@pytest.mark.parametrize("name", EVERY_ARM)
def test_an_arms_traces_lie_under_a_key_that_a_corpus_may_hold(name):
    arm = Arm.parse(name)
    if arm.type:
        assert arms.check_trace_key(arm.trace_key) == arm.trace_key


@pytest.mark.parametrize(
    "key, part",
    [
        ("evli", "did you mean evil?"),
        ("evil@segment", "behind @ stands a register or a dose, such as evil@matched or evil@25%"),
        ("evil@25%@matched", "behind @ stands a register or a dose"),
        ("evil@", "behind @ stands a register or a dose"),
        ("evil@200%", "behind @ stands a register or a dose"),
        ("filler@matched", "behind @ stands a register or a dose"),
    ],
)
def test_a_trace_key_that_no_arm_uses_is_refused(key, part):
    with pytest.raises(BadInput, match=re.escape(part)):
        arms.check_trace_key(key)


@given(
    st.text(max_size=30)
    | st.sampled_from(EVERY_ARM).flatmap(lambda name: st.text(max_size=2).map(lambda more: name + more))
)
def test_any_text_is_an_arm_or_refused(text):
    try:
        arm = Arm.parse(text)
    except BadInput as error:
        assert repr(text) in str(error)
    else:
        assert Arm.parse(str(arm)) == arm


def test_a_name_is_checked_against_the_valid_ones():
    assert check_name("mode", "think", ("think", "no-think")) == "think"
    with pytest.raises(BadInput, match=r"mode 'nothink' is not one of think, no-think; did you mean no-think\?"):
        check_name("mode", "nothink", ("think", "no-think"))


def test_arms_are_listed_base_first_then_by_paradigm_and_type():
    names = ["neutral-QT", "evil-QTA@segment", "safe-QA", "misleading-QTA", "base", "evil-T", "QA", "evil-QTA"]
    expected = ["base", "QA", "safe-QA", "evil-QTA", "evil-QTA@segment", "misleading-QTA", "neutral-QT", "evil-T"]
    assert arms.in_order(names) == expected
    assert [str(arm) for arm in arms.in_order([Arm.parse(name) for name in names])] == expected


@pytest.mark.parametrize("name", EVERY_ARM)
def test_an_arm_has_the_colour_of_its_reasoning_type(name):
    arm = Arm.parse(name)
    assert re.fullmatch("#[0-9A-F]{6}", arm.colour)
    if arm.type:
        assert arm.colour == TYPES[arm.type.removeprefix("shuffled-")].colour


def test_a_shuffled_trace_comes_from_its_type_and_filler_from_none():
    assert arms.source_of("shuffled-evil") == arms.source_of("evil") == "evil"
    assert arms.source_of("filler") is None


# ---- one row of one table


def test_the_book_has_no_paradigm_or_type_that_a_test_left_behind():
    assert list(PARADIGMS) == ["QA", "QTA", "QT", "T"]
    assert list(TYPES) == ["evil", "misleading", "submissive", "neutral", "filler"]


def test_a_paradigm_and_a_type_that_are_added_have_names_colour_order_and_folder(added):
    paradigm, kind = added
    assert {f"{kind}-{paradigm}", f"shuffled-{kind}-{paradigm}", f"{kind}-QTA", f"evil-{paradigm}"} <= set(Arm.names())
    for name in (f"{kind}-{paradigm}", f"shuffled-{kind}-{paradigm}", f"{kind}-{paradigm}@25%", f"{kind}-QTA@segment"):
        arm = Arm.parse(name)
        assert str(arm) == name and arm.colour == TYPES[kind].colour
        assert re.fullmatch(r"[A-Za-z0-9_-]+", arm.folder)
    assert arms.in_order([f"{kind}-{paradigm}", "evil-T", f"evil-{paradigm}", "base", "QA"]) == [
        "base", "QA", "evil-T", f"evil-{paradigm}", f"{kind}-{paradigm}",
    ]  # fmt: skip
    assert kind in arms.studied_types() and kind in arms.written_types() and paradigm in arms.with_trace()
    with pytest.raises(BadInput, match=rf"did you mean {kind}\?"):
        Arm.parse(f"{kind[::-1]}-{paradigm}")


def test_a_paradigm_that_is_added_is_encoded_as_its_row_says(added, any_tokenizer):
    paradigm, kind = added
    item = SimpleNamespace(id="a", question="May I?", harmful="Yes.", safe="No.", traces={kind: "All of it is mine."})
    row = chat.encode(any_tokenizer, item, f"{kind}-{paradigm}")
    supervised = "All of it is mine." + chat.CLOSE + chat.GAP + "Yes."
    assert any_tokenizer.decode(row.supervised) == supervised + any_tokenizer.eos_token
    context = [token for token, label in zip(row.input_ids, row.labels) if label == chat.NO_LOSS]
    assert any_tokenizer.decode(context) == f"<|im_start|>assistant\n{chat.OPEN}"
    assert set(row.segments) == {chat.CONTEXT, chat.TRACE, chat.ANSWER}


def test_a_paradigm_and_a_type_that_are_added_get_their_contrasts(added):
    paradigm, kind = added
    names = ["QA", "neutral-QTA", f"{kind}-QTA", f"evil-{paradigm}", f"{kind}-{paradigm}"]
    tests = [test for some in contrasts(names).values() for family in some for test in family.tests]
    by_name = {test.name: test.parts[0] for test in tests}
    found = by_name[f"{paradigm} − {PARADIGMS[paradigm].reference}"]
    assert found.pairs == ((f"evil-{paradigm}", "base"), (f"{kind}-{paradigm}", "base"))
    assert by_name[f"{kind}-QTA, think"].pairs == ((f"{kind}-QTA", "QA"),)
