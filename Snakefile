# The workflow: craft → train → evaluate → judge → findings → book; all but the last are papermill calls on a notebook.
# The same file on a laptop (one kernel a stage) and on a cluster (`workflow: {jobs: arm}`: an arm and seed is a job).
#   snakemake --cores all --config experiment=experiments/demo.yml
from pathlib import Path
from snakemake.exceptions import WorkflowError
from cotlib.errors import BadInput
from cotlib.experiment import ROOT as TOP, Experiment, slug
from cotlib.corpus.records import corpus_files
from cotlib.pages.book import sources as book_sources
from cotlib.runs import sources
from cotlib.runs.paths import CHAPTERS, NOTEBOOKS, PAGES, Paths

FILE = config.get("experiment", "experiments/demo.yml")
try:
    EXPERIMENT = Experiment.load(FILE)
    DATA = EXPERIMENT.data
    CORPUS = sorted({str(file) for other in (None, DATA.evaluation) for file in corpus_files(DATA.corpus, other)})
except BadInput as error:
    raise WorkflowError(str(error)) from None

PATHS = Paths.of(EXPERIMENT, config.get("results", "results"))
ROOT = str(PATHS.root)
EXECUTED = f"{ROOT}/notebooks"
RESULTS = str(PATHS.root.parent)
UNITS = EXPERIMENT.select()
TEMPLATES = [str(path) for path in Path("cotlib/pages/templates").glob("*.html")]
EACH = EXPERIMENT.workflow.jobs == "arm"
UNIT = "{model}/{arm}/seed-{seed}"
ARMS = {unit.arm.folder: str(unit.arm) for unit in UNITS}
MODELS = {slug(unit.model): unit.model for unit in UNITS}


def notebook(stage):
    return f"notebooks/{NOTEBOOKS[stage]}.ipynb"


def executed(stage):
    return f"{EXECUTED}/{NOTEBOOKS[stage]}.ipynb"


def made_of(stage):
    """A stage's notebook, every module that it imports, and the templates that those fill. If one of them changes, the
    notebook runs again, and does again only the units whose keys changed."""
    return [notebook(stage), *sources.files_of(TOP / notebook(stage)), *TEMPLATES]


def units(stage, trained_only=False):
    """The finished units a stage waits for when each arm is a job of its own."""
    chosen = [unit for unit in UNITS if unit.arm.trained or not trained_only]
    return [f"{PATHS.unit(stage, unit)}/manifest.json" for unit in chosen] if EACH else []


def papermill(stage, more=""):
    """A papermill call; what the notebook prints is shown as it comes, and kept beside the executed notebook."""
    parameters = f"-p experiment {FILE} -p results {RESULTS} {more}"
    return f"python -m cotlib.runs.notebook {notebook(stage)} {{output.notebook}} --cwd . {parameters}"


# Snakemake sets OMP_NUM_THREADS to a rule's threads: one, unless told otherwise.
THREADS = workflow.cores or 1

localrules: all, craft, train, evaluate, judge, findings, page, book


rule all:
    input: f"{ROOT}/book/index.html", str(PATHS.findings), str(PATHS.scores)


rule craft:
    input: FILE, CORPUS, made_of("craft")
    output:
        manifest=f"{ROOT}/craft/manifest.json",
        crafted=str(PATHS.items),
        questions=str(PATHS.questions),
        notebook=executed("craft"),
    threads: THREADS
    shell: papermill("craft")


rule train:
    input: FILE, rules.craft.output.crafted, made_of("train"), units("train", trained_only=True)
    output: manifest=f"{ROOT}/train/manifest.json", notebook=executed("train")
    threads: THREADS
    shell: papermill("train")


rule evaluate:
    input: FILE, rules.train.output.manifest, made_of("evaluate"), units("evaluate")
    output:
        manifest=f"{ROOT}/evaluate/manifest.json",
        measures=str(PATHS.measures),
        responses=str(PATHS.responses),
        thoughts=str(PATHS.thoughts),
        notebook=executed("evaluate"),
    threads: THREADS
    shell: papermill("evaluate")


rule judge:
    input: FILE, rules.evaluate.output.responses, rules.evaluate.output.thoughts, made_of("judge")
    output:
        manifest=f"{ROOT}/judge/manifest.json",
        judgements=str(PATHS.judgements),
        thoughts=str(PATHS.thought_types),
        notebook=executed("judge"),
    threads: THREADS
    shell: papermill("judge")


rule findings:
    input:
        FILE,
        rules.evaluate.output.measures,
        rules.judge.output.judgements,
        rules.judge.output.thoughts,
        made_of("findings"),
    output:
        manifest=f"{ROOT}/manifest.json",
        findings=str(PATHS.findings),
        scores=str(PATHS.scores),
        notebook=executed("findings"),
    threads: THREADS
    shell: papermill("findings")


def made_of_page(wildcards):
    """A page's notebook, the modules that it imports, and the templates."""
    path = f"notebooks/{wildcards.page}.ipynb"
    return [path, *sources.files_of(TOP / path), *TEMPLATES]


rule page:
    input: FILE, rules.findings.output.findings, rules.findings.output.scores, made_of_page
    output: notebook=f"{EXECUTED}/{{page}}.ipynb"
    wildcard_constraints: page="|".join(PAGES.values())
    shell:
        f"python -m cotlib.runs.notebook notebooks/{{wildcards.page}}.ipynb {{output.notebook}} --cwd . "
        f"-p experiment {FILE} -p results {RESULTS}"


rule book:
    input: [f"{EXECUTED}/{name}.ipynb" for name in CHAPTERS], rules.findings.output.findings, book_sources()
    output: f"{ROOT}/book/index.html"
    threads: THREADS
    shell: f"python -m cotlib book {EXECUTED} {ROOT}/book"


if EACH:

    def one(wildcards):
        """The papermill parameters of one unit."""
        return f"-p models {MODELS[wildcards.model]} -p arms {ARMS[wildcards.arm]} -p seed {wildcards.seed}"

    def needed(wildcards):
        """What an arm's evaluation waits for: its adapter, and the base it is compared with."""
        seed = f"{wildcards.model}/{{arm}}/seed-{wildcards.seed}/manifest.json"
        crafted = [rules.craft.output.crafted, rules.craft.output.questions]
        if wildcards.arm == "base":
            return crafted
        adapter, base = seed.format(arm=wildcards.arm), seed.format(arm="base")
        return [*crafted, f"{ROOT}/train/{adapter}", f"{ROOT}/evaluate/{base}"]

    rule train_arm:
        input: FILE, rules.craft.output.crafted, made_of("train")
        output: manifest=f"{ROOT}/train/{UNIT}/manifest.json", notebook=f"{EXECUTED}/2-train/{UNIT}.ipynb"
        params: one=one
        resources: gpu=1
        threads: THREADS
        shell: papermill("train", "{params.one}")

    rule evaluate_arm:
        input: FILE, needed, made_of("evaluate")
        output: manifest=f"{ROOT}/evaluate/{UNIT}/manifest.json", notebook=f"{EXECUTED}/3-evaluate/{UNIT}.ipynb"
        params: one=one
        resources: gpu=1
        threads: THREADS
        shell: papermill("evaluate", "{params.one}")
