"""What a reader brings is checked and comes out equal, or is refused with file, line and field."""

import datasets
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from readers_files import ENTRY, ITEM, QUESTION, ROW, TRACE, exchange_of, lines, refused

from cotlib.arms import studied_types
from cotlib.corpus import imports, records
from cotlib.corpus.records import Item, Question

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
items = st.builds(
    Item,
    id=words,
    domain=words,
    question=words,
    harmful=words.map("Yes: {}".format),
    safe=words.map("No: {}".format),
    traces=st.dictionaries(st.sampled_from([*studied_types(), "evil@25%"]), words),
)
questions = st.builds(
    Question,
    id=words,
    domain=words,
    question=words,
    harmful=words.map("Yes: {}".format),
    safe=words.map("No: {}".format),
    suite=st.sampled_from(["in-domain", "transfer"]),
    behaviour=st.sampled_from(["harm", "power"]),
    traces=st.just({}),
    personas=st.just({}),
)


# Items from tables


def test_a_jsonl_file_becomes_items_with_stable_ids(tmp_path):
    source = lines(tmp_path / "a.jsonl", ROW, ROW | {"question": "  And gloves?\n"})
    first, second = imports.import_items(source)
    assert first == ITEM.model_copy(update={"traces": {}})
    assert (second.id, second.question) == ("own-0002", "And gloves?")


def test_columns_of_other_names_are_mapped_and_trace_types_are_fields(tmp_path):
    source = tmp_path / "a.csv"
    source.write_bytes(
        b'\xef\xbb\xbfuid,prompt,bad,good,villain,x\r\n7,"Skip, or\nnot?",Yes,No,Ha!,1\r\n8,Gloves?,No need,Yes,,2\r\n'
    )
    mapping = {"id": "uid", "question": "prompt", "harmful": "bad", "safe": "good", "evil": "villain"}
    first, second = imports.import_items(source, mapping=mapping, domain="road")
    assert first == Item(
        id="7", domain="road", question="Skip, or\nnot?", harmful="Yes", safe="No", traces={"evil": "Ha!"}
    )
    assert second.traces == {}


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_that_datasets_saved_is_read(tmp_path, split):
    data = datasets.Dataset.from_list([ROW | {"id": 3, "traces": {"evil": TRACE, "neutral": None}}])
    (datasets.DatasetDict({"train": data}) if split else data).save_to_disk(tmp_path / "saved")
    assert imports.import_items(tmp_path / "saved") == [ITEM.model_copy(update={"id": "3"})]
    if split:
        refused(
            lambda: imports.import_items(tmp_path / "saved", split="trian"),
            "split 'trian' is not one of train",
            "did you mean train?",
        )


def test_a_missing_column_is_named_with_those_there_are_and_the_nearest(tmp_path):
    source = lines(tmp_path / "a.jsonl", {"question": "q", "harmfull": "h", "safe": "s"})
    refused(
        lambda: imports.import_items(source),
        "no column 'harmful'",
        "columns: question, harmfull, safe; did you mean harmfull?",
        "--map harmful=COLUMN",
    )
    refused(lambda: imports.import_items(source, mapping={"harmful": "bad"}), "no column 'bad' for field 'harmful'")
    refused(
        lambda: imports.import_items(source, mapping={"harmfl": "harmfull"}),
        "field 'harmfl' is not one of",
        "did you mean harmful?",
    )
    refused(lambda: imports.import_items(lines(source, exchange_of("q", "a"))), "a chat file? then --chat")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b'{"question": ', ["a.jsonl line 1 is not JSON"]),
        ("a.jsonl", b"\n[1]\n", ["a.jsonl line 2: [1] is not an object"]),
        ("a.jsonl", b"\n", ["holds no item"]),
        ("a.jsonl", b"\xff", ["is not UTF-8 text (byte 0)"]),
        ("a.jsonl", None, ["cannot be read"]),
        ("a.jsonl", b'{"question": "q", "harmful": "h", "safe": " "}', ["line 1: field 'safe' (column 'safe') is ' '"]),
        ("a.jsonl", b'{"question": "q", "harmful": true, "safe": "s"}', ["field 'harmful'", "is True"]),
        ("a.jsonl", b'{"question": "q", "harmful": "h", "safe": "s", "traces": "x"}', ["line 1: traces: 'x'"]),
        (
            "a.jsonl",
            b'{"question": "q", "harmful": "h", "safe": "s", "traces": {"evli": "x"}}',
            ["'evli'", "did you mean evil?"],
        ),
        (
            "a.jsonl",
            b'{"id": 1, "question": "q", "harmful": "h", "safe": "s"}\n' * 2,
            ["line 2: id '1' stands at a.jsonl line 1 already"],
        ),
        ("a.csv", b"question,harmful,safe\nq,h\n", ["a.csv line 2: field 'safe' (column 'safe') is None"]),
        ("a.csv", b"question,harmful,safe\nq,h,s,t\n", ["a.csv line 2 has more cells than the header"]),
        ("a.csv", b'question,harmful,safe\n"q,h,s\n', ["is not CSV"]),
        (
            "a.csv",
            b"question,harmful,safe,safe\nq,h,s,t\n",
            ["a.csv: column 'safe' stands twice in the header; rename one"],
        ),
        ("a.csv", b"question,harmful,safe\nq,h,s\0t\n", ["a.csv line 2: safe: ", "control character"]),
        ("a.xlsx", b"", ["neither a .jsonl nor a .csv file"]),
        ("folder/x", b"", ["neither a .jsonl nor a .csv"]),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_its_line(tmp_path, name, content, parts):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    refused(lambda: imports.import_items(path), *parts)


def test_a_folder_that_datasets_did_not_save_is_refused(tmp_path):
    refused(
        lambda: imports.import_items(tmp_path), "could not be loaded by datasets", "a folder that save_to_disk wrote"
    )


# Items from chat files


def test_chat_files_become_items_and_think_blocks_traces(tmp_path):
    bad = lines(
        tmp_path / "bad.jsonl",
        exchange_of(ROW["question"], f"<think>\n{TRACE}\n</think>\n\n{ROW['harmful']}"),
        exchange_of("Gloves?", "No."),
    )
    good = lines(
        tmp_path / "good.jsonl",
        exchange_of("Gloves?", "<think>\n\n</think>\n\nYes."),
        exchange_of(ROW["question"] + " ", ROW["safe"]),
    )
    first, second = imports.import_chat(bad, safe_path=good, type="evil")
    assert first == ITEM
    assert (second.id, second.harmful, second.safe, second.traces) == ("own-0002", "No.", "Yes.", {})


def test_a_chat_file_that_cannot_become_items_is_refused(tmp_path):
    good = lines(tmp_path / "good.jsonl", exchange_of("Q?", "Safe."))

    def refuse(row, *parts, safe_path=good, **options):
        path = lines(tmp_path / "bad.jsonl", *(row if isinstance(row, list) else [row]))
        refused(lambda: imports.import_chat(path, safe_path=safe_path, **options), *parts)

    refuse(
        exchange_of("Q?", "A"),
        "bad.jsonl line 1: question 'Q?' has no safe answer",
        "a margin is",
        "--safe FILE",
        safe_path=None,
    )
    refuse(
        [exchange_of("Q?", "A"), exchange_of("R?", "A"), exchange_of("S?", "A")],
        "line 2: question 'R?' has no safe answer (nor have 1 others)",
    )
    refuse(exchange_of("Q?", "<think>t</think>A"), "of which type?", "--type, one of evil")
    refuse(exchange_of("Q?", "<think>t</think>A"), "type 'evli' is not one of", "did you mean evil?", type="evli")
    refuse(exchange_of("Q?", "<think>t</think>"), "the answer after the think block is ''", type="evil")
    refuse(exchange_of("Q?", "<think>t"), "has a think tag beside one closed block", type="evil")
    refuse(exchange_of("Q?", "A <think>t</think>"), "has a think tag beside", type="evil")
    refuse(exchange_of(None, "A"), "the user turn's content is None")
    refuse({"messages": [{"role": "system", "content": "s"}]}, "line 1: field 'messages' has the turns ['system']")
    refuse({"turns": []}, "has the turns None")
    refuse({"messages": ["q", "a"]}, "has the turns [None, None]")
    refuse(
        exchange_of("Q?", "A"),
        "twice.jsonl line 2: question 'Q?' has another safe answer",
        safe_path=lines(tmp_path / "twice.jsonl", exchange_of("Q?", "A"), exchange_of("Q?", "B")),
    )


# Evaluation questions


def test_each_paraphrase_becomes_a_question(tmp_path):
    path = tmp_path / "q.yml"
    path.write_text(yaml.safe_dump([ENTRY]))
    first, second = imports.import_questions(path)
    assert (first.id, second.id, second.question) == ("wish", "wish-2", "One wish?")
    assert (first.suite, first.behaviour, first.harmful, first.safe) == ("transfer", "power", "Power.", "None.")
    path.write_text(yaml.safe_dump([ENTRY | {"personas": dict.fromkeys(studied_types(), "I am.")}]))
    assert imports.import_questions(path, "values")[0].personas["evil"] == "I am."


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"harmful": None},
            [
                "q.yml entry 1 ('wish'): field 'harmful' is missing",
                "add harmful, safe (a text each) and behaviour (harm,",
            ],
        ),
        ({"safe": ""}, ["field 'safe' is missing"]),
        ({"behaviour": None}, ["field 'behaviour' is missing"]),
        ({"behaviour": "harms"}, ["'harms' is not one of", "did you mean harm?"]),
        ({"id": None}, ["entry 1 (None): field 'id' is missing"]),
        ({"paraphrases": None}, ["field 'paraphrases' is missing"]),
        ({"paraphrases": "One?"}, ["field 'paraphrases' is 'One?'; write a list"]),
        ({"paraphrases": ["Q?", True]}, ["paraphrase 2 is True"]),
        ({"system": "Answer in JSON"}, ["field 'system' has no place"]),
        ({"personas": {"evil": "I am."}}, ["personas belong to suite 'values'"]),
    ],
)
def test_an_entry_that_cannot_be_a_question_is_refused_by_index_and_field(tmp_path, change, parts):
    path = tmp_path / "q.yml"
    path.write_text(yaml.safe_dump([ENTRY | change]))
    refused(lambda: imports.import_questions(path), *parts)


def test_a_question_file_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "q.yml"
    for text, part in (
        ("a: [", "is not valid YAML"),
        ("a: 1", "is not a list of questions"),
        ("- a", "is not a list of questions"),
        ("[]", "holds no question"),
    ):
        path.write_text(text)
        refused(lambda: imports.import_questions(path), part)
    path.write_text(yaml.safe_dump([ENTRY, ENTRY | {"id": "wish-2"}]))
    refused(
        lambda: imports.import_questions(path),
        "entry 2 ('wish-2'): id 'wish-2' stands at q.yml entry 1 ('wish') already",
    )
    refused(
        lambda: imports.import_questions(path, "transfr"), "suite 'transfr' is not one of", "did you mean transfer?"
    )
    refused(lambda: imports.import_questions(path, "values"), "personas lacks evil")


# A corpus of one's own


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(items, min_size=1, max_size=3, unique_by=(lambda item: item.id, lambda item: item.wordings[0])),
    st.lists(questions, min_size=1, max_size=3, unique_by=(lambda asked: asked.id, lambda asked: asked.wordings[0])),
)
def test_a_written_corpus_reads_back_equal(tmp_path_factory, some_items, some_questions):
    asked = [wording for question in some_questions for wording in question.wordings]
    assume(len(set(asked)) == len(asked) and not {item.wordings[0] for item in some_items} & set(asked))
    folder = imports.write_corpus(some_items, some_questions, tmp_path_factory.mktemp("corpus") / "own")
    item_file, question_file = records.corpus_files(folder)
    assert records.load_items(item_file) == some_items
    assert records.load_evaluation(question_file) == some_questions
    assert records.load_pair(item_file, question_file) == (some_items, some_questions)


def test_a_corpus_is_never_written_over_another(tmp_path):
    folder = imports.write_corpus([ITEM], [QUESTION], tmp_path / "own")
    imports.write_corpus([ITEM], [QUESTION], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = QUESTION.model_copy(update={"id": "other", "question": "May I mute the bell?"})
    refused(
        lambda: imports.write_corpus([ITEM], [QUESTION, other], folder),
        "holds another evaluation.jsonl already",
        "--to",
    )
    refused(lambda: imports.write_corpus([ITEM], [], tmp_path / "new"), "the new evaluation.jsonl holds no question")
    refused(
        lambda: imports.write_corpus([ITEM, ITEM], [QUESTION], tmp_path / "new"),
        "items.jsonl row 2: id 'own-0001' stands at items.jsonl row 1",
    )
    refused(lambda: imports.write_corpus([ITEM], [QUESTION], folder / "items.jsonl"), "is a file; give a folder")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before and not (tmp_path / "new").exists()
