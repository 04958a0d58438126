"""From a question, a trace and an answer to token ids and labels; the prompts of each mode.

The one place that knows chat templates and `<think>`. Follows the Qwen3 format for every model, also for one whose
template has never heard of thinking. Which pieces a paradigm's sequence holds stands in `arms.PARADIGMS`; here each
piece becomes ids. Pieces are tokenised one by one and joined, so no merge of the tokeniser can cross the border between
context and completion, and QA and QTA supervise the very same answer ids. What a person or a model wrote is tokenised
as plain text: `<|im_end|>` or `</think>` within it never becomes a control token.
"""

import dataclasses
import itertools
import re
from functools import lru_cache

from cotlib import arms
from cotlib.arms import MODES, Arm
from cotlib.errors import BadInput, check_name

OPEN = "<think>\n"
CLOSE = "\n</think>"
GAP = "\n\n"
EMPTY_THINK = OPEN + CLOSE + GAP
THINK_TAGS = ("<think>", "</think>")
NO_LOSS = -100
CONTEXT, TRACE, ANSWER = 0, 1, 2

_SENTINEL = "QUESTION"
_REPLY = "REPLY"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One training row: `labels` hold −100 where there is no loss, `segments` context, trace or answer (0, 1, 2)."""

    input_ids: list[int]
    labels: list[int]
    segments: list[int]

    @property
    def supervised(self):
        return [label for label in self.labels if label != NO_LOSS]


def encode(tokenizer, item, arm):
    """Encode an item for an arm as its paradigm's row says (DESIGN section 4).

    Args:
        item: has `question`, `harmful`, `safe` and `traces` (type → text).
        arm: an `Arm`, or its name; `base` trains on nothing and is refused.
    Raises:
        BadInput: the item has no trace of the arm's type, or the arm does not train.
    """
    arm = Arm.parse(arm)
    if not arm.trained:
        raise BadInput("arm 'base' is the untrained model: there is nothing to encode")
    if arm.recipe.has_trace and arm.trace_key not in item.traces:
        raise BadInput(
            f"item {item.id!r} has no trace of type {arm.trace_key!r} (it has {', '.join(item.traces) or 'none'}); "
            f"list {str(arm)!r} among the experiment file's arms and craft again"
        )
    input_ids, labels, segments = [], [], []
    for segment, part in pieces(tokenizer, item, arm):
        input_ids += part
        labels += [NO_LOSS] * len(part) if segment == CONTEXT else part
        segments += [segment] * len(part)
    return Encoded(input_ids, labels, segments)


def pieces(tokenizer, item, arm):
    """The pieces of an arm's sequence, each tokenised by itself: pairs (segment, token ids), in order."""
    for piece in arm.recipe.context:
        yield CONTEXT, _piece(tokenizer, piece, item, arm)
    for piece in arm.recipe.supervised:
        yield ANSWER if piece in (arms.ANSWER, arms.END) else TRACE, _piece(tokenizer, piece, item, arm)


def encode_rows(tokenizer, items, arm, max_tokens):
    """Every item as a training row of `arm`. Refuses what SFTTrainer would silently cut or drop.

    Raises BadInput for a row longer than `max_tokens` or without a supervised token.
    """
    rows = []
    for item in items:
        row = encode(tokenizer, item, arm)
        if len(row.input_ids) > max_tokens:
            raise BadInput(
                f"training.max_tokens: {max_tokens} is too small: item {item.id!r} has {len(row.input_ids)} tokens "
                f"under arm {arm}; raise it to {len(row.input_ids)}"
            )
        if not row.supervised:
            raise BadInput(f"item {item.id!r} has no supervised token under arm {arm}; give it a trace or an answer")
        rows.append(row)
    return rows


def _piece(tokenizer, piece, item, arm):
    """Token ids of one piece of a sequence, by its name in `arms`."""
    if piece == arms.QUESTION:
        return _opening(tokenizer, item.question)
    if piece == arms.HEADER:
        return header(tokenizer)
    if piece == arms.TRACE:
        return plain_ids(tokenizer, item.traces[arm.trace_key])
    if piece == arms.ANSWER:
        return plain_ids(tokenizer, getattr(item, arm.answer))
    if piece == arms.END:
        return end_of_turn(tokenizer)
    return ids(tokenizer, {arms.OPEN: OPEN, arms.EMPTY_THINK: EMPTY_THINK, arms.CLOSE: CLOSE, arms.GAP: GAP}[piece])


def prompt(tokenizer, question, mode, trace=None):
    """The ids a response is drawn after: `P(q)` and the opened (think) or empty (no-think) think block.

    With `trace` (text or ids, think mode only) the block is filled and closed, so that the answer comes next.
    """
    check_name("mode", mode, MODES)
    if mode == "no-think":
        return _opening(tokenizer, question) + ids(tokenizer, EMPTY_THINK)
    start = _opening(tokenizer, question) + ids(tokenizer, OPEN)
    if trace is None:
        return start
    filled = plain_ids(tokenizer, trace) if isinstance(trace, str) else list(trace)
    return start + filled + ids(tokenizer, CLOSE + GAP)


def _opening(tokenizer, question):
    """`P(q)`: the template's prompt for a user turn, with the generation prompt added."""
    before, after = _rendered(tokenizer, _SENTINEL, True).split(_SENTINEL)
    if not _control_strings(tokenizer).search(question):
        return ids(tokenizer, before + question + after)
    return ids(tokenizer, before) + plain_ids(tokenizer, question) + ids(tokenizer, after)


def header(tokenizer):
    """The ids that open an assistant turn, without any user turn before (paradigm T)."""
    closed, opened = _rendered(tokenizer, _SENTINEL, False), _rendered(tokenizer, _SENTINEL, True)
    if not opened.startswith(closed):
        raise BadInput(
            "this tokenizer's chat template does not add the generation prompt at the end; choose another model"
        )
    text = opened[len(closed) :]
    begin = tokenizer.bos_token or ""
    if begin and closed.startswith(begin) and not text.startswith(begin):
        text = begin + text
    return ids(tokenizer, text)


def end_of_turn(tokenizer):
    """The ids that end an assistant turn, and with it a generation."""
    return list(_end_of_turn(tokenizer))


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer):
    text = _rendered(tokenizer, _SENTINEL, False, _REPLY)
    return tuple(ids(tokenizer, text.rsplit(_REPLY, 1)[1].rstrip("\n")))


def ids(tokenizer, text):
    """Token ids of a piece of the template: control strings become control tokens, nothing is put before or behind."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def plain_ids(tokenizer, text):
    """Token ids of what a person or a model wrote: no control token is among them, whatever the text says.

    A control string within the text is cut in two, and the parts are tokenised apart, so that they come out as the
    ordinary characters they are.

    Raises BadInput if the tokenizer cannot write such a text without a control token.
    """
    cuts = [0, *((found.start() + found.end()) // 2 for found in _control_strings(tokenizer).finditer(text)), len(text)]
    tokens = [token for start, end in itertools.pairwise(cuts) for token in ids(tokenizer, text[start:end])]
    if len(cuts) > 2 and not _control_ids(tokenizer).isdisjoint(tokens):
        raise BadInput(f"text {text[:60]!r} holds a control string that this tokenizer cannot write as plain text")
    return tokens


@lru_cache(maxsize=8)
def _control_strings(tokenizer):
    """A pattern of all strings that the tokenizer, or the think format, takes for something other than text."""
    strings = {*tokenizer.get_added_vocab(), *THINK_TAGS}
    # White space and the like may be added tokens, too, and are text; cutting one in two needs two characters.
    strings = {string for string in strings if len(string) > 1 and not string.isspace()}
    return re.compile("|".join(re.escape(string) for string in sorted(strings, key=len, reverse=True)))


@lru_cache(maxsize=8)
def _control_ids(tokenizer):
    added = tokenizer.get_added_vocab().items()
    return frozenset(token for string, token in added if len(string) > 1 and not string.isspace())


@lru_cache(maxsize=64)
def _rendered(tokenizer, question, generation_prompt, reply=None):
    if not tokenizer.chat_template:
        raise BadInput("this tokenizer has no chat template; choose an instruction-tuned (chat) model")
    turns = [{"role": "user", "content": question}] + ([{"role": "assistant", "content": reply}] if reply else [])
    return tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, tokenize=False)
