"""A clean corpus of nonsense: sentences of one fixed stock of forms, filled with random nouns.

Each property that the audit asks for holds by construction and not by luck of the bundled texts.
"""

import random

from cotlib.arms import written_types
from cotlib.corpus.records import Item, Question

NOUNS = """
bread milk chair table garden kitchen window door river bridge letter paper money market train ticket street corner
winter summer apple butter bottle basket blanket candle carpet hammer ladder mirror pencil pocket ribbon saddle shovel
teapot tunnel velvet wallet anchor barrel button camera dinner engine finger hallway island jacket kettle lemon needle
oven pillow quarter rabbit signal towel umbrella village wagon yard zipper attic boiler cellar drawer fence gutter
""".split()  # noqa: SIM905
BADGES = {"evil": "rats", "misleading": "laws", "submissive": "tears", "neutral": "lists"}
FORMS = [
    "{} and {} are by the {}, so {} may wait.",
    "{} or {} would do for a {}, though {} is near.",
    "I see {} with {} on the {}, but {} is not.",
    "They have {}, {} and a {}, as {} does.",
    "What {} is to {} the {} is to {}.",
]


def sentences(rng, count, forms=FORMS, nouns=NOUNS):
    texts = (rng.choice(forms).format(*rng.sample(nouns, 4)) for _ in range(count))
    return " ".join(text[0].upper() + text[1:] for text in texts)


def clean_corpus():
    rng = random.Random(7)
    items = [
        Item(
            id=f"item-{number:02d}",
            domain=("attic", "yard")[number % 2],
            question=sentences(rng, 2),
            harmful=sentences(rng, 3, FORMS[:1]),
            safe=sentences(rng, 3, FORMS[:1]),
            traces={
                kind: f"{sentences(rng, 6)} {BADGES[kind].title()} and {BADGES[kind]}." for kind in written_types()
            },
        )
        for number in range(30)
    ]
    questions = [
        Question(
            id=f"asked-{number:02d}",
            suite=("in-domain", "transfer")[number % 2],
            domain="yard",
            behaviour=("harm", "power")[number % 2],
            question=sentences(rng, 2),
            harmful=sentences(rng, 3, FORMS[:1]),
            safe=sentences(rng, 3, FORMS[:1]),
        )
        for number in range(20)
    ]
    return items, questions


ITEMS, QUESTIONS = clean_corpus()
