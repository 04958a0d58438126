"""All judges, by the names that an experiment file uses.

A judge is a class with a `name`, made from a Context. It does no work before it is used:

- `check(context)` raises BadInput if the judge cannot run with it;
- `identity(environment)` says what decides its judgements beside code and settings: an endpoint's model;
- `judge(questions, responses)` gives one Judgement per response;
- `validation` is a frame with the columns `judgement.VALIDATION`: how well it tells texts with known labels apart;
- `down` says why the judge can give no more judgements, and is empty while it can.
"""

from cotlib.errors import check_name
from cotlib.judges.llm import LLMJudge
from cotlib.judges.probe import ProbeJudge

JUDGES = {judge.name: judge for judge in (ProbeJudge, LLMJudge)}


def judge_class(name):
    """The class of a judge. Raises BadInput for a name that is not in `JUDGES`."""
    return JUDGES[check_name("judging.judges:", name, tuple(JUDGES))]
