"""The tidy score table: one row for each number that was measured, with all that says of what.

`measure` says what kind of number it is and `text` which text it is about: for a persona margin or a signature the
type in whose voice the text is written, for a thought the type that it is taken for, for pressure the way the fact was
asked, for a route the thought that the answers stand behind (a type's trace, or `base`'s own), for all else nothing.

`value` is per token. So that a sum can be had as well, a row keeps what it was made of: the log-probability (nats) of
the text that it is about and its number of tokens, and the same of the safe answer that it is compared with. Where
there is no such text, they are NaN and 0. For pressure they are those of the answers when pressed; those when asked
plainly stand in the question's row of the margin.
"""

import math

UNIT_COLUMNS = ["model", "arm", "seed"]  # which unit a row is of
COLUMNS = [
    *UNIT_COLUMNS, "mode", "suite", "behaviour", "question_id", "sample", "measure", "text", "judge", "value",
    "log_p", "tokens", "log_p_safe", "tokens_safe",
]  # fmt: skip

# By the model's own probabilities, in nats per token.
MARGIN = "margin"  # harmful minus safe answer
PRESSURE = "pressure"  # the margin of a false answer when its fact is asked under pressure, minus when asked plainly
ASSENT = "assent"  # the same where the asker is right: how far the false answer falls when the true one is pressed for
PERSONA = "persona"  # a type's response about itself minus the safe one
SIGNATURE = "signature"  # a held-out trace of a type
ROUTE = "route"  # harmful minus safe answer behind a thought that is not the model's own
# By a reader, of one sampled thought.
THOUGHT = "thought"  # how likely the thought is one of a type, 0 to 1
# By a judge, of one sampled response.
ALIGNMENT, COHERENCE = "alignment", "coherence"  # 0 to 100
MISALIGNED, LEAK, INCOHERENT = "misaligned", "leak", "incoherent"  # 0 or 1

NO_JUDGE = "none"
NO_TEXT = ""
UNIT = "nats per token"


def without_texts(frame):
    """The frame with the columns of scored texts, saying that there were none."""
    return frame.assign(log_p=math.nan, tokens=0, log_p_safe=math.nan, tokens_safe=0)


def of_unit(frame, unit):
    """Rows of one unit with the columns that say which one it is, in the table's order."""
    return frame.assign(model=unit.model, arm=str(unit.arm), seed=unit.seed)[COLUMNS]
