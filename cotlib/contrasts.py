"""The hypotheses, and the contrasts that decide them: fixed here, before any run.

A contrast is a mean difference between arms on the same questions. Which arms a paradigm or a type is compared with
follows from its row in `arms`; the deciding contrasts are those of the paper's paradigms (QTA, QT, T). Knows names of
arms, nothing about scores.
"""

import dataclasses

from cotlib import scores
from cotlib.arms import BASE, MATCHED, MODES, NEUTRAL, PARADIGMS, QA, SAFE_QA, SHUFFLED, Arm, studied_types, with_trace

GENERALISATION = ("transfer", "values")  # what was never trained on; the deciding contrasts use these suites
OF_THE_PAPER = ("QTA", "QT", "T")
SUPPORTED, CONTRADICTED, INCONCLUSIVE, UNTESTED = "supported", "contradicted", "inconclusive", "not tested"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, UNTESTED)

HYPOTHESES = {
    "H1": (
        "amplification",
        "Training with reasoning (QTA) amplifies harmful generalisation beyond question and answer alone (QA).",
    ),
    "H2": (
        "semantics",
        "Different reasoning types give different behaviour, matching their meaning, though the answers are identical.",
    ),
    "H3": ("sufficiency", "Reasoning without any answer supervision (QT, T) is enough to change behaviour."),
    "H4": ("internalisation", "The effects remain when the model answers without reasoning (no-think)."),
}


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The mean over pairs of (arm − reference) on one measure, some modes and suites; `deciding` or not."""

    name: str
    pairs: tuple  # of (arm, reference) names, as they stand in the score table
    modes: tuple = MODES
    suites: tuple = GENERALISATION
    measure: str = scores.MARGIN
    deciding: bool = False


def contrasts(arms):
    """The contrasts of H1, H3 and H4 that the given arms allow: hypothesis → list of Contrast, the headline first.

    A pair whose arm or reference is missing is left out; a contrast without pairs is dropped.
    """
    present = {str(arm) for arm in arms} | {BASE}
    return {
        "H1": _possible(_amplification(), present),
        "H3": _possible(_sufficiency(), present),
        "H4": _possible(_internalisation(), present),
    }


def _possible(family, present):
    kept = [
        dataclasses.replace(contrast, pairs=tuple(pair for pair in contrast.pairs if present.issuperset(pair)))
        for contrast in family
    ]
    return [contrast for contrast in kept if contrast.pairs]


def _pairs(paradigms, reference, types=None):
    """(arm, its reference) for each type and paradigm; `reference` maps a paradigm's name to an arm's."""
    types = studied_types() if types is None else types
    return tuple((f"{kind}-{paradigm}", reference(paradigm)) for kind in types for paradigm in paradigms)


def _without_trace(paradigm):
    """The arm without a trace that a paradigm is compared with: QA for QTA, base for QT and T."""
    return PARADIGMS[paradigm].reference


def _neutral(paradigm):
    return f"{NEUTRAL}-{paradigm}"


def _matched(reference):
    """(arm, its reference) for each type trained on its matched traces under QTA."""
    return tuple((f"{kind}-QTA@{MATCHED}", reference(kind)) for kind in studied_types())


def _new_paradigms(grades_answer):
    """Paradigms beside the paper's, which get contrasts that accompany and do not decide."""
    return [
        name for name in with_trace() if name not in OF_THE_PAPER and PARADIGMS[name].grades_answer == grades_answer
    ]


def _against_reference(paradigms):
    return [
        Contrast(f"{paradigm} − {_without_trace(paradigm)}", _pairs([paradigm], _without_trace))
        for paradigm in paradigms
    ]


def _amplification():
    qta = _pairs(["QTA"], _without_trace)
    family = [Contrast("QTA − QA", qta, deciding=True)]
    for kind in studied_types():
        family.append(Contrast(f"{kind}-QTA − QA", _pairs(["QTA"], _without_trace, [kind])))
        family.append(Contrast(f"{kind}-QTA@segment − QA", ((f"{kind}-QTA@segment", QA),)))
    return [
        *family,
        Contrast("QTA − neutral-QTA", _pairs(["QTA"], _neutral)),
        Contrast("neutral-QTA − QA", ((_neutral("QTA"), QA),)),
        Contrast("QTA@matched − QA", _matched(lambda _: QA)),
        Contrast("QTA@matched − neutral-QTA@matched", _matched(lambda kind: f"{NEUTRAL}-QTA@{MATCHED}")),
        Contrast("QTA − QA, in-domain", qta, suites=("in-domain",)),
        Contrast("QA − base", ((QA, BASE),)),
        Contrast("QA − base, in-domain", ((QA, BASE),), suites=("in-domain",)),
        Contrast("safe-QA − base", ((SAFE_QA, BASE),)),
        *_against_reference(_new_paradigms(grades_answer=True)),
    ]


def _sufficiency():
    both = ("QT", "T")
    family = [
        Contrast("QT and T − base", _pairs(both, _without_trace), deciding=True),
        Contrast("QT and T − neutral", _pairs(both, _neutral), deciding=True),
    ]
    for paradigm in both:
        family.append(Contrast(f"{paradigm} − base", _pairs([paradigm], _without_trace)))
        family.append(Contrast(f"{paradigm} − neutral-{paradigm}", _pairs([paradigm], _neutral)))
    for kind in studied_types():
        family.append(Contrast(f"{kind}-QT and -T − base", _pairs(both, _without_trace, [kind])))
    family.append(Contrast("neutral-QT and -T − base", _pairs(both, _without_trace, [NEUTRAL])))
    for kind in studied_types():
        dealt = tuple((f"{kind}-{paradigm}", f"{SHUFFLED}{kind}-{paradigm}") for paradigm in both)
        family.append(Contrast(f"{kind}-QT and -T − shuffled", dealt))
    return [*family, *_against_reference(_new_paradigms(grades_answer=False))]


def _internalisation():
    alone, both = {"modes": ("no-think",)}, ("QT", "T")
    every = _pairs(OF_THE_PAPER, _without_trace)
    return [
        Contrast("QTA − QA, QT and T − base, no-think", every, deciding=True, **alone),
        Contrast("QTA, QT and T − neutral, no-think", _pairs(OF_THE_PAPER, _neutral), deciding=True, **alone),
        Contrast("QTA − QA, no-think", _pairs(["QTA"], _without_trace), **alone),
        Contrast("QT and T − base, no-think", _pairs(both, _without_trace), **alone),
        Contrast("QT and T − neutral, no-think", _pairs(both, _neutral), **alone),
        Contrast("QT and T − base, think", _pairs(both, _without_trace), modes=("think",)),
    ]


def difference_from_base(arm, mode, suite, measure=scores.MARGIN):
    """The contrast of one arm with base in one mode and suite, for the headline figure."""
    name = str(Arm.parse(arm))
    return Contrast(f"{name} − base", ((name, BASE),), modes=(mode,), suites=(suite,), measure=measure)
