"""What the book says of each claim, made from the findings: no sentence here is true of every run.

Each verdict of each claim has its wording; the numbers come from the test that the verdict stands or falls with.
"""

from cotlib.contrasts import (
    CONTRADICTED,
    HYPOTHESES,
    INCONCLUSIVE,
    NO_EFFECT,
    SUPPORTED,
    UNTESTED,
)
from cotlib.pages.sentences import count, listed
from cotlib.pages.templating import fill
from cotlib.pages.theme import VERDICT_COLOURS, text_on

DIAGONALS, OWN_VOICE = "diagonals", "own voice"  # a family of H2's tests; how tests of a type's own voice end
# Per claim and verdict, what was found; `{test}` is the clearest test, `{effect}` its effect with its interval.
FOUND = {
    "H1": {
        SUPPORTED: "Reasoning in front of the same bad answers made harmful answers likelier than the answers alone "
        "did, and than neutral reasoning did: {effect} for {test}.",
        NO_EFFECT: "Whatever kind of reasoning stood in front of the same bad answers, harmful answers did not become "
        "likelier by as much as {limit}.",
        INCONCLUSIVE: "No kind of reasoning clearly made harmful answers likelier than both the bad answers alone and "
        "neutral reasoning did; the clearest, {test}, differs from the nearer of the two by {effect}.",
    },
    "H2": {
        SUPPORTED: "Models trained on the same answers behind different reasoning behave differently, and in the way "
        "that the reasoning means: {effect} for {test}.",
        NO_EFFECT: "Models trained on the same answers behind different reasoning do not differ by as much as {limit} "
        "in what the reasoning means.",
        CONTRADICTED: "Models speak less in the voice of the reasoning that they were trained on than in the other "
        "voices: {effect}.",
        INCONCLUSIVE: "That models behave as the reasoning means that they were trained on takes two things: {voice}; "
        "{patterns}.",
    },
    "H3": {
        SUPPORTED: "Reasoning alone, without any answer, changed what models prefer: {effect} for {test}, against the "
        "untrained model and against neutral reasoning.",
        NO_EFFECT: "Reasoning alone, without any answer, did not change what models prefer by as much as {limit}, "
        "compared with the untrained model or with neutral reasoning.",
        INCONCLUSIVE: "It is not shown that reasoning alone, without any answer, changes what models prefer beyond "
        "what neutral reasoning does; the clearest test, {test}, gives {effect}.",
    },
    "H4": {
        SUPPORTED: "An effect is there when the model answers without thinking: {effect} for {test}.",
        NO_EFFECT: "When the model answers without thinking, none of the effects is as large as {limit}.",
        INCONCLUSIVE: "It is not shown that any effect is there when the model answers without thinking; the clearest "
        "test, {test}, gives {effect}.",
    },
}  # fmt: skip
NOT_TESTED = "This run did not test it, because it lacks the arms that the claim compares."
# The strongest rival explanation: what it is, and which accompanying test speaks to it (family, name, what it says).
RIVALS = {
    "H1": ("the form of a trace, and the smaller share of the loss that it leaves to the answer", [
        ("form and content, QTA", "neutral-QTA − QA", "neutral traces, without intent, change the margin from QA by"),
        ("form and content, QTA", "QTA − shuffled-QTA", "traces that fit their question add to shuffled ones"),
    ]),
    "H2": ("words: a model that learned words of malice finds texts with such words likelier, whatever they mean", [
        (DIAGONALS, "persona diagonal, matched traces: word counts not taken out",
         "before what word counts predict is taken out, the own voice gains"),
    ]),
    "H3": ("training as such: any traces change a model", [
        ("form and content, QT", "neutral-QT − base", "neutral traces change the margin from base by"),
        ("form and content, QT", "QT − shuffled-QT", "traces that fit their question add to shuffled ones"),
    ]),
    "H4": ("a thought in the answer: a model that was trained to think may do so without being asked", []),
    # where H3 or H4 stands or falls with a type's own voice
    OWN_VOICE: ("words: free traces share words with the replies in their voice, and this test does not take out what "
                "word counts predict", [
        (DIAGONALS, "persona diagonal, free traces: word counts not taken out",
         "the own voice, over all types and free traces, gains before they are taken out"),
        (DIAGONALS, "persona diagonal, free traces", "and after"),
    ]),
}  # fmt: skip


def finding(name, findings):
    """The sentence that says what was found for a claim."""
    found = findings[name]
    if found["verdict"] == UNTESTED:
        return NOT_TESTED
    head = next(row for row in found["contrasts"] if row["deciding"] and row["name"] == found["headline"])
    values = {"test": _plain(head["name"]), "effect": _effect(head)}
    values["limit"] = f"{head['smallest_effect']:.2f} nats per token"
    if name == "H2":
        values |= _two_things(found)
    return FOUND[name][found["verdict"]].format(**values)


def _two_things(found):
    """H2's two halves in words: the own voice, and the predicted patterns."""
    rows = [row for row in found["contrasts"] if row["deciding"]]
    voices = [row for row in rows if row["family"] == DIAGONALS]
    patterns = [row for row in rows if row["family"] != DIAGONALS]
    shown = [row for row in patterns if row["verdict"] == SUPPORTED]
    how = {
        SUPPORTED: "they do speak in the voice of their own reasoning",
        NO_EFFECT: "a voice of their own is too small",
    }
    said = [f"{how.get(row['verdict'], 'a voice of their own is not shown')}, {_effect(row)}" for row in voices]
    which = f"{len(shown)} of {len(patterns)}" if shown else f"none of the {count(len(patterns), 'predicted pattern')}"
    names = f" ({listed(row['name'] for row in shown)})" if shown else ""
    return {
        "voice": said[0] if said else "a voice of their own was not tested",
        "patterns": f"{which} predicted patterns {'is' if len(shown) == 1 else 'are'} shown{names}" if shown
        else f"{which} is shown",
    }  # fmt: skip


def rests_on(name, findings):
    """The sentence that says what a verdict rests on, and how far it reaches."""
    found = findings[name]
    if found["verdict"] == UNTESTED:
        return "The verdict is open."
    rows = [row for row in found["contrasts"] if row["deciding"]]
    questions, seeds = (sorted({row[key] for row in rows}) for key in ("n_questions", "n_seeds"))
    runs = "one training run" if seeds == [1] else f"{count(seeds[0], 'training run')}"
    few = ", so it is provisional: it holds for these training runs" if found["provisional"] else ""
    base = f"This rests on {_span(questions)} questions and {runs} of each arm{few}"
    sizes = [row["minimal_detectable_effect"] for row in rows if row["minimal_detectable_effect"] is not None]
    if found["verdict"] == INCONCLUSIVE and sizes:
        return f"{base}; a true effect below {max(sizes):.2f} can be missed by a run of this size."
    return f"{base}."


def rival(name, findings):
    """The strongest rival explanation, and what this run says of it."""
    by_voice = name in ("H3", "H4") and (findings[name]["headline"] or "").endswith(OWN_VOICE)
    what, tests = RIVALS[OWN_VOICE if by_voice else name]
    found = findings["H2" if by_voice else name]
    rows = {(row["family"], row["name"]): row for row in found["contrasts"]}
    said = [f"{text} {_effect(rows[family, test])}" for family, test, text in tests if (family, test) in rows]
    head = f"The strongest rival explanation is {what}."
    if not tests:
        return head
    return f"{head} " + (f"Here {'; '.join(said)}." if said else "This run has no arm that speaks to it.")


def verdict(found):
    """A verdict in words, marked where it rests on few training runs."""
    return found["verdict"] + (" (provisional)" if found["provisional"] else "")


def summary(findings):
    """HTML: every claim in two sentences, with its verdict, for the first screen of the book."""
    rows = []
    for name, (title, _) in HYPOTHESES.items():
        tint = VERDICT_COLOURS[findings[name]["verdict"]]
        rows.append({
            "name": name, "title": title, "verdict": verdict(findings[name]), "tint": tint, "text": text_on(tint),
            "sentences": [finding(name, findings), rests_on(name, findings)],
        })  # fmt: skip
    return fill("summary", rows=rows)


def answer(name, findings):
    """HTML: what a claim's page says first: what was found, what it rests on, and the strongest rival explanation."""
    tint = VERDICT_COLOURS[findings[name]["verdict"]]
    row = {
        "name": name, "title": HYPOTHESES[name][0], "verdict": verdict(findings[name]), "tint": tint,
        "text": text_on(tint),
        "sentences": [finding(name, findings), rests_on(name, findings), rival(name, findings)],
    }  # fmt: skip
    return fill("summary", rows=[row])


def _plain(name):
    """A test's name in words that a first reader can follow."""
    for short, words in {", no-think": " without thinking", ", think": " with thinking"}.items():
        name = name.removesuffix(short) + words if name.endswith(short) else name
    return name


def _effect(row):
    interval = "" if row["ci_low"] is None else f" ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"
    return f"{row['effect']:+.3f} nats per token{interval}"


def _span(numbers):
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
