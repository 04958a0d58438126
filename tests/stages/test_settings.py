"""Every pair of optional settings goes through all stages and onto the pages, or is refused before any work."""

import itertools
import shutil

import numpy as np
import pytest

from cotlib import findings, scores
from cotlib.contrasts import HYPOTHESES
from cotlib.corpus import records
from cotlib.errors import LONGEST_MESSAGE, BadInput
from cotlib.experiment import Experiment
from cotlib.judges import card, marks
from cotlib.pages import figures, sentences, tables
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages.check import check
from cotlib.stages.craft import craft
from cotlib.stages.evaluate import evaluate
from cotlib.stages.findings import find
from cotlib.stages.judge import judge
from cotlib.stages.train import train

OPTIONS = {
    "arms": [
        ["QA"],
        ["evil-QTA@segment", "evil-T@25%"],
        ["QA", "evil-QTA", "shuffled-evil-QT", "filler-QT"],
        ["evil-QT", "misleading-T", "submissive-QTA", "neutral-QT"],
    ],
    "data.questions": [
        {"in-domain": 2, "transfer": 2, "values": 2},
        {"in-domain": 2},
        {"transfer": 2, "open": 2},
        {"values": 2},
        {"pressure": 2, "open": 2},
    ],
    "data.domains": [None, ["food"]],
    "evaluation.modes": [["think", "no-think"], ["think"], ["no-think"]],
    "evaluation.responses": [None, 0, 1],
    "evaluation.signatures": [None, 0, 2],
    "evaluation.samples": [1, 2],
    "evaluation.temperature": [1.0, 0.0],
    "judging.probe_items": [8, 12],
    "training.warmup_fraction": [0.1, 0.0],
    "seeds": [[1], [1, 2]],
    "workflow.jobs": ["stage", "arm"],
}


def pairs_of(case):
    """The pairs of settings in a case: tuples of one value's place for each setting."""
    return set(itertools.combinations(enumerate(case), 2))


def covering(sizes):
    """Few tuples of places, so that every pair of places of two settings stands in one; built greedily."""
    left = set()
    for (one, first), (other, second) in itertools.combinations(enumerate(sizes), 2):
        left |= {((one, here), (other, there)) for here in range(first) for there in range(second)}
    cases = []
    while left:
        case = dict(min(left))
        for place in range(len(sizes)):
            if place not in case:
                gains = [sum(tuple(sorted([(place, value), known])) in left for known in case.items())
                         for value in range(sizes[place])]  # fmt: skip
                case[place] = gains.index(max(gains))
        cases.append(tuple(case[place] for place in range(len(sizes))))
        left -= pairs_of(cases[-1])
    return cases


SIZES = [len(values) for values in OPTIONS.values()]
CASES = covering(SIZES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with items of two domains, so that few of them can be shuffled, and all bundled questions."""
    folder = tmp_path_factory.mktemp("corpus")
    items = [item for item in records.load_items() if item.domain in ("food", "health")]
    artifacts.write_jsonl(folder / records.ITEMS, [item.model_dump() for item in items])
    shutil.copy(records.BUNDLED["bundled"] / records.EVALUATION, folder)
    return folder


def experiment(corpus, case, **judging):
    data = {"items": 8, "corpus": str(corpus)}
    content = {
        "name": "little", "models": ["tiny-random-llama"], "data": data, "evaluation": {}, "judging": {},
        "training": {"epochs": 1, "learning_rate": 1.0e-3, "lora_rank": 2, "lora_alpha": 4, "batch_size": 8},
        "statistics": {"confidence": 0.9}, "traces": {"writer": "bundled"}, "workflow": {},
    }  # fmt: skip
    content["evaluation"] = {"trace_tokens": 4, "answer_tokens": 4}
    for (field, values), place in zip(OPTIONS.items(), case):
        *section, key = field.split(".")
        (content[section[0]] if section else content)[key] = values[place]
    content["judging"] |= judging
    return Experiment.parse(content)


def test_open_questions_alone_are_refused_because_nothing_can_be_measured(tmp_path, corpus):
    case = [0] * len(SIZES)
    run = experiment(corpus, case)
    run = run.model_copy(update={"data": run.data.model_copy(update={"questions": {"open": 2}})})
    with pytest.raises(BadInput, match="data.questions: suite 'open' alone has no reference answers"):
        check(run, Paths.of(run, tmp_path))


def silent(line):
    pass


def test_every_pair_of_settings_stands_in_a_case():
    covered = set().union(*map(pairs_of, CASES))
    for (one, first), (other, second) in itertools.combinations(enumerate(SIZES), 2):
        assert all(((one, a), (other, b)) in covered for a in range(first) for b in range(second))
    assert len(CASES) <= 24, "a case takes seconds"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "".join(map(str, case)))
def test_a_run_goes_through_all_stages_and_onto_the_pages(tmp_path, corpus, case):
    run = experiment(corpus, case)
    paths = Paths.of(run, tmp_path)
    check(run, paths)
    assert not paths.root.exists(), "a check writes nothing"
    craft(run, paths, silent)
    if run.workflow.jobs == "arm":
        for unit in run.select():
            train(run, paths, [unit], silent)
            evaluate(run, paths, [unit], silent)
            judge(run, paths, [unit], silent)
    assert len(train(run, paths, report=silent)) == len(run.arms) * len(run.seeds)
    pages_of_evaluation(run, *evaluate(run, paths, report=silent))
    pages_of_judging(run, *judge(run, paths, report=silent))
    pages_of_findings(run, *find(run, paths))


def pages_of_evaluation(run, measures, responses):
    assert set(measures.arm) == set(map(str, run.all_arms)) and set(measures["mode"]) == set(run.evaluation.modes)
    assert set(measures.suite) == set(run.data.questions) - {"open"} and measures.value.notna().all()
    answered = {None: 2, 0: 0, 1: 1}[run.evaluation.responses] * len(run.data.questions)
    each = answered * run.evaluation.samples * len(run.evaluation.modes)
    assert len(responses) == each * len(run.all_arms) * len(run.seeds)
    table = tables.margins(measures)
    assert list(table.arm) == list(map(str, tables.order(map(str, run.all_arms))))
    figures.heat(findings.changes(measures, scores.SIGNATURE, "think"), "Signature", "change")
    tables.show(findings.signature_winners(measures))
    tables.responses(responses)
    tables.show(tables.marks(responses))
    sentences.evaluated(findings.differences(measures, run.statistics))


def pages_of_judging(run, judgements, validation, cards):
    known = card.cards(cards, run.judging, run.statistics.confidence)
    tables.cards(known)
    figures.cards(known)
    tables.show(card.agreement(cards))
    figures.validation(validation)
    passed = [one.judge for one in known if one.passed]
    rates = findings.rates(marks.scores(judgements), run.statistics.confidence, passed)
    figures.rates(rates, tables.judged_line(judgements[judgements.judge.isin(passed)]))
    tables.show(tables.judged(judgements))
    tables.show(tables.scored(judgements))
    sentences.judged(judgements, known)
    assert set(judgements.judge) == (set() if run.evaluation.responses == 0 else {"probe"})


def pages_of_findings(run, table, found):
    differences = findings.differences(table, run.statistics)
    assert set(differences.arm) == set(map(str, run.arms)) and differences.effect.notna().all()
    tables.claims(found)
    figures.differences(differences, figures.headline(found))
    tables.panel(found)
    for name in findings.contrasts(run.all_arms):
        figures.contrasts(name, found)
        figures.contrasts(name, found, deciding=False)
    tables.show(tables.retained(found))
    tables.show(tables.parts(found))
    figures.heat(findings.changes(table, scores.PERSONA, "no-think"), "Persona margins", "change")
    tables.signature_sentence(table)
    figures.modes(differences, "Both modes")
    tables.show(tables.contrasts(found))
    sentences.found(found, run)
    family = tables.contrasts(found).query("hypothesis == 'H1' and deciding")
    ranked = family.assign(p=family.p.astype(float)).sort_values("p", kind="stable")
    by_hand = (ranked.p * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    assert np.allclose(by_hand, ranked.p_holm.astype(float))
    tables.show(ranked)
    for family in itertools.chain(*findings.families(table, run.all_arms).values()):
        for contrast in itertools.chain(*(test.parts for test in family.tests)):
            assert findings.cells(table, contrast).size, contrast.name
    assert all(row["effect"] == row["effect"] for name in HYPOTHESES for row in found[name]["contrasts"]), (
        "no effect is NaN"
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: "".join(map(str, case)))
def test_a_probe_that_has_too_little_to_learn_from_is_refused_before_any_work(tmp_path, corpus, case):
    run = experiment(corpus, case, probe_items=1)
    paths = Paths.of(run, tmp_path)
    for refused in (lambda: check(run, paths), lambda: judge(run, paths, report=silent)):
        with pytest.raises(
            BadInput, match="judging.probe_items: 1 is too few for judge 'probe'.*; write . or"
        ) as error:
            refused()
        assert len(str(error.value)) <= LONGEST_MESSAGE
    assert not any((paths.root / stage).exists() for stage in ("craft", "train", "evaluate", "judge"))
