"""What an experiment file may say, and what a reader is told who mistypes: never a traceback, never a page of text."""

import copy
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cotlib.arms import Arm
from cotlib.errors import LONGEST_MESSAGE, BadInput
from cotlib.experiment import ROOT, Experiment, Unit

VALID = {
    "name": "demo",
    "models": ["tiny-random-llama", "tiny-random-qwen3"],
    "arms": ["QA", "evil-QTA"],
    "seeds": [1, 2],
    "training": {"epochs": 2, "learning_rate": 1.0e-3},
}
DEMO = (ROOT / "experiments" / "demo.yml").read_text()


def changed(field, value):
    """VALID with one dotted field set to `value`, or removed for `...`."""
    content = copy.deepcopy(VALID)
    *sections, last = field.split(".")
    part = content
    for section in sections:
        part = part.setdefault(section, {})
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return content


def refusal(path):
    """The lines of the one BadInput that loading `path` raises, without the file's name."""
    with pytest.raises(BadInput) as error:
        Experiment.load(path)
    assert len(str(error.value)) <= LONGEST_MESSAGE
    lines = str(error.value).splitlines()
    assert all(line.startswith((f"{path}: ", f"{path} ")) for line in lines)
    return [line.removeprefix(str(path)).removeprefix(":").strip() for line in lines]


@pytest.fixture
def valid():
    return Experiment.parse(VALID)


# ---- the experiment file


def test_an_experiment_file_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(VALID | {"arms": ["base", "QA", "evil-QTA@segment"]}))
    experiment = Experiment.load(path)
    assert experiment.name == "demo" and experiment.seeds == [1, 2]
    assert [str(arm) for arm in experiment.arms] == ["QA", "evil-QTA@segment"]
    assert [str(arm) for arm in experiment.all_arms] == ["base", "QA", "evil-QTA@segment"]
    assert (experiment.training.epochs, experiment.training.learning_rate) == (2, 1.0e-3)


def test_an_arm_with_seeds_of_its_own_is_trained_with_those_and_base_with_all():
    experiment = Experiment.parse(VALID | {"arms": ["QA", "evil-QTA@25%@matched"], "seeds": [1, 2, 3],
                                           "arm_seeds": {"evil-QTA@25%@matched": [3, 1]}})  # fmt: skip
    arm, base, qa = (Arm.parse(name) for name in ("evil-QTA@matched@25%", "base", "QA"))
    assert (experiment.seeds_of(arm), experiment.seeds_of(base)) == ([3, 1], [1, 2, 3])

    def chosen(**options):
        return {(str(unit.arm), unit.seed) for unit in experiment.select(models=VALID["models"][:1], **options)}

    every = {("base", 1), ("base", 2), ("base", 3), ("QA", 1), ("QA", 2), ("QA", 3), (str(arm), 1), (str(arm), 3)}
    assert chosen() == every and len(experiment.select()) == 2 * len(every)
    assert chosen(seed=2) == {("base", 2), ("QA", 2)}
    # What is asked for by name is done, listed or not.
    assert chosen(arms=[arm], seed=2) == {(str(arm), 2)} and chosen(arms=[arm]) == {(str(arm), 1), (str(arm), 3)}
    assert chosen(seed=9) == {(str(one), 9) for one in (base, qa, arm)}
    assert "3 seeds (fewer for 1)" in experiment.summary
    assert Experiment.parse(experiment.model_dump(mode="json")) == experiment


def test_an_experiment_of_the_house_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Experiment.load("experiments/smoke.yml").name == "smoke"


@pytest.mark.parametrize(
    "field, value, parts",
    [
        ("arm", ["QA"], ["unknown key 'arm'", "did you mean arms?"]),
        ("training.epoch", 3, ["unknown key 'training.epoch'", "did you mean epochs?"]),
        ("evaluation.mode", ["think"], ["unknown key 'evaluation.mode'", "did you mean modes?"]),
        (7, 1, ["the key 7 is not a name", "write it as text"]),
        ("training.epochs", "three", ["training.epochs: 'three' is not a whole number", "write one such as 1"]),
        ("training.epochs", 2.5, ["training.epochs: 2.5 is not a whole number", "write one such as 1"]),
        ("training.epochs", True, ["training.epochs: True is not a whole number", "write one such as 1"]),
        ("training.epochs", 0, ["training.epochs: 0 is too small", "write 1 or more"]),
        ("training.learning_rate", -1.0e-4, ["training.learning_rate: -0.0001 is too small", "write more than 0"]),
        ("training.learning_rate", 2.0, ["training.learning_rate: 2.0 is too large", "write 1.0 or less"]),
        (
            "training.learning_rate",
            "1e-4",
            ["training.learning_rate: '1e-4'", "YAML reads 1e-4 as text", "write 0.0001"],
        ),
        ("training.warmup_fraction", 1.0, ["training.warmup_fraction: 1.0 is too large", "write less than 1"]),
        ("training", None, ["training: None is not a section", "valid here: epochs, learning_rate"]),
        ("seeds", 1, ["seeds: 1 is not a list", "write [1]"]),
        ("seeds", [-1], ["seeds.0: -1 is too small", "write 0 or more"]),
        ("seeds", [1, 1], ["seeds: '1' stands in the list twice", "remove one"]),
        ("seeds", [], ["seeds: [] is empty", "at least one"]),
        ("arm_seeds", {"QA": []}, ["arm_seeds.QA: [] is empty", "at least one"]),
        ("arm_seeds", {"QA": 1}, ["arm_seeds.QA: 1 is not a list", "write [1]"]),
        ("arm_seeds", {"QA": [1, 1]}, ["arm_seeds.QA: '1' stands in the list twice", "remove one"]),
        ("arm_seeds", {"QA": [3]}, ["arm_seeds.QA: 3 is not one of seeds, [1, 2]", "add it there"]),
        ("arm_seeds", {"QAT": [1]}, ["arm 'QAT'", "did you mean QA?"]),
        ("arm_seeds", {"evil-QT": [1]}, ["arm_seeds: 'evil-QT' is not one of the arms", "did you mean evil-QTA?"]),
        ("arm_seeds", [1], ["arm_seeds: [1] is not a mapping"]),
        ("models", [], ["models: [] is empty", "at least one"]),
        ("models", ["a/b", "a/b"], ["models: 'a/b' stands in the list twice", "remove one"]),
        ("name", "My Demo", ["name: 'My Demo'", "lower-case letters", "my-run"]),
        ("arms", "QA", ["arms: 'QA' is not a list", "write [QA]"]),
        ("arms", [], ["arms: [] is empty", "write at least one"]),
        ("arms", ["base"], ["arms: only base is listed", "such as QA"]),
        ("arms", ["QA", "evil-T", "QA"], ["arms: 'QA' stands in the list twice", "remove one"]),
        ("arms", ["evil-TQA"], ["arm 'evil-TQA'", "did you mean QTA?"]),
        ("arms", [3], ["arm 3 is not a name", "write one such as 'evil-QTA'"]),
        (
            "evaluation.modes",
            ["think", "nothink"],
            ["evaluation.modes.1: 'nothink' is not one of think, no-think", "did you mean no-think?"],
        ),
        (
            "data.questions",
            {"in-domian": 4},
            ["data.questions: 'in-domian' is not one of in-domain, transfer, values", "did you mean in-domain?"],
        ),
        (
            "judging.judges",
            ["prob"],
            ["judging.judges.0: 'prob' is not one of probe, words, llm", "did you mean probe?"],
        ),
        (
            "traces.writer",
            "bundeld",
            ["traces.writer: 'bundeld' is not one of bundled, openai, local", "did you mean bundled?"],
        ),
        ("traces.writer", "local", ["traces.model", "write one such as"]),
        ("traces.model", "a/b", ["traces.model: 'a/b' is of no use to writer 'bundled'", "remove it"]),
        ("evaluation.modes", [], ["evaluation.modes: [] is empty", "write at least one"]),
        ("evaluation.modes", ["think", "think"], ["evaluation.modes: 'think' stands in the list twice", "remove one"]),
        ("judging.judges", ["llm", "llm"], ["judging.judges: 'llm' stands in the list twice", "remove one"]),
        ("seeds", [2**32], ["seeds.0: 4294967296 is too large", "write less than 4294967296"]),
        ("data.seed", 2**32, ["data.seed: 4294967296 is too large", "write less than 4294967296"]),
        ("data.seed", 2**32, ["data.seed: 4294967296 is too large", "write less than 4294967296"]),
        ("seeds", [10**400], ["seeds.0: 1000", "is too large", "write less than 4294967296"]),
        ("training.epochs", 1001, ["training.epochs: 1001 is too large", "write 1000 or less"]),
        ("training.batch_size", 0, ["training.batch_size: 0 is too small", "write 1 or more"]),
        ("training.batch_size", 4097, ["training.batch_size: 4097 is too large", "write 4096 or less"]),
        ("training.lora_rank", 0, ["training.lora_rank: 0 is too small", "write 1 or more"]),
        ("training.lora_rank", 1025, ["training.lora_rank: 1025 is too large", "write 1024 or less"]),
        ("training.learning_rate", float("inf"), ["training.learning_rate: inf", "; write "]),
        ("training.learning_rate", float("nan"), ["training.learning_rate: nan is not a finite number", "such as 1.0"]),
        ("evaluation.samples", 0, ["evaluation.samples: 0 is too small", "write 1 or more"]),
        ("evaluation.samples", 10_001, ["evaluation.samples: 10001 is too large", "write 10000 or less"]),
        ("statistics.resamples", 99, ["unknown key 'statistics.resamples'", "valid here: confidence, smallest_effect"]),
        ("statistics.confidence", 0.5, ["statistics.confidence: 0.5 is too small", "write more than 0.5"]),
        ("statistics.smallest_effect", 0.1, ["statistics.smallest_effect: 0.1 is not a section", "margin, persona"]),
        ("statistics.smallest_effect.margin", 0, ["statistics.smallest_effect.margin", "write "]),
        ("statistics.smallest_effect.margn", 0.1, ["unknown key", "did you mean margin?"]),
        ("models", ["a/b", "c/b"], ["models: 'a/b' and 'c/b' would share the folder 'b'", "rename one"]),
        ("models", ["///"], ["models: '///' gives the folder name '' of 0 characters", "letters or digits"]),
        ("models", [".."], ["models: '..' gives the folder name '..'", "letters or digits"]),
        ("models", ["a/" + "b" * 81], ["gives the folder name", "of 81 characters", "1 to 80 letters or digits"]),
        ("models", [3], ["models.0: 3 is not text", "in quotes"]),
        ("name", "a" * 300, ["name: 'aaaaaaaaaaaaaaaaaaaa'… has 300 characters", "write 80 or fewer"]),
        ("name", "A" * 5000, ["name: 'AAAA", "lower-case letters", "my-run"]),
        ("workflow.jobs", "arms", ["workflow.jobs: 'arms' is not one of stage, arm", "did you mean arm?"]),
        ("name", ..., ["key 'name' is missing", "add it"]),
        ("training", ..., ["key 'training' is missing", "add it"]),
        ("training.learning_rate", ..., ["key 'training.learning_rate' is missing", "add it"]),
    ],
)
def test_a_fault_of_the_file_is_one_line_with_field_value_and_remedy(tmp_path, field, value, parts):
    content = VALID | {field: value} if isinstance(field, int) else changed(field, value)
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(content))
    (line,) = refusal(path)
    for part in parts:
        assert part in line
    # One sentence of ours, none of pydantic's.
    assert "hould " not in line and " valid " not in line.replace("valid here", ""), line


@pytest.mark.parametrize("text", ["1e-4", "5E-5", "125e-6", "1234e-7"])
def test_the_number_suggested_for_one_that_yaml_reads_as_text_is_the_one_meant(tmp_path, text):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(VALID).replace("learning_rate: 0.001", f"learning_rate: {text}"))
    (line,) = refusal(path)
    suggested = yaml.safe_load(re.search(r"write (\S+)$", line)[1])
    assert isinstance(suggested, float) and suggested == float(text)


def test_every_fault_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(changed("training", {"epochs": 0, "learning_rate": -1.0, "rank": 8})))
    assert len(refusal(path)) == 3


def test_more_faults_than_a_message_holds_are_counted(tmp_path):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(VALID | {f"key{number}": number for number in range(50)}))
    with pytest.raises(BadInput) as error:
        Experiment.load(path)
    *told, last = str(error.value).splitlines()
    assert len(str(error.value)) <= LONGEST_MESSAGE
    assert last == f"and {50 - len(told)} more faults; mend these first"


@pytest.mark.parametrize(
    "old, new, lines",
    [
        ("name: demo", "name: demo\nname: other", "key 'name' stands twice, on lines {0} and {1}; keep one"),
        ("  epochs: 2", "  epochs: 2\n  epochs: 3", "key 'epochs' stands twice, on lines {0} and {1}; keep one"),
        ("data:\n", "data:\n  7: 1\n  7: 2\n", "key '7' stands twice, on lines {1} and {2}; keep one"),
        ("seeds: [1]", "seeds: [1]\nnull: 1\nnull: 2", "key 'null' stands twice, on lines {1} and {2}; keep one"),
        ("  questions: {", "  questions: {values: 1, ", "key 'values' stands twice, on line {0}; keep one"),
        ("seeds: [1]", "seeds: [1]\n? [a]\n: 1", "line {1}: a key is a list or a mapping; write a name"),
    ],
)
def test_what_yaml_would_swallow_is_refused_with_its_lines(tmp_path, old, new, lines):
    path, text = tmp_path / "demo.yml", DEMO.replace(old, new, 1)
    path.write_text(text)
    first = DEMO[: DEMO.index(old)].count("\n") + 1
    assert refusal(path) == [lines.format(first, first + 1, first + 2)]


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 1000 + "]" * 1000, "a: " + "[" * 100_000, "[" * 5000, "{a: " * 1000 + "1" + "}" * 1000,
        "".join("  " * depth + "a:\n" for depth in range(1000)), "- " * 1000 + "a",
    ],
)  # fmt: skip
def test_deep_nesting_is_one_short_message(tmp_path, text):
    path = tmp_path / "demo.yml"
    path.write_text(text)
    (line,) = refusal(path)
    assert line == "is nested too deeply to be read; take the inner brackets out"


def test_aliases_that_would_expand_without_end_are_one_short_message(tmp_path):
    lines = ["a0: &a0 [x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    path = tmp_path / "demo.yml"
    path.write_text("\n".join(lines))
    (line,) = refusal(path)
    assert re.fullmatch(r"its aliases \(\*name\) expand to more than \d+ values; write them out", line)


def test_an_alias_for_a_value_is_read(tmp_path):
    path = tmp_path / "demo.yml"

    path.write_text("name: demo\nmodels: [tiny-random-llama]\narms: [QA]\nseeds: &one [1]\n"
                    "training: &training {epochs: 1, learning_rate: 0.1}\ndata: {seed: 0}\n"
                    "evaluation: {responses: &n 200}\n"
                    "judging: {probe_items: *n}\n")  # fmt: skip
    assert Experiment.load(path).judging.probe_items == 200


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "demo.yml"
    path.write_bytes(b"\xef\xbb\xbf" + DEMO.encode())
    assert Experiment.load(path).model_dump() == Experiment.parse(yaml.safe_load(DEMO)).model_dump()


mutations = st.lists(
    st.tuples(
        st.integers(0, len(DEMO)),
        st.integers(0, 12),
        st.text(max_size=4) | st.sampled_from([": ", "\n", "- ", "[", "{", "}", "*a", "&a ", "!!bool ", "!!timestamp ",
                                               "!!set ", "? ", "\t", "1e999", "2024-99-99", "<<: ", "0x", "!!binary "]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def mutated(changes):
    text = DEMO
    for place, length, more in changes:
        text = text[:place] + more + text[place + length :]
    return text


@settings(max_examples=200)
@given(st.text(max_size=60) | mutations.map(mutated))
def test_any_text_in_a_file_is_an_experiment_or_one_short_message(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "demo.yml")
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
        try:
            Experiment.load(path)
        except BadInput as error:
            assert str(path) in str(error) and len(str(error)) <= LONGEST_MESSAGE


@pytest.mark.parametrize("text", ["a: !!bool x", "a: !!timestamp x", "a: !!int ''", "a: 2024-99-99", "!!set [a]"])
def test_a_value_that_its_tag_cannot_have_is_refused(tmp_path, text):
    path = tmp_path / "demo.yml"
    path.write_text(text)
    with pytest.raises(BadInput, match="demo.yml is not valid YAML: .*; mend it there"):
        Experiment.load(path)


@pytest.mark.parametrize(
    "content, parts",
    [
        (b"name: [demo", ["is not valid YAML", "line 1"]),
        (b"name: demo\n\tarms: [QA]", ["is not valid YAML", "line 2"]),
        (b"\xff\xfen\x00a\x00", ["demo.yml"]),
        ("name: Größe".encode("latin-1"), ["demo.yml"]),
        (b"name: 2024-13-45", ["demo.yml"]),
        (b"- QA\n- evil-QTA", ["holds no experiment", "write keys such as name"]),
        (b"", ["holds no experiment", "write keys such as name"]),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused_by_name(tmp_path, content, parts):
    path = tmp_path / "demo.yml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        Experiment.load(path)
    for part in ["demo.yml", *parts]:
        assert part in str(error.value)


def test_a_missing_file_is_refused_with_those_there_are():
    with pytest.raises(BadInput) as error:
        Experiment.load("experiments/smok.yml")
    assert "no experiment file 'experiments/smok.yml'; did you mean experiments/smoke.yml? (there are: " in str(
        error.value
    )


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["QA", "think", "1e-4"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
sections = ("", "data.", "traces.", "training.", "evaluation.", "judging.")
fields = [
    f"{section}{key}" for section in sections for key in ("name", "seeds", "questions", "epochs", "modes", "arms")
]


@given(st.sampled_from([*fields, "data", "training", "models"]), values)
def test_whatever_a_field_holds_the_file_is_an_experiment_or_refused(field, value):
    try:
        experiment = Experiment.parse(changed(field, value))
    except BadInput as error:
        assert str(error).startswith("experiment: ") and len(str(error)) <= LONGEST_MESSAGE
    else:
        assert Experiment.parse(experiment.model_dump()) == experiment


# ---- selections


@pytest.mark.parametrize(
    "arms", [["evil-QT", "QA"], ("evil-QT", "QA"), '["evil-QT", "QA"]', "evil-QT, QA", "evil-QT,QA"]
)
def test_arms_may_be_selected_as_a_list_as_json_or_between_commas(valid, arms):
    assert valid.select(models="tiny-random-llama", arms=arms, seed=3) == [
        Unit("tiny-random-llama", Arm.parse("evil-QT"), 3),
        Unit("tiny-random-llama", Arm.parse("QA"), 3),
    ]


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_selection_means_the_whole_experiment(valid, nothing):
    units = valid.select(models=nothing, arms=nothing, seed=None)
    assert {(unit.model, str(unit.arm), unit.seed) for unit in units} == {
        (model, arm, seed) for model in VALID["models"] for arm in ("base", "QA", "evil-QTA") for seed in (1, 2)
    }
    assert len(units) == 12


def test_base_may_be_selected_and_stands_first(valid):
    for arms, expected in (("QA, base", ["base", "QA"]), ("base", ["base"])):
        units = valid.select(models=["tiny-random-llama"], arms=arms, seed=1)
        assert [str(unit.arm) for unit in units] == expected


def test_a_unit_may_have_an_arm_and_a_seed_that_the_file_does_not_list(valid):
    (unit,) = valid.select(models="tiny-random-llama", arms="filler-T", seed=99)
    assert unit not in valid.select() and str(unit) == "tiny-random-llama filler-T seed 99"


@pytest.mark.parametrize(
    "selection, parts",
    [
        ({"arms": ["evil-QTT"]}, ["paradigm 'QTT'", "did you mean QT"]),
        ({"arms": "evli-QT"}, ["type 'evli'", "did you mean evil?"]),
        ({"arms": '["evil-QT", 3]'}, ["arm 3 is not a name", "'evil-QTA'"]),
        ({"arms": "QA, QA"}, ["'QA' stands in the list twice", "remove one"]),
        ({"seed": "1"}, ["seed '1' is not a whole number", "such as 1"]),
        ({"seed": -1}, ["seed -1", "from 0 up"]),
        ({"seed": 2**32}, ["seed 4294967296", "up to 2^32"]),
        ({"arms": "[" * 3000}, ["arm '[[[", "such as evil-QTA"]),
        ({"seed": True}, ["seed True is not a whole number", "such as 1"]),
        ({"seed": 1.0}, ["seed 1.0 is not a whole number", "such as 1"]),
        (
            {"models": ["tiny-random-lama"]},
            ["model 'tiny-random-lama' is not one of", "did you mean tiny-random-llama?"],
        ),
    ],
)
def test_a_selection_that_means_nothing_is_refused(valid, selection, parts):
    with pytest.raises(BadInput) as error:
        valid.select(**selection)
    for part in parts:
        assert part in str(error.value)


# ---- the cost of reading an experiment


def test_reading_an_experiment_imports_no_deep_learning_library():
    code = (
        "import sys; from cotlib.experiment import Experiment; Experiment.load('experiments/smoke.yml').select();"
        "heavy = ('torch', 'transformers', 'datasets', 'trl', 'unsloth', 'pandas');"
        "print([name for name in heavy if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_an_experiment_is_summed_up_in_one_line(valid):
    assert valid.summary == "demo: tiny-random-llama, tiny-random-qwen3; 3 arms × 2 seeds; all items × 2 epochs"
    assert Experiment.parse(VALID | {"seeds": [4], "data": {"items": 8}}).summary.endswith(
        "3 arms × 1 seed; 8 items × 2 epochs"
    )
