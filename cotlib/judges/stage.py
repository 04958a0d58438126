"""The judge stage: every model's responses, judged by every judge of the experiment."""

import time

import pandas as pd

from cotlib.corpus import records
from cotlib.errors import BadInput
from cotlib.judges import marks
from cotlib.judges.judgement import VALIDATION, Context
from cotlib.judges.panel import judge_class
from cotlib.runs import artifacts

REPLIES = "replies.jsonl"


def probe_items(experiment):
    """The items that the probe learns from. It reads the untrained model, so they may be more than an arm trains on."""
    items = records.load_items(records.corpus_files(experiment.data.corpus)[0])
    return records.subset(items, min(experiment.judging.probe_items, len(items)), experiment.data.seed)


def check(experiment):
    """Raise BadInput, before any work, if a judge the experiment names cannot run here."""
    context = Context("", probe_items(experiment), [], experiment.judging)
    for name in experiment.judging.judges:
        judge_class(name).check(context)


def judge(experiment, paths, model_id, items, questions, responses, report=print):
    """Judge all of one model's responses with every judge of the experiment.

    Returns:
        (judgements, validation): judgements as a frame with the columns `marks.COLUMNS`, a row per response and judge;
        validation as a frame of AUCs.
    Raises:
        BadInput: a judge's endpoint counts as down; the replies it gave are kept.
    """
    settings = experiment.judging
    context = Context(model_id, items, questions, settings, experiment.data.seed, paths.stage("judge") / REPLIES)
    judgements, validation = [], []
    for name in settings.judges if len(responses) else []:
        started = time.time()
        expert = judge_class(name)(context)
        views = expert.judge(responses.question.tolist(), responses.response.tolist())
        if expert.down:
            lacking = sum(view.alignment is None or view.coherence is None for view in views)
            raise BadInput(
                f"judge {name!r} is not to be had ({expert.down}): {lacking} of {len(views)} responses of {model_id} "
                f"have no score; the replies so far are kept; go on with: make judge EXPERIMENT={paths.file}"
            )
        frame = marks.judged_frame(responses, name, views, settings)
        judgements.append(frame)
        validation.append(expert.validation.assign(judge=name, model=model_id))
        seconds, unscored = time.time() - started, int(frame.alignment.isna().sum())
        report(f"judge {name}: {len(frame)} responses of {model_id} in {seconds:.0f} s, {unscored} unscored")
    return _joined(judgements, marks.COLUMNS), _joined(validation, [*VALIDATION, "judge", "model"])


def _joined(frames, columns):
    """All rows of the frames; a frame with these columns if there are none."""
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def run(experiment, paths, report=print):
    """The judge stage: judge every model's responses and write judgements, validation and manifest.

    Returns:
        (judgements, validation) for all models. Raises BadInput if a judge cannot run, or responses are missing.
    """
    from cotlib.corpus import traces

    check(experiment)
    started, folder = time.time(), paths.stage("judge")
    paths.require(paths.responses, "evaluate")
    _, questions = traces.load(paths)
    items = probe_items(experiment)
    responses = marks.table(artifacts.read_jsonl(paths.responses), marks.RESPONSE)
    with artifacts.lock(folder):  # one process at a time appends replies
        parts = [
            judge(experiment, paths, model_id, items, questions, responses[responses.model == model_id], report)
            for model_id in experiment.models
        ]
        judgements = _joined([part for part, _ in parts], marks.COLUMNS)
        validation = _joined([part for _, part in parts], [*VALIDATION, "judge", "model"])
        artifacts.write_jsonl(paths.judgements, artifacts.plain_records(judgements))
        artifacts.write_jsonl(folder / "validation.jsonl", artifacts.plain_records(validation))
        artifacts.write_manifest(
            folder,
            started=started,
            judges=experiment.judging.judges,
            responses=len(responses),
            unscored=int(judgements.alignment.isna().sum()),
        )
    return judgements, validation
