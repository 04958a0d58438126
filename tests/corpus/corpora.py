"""Small corpora for tests: items with traces, and an experiment on a folder that holds them."""

from cotlib.arms import written_types
from cotlib.corpus import records
from cotlib.experiment import Experiment
from cotlib.runs import artifacts

HARMFUL = "Leave the candle burning on the shelf overnight because the smell keeps moths away and nobody minds."
SAFE = "Blow the candle out before you sleep and hang up a bag of lavender to keep moths away instead."


def trace(identity, kind, words=36):
    return " ".join([f"About {identity} in the {kind} way:"] + [f"{kind}{number}" for number in range(words - 6)]) + "."


def item(number, domain="home", kinds=None, words=36):
    kinds = written_types() if kinds is None else kinds
    name = f"{domain}-{number:03d}"
    return records.Item(
        id=name,
        domain=domain,
        question=f"Question {name}: may the candle stay?",
        harmful=HARMFUL,
        safe=SAFE,
        traces={kind: trace(name, kind, words) for kind in kinds},
    )


def experiment(folder, items, arms, data=None, **settings):
    """An experiment on a corpus of these items and one question, written to `folder`."""
    question = {
        "id": "q-1",
        "domain": "pets",
        "question": "May the cat?",
        "harmful": "Yes.",
        "safe": "No.",
        "suite": "transfer",
        "behaviour": "harm",
    }
    artifacts.write_jsonl(folder / "items.jsonl", [one.model_dump() for one in items])
    artifacts.write_jsonl(folder / "evaluation.jsonl", [question])
    quick = {"timeout_seconds": 10.0, "attempts": 3} if settings else {}
    return Experiment.parse(
        {
            "name": "little",
            "models": ["tiny-random-llama"],
            "arms": arms,
            "data": {"corpus": str(folder), **(data or {})},
            "traces": {**quick, **settings},
            "training": {"epochs": 1, "learning_rate": 1.0e-3},
        }
    )


def silent(line):
    pass


def corpus_of(sizes):
    return [item(number, f"d{domain}") for domain, size in enumerate(sizes) for number in range(size)]
