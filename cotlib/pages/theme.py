"""How the book's figures look: type sizes, marks, the colours of verdicts; those of arms come from `arms`.

Figures are as wide as a page's column, so that their text is as large as the page's.
"""

import seaborn as sns

from cotlib.arms import COLOURS_WITHOUT_TRACE, PARADIGMS, TYPES, Arm, in_order
from cotlib.contrasts import CONTRADICTED, INCONCLUSIVE, NO_EFFECT, SUPPORTED, UNTESTED

VERDICT_COLOURS = {
    SUPPORTED: "#1B7F4B", NO_EFFECT: "#2F5D8A", CONTRADICTED: "#B3261E", INCONCLUSIVE: "#6B6B6B", UNTESTED: "#B9B9B9",
}  # fmt: skip
PASSED, FAILED = VERDICT_COLOURS[SUPPORTED], VERDICT_COLOURS[CONTRADICTED]
INK, GREY = "#202020", "#6B6B6B"  # text, secondary text
MODE_MARKERS = {"no-think": "o", "think": "s"}
WIDTH = 7.2  # inches: 691 pixels, the width of a page's column

# Widths of text are measured in DejaVu Sans, which comes with matplotlib: the same on every machine. A browser that
# does not have it takes the next one; none of those is wider, so nothing is cut off.
FONTS = ["DejaVu Sans", "Verdana", "Helvetica", "Arial", "sans-serif"]

THEME = {
    **sns.axes_style("whitegrid"), **sns.plotting_context("notebook"),
    "font.family": "sans-serif", "font.sans-serif": FONTS[:-1], "font.size": 10,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelsize": 10,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False,
    "figure.titlesize": 11.5, "figure.titleweight": "bold", "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names may hold a dollar sign
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    "svg.hashsalt": "cotlib",  # the same figure gives the same bytes
}  # fmt: skip


def colour(arm):
    """An arm's colour: that of its reasoning type, wherever it appears in the book."""
    return Arm.parse(arm).colour


def palette():
    """Colours by name: of the reasoning types, and of the arms without a trace."""
    return {**{row.name: row.colour for row in TYPES.values()}, **COLOURS_WITHOUT_TRACE}


def markers():
    """Marks of a scatter plot by paradigm."""
    return {row.name: row.marker for row in PARADIGMS.values()}


def order(arms):
    """Names of arms as the book lists them: base, QA, safe-QA, then by paradigm and type."""
    return in_order(arms)


def text_on(background):
    """The colour of text that is easier to read on a background (#RRGGBB): white or ink, by relative luminance."""
    shares = [int(background[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear))
    return "#FFFFFF" if 1.05 / (luminance + 0.05) >= 4 else INK
