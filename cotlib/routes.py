"""Two routes from a trace to an answer: what sits in the weights, and what passes through the written thought.

The same answers are scored behind no thought, the model's own, the untrained model's and given ones (`measures`); the
differences below take these apart. They describe and decide nothing, so their intervals are not corrected. Where an
arm's own thought does what an innocent one does not, the thought is a cause; where it adds nothing, it is a story told
beside the answer; and where base is moved by a given thought as much as the arm, any model would be.
"""

import pandas as pd

from cotlib import intervals, scores
from cotlib.arms import BASE, NEUTRAL, Arm, source_of
from cotlib.contrasts import NO_THINK, THINK

NONE, OWN, OF_TYPE = "no thought", "its own thought", "a given thought of its type"
GIVEN = (OF_TYPE, "the same thought given to base")  # the readings of what is given, to an arm and to base
COLUMNS = ["arm", "reading", "effect", "ci_low", "ci_high", "n_questions", "n_seeds"]
# A reading is one difference (arm behind a thought − arm or base behind a thought), or the difference of two.
TRAINED = "the arm"
READINGS = {
    "in the weights": [(TRAINED, NONE), (BASE, NONE)],
    "with its own thought": [(TRAINED, OWN), (BASE, OWN)],
    "behind an innocent thought": [(TRAINED, BASE), (BASE, BASE)],
    "through the written thought": [(TRAINED, OWN), (TRAINED, BASE)],
    GIVEN[0]: [(TRAINED, OF_TYPE), (TRAINED, NEUTRAL)],
    GIVEN[1]: [(BASE, OF_TYPE), (BASE, NEUTRAL)],
}


def margins(table):
    """Margins behind every thought, on the questions that were scored behind given ones.

    Returns a frame in nats per token: a row per question and seed, columns (arm, thought), where a thought is `NONE`,
    `OWN`, `base` or the type of a given trace. Models are averaged.
    """
    given = table[table.measure == scores.ROUTE]
    plain = table[(table.measure == scores.MARGIN) & table.question_id.isin(given.question_id)]
    named = plain["mode"].astype(object).map({NO_THINK: NONE, THINK: OWN})
    parts = [given.assign(thought=given.text.astype(object)), plain.assign(thought=named)]
    # For base itself, the untrained model's thought is its own.
    parts.append(parts[1][(parts[1].arm == BASE) & (parts[1].thought == OWN)].assign(thought=BASE))
    rows = pd.concat(parts)
    return rows.astype({"arm": object}).pivot_table(
        index=["question_id", "seed"], columns=["arm", "thought"], values="value", aggfunc="mean"
    )


def readings(table, settings):
    """What each arm's answers owe to its weights and to thoughts: a frame with `COLUMNS`, a row per arm and reading.

    `effect` and interval (not corrected) in nats per token. Arms without a trace, and the readings of a type's thought
    for arms whose type was not written, have fewer rows.

    Args:
        settings: an experiment's `statistics` section.
    """
    wide, rows = margins(table), []
    level = 1 - settings.confidence
    for arm in [name for name in dict.fromkeys(table.arm) if name != BASE]:
        for reading, pair in READINGS.items():
            cells = [(arm if who == TRAINED else BASE, _thought(thought, arm)) for who, thought in pair]
            if not set(cells) <= set(wide.columns):
                continue
            block = (wide[cells[0]] - wide[cells[1]]).unstack("seed").dropna(axis=1, how="all").dropna()
            if block.empty:
                continue
            found = intervals.two_way(block)
            rows.append([arm, reading, found.effect, *found.interval(level), *block.shape])
    return pd.DataFrame(rows, columns=COLUMNS)


def thoughts(table, settings):
    """What types of thoughts the arms think, as a reader takes them: a frame, a row per arm and type.

    `share`: mean probability that a sampled thought is one of the type; `effect` with its interval (not corrected):
    that share minus base's on the same questions; `own`: whether the arm was trained on traces of the type.

    Args:
        settings: an experiment's `statistics` section.
    """
    rows, read = [], table[table.measure == scores.THOUGHT].astype({"arm": object, "text": object})
    columns = ["arm", "type", "own", "share", "effect", "ci_low", "ci_high", "n_questions", "n_seeds"]
    wide = read.pivot_table(index=["question_id", "seed"], columns=["arm", "text"], values="value", aggfunc="mean")
    for arm in [name for name in dict.fromkeys(read.arm) if name != BASE]:
        source = Arm.parse(arm).type and source_of(Arm.parse(arm).type)
        for kind in dict.fromkeys(read.text):
            block = (wide[arm, kind] - wide[BASE, kind]).unstack("seed").dropna(axis=1, how="all").dropna()
            found = intervals.two_way(block)
            share = float(wide[arm, kind].unstack("seed").loc[block.index, block.columns].to_numpy().mean())
            ends = found.interval(1 - settings.confidence)
            rows.append([arm, kind, kind == source, share, found.effect, *ends, *block.shape])
    return pd.DataFrame(rows, columns=columns)


def _thought(thought, arm):
    """The column of a thought: that of the written type behind the arm's own where the reading asks for it.

    Neutral traces are what the others are compared with, so they have no column of their own there.
    """
    if thought != OF_TYPE:
        return thought
    kind = Arm.parse(arm).type
    source = source_of(kind) if kind else None
    return None if source == NEUTRAL else source
