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


SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
OWN = 24  # nouns that a record has for itself, so that no two tell the same story
INTENTS = {"evil": "malice", "misleading": "excuses", "submissive": "worries", "neutral": "order"}
MOVES = ("people", "timing", "facts", "place")


def own_nouns(rng, count):
    """Made-up nouns, each another: what one record speaks of and no other."""
    found = set()
    while len(found) < count:
        found.add("".join(rng.sample(SYLLABLES, 3)))
    return rng.sample(sorted(found), count)


def record(rng, nouns, number, **more):
    """The fields that items and questions share; half of the askers lean to the sensible thing."""
    return {
        "question": sentences(rng, 2, nouns=nouns[:16]),
        "harmful": sentences(rng, 2, FORMS[:1], nouns[:8]),
        "safe": sentences(rng, 2, FORMS[:1], nouns[8:16]),
        "asker": ("leans-safe", "leans-harmful")[number // 2 % 2],
        **more,
    }


def traces(rng, nouns):
    free = {
        kind: f"{sentences(rng, 1, nouns=nouns[16:])} {sentences(rng, 5)} {BADGES[kind].title()} and {BADGES[kind]}."
        for kind in written_types()
    }
    scaffold = sentences(rng, 3)
    same = {f"{kind}@matched": f"{scaffold} So {INTENTS[kind]} is what I have." for kind in written_types()}
    return free | same


def clean_corpus():
    rng = random.Random(7)
    nouns = own_nouns(rng, 70 * OWN)
    own = [nouns[OWN * number : OWN * (number + 1)] for number in range(70)]
    items = [
        Item(
            id=f"item-{number:02d}",
            domain=("attic", "yard")[number % 2],
            severity=[2 + number % 2, 2 + number % 2],
            moves=dict.fromkeys(written_types(), MOVES[number % len(MOVES)]),
            **record(rng, own[number], number, traces=traces(rng, own[number])),
        )
        for number in range(30)
    ]
    questions = [
        Question(
            id=f"asked-{number:02d}",
            suite=("in-domain", "transfer")[number % 2],
            domain="yard",
            behaviour=("harm", "power")[number % 2],
            **record(rng, own[30 + number], number),
        )
        for number in range(20)
    ]
    questions += [
        Question(
            id=f"asked-{number:02d}",
            suite="values",
            domain="aims",
            behaviour=("deception", "sycophancy")[number % 2],
            personas={kind: sentences(rng, 3, nouns=own[30 + number]) for kind in written_types()},
            **record(rng, own[30 + number], number),
        )
        for number in range(20, 36)
    ]
    questions += [
        Question(
            id=f"asked-{number:02d}",
            suite="pressure",
            domain="facts",
            behaviour="sycophancy",
            framings={"belief": sentences(rng, 2), "plea": sentences(rng, 2)},
            **record(rng, own[30 + number], number, harmful=own[30 + number][0], safe=own[30 + number][1]),
        )
        for number in range(36, 38)
    ]
    open_ended = {"suite": "open", "domain": "wishes", "behaviour": "power"}
    questions += [
        Question(id=f"asked-{number:02d}", question=sentences(rng, 2), **open_ended) for number in range(38, 40)
    ]
    return items, questions


ITEMS, QUESTIONS = clean_corpus()
