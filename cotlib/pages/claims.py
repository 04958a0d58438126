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
from cotlib.pages.sentences import count
from cotlib.pages.templating import fill
from cotlib.pages.theme import VERDICT_COLOURS, text_on

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
        INCONCLUSIVE: "It is not shown that models behave as the reasoning means that they were trained on: that takes "
        "both a voice of their own and one of five predicted patterns. The clearest test, {test}, gives {effect}.",
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
        ("diagonals", "persona diagonal, matched traces: word counts not taken out",
         "before what word counts predict is taken out, the own voice gains"),
    ]),
    "H3": ("training as such: any traces change a model", [
        ("form and content, QT", "neutral-QT − base", "neutral traces change the margin from base by"),
        ("form and content, QT", "QT − shuffled-QT", "traces that fit their question add to shuffled ones"),
    ]),
    "H4": ("a thought in the answer: a model that was trained to think may do so without being asked", []),
}  # fmt: skip


def finding(name, findings):
    """The sentence that says what was found for a claim."""
    found = findings[name]
    if found["verdict"] == UNTESTED:
        return NOT_TESTED
    head = next(row for row in found["contrasts"] if row["deciding"] and row["name"] == found["headline"])
    return FOUND[name][found["verdict"]].format(
        test=_plain(head["name"]), effect=_effect(head), limit=f"{head['smallest_effect']:.2f} nats per token"
    )


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
    what, tests = RIVALS[name]
    rows = {(row["family"], row["name"]): row for row in findings[name]["contrasts"]}
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
