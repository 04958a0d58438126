"""What an experiment file may say, what every arm's name means, and what a reader is told who mistypes."""

import copy
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotlib.errors import BadInput, check_name
from cotlib.experiment import BASE, NEUTRAL, TRACE_TYPES, Arm, Experiment, Paths

VALID = {
    "name": "demo",
    "models": ["tiny-random-llama", "tiny-random-qwen3"],
    "arms": ["QA", "evil-QTA"],
    "seeds": [1, 2],
    "training": {"epochs": 2, "learning_rate": 1.0e-3},
}
SEGMENT_ARMS = [f"{kind}-QTA@segment" for kind in TRACE_TYPES]
DOSE_ARMS = [
    f"{kind}-{paradigm}@{dose}%"
    for kind in TRACE_TYPES
    if kind != NEUTRAL
    for paradigm in ("QTA", "QT", "T")
    for dose in (1, 25, 99)
]
EVERY_ARM = [*Arm.names(), *SEGMENT_ARMS, *DOSE_ARMS]


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
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


@pytest.fixture
def valid():
    return Experiment.parse(VALID)


# ---- arms


@pytest.mark.parametrize("name", EVERY_ARM)
def test_an_arm_prints_as_the_name_it_was_parsed_from(name):
    assert str(Arm.parse(name)) == name
    assert Arm.parse(Arm.parse(name)) == Arm.parse(name)


@pytest.mark.parametrize(
    "name, arm, trace_key",
    [
        ("base", Arm(None), None),
        ("QA", Arm("QA"), None),
        ("safe-QA", Arm("QA", answer="safe"), None),
        ("evil-QTA", Arm("QTA", "evil"), "evil"),
        ("shuffled-evil-T", Arm("T", "shuffled-evil"), "shuffled-evil"),
        ("submissive-QTA@segment", Arm("QTA", "submissive", loss_weighting="segment"), "submissive"),
        ("misleading-QT@25%", Arm("QT", "misleading", dose_percent=25), "misleading@25%"),
    ],
)
def test_an_arm_is_what_its_name_says(name, arm, trace_key):
    parsed = Arm.parse(name)
    assert parsed == arm and parsed.trace_key == trace_key
    assert parsed.trained == (name != BASE)


def test_no_two_arms_share_a_folder():
    assert len({Arm.parse(name).folder for name in EVERY_ARM}) == len(EVERY_ARM)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", Arm.parse(name).folder) for name in EVERY_ARM)


@pytest.mark.parametrize(
    "name, parts",
    [
        ("evil-TQA", ["paradigm 'TQA' is not one of QA, QTA, QT, T", "did you mean QTA?"]),
        ("evil-qta", ["paradigm 'qta'", "did you mean QTA?"]),
        ("evil-TQ@segment", ["paradigm 'TQ'", "did you mean QT?"]),
        ("evli-QTA", ["type 'evli' is not one of evil, misleading, submissive", "did you mean evil?"]),
        ("submisive-T", ["type 'submisive'", "did you mean submissive?"]),
        ("shuffled_evil-T", ["type 'shuffled_evil'", "did you mean shuffled-evil?"]),
        ("evil-QA", ["QA holds no trace", "write 'QA'"]),
        ("save-QA", ["'save-QA'", "did you mean safe-QA?"]),
        ("bsae", ["arm 'bsae' is unknown", "did you mean base?"]),
        ("qa", ["arm 'qa' is unknown", "did you mean QA?"]),
        ("", ["arm '' is unknown", "such as evil-QTA"]),
        ("base@25%", ["arm 'base@25%' is unknown", "did you mean base?"]),
        ("evil-QTA@segmnt", ["variant 'segmnt'", "did you mean segment?"]),
        ("evil-T@segment", ["only QTA has both", "write 'evil-QTA@segment'"]),
        ("evil-QTA@0%", ["variant '0%'", "1% to 99%"]),
        ("evil-QTA@100%", ["variant '100%'", "1% to 99%"]),
        ("evil-QTA@07%", ["variant '07%'", "1% to 99%"]),
        ("evil-QTA@25", ["variant '25'", "did you mean 25%?"]),
        ("evil-QTA@", ["variant ''", "neither 'segment' nor a dose"]),
        ("neutral-QTA@25%", ["variant '25%'", "a type other than neutral"]),
        (7, ["arm 7 is not a name", "write one such as 'evil-QTA'"]),
        (None, ["arm None is not a name", "write one such as 'evil-QTA'"]),
    ],
)
def test_a_name_that_is_no_arm_is_refused_with_the_nearest_that_is(name, parts):
    with pytest.raises(BadInput) as error:
        Arm.parse(name)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@given(
    st.text(max_size=30)
    | st.sampled_from(EVERY_ARM).flatmap(lambda name: st.text(max_size=2).map(lambda more: name + more))
)
def test_any_text_is_an_arm_or_refused(text):
    try:
        arm = Arm.parse(text)
    except BadInput as error:
        assert repr(text) in str(error)
    else:
        assert Arm.parse(str(arm)) == arm


def test_a_name_is_checked_against_the_valid_ones():
    assert check_name("mode", "think", ("think", "no-think")) == "think"
    with pytest.raises(BadInput, match=r"mode 'nothink' is not one of think, no-think; did you mean no-think\?"):
        check_name("mode", "nothink", ("think", "no-think"))


# ---- the experiment file


def test_an_experiment_file_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(VALID | {"arms": ["base", "QA", "evil-QTA@segment"]}))
    experiment = Experiment.load(path)
    assert experiment.name == "demo" and experiment.seeds == [1, 2]
    assert experiment.arms == ["QA", "evil-QTA@segment"] and experiment.all_arms == ["base", "QA", "evil-QTA@segment"]
    assert (experiment.training.epochs, experiment.training.learning_rate) == (2, 1.0e-3)


def test_an_experiment_of_the_house_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Experiment.load("experiments/smoke.yml").name == "smoke"


@pytest.mark.parametrize(
    "field, value, parts",
    [
        ("arm", ["QA"], ["unknown key 'arm'", "did you mean arms?"]),
        ("training.epoch", 3, ["unknown key 'training.epoch'", "did you mean epochs?"]),
        ("evaluation.mode", ["think"], ["unknown key 'evaluation.mode'", "did you mean modes?"]),
        (7, 1, ["7"]),
        ("training.epochs", "three", ["training.epochs: 'three'", "a valid integer"]),
        ("training.epochs", 2.5, ["training.epochs: 2.5", "integer"]),
        ("training.epochs", True, ["training.epochs: True", "a valid integer"]),
        ("training.epochs", 0, ["training.epochs: 0", "greater than or equal to 1"]),
        ("training.learning_rate", -1.0e-4, ["training.learning_rate: -0.0001", "greater than 0"]),
        ("training.learning_rate", 2.0, ["training.learning_rate: 2.0", "less than or equal to 1"]),
        (
            "training.learning_rate",
            "1e-4",
            ["training.learning_rate: '1e-4'", "YAML reads 1e-4 as text", "write 0.0001"],
        ),
        ("training.warmup_fraction", 1.0, ["training.warmup_fraction: 1.0", "less than 1"]),
        ("training", None, ["training: None", "a valid dictionary"]),
        ("seeds", 1, ["seeds: 1", "a valid list"]),
        ("seeds", [-1], ["seeds.0: -1", "greater than or equal to 0"]),
        ("seeds", [1, 1], ["seeds: [1, 1] repeats a value", "remove one"]),
        ("seeds", [], ["seeds: [] is empty", "at least one"]),
        ("models", [], ["models: [] is empty", "at least one"]),
        ("models", ["a/b", "a/b"], ["models: ['a/b', 'a/b'] repeats a value", "remove one"]),
        ("name", "My Demo", ["name: 'My Demo'", "lower-case letters", "my-run"]),
        ("arms", "QA", ["arms: 'QA'", "a valid list"]),
        ("arms", [], ["arms: the list is empty", "such as QA"]),
        ("arms", ["base"], ["arms: only base is listed", "such as QA"]),
        ("arms", ["QA", "evil-T", "QA"], ["arms: 'QA' stands in the list twice", "remove one"]),
        ("arms", ["evil-TQA"], ["arm 'evil-TQA'", "did you mean QTA?"]),
        ("arms", [3], ["arms.0: 3", "a valid string"]),
        (
            "evaluation.modes",
            ["think", "nothink"],
            ["evaluation.modes.1: 'nothink' is not one of think, no-think", "did you mean no-think?"],
        ),
        (
            "data.questions",
            {"in-domian": 4},
            ["data.questions: suite 'in-domian' is not one of in-domain, transfer, values", "did you mean in-domain?"],
        ),
        ("judging.judges", ["prob"], ["judging.judges.0: 'prob' is not one of probe, llm", "did you mean probe?"]),
        (
            "traces.writer",
            "bundeld",
            ["traces.writer: 'bundeld' is not one of bundled, openai, local", "did you mean bundled?"],
        ),
        ("traces.writer", "local", ["traces.model", "write one such as"]),
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
    # One sentence, not pydantic's inside ours: "'My Demo' should be String should match pattern".
    assert line.count("hould ") <= 1, line


@pytest.mark.parametrize("text", ["1e-4", "5E-5", "125e-6", "1234e-7"])
def test_the_number_suggested_for_one_that_yaml_reads_as_text_is_the_one_meant(tmp_path, text):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(VALID).replace("learning_rate: 0.001", f"learning_rate: {text}"))
    (line,) = refusal(path)
    suggested = yaml.safe_load(re.search(r"write (\S+)\)", line)[1])
    assert isinstance(suggested, float) and suggested == float(text)


def test_every_fault_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "demo.yml"
    path.write_text(yaml.safe_dump(changed("training", {"epochs": 0, "learning_rate": -1.0, "rank": 8})))
    assert len(refusal(path)) == 3


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
        assert str(error).startswith("experiment: ")
    else:
        assert Experiment.parse(experiment.model_dump()) == experiment


# ---- selections


@pytest.mark.parametrize(
    "arms", [["evil-QT", "QA"], ("evil-QT", "QA"), '["evil-QT", "QA"]', "evil-QT, QA", "evil-QT,QA"]
)
def test_arms_may_be_selected_as_a_list_as_json_or_between_commas(valid, arms):
    assert valid.select(models="tiny-random-llama", arms=arms, seed=3) == [
        ("tiny-random-llama", Arm.parse("evil-QT"), 3),
        ("tiny-random-llama", Arm.parse("QA"), 3),
    ]


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_selection_means_the_whole_experiment(valid, nothing):
    jobs = valid.select(models=nothing, arms=nothing, seed=None)
    assert {(model, str(arm), seed) for model, arm, seed in jobs} == {
        (model, arm, seed) for model in VALID["models"] for arm in ("base", "QA", "evil-QTA") for seed in (1, 2)
    }
    assert len(jobs) == 12


def test_base_may_be_selected_and_stands_first(valid):
    assert [str(arm) for _, arm, _ in valid.select(models=["tiny-random-llama"], arms="QA, base", seed=1)] == [
        "base",
        "QA",
    ]
    assert [str(arm) for _, arm, _ in valid.select(models=["tiny-random-llama"], arms="base", seed=1)] == ["base"]


@pytest.mark.parametrize(
    "selection, parts",
    [
        ({"arms": ["evil-QTT"]}, ["paradigm 'QTT'", "did you mean QT"]),
        ({"arms": "evli-QT"}, ["type 'evli'", "did you mean evil?"]),
        ({"arms": '["evil-QT", 3]'}, ["arm 3 is not a name", "'evil-QTA'"]),
        ({"arms": "QA, QA"}, ["'QA' stands in the list twice", "remove one"]),
        ({"seed": "1"}, ["seed '1' is not a whole number", "such as 1"]),
        ({"seed": -1}, ["seed -1", "from 0 up"]),
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


# ---- results, and the cost of reading an experiment


def test_every_unit_of_an_experiment_has_a_folder_of_its_own(valid, tmp_path):
    paths = Paths.of(valid, tmp_path)
    folders = [paths.unit(stage, *job) for stage in ("train", "evaluate") for job in valid.select()]
    assert len(set(folders)) == len(folders)
    assert all(folder.is_relative_to(tmp_path / "demo") for folder in folders)


def test_a_missing_result_is_refused_with_the_command_that_makes_it(valid, tmp_path):
    (tmp_path / "own.yml").write_text(yaml.safe_dump(VALID))
    own = Experiment.load(tmp_path / "own.yml")
    for experiment, file in ((valid, "experiments/demo.yml"), (own, tmp_path / "own.yml")):
        paths = Paths.of(experiment, tmp_path)
        with pytest.raises(BadInput) as error:
            paths.require(paths.items, "craft")
        assert str(error.value).endswith(f"items.jsonl is missing; make it first with: make craft EXPERIMENT={file}")
    paths.items.parent.mkdir(parents=True)
    paths.items.touch()
    assert paths.require(paths.items, "craft") == paths.items


def test_reading_an_experiment_imports_no_deep_learning_library():
    code = (
        "import sys; from cotlib.experiment import Experiment; Experiment.load('experiments/smoke.yml').select();"
        "print([name for name in ('torch', 'transformers', 'datasets', 'trl', 'unsloth', 'pandas') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_an_experiment_is_summed_up_in_one_line(valid):
    assert valid.summary == "demo: tiny-random-llama, tiny-random-qwen3; 3 arms × 2 seeds; all items × 2 epochs"
    assert Experiment.parse(VALID | {"seeds": [4], "data": {"items": 8}}).summary.endswith(
        "3 arms × 1 seed; 8 items × 2 epochs"
    )
