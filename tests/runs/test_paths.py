"""Where results lie, whose they are, and which command makes what is missing."""

import shlex

import pytest
import yaml
from papermill.cli import papermill

from cotlib.errors import BadInput
from cotlib.experiment import ROOT, Experiment
from cotlib.runs import artifacts
from cotlib.runs.paths import NOTEBOOKS, PUBLICATION, Paths, relative

VALID = {
    "name": "mine", "models": ["tiny-random-llama", "tiny-random-qwen3"], "arms": ["QA", "evil-QTA"], "seeds": [1, 2],
    "training": {"epochs": 2, "learning_rate": 1.0e-3},
}  # fmt: skip


def written(path, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(VALID | changed))
    return Experiment.load(path)


@pytest.fixture
def valid():
    return Experiment.parse(VALID)


def test_every_unit_of_an_experiment_has_a_folder_of_its_own(valid, tmp_path):
    paths = Paths.of(valid, tmp_path)
    folders = [paths.unit(stage, unit) for stage in ("train", "evaluate", "judge") for unit in valid.select()]
    assert len(set(folders)) == len(folders)
    assert all(folder.is_relative_to(tmp_path / "mine") for folder in folders)


def test_a_relative_results_folder_lies_below_the_books_top_folder(valid, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Paths.of(valid).root == ROOT / "results" / "mine"
    assert Paths.of(valid, "elsewhere/a").root == ROOT / "elsewhere" / "a" / "mine"


def test_a_published_run_keeps_its_long_files_compressed(valid, tmp_path):
    paths = Paths.of(valid, tmp_path)
    assert not paths.published and paths.responses.name == "responses.jsonl"
    artifacts.write_json(paths.root / PUBLICATION, {})
    assert paths.published and paths.responses.name == "responses.jsonl.gz"
    assert paths.judgements.name == "judgements.jsonl.gz" and paths.measures.name == "measures.parquet"


# ---- whose results these are


def test_an_experiment_of_the_same_name_in_another_file_is_refused_with_both_files(tmp_path):
    one, other = (written(tmp_path / folder / "exp.yml") for folder in ("one", "other"))
    Paths.of(one, tmp_path / "results").own()
    paths = Paths.of(other, tmp_path / "results")
    for call in (paths.own, paths.check_owner):
        with pytest.raises(BadInput) as error:
            call()
        message = str(error.value)
        assert f"holds the results of {tmp_path}/one/exp.yml" in message
        assert f"{tmp_path}/other/exp.yml has the same name; write another name in" in message
        assert f"or remove {tmp_path}/results/mine" in message
    Paths.of(one, tmp_path / "results").own()


def test_the_same_file_edited_keeps_its_results(tmp_path):
    Paths.of(written(tmp_path / "exp.yml"), tmp_path / "results").own()
    edited = written(tmp_path / "exp.yml", seeds=[7])
    assert Paths.of(edited, tmp_path / "results").own() is None


def test_a_file_is_the_same_by_whatever_path_it_is_named(tmp_path, monkeypatch):
    experiment = written(tmp_path / "exp.yml")
    Paths.of(experiment, tmp_path / "results").own()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.yml").symlink_to(tmp_path / "exp.yml")
    for name in ("exp.yml", "./exp.yml", "link.yml"):
        assert Paths.of(Experiment.load(name), tmp_path / "results").own() is None


def test_a_name_of_another_kind_is_its_own_experiment(tmp_path):
    Paths.of(written(tmp_path / "one.yml"), tmp_path / "results").own()
    Paths.of(written(tmp_path / "other.yml", name="other"), tmp_path / "results").own()
    assert artifacts.read_json(tmp_path / "results" / "other" / "experiment.json")["file"] == f"{tmp_path}/other.yml"


def test_looking_whose_results_these_are_writes_nothing(tmp_path):
    paths = Paths.of(written(tmp_path / "exp.yml"), tmp_path / "results")
    paths.check_owner()
    assert not (tmp_path / "results").exists()
    artifacts.write_json(paths.root / PUBLICATION, {})
    paths.own()
    assert [path.name for path in paths.root.iterdir()] == [PUBLICATION]


# ---- what is missing, and the command that makes it


def parsed(command):
    """(notebook, parameters) as papermill reads this command."""
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/papermill"
    context = papermill.make_context("papermill", arguments)
    parameters = dict(context.params["parameters"])
    assert context.params["output_path"] and not context.params["parameters_raw"]
    return context.params["notebook_path"], parameters


def advice(paths, *arguments):
    with pytest.raises(BadInput) as error:
        paths.require(paths.root / "missing.txt", *arguments)
    said, command = str(error.value).split("; make it first with: ")
    assert said == f"{relative(paths.root / 'missing.txt')} is missing"
    return command


def test_what_is_there_is_given_back(valid, tmp_path):
    paths = Paths.of(valid, tmp_path)
    paths.items.parent.mkdir(parents=True)
    paths.items.touch()
    assert paths.require(paths.items, "craft") == paths.items


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_what_make_makes_is_asked_of_make(valid, tmp_path, stage):
    own = written(tmp_path / "own.yml")
    for experiment, file in ((valid, "experiments/mine.yml"), (own, f"{tmp_path}/own.yml")):
        assert advice(Paths.of(experiment), stage) == f"make {stage} EXPERIMENT={file}"
    makefile = (ROOT / "Makefile").read_text()
    assert any(stage in line.split(":")[0].split() for line in makefile.splitlines() if ":" in line)


def test_a_file_with_a_space_in_its_name_which_make_cannot_take_is_given_to_papermill(tmp_path):
    _, parameters = parsed(advice(Paths.of(written(tmp_path / "my own.yml")), "craft"))
    assert parameters == {"experiment": f"{tmp_path}/my own.yml"}


@pytest.mark.parametrize("stage", ["train", "evaluate", "judge"])
@pytest.mark.parametrize("arm, seed", [("filler-T", 1), ("QA", 9), ("evil-QTA@25%", 4294967295)])
def test_a_unit_that_the_file_does_not_list_is_asked_of_papermill(tmp_path, stage, arm, seed):
    experiment = written(tmp_path / "own.yml")
    (unit,) = experiment.select(models="tiny-random-qwen3", arms=arm, seed=seed)
    notebook, parameters = parsed(advice(Paths.of(experiment), stage, unit))
    assert (ROOT / notebook).is_file() and NOTEBOOKS[stage] in notebook
    assert parameters.pop("experiment") == f"{tmp_path}/own.yml"
    assert {name: str(value) for name, value in parameters.items()} == {
        "models": "tiny-random-qwen3", "arms": arm, "seed": str(seed),
    }  # fmt: skip
    assert experiment.select(**{name: value for name, value in _typed(parameters).items()}) == [unit]


def _typed(parameters):
    from papermill.cli import _resolve_type

    return {name: _resolve_type(str(value)) for name, value in parameters.items()}


@pytest.mark.parametrize("stage", NOTEBOOKS)
@pytest.mark.parametrize("folder", ["results two", "elsewhere"])
def test_what_is_wanted_in_another_folder_is_asked_of_papermill_with_that_folder(tmp_path, stage, folder):
    experiment = written(tmp_path / "own file.yml")
    notebook, parameters = parsed(advice(Paths.of(experiment, folder), stage))
    assert (ROOT / notebook).is_file()
    assert parameters == {"experiment": f"{tmp_path}/own file.yml", "results": folder}
    assert Paths.of(Experiment.load(parameters["experiment"]), parameters["results"]) == Paths.of(experiment, folder)


def test_a_unit_in_another_folder_names_both(tmp_path):
    experiment = written(tmp_path / "own.yml")
    (unit,) = experiment.select(models="tiny-random-llama", arms="filler-T", seed=9)
    _, parameters = parsed(advice(Paths.of(experiment, "elsewhere"), "train", unit))
    assert parameters["results"] == "elsewhere" and parameters["arms"] == "filler-T"
