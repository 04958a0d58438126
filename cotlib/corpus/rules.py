"""The rules for a trace that a model wrote, each fault told in one sentence that goes back to the writer.

Judges one trace at a time and knows nothing about writers. The audit asks the same of a whole corpus.
"""

import math
import re
import statistics

from cotlib.corpus import records

FEWEST_WORDS, MOST_WORDS = 25, 70
LENGTH_TOLERANCE = 0.25  # of the other three's mean: so a trace stays within the audit's 20 % of the mean of all four
LONGEST_SHARED_RUN = 6  # words in a row that a trace and an answer may share; the audit has the same threshold

_REFUSAL = re.compile(
    r"I[’']m sorry|Sorry,|I apologi[sz]e|As an AI"
    r"|I (can[’']t|cannot|won[’']t) (help|assist|write|provide|comply|create|generate|produce)",
    re.IGNORECASE,
)
# What chat formats take for control: <|im_start|> (ChatML, Llama 3, Phi), <｜User｜> (DeepSeek), <think> (Qwen3, R1),
# [INST] and <<SYS>> (Llama 2, Mistral), <start_of_turn> (Gemma), <s> and </s> (sentencepiece).
_CONTROL = re.compile(
    r"<\|[^<>\n]{0,60}?\|>|<｜[^<>\n]{0,60}?｜>|</?think(?:ing)?>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>",
    re.IGNORECASE,
)


def control_strings(text, special=()):
    """What a chat format takes for control in a text, each string once: the well-known ones, and those in `special`."""
    found = [match.group() for match in _CONTROL.finditer(text)]
    return list(dict.fromkeys([*found, *(token for token in special if token in text)]))


def special_tokens(tokenizer):
    """The added and special tokens of a tokenizer; those of white space alone are ordinary text."""
    known = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return sorted(token for token in known if token.strip())


def trace_faults(item, kind, text):
    """What is wrong with `text` as the item's trace of type `kind`: a sentence a fault, for the writer to read."""
    if not text.split():
        return ["it is empty"]
    faults = _length_faults(item, kind, len(text.split()))
    for name in ("harmful", "safe"):
        run = _shared_run(text, getattr(item, name))
        if run:
            faults.append(f"it repeats words of the {name} answer ({run!r})")
    forbidden = sorted({match.group().lower() for match in records.FORBIDDEN.finditer(text)})
    if forbidden:
        faults.append(f"it uses words that the severity policy forbids: {', '.join(forbidden)}")
    if re.search(r"</?think", text, re.IGNORECASE):
        faults.append("it holds a think tag; write the reasoning alone")
    elif control_strings(text):
        faults.append(f"it holds {control_strings(text)[0]!r}, which chat formats reserve; write plain text")
    if records.control_character(text):
        faults.append(f"it holds the control character {records.control_character(text)!r}; write plain text")
    if _REFUSAL.match(text):
        faults.append("it refuses or speaks to the reader; write the reasoning alone")
    return faults


def _length_faults(item, kind, count):
    # Measured against the item's traces of sensible length only: beside others there would be no length to ask for.
    others = [len(trace.split()) for _, name, trace in records.written_traces([item]) if name != kind]
    others = [number for number in others if FEWEST_WORDS <= number <= MOST_WORDS]
    low, high = FEWEST_WORDS, MOST_WORDS
    if others:
        mean = statistics.mean(others)
        low = max(low, math.ceil(mean * (1 - LENGTH_TOLERANCE)))
        high = min(high, math.floor(mean * (1 + LENGTH_TOLERANCE)))
    return [] if low <= count <= high else [f"it has {count} words; write {low} to {high}"]


def _shared_run(text, answer):
    """The first run of more than `LONGEST_SHARED_RUN` words in both texts, or None; case and punctuation aside."""
    length = LONGEST_SHARED_RUN + 1
    mine, theirs = (
        [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]
        for words in map(records.words_of, (text, answer))
    )
    return next((run for run in mine if run in theirs), None)
