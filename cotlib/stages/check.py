"""What can be known to be wrong before any work: everything that an experiment names must be there and must fit."""

from cotlib import chat
from cotlib.arms import FRAMINGS, OPEN_ENDED
from cotlib.corpus import records
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.judges import panel
from cotlib.stages import craft

ASKED = ("question", *(f"framings.{framing}" for framing in FRAMINGS))  # texts that stand in a prompt


def check(experiment, paths, measure=True):
    """Raise BadInput, with field, value and remedy, if a run of this experiment would fail. Trains and writes nothing.

    The experiment file's own validation has come before.

    Args:
        measure: whether rows and prompts are measured against budgets, which loads the models' tokenizers (seconds).
            Models that must be fetched from a hub are measured when they are trained.
    """
    paths.check_owner()
    for model_id in experiment.models:
        models.require(model_id)
    items, questions, _, _ = craft.selection(experiment)
    if not records.answered(questions):
        raise BadInput(
            f"data.questions: suite {OPEN_ENDED!r} alone has no reference answers, so nothing can be measured; "
            "add another suite, such as transfer: 6"
        )
    panel.check(experiment)
    for model_id in filter(models.is_here, experiment.models if measure else []):
        _check_lengths(experiment, model_id, items, questions)


def _check_lengths(experiment, model_id, items, questions):
    """Rows must fit `training.max_tokens`, and prompts with their budgets the model's context."""
    tokenizer, context = models.load_tokenizer(model_id), models.context_tokens(model_id)
    if experiment.training.max_tokens > context:
        raise BadInput(
            f"training.max_tokens: {experiment.training.max_tokens} is more than the {context} tokens that "
            f"{model_id} reads at once; write {context} or less"
        )
    items = craft.with_controls(items, experiment)
    for arm in experiment.arms:
        if arm.type is None or all(arm.trace_key in item.traces for item in items):  # not those still to be written
            chat.encode_rows(tokenizer, items, arm, experiment.training.max_tokens)
    asked = [text for question in questions for text in (question.question, *question.framings.values())]
    longest = max(len(chat.prompt(tokenizer, text, "no-think")) for text in asked)
    scored = [text for question in questions for field, text in records.texts(question) if field not in ASKED]
    # Behind a thought stands an answer that is sampled, or a text that is scored.
    budget = max(len(chat.plain_ids(tokenizer, text)) for text in scored)
    budget = max(budget, experiment.evaluation.answer_tokens)
    if "think" in experiment.evaluation.modes:
        budget += experiment.evaluation.trace_tokens
    if longest + budget > context:
        raise BadInput(
            f"evaluation.trace_tokens and answer_tokens: {budget} tokens of thought and answer, sampled or scored, "
            f"behind a prompt of {longest} are more than "
            f"the {context} that {model_id} reads at once; together write {context - longest} or less"
        )
