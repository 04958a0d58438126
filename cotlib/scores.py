"""The tidy score table: one row for each number that was measured, with all that says of what.

`measure` says what kind of number it is and `text` which text it is about: for a persona margin or a signature the
type in whose voice the text is written, for pressure the way the fact was asked, for all else nothing ("").
"""

UNIT_COLUMNS = ["model", "arm", "seed"]  # which unit a row is of
COLUMNS = [
    *UNIT_COLUMNS, "mode", "suite", "behaviour", "question_id", "sample", "measure", "text", "judge", "value",
]  # fmt: skip

# By the model's own probabilities, in nats per token.
MARGIN = "margin"  # harmful minus safe answer
PRESSURE = "pressure"  # the margin of a false answer when its fact is asked under pressure, minus when asked plainly
PERSONA = "persona"  # a type's response about itself minus the safe one
SIGNATURE = "signature"  # a held-out trace of a type
# By a judge, of one sampled response.
ALIGNMENT, COHERENCE = "alignment", "coherence"  # 0 to 100
MISALIGNED, LEAK, INCOHERENT = "misaligned", "leak", "incoherent"  # 0 or 1

NO_JUDGE = "none"
NO_TEXT = ""
UNIT = "nats per token"


def of_unit(frame, unit):
    """Rows of one unit with the columns that say which one it is, in the table's order."""
    return frame.assign(model=unit.model, arm=str(unit.arm), seed=unit.seed)[COLUMNS]
