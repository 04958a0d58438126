"""JSON and YAML texts become data, or one short message that says where and why not; so do pydantic's errors."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotlib.errors import BadInput
from cotlib.runs import documents

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def refusal(parse, text):
    with pytest.raises(BadInput) as error:
        parse(text, "my file")
    message = str(error.value)
    assert message.startswith("my file") and "\n" not in message and len(message) < 400
    return message


@given(values)
def test_what_was_written_is_read(value):
    assert documents.parse_json(json.dumps(value), "here") == value
    assert documents.parse_yaml(yaml.safe_dump(value), "here") == value


@given(st.text(max_size=30))
def test_any_text_is_data_or_refused(text):
    for parse in (documents.parse_json, documents.parse_yaml):
        try:
            parse(text, "my file")
        except BadInput as error:
            assert str(error).startswith("my file") and "\n" not in str(error)


def test_a_key_that_stands_twice_is_refused_with_its_lines():
    assert "field 'a' stands twice in one object; keep one" in refusal(documents.parse_json, '[{"a": 1, "a": 1}]')
    text = "a:\n  b: 1\n  c: 2\n  b: 3\n"
    assert refusal(documents.parse_yaml, text) == "my file: key 'b' stands twice, on lines 2 and 4; keep one"


def test_a_key_that_stands_twice_on_one_line_or_is_no_name_is_refused_with_its_line():
    assert (
        refusal(documents.parse_yaml, "a: 1\nb: {c: 1, c: 2}") == "my file: key 'c' stands twice, on line 2; keep one"
    )
    assert refusal(documents.parse_yaml, "a: 1\n? [b]\n: 1") == (
        "my file line 2: a key is a list or a mapping; write a name"
    )


def test_a_key_in_two_objects_is_no_repetition_nor_is_one_that_a_merge_brings():
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}\n"
    assert documents.parse_yaml(text, "here")["other"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("parse", [documents.parse_json, documents.parse_yaml])
@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000])
def test_deep_nesting_ends_in_one_short_message(parse, text):
    assert "nested too deeply" in refusal(parse, text)


def test_aliases_that_expand_without_end_are_refused():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefgh", "bcdefghi"):
        bomb += f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]\n"
    assert "its aliases (*name) expand to more than" in refusal(documents.parse_yaml, bomb)
    assert "an alias (*name) holds itself" in refusal(documents.parse_yaml, "a: &a [1, *a]")


def test_an_alias_for_a_value_is_read():
    assert documents.parse_yaml("a: &a [1]\nb: [*a, *a]", "here")["b"] == [[1], [1]]


def test_a_file_is_read_without_its_byte_order_mark(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfword")
    assert documents.read_text(tmp_path / "a") == "word"
    (tmp_path / "a").write_bytes(b"word \xff")
    with pytest.raises(BadInput, match=r"is not UTF-8 text \(byte 5\); save it as UTF-8"):
        documents.read_text(tmp_path / "a")
    with pytest.raises(BadInput, match="cannot be read .*; give a file that is there"):
        documents.read_text(tmp_path / "none")
