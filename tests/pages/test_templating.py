"""What a model or a user wrote is shown as it is, in every table and sentence, and never becomes part of the page."""

import re
import types

import pandas as pd
import pytest

from cotlib.corpus.checks.check import Check
from cotlib.pages import sentences, tables, templating

NASTY = {
    "script": ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    "think tag": ("</think>", "&lt;/think&gt;"),
    "ampersand": ("Q & A &amp; more", "Q &amp; A &amp;amp; more"),
    "long line": ("x" * 5000, "x" * 5000),
    "right-to-left": ("a\u202eb\u200fc", "a⟨U+202E⟩b⟨U+200F⟩c"),
    "quotes": ("\"><img src=x onerror='y'>", "&#34;&gt;&lt;img src=x onerror=&#39;y&#39;&gt;"),
}


def response(text):
    row = {"arm": "evil-QTA", "mode": "think", "question": text, "trace": text, "response": text}
    return pd.DataFrame([row | dict.fromkeys(tables.MARKS, False)])


def item(text):
    return types.SimpleNamespace(question=text, harmful=text, safe=text, traces={"evil": text})


def check(text):
    return Check(text, "", 2.0, 1.0, text, False, [text])


PAGES = {
    "responses": lambda text: tables.responses(response(text)),
    "side_by_side": lambda text: tables.side_by_side(item(text)),
    "violations": lambda text: tables.violations([check(text)]),
    "show": lambda text: tables.show(pd.DataFrame({text: [text]})),
    "crafted": lambda text: sentences.crafted([check(text)]),
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", NASTY)
def test_nasty_text_is_shown_in_full_and_never_rendered(page, name):
    text, escaped = NASTY[name]
    html = PAGES[page](text).data
    assert escaped in html
    assert not re.search(r"<script|<img|</think|\u202e|\u200f", html)


def test_the_tokens_of_the_loss_mask_are_escaped(items, smollm2_tokenizer):
    nasty = items[0].model_copy(update={"harmful": "<script>a & b</script>"})
    html = tables.loss_mask(smollm2_tokenizer, nasty, ["QA", "evil-QTA"]).data
    shown = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    assert "<script" not in shown and "&lt;" in shown and "&amp;" in shown
    assert "&lt;|im_start|&gt;" in shown


def test_the_loss_mask_colours_as_many_tokens_as_carry_loss(items, smollm2_tokenizer):
    html = tables.loss_mask(smollm2_tokenizer, items[0], ["QA"]).data
    supervised, total = map(int, re.search(r"(\d+) of (\d+) tokens carry loss", html).groups())
    assert html.count('class="answer"') == supervised
    assert html.count('class="answer"') + html.count('class="context"') == total


def test_line_breaks_stay_and_other_control_characters_are_named():
    assert templating.visible("a\n\nb\tc\x00d") == "a\n\nb\tc⟨U+0000⟩d"
    assert "a\n\n\nb" in tables.responses(response("a\n\n\nb")).data


def test_a_template_that_misses_a_value_is_an_error():
    with pytest.raises(Exception, match="'alt' is undefined"):
        templating.fill("figure", svg="")
