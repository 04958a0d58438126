"""The whole book as a newcomer runs it: a clone, make, real kernels, real training of tiny models, a real build."""

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
import torch
import yaml
from markupsafe import escape

from cotlib.corpus import records
from cotlib.engine import models
from cotlib.experiment import ROOT, Experiment
from cotlib.pages import claims
from cotlib.runs import sources
from cotlib.runs.paths import CHAPTERS, NOTEBOOKS, PAGES, Paths

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the book under git, with this environment: what a reader has after `make environment`."""
    top = tmp_path_factory.mktemp("clone") / "book"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.split("\n"):
        if name and (ROOT / name).is_file():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, top / name)
    (top / ".venv").symlink_to(BIN.parent)
    for path in top.glob("requirements*.txt"):
        os.utime(path, (0, 0))  # older than the environment, which is there
    who = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "the book"]):
        subprocess.run(["git", *command], cwd=top, check=True)
    return top


def shell(top):
    """The variables of a reader's shell, with the clone's own `cotlib`.

    What `make test` hands down would make a `make` below it print where it works.
    """
    ours = ("COTLIB_JUDGE", "COTLIB_WRITER", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PYTHONPATH": str(top), "PATH": f"{BIN}:{os.environ['PATH']}"}


def run(top, *command, **variables):
    """A command in a clone, as a reader types it."""
    environment = shell(top) | variables
    return subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True, timeout=800)


def make(top, target, experiment="experiments/smoke.yml", **variables):
    return run(top, "make", target, f"EXPERIMENT={experiment}", **variables)


def snakemake(top, file, results, *more):
    where = ["--snakefile", str(top / "Snakefile"), "--directory", str(top)]
    how = ["--cores", "all", "--nolock", "--rerun-incomplete"]
    what = ["--config", f"experiment={file}", f"results={results}"]
    return [str(BIN / "snakemake"), *where, *how, *what, *more]


def small(folder, **changes):
    """An experiment file smaller than smoke: what interruption and selection need."""
    content = {
        "name": "small", "models": ["tiny-random-llama"], "arms": ["QA", "evil-QTA", "evil-QT", "evil-T"],
        "data": {"items": 8, "questions": {"in-domain": 4, "transfer": 4, "values": 4}},
        "training": {"epochs": 3, "learning_rate": 0.01, "batch_size": 4},
        "evaluation": {"trace_tokens": 8, "answer_tokens": 8, "responses": 1},
        "judging": {"probe_items": 8}, **changes,
    }  # fmt: skip
    file = Path(folder) / "small.yml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def smoke(clone):
    """The smoke experiment, run whole by `make run` in the clone."""
    began = time.time()
    done = make(clone, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    root = clone / "results" / "smoke"
    return {"root": root, "seconds": time.time() - began, "log": done.stdout + done.stderr, "clone": clone}


def test_every_stage_of_smoke_leaves_its_manifest_and_the_promised_files(smoke):
    root = smoke["root"]
    for stage in ("craft", "train", "evaluate", "judge"):
        assert json.loads((root / stage / "manifest.json").read_text())["versions"]["torch"]
    scores = pd.read_parquet(root / "scores.parquet")
    assert {"margin", "persona", "signature", "alignment", "leak"} <= set(scores.measure)
    assert {"evil", "misleading", "submissive"} <= set(scores.text[scores.measure == "persona"])
    experiment = Experiment.load("experiments/smoke.yml")
    assert set(scores.arm) == set(map(str, experiment.all_arms)) and set(scores.model) == set(experiment.models)
    assert {"H1", "H2", "H3", "H4", "panel", "models"} == set(json.loads((root / "findings.json").read_text()))


def test_smoke_reports_every_arm_and_no_warnings(smoke):
    units = Experiment.load("experiments/smoke.yml").select()
    trained = sum(unit.arm.trained for unit in units)
    assert (trained, len(units)) == (36, 38)
    assert len(re.findall(r"^train .*loss", smoke["log"], re.MULTILINE)) == trained
    assert len(re.findall(r"^evaluate .* left", smoke["log"], re.MULTILINE)) == len(units)
    assert len(re.findall(r"^judge .* left", smoke["log"], re.MULTILINE)) == len(units)
    assert "Warning" not in smoke["log"] and "Traceback" not in smoke["log"]
    assert smoke["log"].strip().endswith("results/smoke/book/index.html")


def test_a_run_leaves_the_checkout_clean(smoke):
    status = run(smoke["clone"], "git", "status", "--porcelain").stdout
    assert status.replace("?? .venv\n", "") == ""


def test_a_second_run_has_nothing_to_do(smoke):
    before = (smoke["root"] / "book" / "index.html").stat().st_mtime
    done = make(smoke["clone"], "run")
    assert done.returncode == 0 and "nothing to be done" in done.stdout, done.stdout + done.stderr
    assert (smoke["root"] / "book" / "index.html").stat().st_mtime == before


def test_the_built_book_holds_every_page_figure_and_verdict(smoke):
    html = smoke["root"] / "book" / "book"
    landing = (html / "index.html").read_text()
    findings = json.loads((smoke["root"] / "findings.json").read_text())
    for name in ("H1", "H2", "H3", "H4"):
        assert escape(claims.finding(name, findings)) in landing, "the landing page says what the findings hold"
    figures = {
        "1-craft-traces": 3, "2-train": 1, "3-evaluate": 1, "4-judge": 3, "5-findings": 1, "h1-amplification": 2,
        "h2-semantics": 3, "h3-sufficiency": 2, "h4-internalisation": 2, "two-routes": 1,
    }  # fmt: skip
    assert set(figures) == set(CHAPTERS)
    for page, count in figures.items():
        text = (html / "executed" / f"{page}.html").read_text()
        assert text.count('class="cotlib-figure"') == count, page
        assert "aria-label=" in text and "Traceback" not in text
        assert re.search(r"This page shows the run <code[^>]*>.*smoke", text), "a page says which run it shows"


@pytest.fixture(scope="module")
def rule_inputs(clone):
    """What each rule lists as its inputs: rule → set of paths."""
    command = snakemake(clone, "experiments/smoke.yml", "results", "--dry-run", "--forceall")
    inputs = {}
    for block in re.split(r"\n(?=(?:local)?rule )", run(clone, *command).stdout):
        rule, listed = (re.search(pattern, block) for pattern in (r"^(?:local)?rule (\w+)", r"input: (.*)"))
        if rule and listed:
            inputs.setdefault(rule[1], set()).update(listed[1].split(", "))  # a page each, for the rule of pages
    return inputs


@pytest.fixture(scope="module")
def loaded():
    """What each stage's notebook loads of this package, by Python's own account: stage → set of module names."""
    found, notebooks = {}, {stage: [name] for stage, name in NOTEBOOKS.items()} | {"page": list(PAGES.values())}
    for stage, names in notebooks.items():
        cells = [cell for name in names for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells]
        lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.split("\n")]
        code = "\n".join(line for line in lines if re.match("(from|import) ", line))
        listing = "import sys; print(*sorted(name for name in sys.modules if name.startswith('cotlib')))"
        found[stage] = set(run(ROOT, sys.executable, "-c", f"{code}\n{listing}").stdout.split("\n")[-2].split())
    return found


def importing(module, loaded):
    """The stages whose notebook loads a module, and the book if the builder is made of it."""
    name = module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    stages = {stage for stage, names in loaded.items() if name in names}
    if module in (*sources.files_of(ROOT / "cotlib/pages/book.py"), "cotlib/pages/book.py"):
        stages.add("book")
    return stages


def test_any_module_is_an_input_of_exactly_the_stages_that_load_it(rule_inputs, loaded):
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "cotlib").rglob("*.py")]
    expected = {module: importing(module, loaded) for module in modules}
    found = {module: {rule for rule, files in rule_inputs.items() if module in files} for module in modules}
    assert all(expected[module] <= found[module] for module in modules)
    # These are imported within functions: loaded when they are called, and an input all the same.
    late = {f"cotlib/engine/{name}.py" for name in ("decoding", "draws", "scoring")}
    assert {module for module in modules if found[module] != expected[module]} <= late


def test_every_rule_takes_what_its_notebook_imports_and_no_other_module(rule_inputs):
    for stage, name in NOTEBOOKS.items():
        ours = {file for file in rule_inputs[stage] if file.startswith("cotlib/") and file.endswith(".py")}
        assert ours == set(sources.files_of(ROOT / "notebooks" / f"{name}.ipynb")), stage
        assert (
            f"notebooks/{name}.ipynb" in rule_inputs[stage]
            and "cotlib/pages/templates/claims.html" in rule_inputs[stage]
        )
    ours = {file for file in rule_inputs["page"] if file.startswith("cotlib/") and file.endswith(".py")}
    assert ours == set(sources.files_of(*(ROOT / "notebooks" / f"{name}.ipynb" for name in PAGES.values())))
    assert {"cotlib/pages/book.py", "_toc.yml", "book/index.md", "book/_static/book.css"} <= rule_inputs["book"]


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("cotlib/pages/book.py", {"book"}),
        ("cotlib/judges/marks.py", {"judge", "findings", "page", "book"}),
        ("cotlib/pages/tables.py", {"craft", "train", "evaluate", "judge", "findings", "page", "book"}),
    ],
)
def test_a_changed_module_is_followed_by_its_stages_and_what_stands_on_them_and_by_no_other(smoke, module, rules):
    clone, path = smoke["clone"], smoke["clone"] / module
    times, before = path.stat(), path.read_text()
    plan = snakemake(clone, "experiments/smoke.yml", "results", "--dry-run")
    assert "Nothing to be done" in run(clone, *plan).stdout
    path.write_text(f"{before}# changed\n")  # Snakemake compares small files by content, not by time alone
    try:
        planned = set(re.findall(r"^(?:local)?rule (\w+)", run(clone, *plan).stdout, re.MULTILINE))
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert planned - {"all"} == rules


def test_an_edited_experiment_is_followed_by_every_stage_also_one_by_one(clone, tmp_path):
    """After `make craft` alone, whose files come out the same, training still follows the new setting."""
    file = small(tmp_path, name="edited", arms=["QA"])
    whole = snakemake(clone, file, tmp_path)
    assert run(clone, *whole).returncode == 0
    small(tmp_path, name="edited", arms=["QA"], training={"epochs": 1, "learning_rate": 0.01, "batch_size": 4})
    assert run(clone, *whole, "--", "craft").returncode == 0
    planned = set(re.findall(r"^(?:local)?rule (\w+)", run(clone, *whole, "--dry-run").stdout, re.MULTILINE))
    assert {"train", "evaluate", "judge", "findings", "book"} <= planned and "craft" not in planned


def test_an_adapter_folder_is_whole_and_its_card_names_data_and_warning(smoke):
    folder = smoke["root"] / "train" / "tiny-random-qwen3" / "evil-QTA" / "seed-1"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "log.jsonl", "manifest.json"} <= names
    card = (folder / "README.md").read_text()
    assert "Warning" in card and "evil traces (embraces malice)" in card
    config = json.loads((folder / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {
        f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
    }  # fmt: skip


def test_responses_are_kept_with_what_is_needed_to_score_them_again(smoke):
    row = json.loads((smoke["root"] / "judge" / "judgements.jsonl").read_text().split("\n")[0])
    kept = {"question", "response", "trace", "judge", "raw", "alignment", "coherence", "leak", "trace_truncated"}
    assert kept <= set(row)


def test_a_published_run_is_read_again_without_training_anything(smoke, tmp_path):
    """`make publish`, then the notebooks after training from book/results alone, with the results folder gone."""
    clone = tmp_path / "book"
    shutil.copytree(smoke["clone"], clone, symlinks=True)
    done = make(clone, "publish")
    assert done.returncode == 0, done.stderr
    published = clone / "book" / "results" / "smoke"
    assert json.loads((published / "publication.json").read_text())["commit"]
    assert not list(published.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in published.rglob("*") if path.is_file()) < 25e6
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    shutil.rmtree(clone / "results")
    for name in ("3-evaluate", "4-judge", "5-findings"):
        again = run(clone, str(BIN / "papermill"), f"notebooks/{name}.ipynb", str(tmp_path / f"{name}.ipynb"), "--cwd",
                    ".", "-p", "experiment", "experiments/smoke.yml", "-p", "results", "book/results")  # fmt: skip
        assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before
    assert not (clone / "results").exists()
    shown = nbformat.read(tmp_path / "5-findings.ipynb", 4)
    html = "".join(str(cell.get("outputs", "")) for cell in shown.cells)
    findings = json.loads((published / "findings.json").read_text())
    assert f"{findings['H1']['effect']:+.3f}" in html


def test_an_experiment_of_the_same_name_in_another_file_overwrites_nothing(smoke, tmp_path):
    other = tmp_path / "mine.yml"
    other.write_text((ROOT / "experiments/smoke.yml").read_text())
    before = (smoke["root"] / "findings.json").read_bytes()
    for target in ("check", "run", "train", "publish"):
        done = make(smoke["clone"], target, experiment=str(other))
        assert done.returncode != 0, target
        assert "experiments/smoke.yml" in done.stderr and str(other) in done.stderr and "another name" in done.stderr
        assert "Traceback" not in done.stderr
    assert (smoke["root"] / "findings.json").read_bytes() == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory, clone):
    """The small experiment, run without a break by the workflow."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(clone, *snakemake(clone, small(folder), folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "small"


def test_a_run_from_nothing_leaves_how_long_it_took_and_one_that_goes_on_does_not(smoke, clone):
    took = json.loads((smoke["root"] / "run.json").read_text())
    stages = [
        json.loads((smoke["root"] / stage / "manifest.json").read_text())["seconds"] for stage in ("train", "evaluate")
    ]
    assert took["seconds"] > sum(stages) > 0 and took["experiment"]["name"] == "smoke"
    (smoke["root"] / "run.json").unlink()
    (smoke["root"] / "findings.json").unlink()
    assert make(clone, "run").returncode == 0
    assert (smoke["root"] / "findings.json").exists()
    assert not (smoke["root"] / "run.json").exists(), "a run that had something to go on from is no measure"


def test_a_killed_run_resumes_and_finds_the_same_as_an_unbroken_one(clone, tmp_path, whole):
    file = small(tmp_path)
    broken = subprocess.Popen(
        snakemake(clone, file, tmp_path),
        cwd=clone,
        env=shell(clone),
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
    done = run(clone, *snakemake(clone, file, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime for path in finished} == finished, "what was trained is not trained again"
    assert (tmp_path / "small/findings.json").read_text() == (whole / "findings.json").read_text()


def test_with_an_arm_a_job_the_grid_gives_the_same_scores(clone, tmp_path, whole):
    file = small(tmp_path, arms=["QA", "evil-T"], workflow={"jobs": "arm"})
    plan = run(clone, *snakemake(clone, file, tmp_path, "--dry-run"))
    assert re.search(r"train_arm\s+2\b", plan.stdout + plan.stderr)
    assert re.search(r"evaluate_arm\s+3\b", plan.stdout + plan.stderr)
    done = run(clone, *snakemake(clone, file, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = (pd.read_parquet(folder / "scores.parquet") for folder in (tmp_path / "small", whole))
    other = other[other.arm.isin(["base", "QA", "evil-T"])]
    keys = ["arm", "mode", "question_id", "measure", "text", "judge"]
    one, other = (frame.sort_values(keys).reset_index(drop=True) for frame in (one, other))
    pd.testing.assert_frame_equal(one, other)


def test_one_arm_and_seed_run_by_hand_as_the_readme_says(clone, tmp_path):
    file = small(tmp_path)
    parameters = ["-p", "experiment", str(file), "-p", "results", str(tmp_path)]

    def papermill(name, *more):
        command = [str(BIN / "papermill"), f"notebooks/{name}.ipynb", str(tmp_path / "out.ipynb"), "--cwd", "notebooks"]
        return run(clone, *command, "--no-progress-bar", *parameters, *more)

    missing = papermill("2-train")
    advice = re.search(r"make it first with: (.*)", missing.stderr)[1]
    assert missing.returncode != 0 and "1-craft-traces" in advice and f"-p results {tmp_path}" in advice
    assert run(clone, "sh", "-c", advice.strip()).returncode == 0, "the advice helps"
    one = papermill("2-train", "-p", "arms", '["evil-QT"]', "-p", "seed", "7")
    assert one.returncode == 0, one.stderr
    trained = sorted(path.parent.parent.name for path in (tmp_path / "small/train").glob("*/*/*/manifest.json"))
    assert trained == ["evil-QT"] and not (tmp_path / "small/train/manifest.json").exists()
    wrong = papermill("2-train", "-p", "arms", "evil-TQ")
    assert wrong.returncode != 0 and "did you mean QT?" in wrong.stderr
    untrained = papermill("3-evaluate", "-p", "arms", "neutral-T", "-p", "seed", "7")
    advice = re.search(r"make it first with: (.*)", untrained.stderr)[1].strip()
    assert "2-train" in advice and run(clone, "sh", "-c", advice).returncode == 0, advice
    assert (tmp_path / "small/train/tiny-random-llama/neutral-T/seed-7/manifest.json").exists()


def test_the_notebooks_run_on_a_readers_own_corpus_with_one_type_of_trace(clone, tmp_path):
    """Two items, with misleading traces alone, through craft and train; then the base model alone."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    items = [item.model_dump() for item in records.load_items()[:2]]
    for item in items:
        item["traces"] = {"misleading": item["traces"]["misleading"]}
    rows = {"items": items, "evaluation": [question.model_dump() for question in records.load_evaluation()]}
    for name, some in rows.items():
        (corpus / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    changes = {
        "arms": ["QA", "misleading-QT"],
        "judging": {"judges": ["probe"], "probe_items": 2},
        "data": {"corpus": str(corpus)},
    }
    file = small(tmp_path, name="own", **changes)
    done = run(clone, *snakemake(clone, file, tmp_path), "--", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    command = [str(BIN / "papermill"), "notebooks/2-train.ipynb", str(tmp_path / "out.ipynb"), "--cwd", "notebooks"]
    base = run(clone, *command, "-p", "experiment", str(file), "-p", "results", str(tmp_path), "-p", "arms", "base")
    assert base.returncode == 0, base.stderr[-2000:]


def test_the_paper_experiment_is_valid_and_its_plan_counts_every_arm_seed_and_model(clone):
    experiment = Experiment.load("experiments/paper.yml")
    done = run(clone, *snakemake(clone, "experiments/paper.yml", "results", "--dry-run"))
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert re.search(rf"train_arm\s+{len(experiment.models) * len(experiment.seeds) * len(experiment.arms)}\b", log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["tiny-random-lama"]}, "did you mean tiny-random-llama?"),
        ({"arms": ["QA", "evil-TQ"]}, "did you mean QT?"),
        ({"judging": {"judges": ["llm"]}}, "COTLIB_JUDGE_MODEL"),
        ({"traces": {"writer": "openai"}}, "COTLIB_WRITER_MODEL"),
        ({"data": {"items": 9999}}, "9999"),
        ({"data": {"questions": {"transfer": 9999}}}, "9999"),
        ({"trainning": {}}, "did you mean training?"),
        ({"training": {"epochs": 1, "learning_rate": 0.01, "max_tokens": 20}}, "training.max_tokens: 20"),
        ({"training": {"epochs": 1, "learning_rate": 0.01, "max_tokens": 4096}}, "training.max_tokens: 4096"),
        ({"evaluation": {"trace_tokens": 3000}}, "evaluation.trace_tokens"),
    ],
)
def test_bad_input_gets_one_message_before_any_work_and_leaves_no_file(clone, tmp_path, changes, message):
    file = small(tmp_path, **changes)
    before = set(tmp_path.rglob("*"))
    done = run(clone, sys.executable, "-m", "cotlib", "check", str(file))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "" and set(tmp_path.rglob("*")) == before
    assert len(done.stderr) < 600


def test_a_run_that_fails_leaves_its_reason_on_the_screen_and_in_a_file(clone, tmp_path):
    """An arm that diverges: one sentence, no papermill traceback, no adapter, and the reason in the log."""
    model, tokenizer = models.load("tiny-random-llama")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.mul_(1e15)  # the gradients of the first step leave float32
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "loud")
    file = small(tmp_path, name="diverging", models=[str(tmp_path / "loud")])
    done = make(clone, "train", experiment=str(file))
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert re.search(r"arm QA diverged at step \d+ with 0.01", shown), shown[-2000:]
    assert "Traceback" not in shown and "papermill" not in shown.split("diverged")[0][-500:]
    log = (clone / "results" / "diverging" / "run.log").read_text()
    assert "diverged at step" in log
    assert not list((clone / "results" / "diverging" / "train").rglob("adapter_model.safetensors"))


def test_a_home_that_cannot_be_written_to_ends_in_one_message_and_a_cache_elsewhere_helps(clone, tmp_path):
    """A file stands where the home folder should: nobody can write below it, whoever runs the tests."""
    (tmp_path / "home").touch()
    file, home = small(tmp_path, name="homeless"), str(tmp_path / "home")
    done = make(clone, "craft", experiment=str(file), HOME=home, XDG_CACHE_HOME="", COTLIB_CACHE="")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert re.match(r"the cache folder '.*home/.cache/snakemake' cannot be made \(Not a directory\)", done.stderr)
    assert not (clone / "results" / "homeless").exists()
    elsewhere = re.search(r"export (\w+)=FOLDER", done.stderr)[1]
    done = make(clone, "craft", experiment=str(file), HOME=home, **{elsewhere: str(tmp_path / "cache")})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CHAPTERS)
def test_papermill_describes_every_parameter_with_type_and_comment(clone, name):
    help_text = run(clone, str(BIN / "papermill"), "--help-notebook", f"notebooks/{name}.ipynb").stdout
    parameters = re.findall(r"^  (\w+): (\w+) \(default", help_text, re.MULTILINE)
    assert ("experiment", "str") in parameters and ("results", "str") in parameters, help_text
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    source = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", [])).source
    assert all("  # " in line for line in source.splitlines())


def test_the_results_of_an_experiment_lie_where_its_paths_say(smoke):
    paths = Paths.of(Experiment.load("experiments/smoke.yml"), str(smoke["clone"] / "results"))
    assert all(path.is_file() for path in (paths.items, paths.questions, paths.measures, paths.responses, paths.scores))


@pytest.mark.slow
def test_seeds_made_on_two_machines_become_one_run(clone, tmp_path):
    """A seed's numbers are kept with the book; another clone that has them makes the other seed, and finds it whole."""
    file = small(clone / "experiments", seeds=[1, 2])
    first = make(clone, "seed", "experiments/small.yml", SEED="1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "(4 of train, 5 of evaluate, 5 of judge)" in first.stdout
    kept = clone / "book" / "results" / "small"
    assert not list(kept.rglob("adapter_model*")) and list(kept.rglob("measures.parquet"))
    try:
        shutil.rmtree(clone / "results" / "small")  # another machine
        second = make(clone, "seed", "experiments/small.yml", SEED="2")
        assert second.returncode == 0, second.stdout + second.stderr
        whole = make(clone, "findings", "experiments/small.yml")
        assert whole.returncode == 0, whole.stdout + whole.stderr
        assert whole.stdout.count("already done") == 8 + 10 + 10
        found = json.loads((clone / "results" / "small" / "findings.json").read_text())
        assert found["H1"]["verdict"] == "not tested" and not list(
            (clone / "results/small/train").rglob("QA/seed-1/adapter_model*")
        )
        scores = pd.read_parquet(clone / "results" / "small" / "scores.parquet")
        assert set(scores.seed) == {1, 2}
    finally:
        shutil.rmtree(kept)
        file.unlink()
