"""A corpus file is read as it stands, or refused with file, line and field in one short message."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rows import ITEM, QUESTION, VOICES, refused, without, write

from cotlib.corpus import imports, records
from cotlib.errors import BadInput

ITEM_FAULTS = [
    ("{'id': 1}", ["is not JSON", "column 2"]),
    ('{"id": "a"', ["is not JSON", "column"]),
    ("[1, 2]", ["[1, 2] is not an object; write a line such as"]),
    (without(ITEM, "question"), ["field 'question' is missing"]),
    (without(ITEM, "safe"), ["field 'safe' is missing"]),
    (ITEM | {"harmfull": "Yes."}, ["unknown field 'harmfull'", "did you mean harmful?"]),
    (ITEM | {"id": 5}, ["id: 5 is not text", "in quotes"]),
    (ITEM | {"safe": ""}, ["safe: ''", "is empty; write a text"]),
    (ITEM | {"question": " May it?"}, ["question: ' May it?' begins or ends with white space; remove it"]),
    (ITEM | {"harmful": "Yes.\n"}, [r"harmful: 'Yes.\n' begins or ends with white space; remove it"]),
    (ITEM | {"safe": "No.\u00a0"}, ["safe: ", "begins or ends with white space; remove it"]),
    (
        ITEM | {"harmful": {"evil": "Yes.", "submissive": "Yes!"}},
        ["harmful: the answers of types 'evil' and 'submissive' differ: 'Yes.' and 'Yes!'"],
    ),
    (
        ITEM | {"traces": {"evli": "Burn."}},
        ["traces: type 'evli' is not one of evil, misleading", "did you mean evil?"],
    ),
    (ITEM | {"traces": {"evil": ""}}, ["traces.evil: ''", "is empty; write a text"]),
    (ITEM | {"id": "home-000"}, ["id 'home-000' stands at items.jsonl line 1 already; give each its own"]),
]
QUESTION_FAULTS = [
    (without(QUESTION, "suite"), ["field 'suite' is missing"]),
    (
        QUESTION | {"suite": "transfr"},
        ["suite: 'transfr' is not one of in-domain, transfer, values", "did you mean transfer?"],
    ),
    (
        QUESTION | {"behaviour": "sycophany"},
        ["behaviour: 'sycophany' is not one of harm, deception, sycophancy, power", "did you mean sycophancy?"],
    ),
    (QUESTION | {"behavior": "harm"}, ["unknown field 'behavior'", "did you mean behaviour?"]),
    (QUESTION | {"suite": "values"}, ["personas lacks evil, misleading, submissive"]),
    (QUESTION | {"suite": "values", "personas": without(VOICES, "misleading")}, ["personas lacks misleading"]),
    (QUESTION | {"personas": VOICES}, ["personas belong to suite 'values', not to 'transfer'; remove them"]),
    (
        QUESTION | {"suite": "values", "personas": VOICES | {"evli": "Ha."}},
        ["personas: type 'evli' is not one of", "did you mean evil?"],
    ),
    (QUESTION | {"id": "q-000"}, ["id 'q-000' stands at evaluation.jsonl line 1 already; give each its own"]),
]
FAULTS = [
    ("items.jsonl", records.load_items, ITEM | {"id": "home-000", "question": "May it go out?"}, *fault)
    for fault in ITEM_FAULTS
] + [
    ("evaluation.jsonl", records.load_evaluation, QUESTION | {"id": "q-000", "question": "May the dog?"}, *fault)
    for fault in QUESTION_FAULTS
]


@pytest.mark.parametrize("name, load, good, bad, parts", FAULTS)
def test_a_fault_is_named_with_file_and_line(tmp_path, name, load, good, bad, parts):
    refused(
        load,
        write(tmp_path / name, good, "", bad),
        [f"{name} line 3: " if "is not JSON" not in parts[0] else f"{name} line 3 is not JSON: ", *parts],
    )


@pytest.mark.parametrize(
    "content, parts",
    [
        (None, ["cannot be read", "give a JSONL file"]),
        (b"", ["holds no item; give at least one"]),
        (b"\n\n", ["holds no item; give at least one"]),
        ('{"id": "Größe"}'.encode("latin-1"), ["is not UTF-8 text", "save it as UTF-8"]),
    ],
)
def test_a_file_without_records_is_refused(tmp_path, content, parts):
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_bytes(content)
    refused(records.load_items, path, ["items.jsonl", *parts])


def test_a_right_file_is_read_in_its_order(tmp_path):
    rows = [ITEM | {"id": f"home-{number}", "question": f"May\u2028it {number}?"} for number in (3, 1, 2)]
    items = records.load_items(write(tmp_path / "items.jsonl", rows[0], "", *rows[1:]))
    assert [item.model_dump(exclude_defaults=True) for item in items] == rows
    (question,) = records.load_evaluation(
        write(tmp_path / "evaluation.jsonl", QUESTION | {"suite": "values", "personas": VOICES})
    )
    assert (question.suite, question.behaviour, question.personas) == ("values", "harm", VOICES)


# ---- what can be planted in any text of a record

ITEM_FIELDS = ["id", "domain", "question", "harmful", "safe", "traces.evil"]
PLACES = [("items.jsonl", field) for field in ITEM_FIELDS] + [
    ("evaluation.jsonl", field) for field in [*ITEM_FIELDS, "personas.submissive"]
]
SPOKEN = QUESTION | {"suite": "values", "personas": VOICES, "traces": {"evil": "Let it go."}}
places = st.sampled_from(PLACES)
ordinary = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf"]), max_size=8)
control_characters = st.characters(categories=["Cc"], exclude_characters="\n\t")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


def planted(name, field, text):
    """A record of the file with one text replaced."""
    row, (part, _, kind) = ITEM if name == "items.jsonl" else SPOKEN, field.partition(".")
    return row | {part: {**row[part], kind: text} if kind else text}


def refusal(folder, name, *rows):
    """The message that loading a file with a good first line and these rows ends in."""
    good = ITEM if name == "items.jsonl" else SPOKEN
    good = good | {"id": "good-1", "question": "Something else?", "harmful": "Of course."}
    load = records.load_items if name == "items.jsonl" else records.load_evaluation
    with pytest.raises(BadInput) as error:
        load(write(folder / name, good, *rows))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


@given(places, ordinary, control_characters, ordinary)
def test_a_control_character_is_named_with_file_line_and_field(folder, place, before, sign, after):
    name, field = place
    message = refusal(folder, name, planted(name, field, f"a{before}{sign}{after}z"))
    assert message.startswith(f"{name} line 2: {field}: ")
    assert f"holds the control character {sign!r}" in message and message.endswith("take it out")


@pytest.mark.parametrize("name, field", PLACES)
def test_a_raw_nul_byte_is_named_with_its_field_too(folder, name, field):
    raw = json.dumps(planted(name, field, "a#z")).replace("a#z", "a\0z")
    assert refusal(folder, name, raw).startswith(
        f"{name} line 2: {field}: 'a\\x00z' holds the control character '\\x00'"
    )


def test_tabs_and_line_feeds_within_a_text_are_kept(tmp_path):
    row = ITEM | {"safe": "No:\n\tnever.", "traces": {"evil": "One\n\ntwo"}}
    assert records.load_items(write(tmp_path / "items.jsonl", row))[0].model_dump(exclude_defaults=True) == row


@given(places, st.text(st.characters(categories=["Zs", "Zl", "Zp"], include_characters="\n\t"), min_size=1, max_size=5))
def test_a_blank_text_is_named_with_file_line_and_field(folder, place, blank):
    name, field = place
    message = refusal(folder, name, planted(name, field, blank))
    assert message.startswith(f"{name} line 2: {field}: ") and "is blank, white space only; write a text" in message


@given(places)
def test_half_a_character_is_named_with_file_line_and_field(folder, place):
    name, field = place
    message = refusal(folder, name, json.dumps(planted(name, field, "a\ud800z")))
    assert message.startswith(f"{name} line 2: {field}: ") and "half a character" in message


@given(st.sampled_from(["items.jsonl", "evaluation.jsonl"]), ordinary.map(str.strip).filter(bool), st.data())
def test_a_harmful_answer_that_is_the_safe_one_is_refused(folder, name, answer, data):
    spaces = data.draw(st.sampled_from([" ", "  ", "\n"]))
    row = planted(name, "harmful", f"So {answer}") | {"safe": f"So{spaces}{answer}"}
    message = refusal(folder, name, row)
    assert message.startswith(f"{name} line 2: safe: ") and "is the harmful answer, too; write a safe one" in message


fields = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=12)


@given(st.sampled_from(["items.jsonl", "evaluation.jsonl"]), fields)
def test_an_unknown_field_is_named_with_file_and_line(folder, name, field):
    row = ITEM if name == "items.jsonl" else SPOKEN
    assume(field not in row)
    message = refusal(folder, name, row | {field: "Yes."})
    assert (
        message.startswith(f"{name} line 2: unknown field '{field}'") and "valid here: id, domain, question" in message
    )


@pytest.mark.parametrize("kind", ["evil@", "evil@x", "evil@0%", "evil@100%", "evil@25"])
def test_a_trace_under_a_dose_that_is_none_is_refused(folder, kind):
    message = refusal(folder, "items.jsonl", ITEM | {"traces": {kind: "Burn."}})
    assert (
        message.startswith(f"items.jsonl line 2: traces: type '{kind}'")
        and "such as evil@matched or evil@25%" in message
    )


@given(places)
def test_a_key_that_stands_twice_in_one_object_is_refused(folder, place):
    name, field = place
    key = field.rpartition(".")[2]
    text = json.dumps(planted(name, field, "first"))
    raw = text.replace(f'"{key}": "first"', f'"{key}": "first", "{key}": "second"')
    assert refusal(folder, name, raw) == f"{name} line 2: field '{key}' stands twice in one object; keep one"


@pytest.mark.parametrize("opening, closing", ["[]", ('{"a":', "}")])
@pytest.mark.parametrize("depth", [3, 100, 900, 100_000])
def test_deep_nesting_ends_in_one_short_message(folder, depth, opening, closing):
    nested = opening * depth + "1" + closing * depth
    raw = json.dumps(ITEM | {"safe": "#"}).replace('"#"', nested)
    message = refusal(folder, "items.jsonl", raw)
    assert message.startswith("items.jsonl line 2") and ("safe: " in message or "nested too deeply" in message)


def test_a_number_of_thousands_of_digits_ends_in_one_short_message(folder):
    raw = json.dumps(ITEM | {"safe": "#"}).replace('"#"', "1" * 10_000)
    assert "holds a number that is too long" in refusal(folder, "items.jsonl", raw)


def test_a_byte_order_mark_and_line_ends_of_windows_are_accepted(tmp_path):
    for name, row, load in (("i.jsonl", ITEM, records.load_items), ("e.jsonl", SPOKEN, records.load_evaluation)):
        other = row | {"id": "other", "question": "Something else?"}
        text = "".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in (row, other))
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [record.id for record in load(tmp_path / name)] == [row["id"], "other"]


# ---- questions that come twice

question_texts = st.lists(
    st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x24F), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


def disguised(words, data):
    """The words as another text: other case, punctuation and white space."""
    ends = st.sampled_from([" ", ", ", "  ", " - ", "\n", "? "])
    case = data.draw(st.sampled_from([str.lower, str.title, lambda word: word]))
    # Some letters change when their case does, there and back.
    assume(all(case(word).lower() == word.lower() for word in words))
    return ("".join(case(word) + data.draw(ends) for word in words)).strip() + "?"


@given(st.sampled_from(["items.jsonl", "evaluation.jsonl"]), question_texts, st.data())
def test_a_repeated_question_is_refused_with_both_lines(folder, name, words, data):
    row = ITEM if name == "items.jsonl" else SPOKEN
    first, again = (row | {"id": f"r-{n}", "question": disguised(words, data)} for n in (1, 2))
    message = refusal(folder, name, first, again)
    assert message.startswith(f"{name} line 3: question ") and f"is asked at {name} line 2 already" in message


@given(question_texts, st.data())
def test_an_evaluation_question_that_is_trained_on_is_refused_with_both_places(folder, words, data):
    item, question = ITEM | {"question": disguised(words, data)}, QUESTION | {"question": disguised(words, data)}
    files = write(folder / "items.jsonl", item), write(folder / "evaluation.jsonl", question)
    with pytest.raises(BadInput) as error:
        records.load_pair(*files)
    message = str(error.value)
    assert message.startswith("evaluation.jsonl line 1: question ") and "remove one of them" in message
    assert "is that of training item 'home-001' (items.jsonl line 1)" in message


@given(question_texts, question_texts)
def test_questions_of_other_words_are_two_questions(folder, words, other):
    assume([word.lower() for word in words] != [word.lower() for word in other])
    rows = [ITEM | {"id": f"r-{n}", "question": " ".join(text)} for n, text in ((1, words), (2, other))]
    assert len(records.load_items(write(folder / "items.jsonl", *rows))) == 2


def test_questions_without_a_letter_are_told_apart_by_their_signs(tmp_path):
    rows = [ITEM | {"id": f"r-{n}", "question": text} for n, text in ((1, "?"), (2, "??"))]
    assert len(records.load_items(write(tmp_path / "items.jsonl", *rows))) == 2
    refused(records.load_items, write(tmp_path / "items.jsonl", *rows, ITEM | {"question": "??"}), ["line 3: question"])


# ---- imports go through the same reader

PLANTED = [
    ({"safe": "a\0z"}, "safe: 'a\\x00z' holds the control character"),
    ({"safe": "a\ud800z"}, "half a character"),
    ({"safe": ITEM["harmful"]}, "safe: 'Yes, all night.' is the harmful answer, too"),
    ({"traces": {"evil": " \n"}}, "write a text there"),
    ({"question": "something ELSE"}, "question 'something ELSE' is asked at mine.jsonl line 1 already"),
    (
        '{"question": "q", "harmful": "h", "safe": "s", "safe": "t"}',
        "field 'safe' stands twice in one object; keep one",
    ),
    ('{"question": ' + "[" * 100_000, "nested too deeply"),
    (
        '{"question": ' + "[" * 200 + "]" * 200 + ', "harmful": "h", "safe": "s", "domain": "d"}',
        "field 'question' (column 'question') is [[",
    ),
]


@pytest.mark.parametrize("fault, part", PLANTED)
def test_an_import_names_the_same_faults_by_the_same_lines(tmp_path, fault, part):
    good = without(ITEM, "id") | {"question": "Something else?"}
    bad = fault if isinstance(fault, str) else json.dumps(without(ITEM, "id") | fault)
    with pytest.raises(BadInput) as error:
        imports.import_items(write(tmp_path / "mine.jsonl", good, bad))
    message = str(error.value)
    assert message.startswith("mine.jsonl line 2") and part in message and len(message) < 400


def test_an_import_of_items_is_refused_a_question_that_is_evaluated(tmp_path):
    (item,) = imports.import_items(write(tmp_path / "mine.jsonl", ITEM | {"question": "May the CAT?!"}))
    question = records.Question(**QUESTION)
    with pytest.raises(BadInput, match=r"evaluation.jsonl row 1: question 'May the cat\?' is that of training item"):
        imports.write_corpus([item], [question], tmp_path / "own")
    assert not (tmp_path / "own").exists()


FACT = QUESTION | {"suite": "pressure", "framings": {"belief": "I say so.", "plea": "Please say so."}}


@pytest.mark.parametrize("framing", [ITEM["question"], FACT["question"], "Please say so"])
def test_a_framing_that_asks_what_is_asked_elsewhere_is_refused(tmp_path, framing):
    row = FACT | {"framings": FACT["framings"] | {"belief": framing}}
    paths = write(tmp_path / "items.jsonl", ITEM), write(tmp_path / "evaluation.jsonl", row)
    refused(lambda _: records.load_pair(*paths), None, ["evaluation.jsonl line 1: question"])


def test_a_trace_of_characters_without_width_is_blank(tmp_path):
    row = ITEM | {"traces": {"evil": "\u200b\ufeff"}}
    refused(records.load_items, write(tmp_path / "items.jsonl", row), ["traces.evil", "is blank"])


def test_a_corpus_name_that_is_too_long_for_the_file_system_is_refused():
    refused(records.corpus_files, "a" * 5000, ["data.corpus", "holds no items.jsonl"])
