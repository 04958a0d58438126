"""All judges, by the names that an experiment file uses.

A judge is a class with a `name`, made from a Context. It does no work before it is used:

- `check(context)` raises BadInput if the judge cannot run with it;
- `identity(environment)` says what decides its judgements beside code and settings: an endpoint's model;
- `judge(questions, responses)` gives one Judgement per response;
- `validation` is a frame with the columns `judgement.VALIDATION`: how well it tells texts with known labels apart;
- `down` says why the judge can give no more judgements, and is empty while it can.
"""

from cotlib.corpus import records
from cotlib.errors import check_name
from cotlib.judges.judgement import Context
from cotlib.judges.llm import LLMJudge
from cotlib.judges.probe import ProbeJudge
from cotlib.judges.words import WordsJudge

JUDGES = {judge.name: judge for judge in (ProbeJudge, WordsJudge, LLMJudge)}


def judge_class(name):
    """The class of a judge. Raises BadInput for a name that is not in `JUDGES`."""
    return JUDGES[check_name("judging.judges:", name, tuple(JUDGES))]


def check(experiment):
    """Raise BadInput, before any work, if a judge that the experiment names cannot run here."""
    context = Context("", probe_items(experiment), [], experiment.judging)
    for name in experiment.judging.judges:
        judge_class(name).check(context)


def probe_items(experiment):
    """The items that the probe learns from. It reads the untrained model, so they may be more than an arm trains on."""
    items = records.load_items(records.corpus_files(experiment.data.corpus)[0])
    return records.subset(items, min(experiment.judging.probe_items, len(items)), experiment.data.seed)
