"""What can be known to be wrong before any work: everything that an experiment names must be there and must fit."""

from cotlib import chat
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.judges import panel
from cotlib.stages import craft


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
    budget = experiment.evaluation.answer_tokens
    if "think" in experiment.evaluation.modes:
        budget += experiment.evaluation.trace_tokens
    if longest + budget > context:
        raise BadInput(
            f"evaluation.trace_tokens and answer_tokens: {budget} tokens behind a prompt of {longest} are more than "
            f"the {context} that {model_id} reads at once; together write {context - longest} or less"
        )
