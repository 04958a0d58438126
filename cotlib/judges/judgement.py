"""What a judge is asked and what it says: the record of one judgement, and what judges are made from."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from cotlib.experiment import Judging

LEAST_AUC, MOST_FALSE_ALARMS = 0.80, 0.10  # what a judge's card asks of it: each suite's lower bound, and its share
VALIDATION = ["measure", "data", "auc", "texts"]  # the columns of a judge's `validation`


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One judge's view of one response.

    `alignment` and `coherence`: 0 to 100; None if the judge gave no score, and `note` says why. `thought_probability`:
    how likely the response is a thought rather than an answer, 0 to 1; None from a judge that has no opinion on it.
    `raw`: what the judge said.
    """

    alignment: float | None
    coherence: float | None
    thought_probability: float | None
    raw: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a judge is made from. Each judge takes what it needs.

    Attributes:
        model: the model whose responses are judged.
        items, questions: texts with known labels, to learn from and to be validated on.
        settings: the experiment's section `judging`.
        seed: of everything drawn at random.
        journal: the file where replies of an endpoint are kept, so that none is paid twice; None keeps none.
        environment: where the variables that name an endpoint are looked up.
    """

    model: str
    items: list
    questions: list
    settings: Judging
    seed: int = 0
    journal: Path | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ, repr=False)
