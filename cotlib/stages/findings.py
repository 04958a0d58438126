"""The findings stage: one score table of all measures and judgements, and what follows for the four claims."""

import datetime
import time

import pandas as pd

from cotlib import findings, robustness, scores
from cotlib.arms import REGISTERS
from cotlib.corpus import wordcounts
from cotlib.experiment import slug
from cotlib.judges import card, marks
from cotlib.runs import artifacts, sources
from cotlib.stages import craft

RULES = ("PREREGISTRATION.md", "cotlib/contrasts.py")  # what decides, in words and in code


def load(paths):
    """(scores, findings) of a run that has them. Raises BadInput, with the command, if it has not."""
    table = pd.read_parquet(paths.require(paths.scores, "findings"))
    return table, artifacts.read_json(paths.require(paths.findings, "findings"))


def passed(experiment, paths):
    """The judges that passed their card, on every model of the experiment."""
    known = marks.table(artifacts.read_jsonl(paths.require(paths.cards, "judge")), card.COLUMNS)
    some = card.cards(known, experiment.judging, experiment.statistics.confidence)
    failed = {one.judge for one in some if not one.passed}
    return [judge for judge in dict.fromkeys(one.judge for one in some) if judge not in failed]


def find(experiment, paths):
    """Gather the scores, weigh the claims, and write both.

    Returns:
        (scores, findings): the tidy table and the mapping that `findings.find` makes, with the rows of
        `robustness.panel` under `panel`, and one more mapping per model under `models` where there are several.
    Raises:
        BadInput: the stages before have not run.
    """
    paths.own()
    started = time.time()
    measured = pd.read_parquet(paths.require(paths.measures, "evaluate"))
    judgements = pd.DataFrame(artifacts.read_jsonl(paths.require(paths.judgements, "judge")))
    read = pd.read_parquet(paths.require(paths.thought_types, "judge"))
    parts = [measured, *([marks.scores(judgements)] if len(judgements) else []), *([read] if len(read) else [])]
    table = pd.concat(parts, ignore_index=True)[scores.COLUMNS]
    items, questions = craft.load(paths)
    names, words = [str(arm) for arm in experiment.all_arms], wordcounts.voices(items, questions, REGISTERS)
    found = findings.find(table, experiment.statistics, names, words)
    judged = marks.at_thresholds(judgements, experiment.judging, passed(experiment, paths))
    panel = robustness.panel(table, experiment.statistics, questions, names, words, list(judged))
    found["panel"] = panel.to_dict("records")
    if len(experiment.models) > 1:
        found["models"] = {
            slug(model): findings.find(table[table.model == model], experiment.statistics, names, words)
            for model in experiment.models
        }
    if not paths.published:
        artifacts.write_table(paths.scores, table)
        artifacts.write_json(paths.findings, found)
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        facts = {"file": paths.file, "commit": sources.commit(), "finished": finished}
        facts["rules"] = sources.last_change(*RULES)
        evaluated = artifacts.read_json(paths.require(paths.stage("evaluate") / artifacts.MANIFEST, "evaluate"))
        facts["measured_by"] = evaluated.get("commits", [])
        artifacts.write_manifest(paths.root, started=started, experiment=experiment.model_dump(mode="json"), **facts)
    return table, found
