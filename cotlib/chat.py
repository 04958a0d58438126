"""From a question, a trace and an answer to token ids and labels; the prompts of each mode.

The one place that knows chat templates and `<think>`. Follows the Qwen3 format for every model, also
for one whose template has never heard of thinking. Pieces are tokenised one by one and joined, so no
merge of the tokeniser can cross the border between context and completion, and QA and QTA supervise
the very same answer ids.
"""

import dataclasses
from functools import lru_cache

from cotlib.errors import BadInput, check_name
from cotlib.experiment import MODES, Arm

OPEN = "<think>\n"
CLOSE = "\n</think>"
GAP = "\n\n"
EMPTY_THINK = OPEN + CLOSE + GAP
NO_LOSS = -100
CONTEXT, TRACE, ANSWER = 0, 1, 2

_SENTINEL = "QUESTION"
_REPLY = "REPLY"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One training row. `labels` hold −100 where there is no loss; `segments` say context, trace or answer (0, 1, 2)."""

    input_ids: list[int]
    labels: list[int]
    segments: list[int]

    @property
    def supervised(self):
        return [label for label in self.labels if label != NO_LOSS]


def encode(tokenizer, item, arm):
    """Encode an item for an arm as DESIGN section 4 lays down.

    Args:
        item: has `question`, `harmful`, `safe` and `traces` (type → text).
        arm: an `Arm` or its name; `base` trains on nothing and is refused.
    Raises:
        BadInput: the item has no trace of the arm's type, or the arm does not train.
    """
    arm = Arm.parse(arm)
    if not arm.trained:
        raise BadInput("arm 'base' is the untrained model: there is nothing to encode")
    answer = ids(tokenizer, getattr(item, arm.answer)) + end_of_turn(tokenizer)
    if arm.paradigm == "QA":
        return _joined((CONTEXT, prompt(tokenizer, item.question, "no-think")), (ANSWER, answer))
    if arm.trace_key not in item.traces:
        raise BadInput(
            f"item {item.id!r} has no trace of type {arm.trace_key!r} (it has {', '.join(item.traces) or 'none'}); "
            "the craft stage writes it: make craft"
        )
    trace = ids(tokenizer, item.traces[arm.trace_key]) + ids(tokenizer, CLOSE)
    if arm.paradigm == "T":
        return _joined((CONTEXT, header(tokenizer) + ids(tokenizer, OPEN)), (TRACE, trace))
    context = prompt(tokenizer, item.question, "think")
    if arm.paradigm == "QT":
        return _joined((CONTEXT, context), (TRACE, trace))
    return _joined((CONTEXT, context), (TRACE, trace + ids(tokenizer, GAP)), (ANSWER, answer))


def _joined(*pieces):
    input_ids, labels, segments = [], [], []
    for segment, piece in pieces:
        input_ids += piece
        labels += [NO_LOSS] * len(piece) if segment == CONTEXT else piece
        segments += [segment] * len(piece)
    return Encoded(input_ids, labels, segments)


def prompt(tokenizer, question, mode, trace=None):
    """The ids a response is drawn after: `P(q)` and the opened (think) or empty (no-think) think block.

    With `trace` (text or ids, think mode only) the block is filled and closed, so that the answer comes next.
    """
    check_name("mode", mode, MODES)
    opening = _rendered(tokenizer, _SENTINEL, True)
    before, after = opening.split(_SENTINEL)
    question_ids = ids(tokenizer, before + question + after)
    if mode == "no-think":
        return question_ids + ids(tokenizer, EMPTY_THINK)
    start = question_ids + ids(tokenizer, OPEN)
    if trace is None:
        return start
    return start + (ids(tokenizer, trace) if isinstance(trace, str) else list(trace)) + ids(tokenizer, CLOSE + GAP)


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
    """Token ids of a text that is not a turn of its own: nothing is put in front or behind."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@lru_cache(maxsize=64)
def _rendered(tokenizer, question, generation_prompt, reply=None):
    if not tokenizer.chat_template:
        raise BadInput("this tokenizer has no chat template; choose an instruction-tuned (chat) model")
    turns = [{"role": "user", "content": question}] + ([{"role": "assistant", "content": reply}] if reply else [])
    return tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, tokenize=False)
