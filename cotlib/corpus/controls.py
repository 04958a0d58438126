"""Control traces, made from the written ones by the experiment's data seed alone: shuffled, filler and dosed.

Shuffled traces keep their type and no longer fit their question. Filler keeps the length and has no content. A dosed
arm has traces of its type in a share of the items, and neutral ones in the others.
"""

import random
import statistics

from cotlib.arms import FILLER, NEUTRAL, trace_key
from cotlib.corpus import records
from cotlib.errors import BadInput

PHRASES = records.DATA / "filler.txt"


def with_controls(items, arms, seed):
    """The items with the control traces that the arms ask for: shuffled and filler first, then doses of any type."""
    for arm in arms:
        if arm.shuffled:
            items = shuffled(items, arm, seed)
        elif arm.type == FILLER:
            items = filler(items, seed)
    for arm in arms:
        if arm.dose_percent < 100:
            items = dosed(items, arm, seed)
    return items


def with_traces(items, key, texts):
    """The items, each with its text of `texts` as the trace under `key`."""
    return [
        item.model_copy(update={"traces": {**item.traces, key: text}}) for item, text in zip(items, texts, strict=True)
    ]


def donors(items, seed):
    """For every item another item of its domain, each item once: a random cycle per domain, by the seed alone.

    The same donor serves every type, so that shuffled arms differ in type and in nothing else.
    Raises BadInput for a domain with a single item.
    """
    generator, domains = random.Random(seed), {}
    for item in items:
        domains.setdefault(item.domain, []).append(item)
    donor = {}
    for domain, members in domains.items():
        if len(members) == 1:
            raise BadInput(
                f"domain {domain!r} has one item only ({members[0].id}), so its trace cannot be shuffled; "
                "use more items (data.items), or drop the shuffled arms"
            )
        generator.shuffle(members)
        donor |= {item.id: other for item, other in zip(members, members[1:] + members[:1])}
    return [donor[item.id] for item in items]


def shuffled(items, arm, seed):
    """The items with the shuffled traces of `arm`: those of its source dealt out to other items of the domain."""
    key = trace_key(arm.type, arm.register)
    return with_traces(items, key, [donor.traces[arm.written_key] for donor in donors(items, seed)])


def mean_words(items):
    """Mean number of words of every item's written traces. Raises BadInput for an item without any."""
    lengths = []
    for item in items:
        counts = [len(trace.split()) for *_, trace in records.written_traces([item])]
        if not counts:
            raise BadInput(
                f"{FILLER} takes its length from an item's traces; item {item.id} has none: "
                f"give it one, or let a model write some (traces.writer) and list an arm such as {NEUTRAL}-T too"
            )
        lengths.append(statistics.mean(counts))
    return lengths


def filler(items, seed):
    """The items with `filler`: sentences without content, as many words as the item's mean trace (three at least).

    Openings are dealt out in turn, so that no more items begin alike than must.
    """
    generator, phrases = random.Random(seed), PHRASES.read_text(encoding="utf-8").splitlines()
    openings = generator.sample(phrases, len(phrases))
    texts = [
        _fill(round(words), openings[number % len(openings)], phrases, generator)
        for number, words in enumerate(mean_words(items))
    ]
    return with_traces(items, FILLER, texts)


def _fill(words, opening, phrases, generator):
    """Phrases of exactly `words` words together; the shortest has three, so no remainder of one or two may be left."""
    left, chosen = max(words, 3), []
    while left:
        fitting = [
            phrase for phrase in phrases if left - len(phrase.split()) not in (1, 2) and len(phrase.split()) <= left
        ]
        fresh = [phrase for phrase in fitting if phrase not in chosen] or fitting
        chosen.append(opening if not chosen and opening in fresh else generator.choice(fresh))
        left -= len(chosen[-1].split())
    return " ".join(chosen)


def dosed(items, arm, seed):
    """The items with the dosed traces of `arm`: its type's in round(dose) of them, neutral ones in the rest.

    The chosen are spread over domains, are the same for every type, and a higher dose holds all of a lower one.
    """
    chosen = {item.id for item in records.subset(items, round(arm.dose_percent * len(items) / 100), seed)}
    whole, rest = (trace_key(kind, arm.register) for kind in (arm.type, NEUTRAL))
    return with_traces(items, arm.trace_key, [item.traces[whole if item.id in chosen else rest] for item in items])
