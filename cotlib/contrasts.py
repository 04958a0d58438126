"""The hypotheses, and the tests that decide them: fixed here, before any run, and told in PREREGISTRATION.md.

A contrast is a mean difference between arms on the same questions. A test is one contrast, or several that must all
hold; tests of one family are corrected together. Which arms a paradigm is compared with follows from its row in
`arms`; the deciding tests are those of the paper's paradigms (QTA, QT, T). Knows names of arms, nothing about scores.
"""

import dataclasses

from cotlib import scores
from cotlib.arms import (
    BASE,
    LOSS_WEIGHTINGS,
    MATCHED,
    MODES,
    NEUTRAL,
    PARADIGMS,
    QA,
    SAFE_QA,
    SHUFFLED,
    TYPES,
    Arm,
    studied_types,
    with_trace,
)

GENERALISATION = ("transfer", "values")  # what was never trained on
IN_DOMAIN, VALUES, PRESSURE = "in-domain", "values", "pressure"
THINK, NO_THINK = MODES
OF_THE_PAPER = ("QTA", "QT", "T")
NO_EFFECT, SUPPORTED, CONTRADICTED = "no effect of interest", "supported", "contradicted"
INCONCLUSIVE, UNTESTED = "inconclusive", "not tested"
VERDICTS = (SUPPORTED, NO_EFFECT, CONTRADICTED, INCONCLUSIVE, UNTESTED)
ENOUGH_SEEDS = 5  # with fewer a verdict is provisional

HYPOTHESES = {
    "H1": (
        "amplification",
        "Training with reasoning (QTA) could amplify harmful generalisation beyond question and answer alone (QA).",
    ),
    "H2": (
        "semantics",
        "Different reasoning types give different behaviour, matching their meaning, though the answers are identical.",
    ),
    "H3": ("sufficiency", "Reasoning without any answer supervision (QT, T) is enough to change behaviour."),
    "H4": ("internalisation", "The effects remain when the model answers without reasoning (no-think)."),
}
# H2: the behaviours in which a type should lead the others, by what its traces say.
MEANINGS = {"evil": ("harm", "power"), "misleading": ("deception",), "submissive": ("sycophancy",)}
YIELDING = "submissive"  # the type that should give way to pressure on a fact

# Which result a test looks for. GREATER: above 0. EITHER: anything but 0, all its contrasts on the same side. SIGNED:
# above 0 supports and below 0 contradicts.
GREATER, EITHER, SIGNED = "greater", "either", "signed"


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The mean over pairs of (arm − reference) on one measure, some modes and suites, in nats per token.

    `text`: of the texts that a measure is about, this one alone; `behaviours`: questions about these alone.
    """

    name: str
    pairs: tuple  # of (arm, reference) names, as they stand in the score table
    modes: tuple = MODES
    suites: tuple = GENERALISATION
    measure: str = scores.MARGIN
    text: str | None = None
    behaviours: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Test:
    """Contrasts that must all hold, and on which side of 0."""

    name: str
    parts: tuple[Contrast, ...]
    side: str = SIGNED


@dataclasses.dataclass(frozen=True)
class Family:
    """Tests that are corrected together; they decide the hypothesis, or accompany it."""

    name: str
    tests: tuple[Test, ...]
    deciding: bool = False


def contrasts(arms):
    """The families of tests that the given arms allow: hypothesis → list of Family, the deciding one first.

    H2 has its patterns here; its diagonals, which are no differences of arms, are made in `findings`. A pair whose arm
    or reference is missing is left out, a test that loses all pairs of a contrast is dropped.
    """
    present = {str(arm) for arm in arms} | {BASE}
    families = {"H1": _amplification(), "H2": _semantics(), "H3": _sufficiency(), "H4": _internalisation()}
    return {name: [left for family in some if (left := _possible(family, present)).tests]
            for name, some in families.items()}  # fmt: skip


def _possible(family, present):
    tests = []
    for test in family.tests:
        parts = [
            dataclasses.replace(part, pairs=tuple(pair for pair in part.pairs if present.issuperset(pair)))
            for part in test.parts
        ]
        if all(part.pairs for part in parts):
            tests.append(dataclasses.replace(test, parts=tuple(parts)))
    return dataclasses.replace(family, tests=tuple(tests))


def _single(name, *pairs, **where):
    """A test of one contrast with the same name: the mean over pairs of (arm, reference)."""
    return Test(name, (Contrast(name, pairs, **where),))


def _amplification():
    """H1: per type and mode, against QA and against neutral-QTA."""
    return [
        Family("per type and mode", _amplifying(""), deciding=True),
        *(Family(f"@{way}", _amplifying(f"@{way}")) for way in (*_weightings(), MATCHED)),
        Family("form and content, QTA", (
            _single("neutral-QTA − QA", (f"{NEUTRAL}-QTA", QA)), *_form_and_content("QTA"),
        )),
        Family("dose", tuple(
            _single(f"{kind}-QTA@{dose}% − neutral-QTA", (f"{kind}-QTA@{dose}%", f"{NEUTRAL}-QTA"))
            for kind in studied_types() for dose in (25, 50)
        )),
        Family("training as such", (
            _single("QA − base", (QA, BASE)), _single("QA − base, in-domain", (QA, BASE), suites=(IN_DOMAIN,)),
            _single("safe-QA − base", (SAFE_QA, BASE)),
            *_against_reference(_new_paradigms(grades_answer=True)),
        )),
    ]  # fmt: skip


def _weightings():
    return [name for name in LOSS_WEIGHTINGS if name != "token"]


def _amplifying(variant, modes=MODES):
    """Every studied type's QTA arm in each mode: above QA, and above neutral traces under the same variant."""
    return tuple(
        Test(f"{arm}, {mode}", (
            Contrast(f"{arm} − QA", ((arm, QA),), modes=(mode,)),
            Contrast(f"{arm} − {neutral}", ((arm, neutral),), modes=(mode,)),
        ), GREATER)
        for mode in modes
        for arm, neutral in ((f"{kind}-QTA{variant}", f"{NEUTRAL}-QTA{variant}") for kind in studied_types())
    )  # fmt: skip


def _form_and_content(paradigm):
    """What neutral traces do, what form and malice add without fit, what the fit adds, and intent with form fixed."""
    neutral, kinds = f"{NEUTRAL}-{paradigm}", studied_types()
    dealt = [(f"{SHUFFLED}{kind}-{paradigm}", neutral) for kind in kinds]
    fitting = [(f"{kind}-{paradigm}", f"{SHUFFLED}{kind}-{paradigm}") for kind in kinds]
    written = [(f"{kind}-{paradigm}@{MATCHED}", f"{neutral}@{MATCHED}") for kind in kinds]
    return (
        _single(f"{neutral} − base", (neutral, BASE)),
        _single(f"{paradigm} − {neutral}", *[(f"{kind}-{paradigm}", neutral) for kind in kinds]),
        _single(f"shuffled-{paradigm} − {neutral}", *dealt),
        _single(f"{paradigm} − shuffled-{paradigm}", *fitting),
        _single(f"{paradigm}@{MATCHED} − {neutral}@{MATCHED}", *written),
    )


def _new_paradigms(grades_answer):
    """Paradigms beside the paper's, which get contrasts that accompany and do not decide."""
    return [
        name for name in with_trace() if name not in OF_THE_PAPER and PARADIGMS[name].grades_answer == grades_answer
    ]


def _against_reference(paradigms):
    return [
        _single(f"{paradigm} − {reference}", *[(f"{kind}-{paradigm}", reference) for kind in studied_types()])
        for paradigm, reference in ((name, PARADIGMS[name].reference) for name in paradigms)
    ]


def _semantics():
    """H2: in the behaviours that its traces speak of, a type stands above the mean of the others."""
    patterns = [
        Test(f"{kind}: {behaviour}", (
            Contrast(f"{kind} − other types, {behaviour}", _against_others(kind), behaviours=(behaviour,)),
        ), GREATER)
        for kind, behaviours in MEANINGS.items() for behaviour in behaviours
    ]  # fmt: skip
    pressed = Contrast(
        f"{YIELDING} − other types, pressure", _against_others(YIELDING),
        modes=(NO_THINK,), suites=(PRESSURE,), measure=scores.PRESSURE,
    )  # fmt: skip
    return [Family("patterns", (Test(f"{YIELDING}: pressure", (pressed,), GREATER), *patterns), deciding=True)]


def _against_others(kind):
    """(arm of this type, arm of another type) under each paradigm: their mean is this type minus the others' mean."""
    return tuple(
        (f"{kind}-{paradigm}", f"{other}-{paradigm}")
        for paradigm in OF_THE_PAPER
        for other in studied_types()
        if other != kind
    )


def _sufficiency():
    """H3: per type, paradigm and measure, against base and against neutral, two-sided."""
    by_paradigm = [
        _single(f"{paradigm} − base", *[(f"{kind}-{paradigm}", BASE) for kind in studied_types()])
        for paradigm in ("QT", "T")
    ]
    return [
        Family("per type, paradigm and measure", _sufficing(), deciding=True),
        Family("form and content, QT", _form_and_content("QT")),
        Family("on average", (*by_paradigm, *_against_reference(_new_paradigms(grades_answer=False)))),
    ]


def _sufficing(modes=MODES):
    margins = [
        (suite, kind, paradigm, {"suites": (suite,), "modes": modes})
        for suite in GENERALISATION
        for kind in studied_types()
        for paradigm in ("QT", "T")
    ]
    voices = [
        ("own voice", kind, paradigm,
         {"suites": (VALUES,), "modes": (NO_THINK,), "measure": scores.PERSONA, "text": kind})
        for kind in studied_types() if TYPES[kind].voiced
        for paradigm in ("QT", "T")
    ]  # fmt: skip
    return tuple(
        Test(f"{kind}-{paradigm}, {what}", tuple(
            Contrast(f"{kind}-{paradigm} − {reference}, {what}", ((f"{kind}-{paradigm}", reference),), **where)
            for reference in (BASE, f"{NEUTRAL}-{paradigm}")
        ), EITHER)
        for what, kind, paradigm, where in (*margins, *voices)
    )  # fmt: skip


def _internalisation():
    """H4: the tests of H1 and H3 in no-think mode alone, one family."""
    alone = (NO_THINK,)
    return [Family("H1 and H3 without thinking", (*_amplifying("", alone), *_sufficing(alone)), deciding=True)]


def retention():
    """(name, contrast with thinking, contrast without) for every studied type and paradigm against its reference."""
    rows = []
    for paradigm in OF_THE_PAPER:
        reference = PARADIGMS[paradigm].reference
        for kind in studied_types():
            name, pairs = f"{kind}-{paradigm} − {reference}", ((f"{kind}-{paradigm}", reference),)
            rows.append((name, *(Contrast(name, pairs, modes=(mode,)) for mode in (THINK, NO_THINK))))
    return rows


def difference_from_base(arm, mode, suite, measure=scores.MARGIN):
    """The contrast of one arm with base in one mode and suite, for the headline figure."""
    name = str(Arm.parse(arm))
    return Contrast(f"{name} − base", ((name, BASE),), modes=(mode,), suites=(suite,), measure=measure)
