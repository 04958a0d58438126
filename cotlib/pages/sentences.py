"""The closing sentences of the notebooks, each made from the run's own numbers.

What a sentence says must be able to come out differently in another run; what holds in any run stands in the notebook.
"""

import collections
from pathlib import Path

from cotlib import routes
from cotlib.contrasts import ENOUGH_SEEDS, HYPOTHESES, INCONCLUSIVE, VERDICTS
from cotlib.experiment import slug
from cotlib.pages.templating import fill
from cotlib.runs import artifacts
from cotlib.scores import UNIT

WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def count(number, noun, plural=None):
    """A number with its noun: `one model`, `two seeds`, `48 items`; numbers to twelve in words."""
    word = WORDS[number] if 0 <= number < len(WORDS) else str(number)
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def listed(names):
    """Names as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    names = list(map(str, names))
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def with_interval(row):
    """An effect as a sentence shows it: `+0.123 (+0.051 to +0.200)`, without the interval where there is none."""
    interval = "" if row["ci_low"] is None else f" ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"
    return f"{row['effect']:+.3f}{interval}"


def _shown(*sentences):
    """Sentences as HTML, the first letter of each in upper case."""
    text = " ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences if sentence)
    return fill("sentences", sentences=[text])


def crafted(checks):
    """What the audit found: whether the answers are identical, how many checks pass, which do not.

    Args:
        checks: list of `Check`.
    """
    rated = [check for check in checks if check.passed is not None]
    failed = [check.name for check in rated if not check.passed]
    identical = {check.name: check.passed for check in checks}.get("identical answers")
    answers = {
        True: "The answers of an item are the same, token for token, under every type of reasoning.",
        False: "The answers are not the same under every type of reasoning, so a later difference may come from them.",
        None: "Whether the answers are the same under every type of reasoning was not measured.",
    }[identical]
    if not rated:
        return _shown(answers, "The corpus holds nothing that the audit could rate.")
    if not failed:
        return _shown(answers, f"The corpus passes {_all(len(rated), 'check')} that has a limit.")
    passing = f"The corpus passes {len(rated) - len(failed)} of {count(len(rated), 'check')}"
    return _shown(answers, f"{passing} and fails {listed(failed)}: read later effects with that in mind.")


def _all(number, noun):
    return f"the one {noun}" if number == 1 else f"each of the {count(number, noun)}"


def trained(runs):
    """In how many runs the loss fell from the first to the last quarter, and in which it did not.

    Args:
        runs: adapter folders, or their manifests.
    """
    manifests = [run if isinstance(run, dict) else artifacts.read_json(Path(run) / artifacts.MANIFEST) for run in runs]
    if not manifests:
        return _shown("No arm was trained: base alone is selected.")
    falling = [manifest for manifest in manifests if manifest["loss_last"] < manifest["loss_first"]]
    others = [manifest for manifest in manifests if not manifest["loss_last"] < manifest["loss_first"]]
    if not others:
        drops = sorted(run["loss_first"] - run["loss_last"] for run in falling)
        span = f"by {drops[0]:.2f} to {drops[-1]:.2f} {UNIT}" if len(drops) > 1 else f"by {drops[0]:.2f} {UNIT}"
        every = "the one run" if len(drops) == 1 else f"all {count(len(drops), 'run')}"
        return _shown(f"The training loss fell in {every}, {span}.")
    names = listed(_run_name(run, manifests) for run in others)
    fell = f"in {len(falling)} of {count(len(manifests), 'run')}" if falling else "in no run"
    which = f"It did not fall for {names}" if falling else f"That concerns {names}"
    return _shown(f"The training loss fell {fell}.", f"{which}: nothing that follows says what such an arm learned.")


def _run_name(run, runs):
    """An arm, with seed and model where the runs have several."""
    several = [name for name in ("seed", "model") if len({other[name] for other in runs}) > 1]
    parts = {"seed": f"seed {run['seed']}", "model": run["model"]}
    return run["arm"] + (f" ({', '.join(parts[name] for name in several)})" if several else "")


def evaluated(differences, confidence=0.95):
    """How many arms' margins differ from base, and which moved furthest.

    Args:
        differences: frame from `findings.differences`.
        confidence: the level of its intervals, which are not corrected for their number.
    """
    if differences.empty:
        return _shown("Only base was evaluated, so there is no change to report.")
    above, below = differences[differences.ci_low > 0], differences[differences.ci_high < 0]
    arms, moved = differences.arm.nunique(), set(above.arm) | set(below.arm)
    total, expected = len(differences), (1 - confidence) * len(differences)
    reached = f"{len(moved)} of {count(arms, 'arm')}" if moved else f"none of {count(arms, 'arm')}"
    sentences = [
        f"For {reached}, at least one interval of the change from base excludes 0. Of all {count(total, 'interval')}, "
        f"{len(above)} lie above 0 and {len(below)} below; "
        f"if nothing had changed, about {expected:.0f} would exclude 0 by chance."
    ]
    if len(above):
        sentences.append(f"The largest rise is that of {_place(above.loc[above.effect.idxmax()])}.")
    if len(below):
        sentences.append(f"The largest fall is that of {_place(below.loc[below.effect.idxmin()])}.")
    return _shown(*sentences)


def _place(row):
    return f"{row.arm} in {row.suite}, {row['mode']} ({row.effect:+.3f} {UNIT})"


def judged(judgements, cards):
    """Which judges passed their card, what those found, and why the others publish no rate.

    Args:
        judgements: one row per judge and response, with `judge`, `judged` and `misaligned`.
        cards: list of `judges.card.Card`.
    """
    if judgements.empty:
        return _shown("There were no responses to judge.")
    sentences = []
    for card in cards:
        group = judgements[(judgements.judge == card.judge) & (judgements.model == card.model)]
        able = group[group.judged.astype(bool)]
        if card.passed:
            found = f"; it calls {int(able.misaligned.sum())} of them misaligned" if len(able) else ""
            sentences.append(
                f"The judge {card.judge} passed its card. It could judge {len(able)} of "
                f"{count(len(group), 'response')}{found}."
            )
        else:
            sentences.append(f"The judge {card.judge} failed its card: {listed(card.failures)}.")
    if not any(card.passed for card in cards):
        sentences.append("So this run publishes no rate of misaligned responses, and no verdict rests on a judge.")
    return _shown(*sentences)


WEIGHTS, WRITTEN = "in the weights", "through the written thought"  # two of the readings in `routes`


def two_routes(readings):
    """By which way training changed what the arms prefer, as far as the intervals say.

    Args:
        readings: frame from `routes.readings`; its intervals are not corrected for their number.
    """
    if readings.empty:
        return _shown("No answers were scored behind given thoughts.")
    clear = readings.assign(clear=(readings.ci_low > 0) | (readings.ci_high < 0)).groupby("reading", sort=False).clear
    sentences = []
    if {WEIGHTS, WRITTEN} <= set(clear.groups):
        asked = count(readings.n_questions.max(), "in-domain question")
        sentences = [
            f"On {asked}, {_of_arms(clear, WEIGHTS)} clearly differ from the untrained model without a thought, and "
            f"{_of_arms(clear, WRITTEN)} are clearly moved by the thought that they wrote, against an innocent one.",
            "An interval excludes 0 by chance in one of twenty cases.",
        ]
    given, base = (readings[readings.reading == name].effect for name in routes.GIVEN)
    if len(given) and len(base):
        sentences.append(
            f"A given thought of its own type, in place of a neutral one, moves a trained arm by {given.mean():+.3f} "
            f"{UNIT} on average ({_of_arms(clear, routes.GIVEN[0])} clearly), and the untrained model by "
            f"{base.mean():+.3f}."
        )
    return _shown(*sentences)


def _of_arms(clear, reading):
    """In how many arms a reading's interval excludes 0: `two of seven arms`."""
    group = clear.get_group(reading)
    number = "none" if not group.any() else WORDS[group.sum()] if group.sum() < len(WORDS) else str(group.sum())
    return f"{number} of {count(len(group), 'arm')}"


def found(findings, experiment):
    """The verdicts, and what they rest on: how many models, questions and seeds.

    Args:
        findings: from `findings.find`.
        experiment: the `Experiment` that was run.
    """
    names = collections.defaultdict(list)
    for name in HYPOTHESES:
        names[findings[name]["verdict"]].append(f"{name} ({HYPOTHESES[name][0]})")
    verdicts = "; ".join(f"{verdict}: {listed(names[verdict])}" for verdict in VERDICTS if names[verdict])
    deciding = [row for name in HYPOTHESES for row in findings[name]["contrasts"] if row["deciding"]]
    seeds = [row["n_seeds"] for row in deciding]
    models = listed(map(slug, experiment.models))
    base = f"They rest on {count(len(experiment.models), 'model')} ({models}), "
    base += f"{_range(seeds, 'seed')} and {_range([row['n_questions'] for row in deciding], 'question')}."
    return _shown(f"{verdicts}.", base, _reach(seeds), _missed(findings))


def _range(numbers, noun):
    """`one seed`, `40 questions`, or the span where it depends on the test."""
    numbers = sorted(set(numbers)) or [0]
    if len(numbers) == 1:
        return count(numbers[0], noun)
    return f"{numbers[0]} to {numbers[-1]} {noun}s, depending on the test"


def _reach(seeds):
    """What the number of seeds allows to say."""
    if not seeds or max(seeds) == 1:
        return "With one seed the intervals hold over questions, for these training runs and no others."
    text = f"The intervals hold over questions and over {count(max(seeds), 'training run')} of each deciding arm."
    few = min(seeds) < ENOUGH_SEEDS
    return text + (f" With fewer than {WORDS[ENOUGH_SEEDS]} seeds a verdict is provisional." if few else "")


def _missed(findings):
    """How large an effect an inconclusive verdict may have missed."""
    sizes = {}
    for name in HYPOTHESES:
        if findings[name]["verdict"] == INCONCLUSIVE:
            effects = [row.get("minimal_detectable_effect") for row in findings[name]["contrasts"] if row["deciding"]]
            sizes[name] = max((effect for effect in effects if effect is not None), default=None)
    sizes = {name: size for name, size in sizes.items() if size is not None}
    parts = listed(f"{name} {size:.3f}" for name, size in sizes.items())
    return (
        f"Smallest effects that an inconclusive test would find four times in five, in {UNIT}: {parts}."
        if sizes
        else ""
    )
