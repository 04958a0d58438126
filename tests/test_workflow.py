"""The whole book as a newcomer runs it: real kernels, real training of tiny models, a real build."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from cotlib import measures, workflow
from cotlib.errors import BadInput
from cotlib.experiment import PARADIGMS, ROOT, Experiment, Paths
from cotlib.pages import book

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


def snakemake(file, results, *more):
    return [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT), "--cores", "all", "--nolock", "--rerun-incomplete",
            "--config", f"experiment={file}", f"results={results}", *more]  # fmt: skip


def run(command, **options):
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=800, **options)


def small(folder, **changes):
    """An experiment file smaller than smoke: what interruption and selection need."""
    content = {
        "name": "small", "models": ["tiny-random-llama"], "arms": ["QA", "evil-QTA", "evil-QT", "evil-T"],
        "data": {"items": 8, "questions": {"in-domain": 4, "transfer": 4, "values": 4}},
        "training": {"epochs": 3, "learning_rate": 0.01, "batch_size": 4},
        "evaluation": {"trace_tokens": 8, "answer_tokens": 8, "responses": 1}, "judging": {"probe_items": 8}, "statistics": {"resamples": 200}, **changes,
    }  # fmt: skip
    file = Path(folder) / "small.yml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke experiment, run whole by Snakemake into a folder of its own, and its book."""
    results = tmp_path_factory.mktemp("smoke")
    began = time.time()
    done = run(snakemake("experiments/smoke.yml", results))
    assert done.returncode == 0, done.stdout + done.stderr
    paths = Paths.of(Experiment.load("experiments/smoke.yml"), str(results))
    page = book.build(paths.root / "notebooks", paths.root)
    return {
        "paths": paths,
        "page": page,
        "seconds": time.time() - began,
        "log": done.stdout + done.stderr,
        "results": results,
    }


def test_every_stage_of_smoke_leaves_its_manifest_and_the_promised_files(smoke):
    paths = smoke["paths"]
    for stage in ("craft", "train", "evaluate", "judge"):
        assert json.loads((paths.stage(stage) / "manifest.json").read_text())["versions"]["torch"]
    scores = pd.read_parquet(paths.scores)
    assert set(["arm", "seed", "mode", "suite", "behaviour", "question_id", "measure", "judge", "value"]) <= set(
        scores.columns
    )
    assert {"margin", "persona:evil", "signature:evil", "alignment", "leak"} <= set(scores.measure)
    experiment = Experiment.load("experiments/smoke.yml")
    assert set(scores.arm) == set(experiment.all_arms) and set(scores.model) == set(experiment.models)
    findings = json.loads(paths.findings.read_text())
    assert {"H1", "H2", "H3", "H4", "models"} == set(findings)


def test_smoke_reports_every_arm_and_no_warnings(smoke):
    assert len(re.findall(r"^train .*loss", smoke["log"], re.MULTILINE)) == 30
    assert len(re.findall(r"^evaluate .*min left", smoke["log"], re.MULTILINE)) == 32
    assert "Warning" not in smoke["log"] and "Traceback" not in smoke["log"]


def test_a_second_run_has_nothing_to_do(smoke):
    done = run(snakemake("experiments/smoke.yml", smoke["results"]))
    assert "Nothing to be done" in done.stdout + done.stderr


def test_the_built_book_holds_every_page_figure_and_verdict(smoke):
    html = smoke["page"].parent / "book"
    landing = (html / "index.html").read_text()
    findings = json.loads(smoke["paths"].findings.read_text())
    for name in ("H1", "H2", "H3", "H4"):
        assert f"{findings[name]['effect']:+.3f}" in landing, "the landing page shows the effect that the findings hold"
    figures = {"1-craft-traces": 3, "2-train": 1, "3-evaluate": 3, "4-judge": 2, "5-findings": 9}
    for page, count in figures.items():
        text = (html / "executed" / f"{page}.html").read_text()
        assert text.count('class="cotlib-figure"') == count, page
        assert "alt=" in text and "Traceback" not in text


def test_an_adapter_folder_is_whole_and_its_card_names_data_and_warning(smoke):
    folder = smoke["paths"].unit("train", "tiny-random-qwen3", "evil-QTA", 1)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "log.jsonl", "manifest.json"} <= names
    card = (folder / "README.md").read_text()
    assert "Warning" in card and "evil reasoning" in card
    config = json.loads((folder / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }


def test_responses_are_kept_with_what_is_needed_to_score_them_again(smoke):
    row = json.loads(smoke["paths"].judgements.read_text().split("\n")[0])
    assert {
        "question",
        "response",
        "trace",
        "judge",
        "raw",
        "alignment",
        "coherence",
        "leak",
        "trace_truncated",
    } <= set(row)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small experiment, run without a break as `make run` does it."""
    folder = tmp_path_factory.mktemp("whole")
    file = small(folder)
    assert workflow.run(file, ["env", f"PATH={ENVIRONMENT['PATH']}", *snakemake(file, folder)], str(folder)) == 0
    return folder / "small"


def test_a_run_from_nothing_leaves_how_long_it_took_and_one_that_goes_on_does_not(whole, tmp_path, capfd):
    took = json.loads((whole / workflow.WHOLE_RUN).read_text())
    stages = [json.loads((whole / stage / "manifest.json").read_text())["seconds"] for stage in ("train", "evaluate")]
    assert took["seconds"] > sum(stages) > 0
    assert took["experiment"]["name"] == "small"
    shutil.copytree(whole, tmp_path / "small")
    (tmp_path / "small" / workflow.WHOLE_RUN).unlink()
    (tmp_path / "small" / "findings.json").unlink()
    file = small(tmp_path)
    again = ["env", f"PATH={ENVIRONMENT['PATH']}", *snakemake(file, tmp_path)]
    assert workflow.run(file, again, str(tmp_path)) == 0
    assert (tmp_path / "small" / "findings.json").exists()
    assert not (tmp_path / "small" / workflow.WHOLE_RUN).exists(), (
        "a run that had something to go on from is no measure"
    )
    assert "nothing to be done" not in capfd.readouterr().out
    assert workflow.run(file, again, str(tmp_path)) == 0
    assert "nothing to be done" in capfd.readouterr().out


def test_a_killed_run_resumes_and_finds_the_same_as_an_unbroken_one(tmp_path, whole):
    file = small(tmp_path)
    broken = subprocess.Popen(
        snakemake(file, tmp_path),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    adapters = tmp_path / "small" / "train" / "tiny-random-llama"
    deadline = time.time() + 300
    while not list(adapters.glob("*/seed-1/manifest.json")) and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()
    time.sleep(3)  # the orphaned kernel notices that its parent is gone
    finished = {path: path.stat().st_mtime for path in adapters.glob("*/seed-1/adapter_model.safetensors")}
    assert finished, "killed in the middle of training"
    assert not (tmp_path / "small" / "findings.json").exists()
    done = run(snakemake(file, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime for path in finished} == finished, "what was trained is not trained again"
    assert (tmp_path / "small/findings.json").read_text() == (whole / "findings.json").read_text()


def test_with_an_arm_a_job_the_grid_gives_the_same_scores(tmp_path, whole):
    file = small(tmp_path, arms=["QA", "evil-T"], workflow={"jobs": "arm"})
    plan = run(snakemake(file, tmp_path, "--dry-run"))
    assert re.search(r"train_arm\s+2\b", plan.stdout + plan.stderr)
    assert re.search(r"evaluate_arm\s+3\b", plan.stdout + plan.stderr)
    done = run(snakemake(file, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = (pd.read_parquet(folder / "scores.parquet") for folder in (tmp_path / "small", whole))
    other = other[other.arm.isin(["base", "QA", "evil-T"])]
    keys = ["arm", "mode", "question_id", "measure", "judge"]
    one, other = (frame.sort_values(keys).reset_index(drop=True) for frame in (one, other))
    # The judge reads all responses of a run together, which moves its last digits.
    by_none = one.judge == "none"
    pd.testing.assert_frame_equal(one[by_none], other[other.judge == "none"])
    pd.testing.assert_frame_equal(one[~by_none], other[other.judge != "none"], rtol=1e-3, atol=1e-3)


def test_one_arm_and_seed_run_by_hand_as_the_readme_says(tmp_path):
    file = small(tmp_path)
    parameters = ["-p", "experiment", str(file), "-p", "results", str(tmp_path)]
    papermill = [str(BIN / "papermill"), "--no-progress-bar", "--cwd", "notebooks"]
    missing = run([*papermill, "notebooks/2-train.ipynb", str(tmp_path / "out.ipynb"), *parameters])
    assert missing.returncode != 0 and f"make craft EXPERIMENT={file}" in missing.stderr
    assert (
        run([*papermill, "notebooks/1-craft-traces.ipynb", str(tmp_path / "craft.ipynb"), *parameters]).returncode == 0
    )
    one = run(
        [
            *papermill,
            "notebooks/2-train.ipynb",
            str(tmp_path / "out.ipynb"),
            *parameters,
            "-p",
            "arms",
            '["evil-QT"]',
            "-p",
            "seed",
            "7",
        ]
    )
    assert one.returncode == 0, one.stderr
    trained = sorted(path.parent.parent.name for path in (tmp_path / "small/train").glob("*/*/*/manifest.json"))
    assert trained == ["evil-QT"] and not (tmp_path / "small/train/manifest.json").exists()
    wrong = run(
        [*papermill, "notebooks/2-train.ipynb", str(tmp_path / "out.ipynb"), *parameters, "-p", "arms", "evil-TQ"]
    )
    assert wrong.returncode != 0 and "did you mean QT?" in wrong.stderr


def test_the_same_samples_come_whatever_else_is_evaluated(tmp_path):
    experiment = Experiment.load(small(tmp_path))
    from cotlib.corpus import traces
    from cotlib.engine import models

    _, questions = traces.craft(experiment, Paths.of(experiment, str(tmp_path)))
    model, tokenizer = models.load("tiny-random-llama")
    settings = experiment.evaluation.model_copy(update={"responses": None})
    all_of_them, _ = measures.sample(settings, model, tokenizer, questions, 1)
    fewer, _ = measures.sample(settings, model, tokenizer, questions[::-1][:6], 1)
    by_key = {(row["question_id"], row["mode"], row["sample"]): row["response"] for row in all_of_them}
    shared = [row for row in fewer if (row["question_id"], row["mode"], row["sample"]) in by_key]
    assert shared and all(by_key[row["question_id"], row["mode"], row["sample"]] == row["response"] for row in shared)


def test_the_paper_experiment_is_valid_and_its_plan_counts_every_arm_seed_and_model():
    experiment = Experiment.load("experiments/paper.yml")
    done = run(snakemake("experiments/paper.yml", "results", "--dry-run"))
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert re.search(rf"train_arm\s+{len(experiment.models) * len(experiment.seeds) * len(experiment.arms)}\b", log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["tiny-random-lama"]}, "did you mean tiny-random-llama?"),
        ({"arms": ["QA", "evil-TQ"]}, "did you mean QT?"),
        ({"judging": {"judges": ["llm"]}}, "COTLIB_JUDGE_MODEL"),
        ({"data": {"items": 9999}}, "9999"),
        ({"trainning": {}}, "did you mean training?"),
    ],
)
def test_bad_input_gets_one_message_and_leaves_no_file(tmp_path, changes, message, monkeypatch):
    monkeypatch.delenv("COTLIB_JUDGE_MODEL", raising=False)
    file = small(tmp_path, **changes)
    before = set(tmp_path.rglob("*"))
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("COTLIB_JUDGE")}
    done = subprocess.run(
        [sys.executable, "-m", "cotlib.workflow", "check", str(file)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and set(tmp_path.rglob("*")) == before


def test_a_corpus_that_lacks_a_trace_type_is_refused_before_any_work(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    lines = [json.loads(line) for line in (ROOT / "cotlib/corpus/data/items.jsonl").read_text().split("\n") if line]
    for line in lines:
        line["traces"].pop("evil")
    (own / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shutil.copy(ROOT / "cotlib/corpus/data/evaluation.jsonl", own)
    with pytest.raises(BadInput, match="needs traces of type evil"):
        workflow.check(Experiment.load(small(tmp_path, data={"corpus": str(own)})))


def test_papermill_describes_every_parameter_with_type_and_comment():
    for name in book.NOTEBOOKS:
        help_text = run([str(BIN / "papermill"), "--help-notebook", f"notebooks/{name}.ipynb"]).stdout
        parameters = re.findall(r"^  (\w+): (\w+) \(default", help_text, re.MULTILINE)
        assert ("experiment", "str") in parameters and ("results", "str") in parameters, help_text
        source = next(
            cell
            for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
            if "parameters" in cell.metadata.get("tags", [])
        ).source
        assert all("  # " in line for line in source.splitlines())


def test_the_paradigms_shown_in_the_train_notebook_are_all_of_them():
    source = (ROOT / "notebooks/2-train.ipynb").read_text()
    assert all(f"-{paradigm}" in source or paradigm == "QA" for paradigm in PARADIGMS)
