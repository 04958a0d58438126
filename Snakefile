# The grid: craft → train → evaluate → judge → findings → book, each a papermill call on one notebook.
# The same file on a laptop (one kernel a stage) and on a cluster (`workflow: {jobs: arm}`: an arm and seed is a job).
#   snakemake --cores all --config experiment=experiments/demo.yml
from pathlib import Path
from snakemake.exceptions import WorkflowError
from cotlib.errors import BadInput
from cotlib.experiment import Experiment, Paths, slug

FILE = config.get("experiment", "experiments/demo.yml")
try:
    EXPERIMENT = Experiment.load(FILE)
except BadInput as error:
    raise WorkflowError(str(error)) from None

PATHS = Paths.of(EXPERIMENT, config.get("results", "results"))
ROOT = str(PATHS.root)
EXECUTED = f"{ROOT}/notebooks"
RESULTS = str(PATHS.root.parent)
JOBS = EXPERIMENT.select()
EACH = EXPERIMENT.workflow.jobs == "arm"
UNIT = "{model}/{arm}/seed-{seed}"
ARMS = {arm.folder: str(arm) for _, arm, _ in JOBS}
MODELS = {slug(model): model for model, _, _ in JOBS}


def code(*names):
    """The modules a stage's results depend on; the notebooks decide by content what to do again, so a change costs a kernel, not a run."""
    return [f"cotlib/{name}.py" for name in ("experiment", *names)]


def units(stage, trained_only=False):
    """The finished units a stage waits for when each arm is a job of its own."""
    jobs = [job for job in JOBS if job[1].trained or not trained_only]
    return [f"{PATHS.unit(stage, *job)}/manifest.json" for job in jobs] if EACH else []


def papermill(notebook, more=""):
    """A papermill call; what the notebook prints is shown as it comes."""
    return (
        f"papermill notebooks/{notebook}.ipynb {{output.notebook}} --cwd . --no-progress-bar --log-level ERROR --stdout-file - "
        f"-p experiment {FILE} -p results {RESULTS} {more} 2>&1 | {{{{ grep --line-buffered -v -e '^$' -e Warning -e IPKernelApp || true; }}}}"
    )


# Snakemake sets OMP_NUM_THREADS to a rule's threads: one, unless told otherwise.
THREADS = workflow.cores or 1

localrules: all, craft, train, evaluate, judge, findings


rule all:
    input: f"{ROOT}/findings.json", f"{EXECUTED}/5-findings.ipynb"


rule craft:
    input: FILE, "notebooks/1-craft-traces.ipynb", "cotlib/corpus/data/items.jsonl", "cotlib/corpus/data/evaluation.jsonl", code("corpus", "traces", "audit", "writers")
    output: manifest=f"{ROOT}/craft/manifest.json", crafted=f"{ROOT}/craft/items.jsonl", questions=f"{ROOT}/craft/questions.jsonl", notebook=f"{EXECUTED}/1-craft-traces.ipynb"
    threads: THREADS
    shell: papermill("1-craft-traces")


rule train:
    input: rules.craft.output.crafted, "notebooks/2-train.ipynb", code("training", "lora", "prefixes", "products", "chat", "models"), units("train", trained_only=True)
    output: manifest=f"{ROOT}/train/manifest.json", notebook=f"{EXECUTED}/2-train.ipynb"
    threads: THREADS
    shell: papermill("2-train")


rule evaluate:
    input: rules.train.output.manifest, "notebooks/3-evaluate.ipynb", code("evaluation", "generation", "draws", "margins", "prefixes", "products", "corpus"), units("evaluate")
    output: manifest=f"{ROOT}/evaluate/manifest.json", measures=str(PATHS.measures), responses=str(PATHS.responses), notebook=f"{EXECUTED}/3-evaluate.ipynb"
    threads: THREADS
    shell: papermill("3-evaluate")


rule judge:
    input: rules.evaluate.output.responses, "notebooks/4-judge.ipynb", code("judging", "prefixes", "products")
    output: manifest=f"{ROOT}/judge/manifest.json", judgements=str(PATHS.judgements), notebook=f"{EXECUTED}/4-judge.ipynb"
    threads: THREADS
    shell: papermill("4-judge")


rule findings:
    input: rules.evaluate.output.measures, rules.judge.output.judgements, "notebooks/5-findings.ipynb", code("statistics", "figures")
    output: findings=str(PATHS.findings), scores=str(PATHS.scores), notebook=f"{EXECUTED}/5-findings.ipynb"
    threads: THREADS
    shell: papermill("5-findings")


if EACH:

    def one(wildcards):
        """The papermill parameters of one unit."""
        return f"-p models {MODELS[wildcards.model]} -p arms {ARMS[wildcards.arm]} -p seed {wildcards.seed}"

    def needed(wildcards):
        """What an arm's evaluation waits for: its adapter, and the base it is compared with."""
        seed = f"{wildcards.model}/{{arm}}/seed-{wildcards.seed}/manifest.json"
        more = [] if wildcards.arm == "base" else [f"{ROOT}/train/{seed.format(arm=wildcards.arm)}", f"{ROOT}/evaluate/{seed.format(arm='base')}"]
        return [rules.craft.output.crafted, *more]

    rule train_arm:
        input: rules.craft.output.crafted
        output: manifest=f"{ROOT}/train/{UNIT}/manifest.json", notebook=f"{EXECUTED}/2-train/{UNIT}.ipynb"
        params: one=one
        resources: gpu=1
        threads: THREADS
        shell: papermill("2-train", "{params.one}")

    rule evaluate_arm:
        input: needed
        output: manifest=f"{ROOT}/evaluate/{UNIT}/manifest.json", notebook=f"{EXECUTED}/3-evaluate/{UNIT}.ipynb"
        params: one=one
        resources: gpu=1
        threads: THREADS
        shell: papermill("3-evaluate", "{params.one}")
